"""What an operator sees: Prefect's and MLflow's pages of a real run, in a real browser.

LOP_SCREENSHOTS=docs/images python -m pytest tests/flows/test_browser.py takes the docs' pictures.
"""

import os
import shutil
from pathlib import Path

import httpx
import pytest
import yaml

from lop import tracking

BROWSERS = ("chromium", "chromium-headless-shell", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 60_000  # milliseconds, on a busy machine
COMPLETED = {"type": {"any_": ["COMPLETED"]}}

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason=f"none of {', '.join(BROWSERS)} is installed"
)


@pytest.fixture(scope="module")
def page():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install 'lop[dev]'")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


def keep(page, tmp_path, name):
    """Save what the page shows as a picture of this name."""
    page.wait_for_timeout(5000)  # until what moves has come to rest
    page.screenshot(path=Path(os.environ.get("LOP_SCREENSHOTS", tmp_path)) / f"{name}.png")


def test_prefects_page_of_a_run_shows_each_stage_and_its_state(clone, page, tmp_path):
    body = {"flows": {"name": {"any_": ["pipeline"]}}, "flow_runs": {"state": COMPLETED}}
    (run, *_) = httpx.post(f"{clone.prefect}/api/flow_runs/filter", json=body).json()
    page.goto(f"{clone.prefect}/runs/flow-run/{run['id']}")
    page.get_by_text("Beginning flow run").first.wait_for()
    keep(page, tmp_path, "prefect-run")
    page.get_by_text("Task Runs", exact=True).click()  # those without a flow of their own
    page.get_by_text("Cached", exact=True).last.wait_for()
    page.get_by_text("reference", exact=True).last.wait_for()
    page.get_by_text("Subflow Runs", exact=True).click()
    stages = yaml.safe_load((clone.path / "dvc.yaml").read_text())["stages"]
    for stage in stages.keys() - {"reference"}:
        page.get_by_text(stage, exact=True).last.wait_for()  # flows' names come after the runs'
    page.get_by_text("Completed", exact=True).last.wait_for()


def test_mlflows_page_of_the_predictor_shows_version_and_aliases(clone, page, tmp_path):
    model(page, clone, tracking.KIT_NAME)
    for shown in ("Version 1", "champion", "challenger"):
        page.get_by_text(shown).last.wait_for()
    keep(page, tmp_path, "mlflow-kit")


def test_mlflows_page_of_a_pruned_model_shows_what_it_is(clone, page, tmp_path):
    model(page, clone, "lop-pruned-reference/versions/1")
    for shown in ("Cut by lop", "git_commit", "lop_vqa/accuracy", "dvc:data/pruned"):
        page.get_by_text(shown).first.wait_for()
    keep(page, tmp_path, "mlflow-pruned")


def model(page, clone, name):
    page.goto(f"{clone.mlflow}/#/models/{name}")
    page.get_by_text("Aliases").first.wait_for()
    assistant = page.get_by_role("button", name="Close")  # opens by itself the first time
    if assistant.is_visible():
        assistant.click()
