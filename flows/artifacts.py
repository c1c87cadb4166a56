"""Prefect artifacts of a stage's output: its files, the report with its plots, the plans."""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

import yaml
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from flows.common import PRUNED, REPORT
from lop import tracking
from lop.plan import checkpoint_name, site_names


def of_stage(stage: str, place: Path) -> None:
    """Create the artifacts of a stage that has just run in directory `place`."""
    key = re.sub(r"[^a-z0-9]+", "-", stage.lower())  # the only characters that Prefect accepts
    create_table_artifact(outputs(stage, place), f"{key}-outputs", "What it wrote")
    uri = os.environ.get(tracking.URI, "")
    if uri.startswith("http"):
        create_link_artifact(uri, "MLflow", key=f"{key}-mlflow", description="Its run in MLflow")
    if stage == "report":
        create_markdown_artifact(page(place / REPORT), "report", "The report, with its plots")
    if stage == "prune":
        create_table_artifact(plans(place / PRUNED), "plans", "Shares that were cut")


def outputs(stage: str, place: Path) -> list[dict[str, Any]]:
    """A row for each output of a stage: its path, DVC's hash of it, its size in bytes."""
    lock = place / "dvc.lock"
    stages = yaml.safe_load(lock.read_text())["stages"] if lock.exists() else {}
    return [
        {"path": str(place / out["path"]), "hash": out.get("md5"), "bytes": out.get("size")}
        for out in stages.get(stage, {}).get("outs", [])
    ]


def page(report: Path) -> str:
    """report.md with its pictures embedded, because the UI cannot read files."""

    def inside(match: re.Match[str]) -> str:
        picture = base64.b64encode((report / match[2]).read_bytes()).decode()
        return f"![{match[1]}](data:image/png;base64,{picture})"

    return re.sub(r"!\[([^]]*)\]\(([\w-]+\.png)\)", inside, (report / "report.md").read_text())


def plans(pruned: Path) -> list[dict[str, Any]]:
    """A row for each (method, ratio): the removed share of the whole model, and of each site."""
    rows = []
    for plan in json.loads((pruned / "plans.json").read_text()):
        told = pruned / checkpoint_name(plan["method"], plan["ratio"]) / "pruning.json"
        row = {"method": plan["method"], "ratio": plan["ratio"]}
        if told.exists():  # the checkpoint was kept
            record = json.loads(told.read_text())
            model = 1 - record["parameters"] / record["dense_parameters"]
            row["whole model"] = round(model, 4)
        sites = zip(site_names(plan["layers"], plan["kinds"]), plan["plan"], strict=True)
        rows.append(row | {name: round(share, 3) for name, share in sites})
    return rows
