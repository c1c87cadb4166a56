"""A plain text model goes the whole way: documents in, a smaller model and its perplexity out."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import texts

from lop.data.samples import read_samples
from lop.models.checkpoint import load, load_processor, save
from lop.settings import Recovery
from lop.steps import (
    comparing,
    preparing,
    pruning,
    recovering,
    reporting,
    scoring,
    searching,
    training,
)

SIZES = {"calibration": 12, "reward": 8, "validation": 4, "train": 8, "benchmark": 12}
METHODS, RATIOS = ["lop", "lop_recovered", "uniform"], [0.5]


def write_documents(folder):
    folder.mkdir()
    for i in range(24):
        lines = [f"{line}, said {i}.\n" for line in texts.LINES[i % 3 :] * 2]
        (folder / f"{i:02}.txt").write_text("".join(lines))


@pytest.mark.parametrize(("kind", "reward"), [("Llama", "loglik"), ("Gemma3Text", "kl_text")])
def test_the_whole_pipeline_runs(tmp_path, kind, reward):
    model, data = str(tmp_path / "model"), tmp_path / "data"
    save(texts.model(kind), texts.tokenizer(), model)
    write_documents(tmp_path / "documents")
    preparing.prepare(data / "samples", str(tmp_path / "documents"), 0, SIZES, 24, model)
    samples, scores = data / "samples", data / "scores"
    judged = (model, samples / "reward.parquet", scores, "flap")
    scoring.importance(scores, model, samples / "calibration.parquet", 4)
    profile = data / "profile.parquet"
    searching.profile(profile, *judged, shares=[0.3, 0.6], reward=reward, batch_size=8)
    searching.search(
        data / "search", *judged, targets=[0.3, 0.5], seeds=[0],
        settings={"searcher": "mcts", "simulations": 4}, start="knapsack", profile_path=profile,
        reward=reward, batch_size=8,
    )  # fmt: skip
    training.train(
        data / "predictor", data / "training", data / "search", scores / "flap.safetensors", 0,
        {}, {"hidden": 16, "depth": 1, "heads": 2}, {"epochs": 2}, "knapsack", profile,
    )  # fmt: skip
    cutter = pruning.Cutter(model, scores, "flap", False, data / "predictor", profile)
    apart, quick = [samples / "benchmark.parquet"], Recovery(steps=4, batch_size=4, rank=2)
    recovering.recover(
        data / "recovered", data / "recovery", samples / "train.parquet", cutter, quick, apart
    )
    cutter = replace(cutter, recovered_path=data / "recovered")
    out, benchmark = data / "comparison", samples / "benchmark.parquet"
    page = comparing.compare(out, cutter, METHODS, RATIOS, benchmark, 4)
    assert "LOP minus each other, perplexity ± paired standard error" in page
    table = pd.read_csv(out / "comparison.csv")
    metrics = json.loads((out / "evaluation" / "metrics.json").read_text())
    assert set(metrics) == {"dense", *(f"{m}-{r}" for m in METHODS for r in RATIOS)}
    windows = pd.read_parquet(out / "evaluation" / "dense" / "lop_text.parquet")
    assert windows["id"].tolist() == read_samples(benchmark)["id"].tolist()
    assert windows["picture"].nunique() < len(windows), "errors go by document"
    for ratio, rows in table.groupby("ratio"):
        line = next(line for line in page.splitlines() if line.startswith(f"| {ratio:.0%}"[:4]))
        best = rows["perplexity"].min()
        assert f"**{best:.2f} ±" in line, "less is better"
    small = load(out / "pruned" / "lop-0.5")
    assert small.num_parameters() < load(model).num_parameters()
    tokenizer = load_processor(out / "pruned" / "lop-0.5")
    assert tokenizer.encode("the cat") == texts.tokenizer().encode("the cat")
    reporting.report(
        data / "report", out / "evaluation", out / "pruned", data / "search", data / "training",
        samples,
    )  # fmt: skip
    report = (data / "report" / "report.md").read_text()
    assert "## Perplexity at each ratio\n\nPerplexity ± standard error, less is better" in report
    assert "## What changes when LOP prunes" not in report, "there are no answers"
    figures = pd.read_csv(data / "report" / "perplexity.csv")
    assert set(figures["method"]) == set(METHODS)
    numbers = json.loads((data / "report.json").read_text())
    assert numbers["dense"]["perplexity"] == metrics["dense"]["perplexity"]
    worst = pd.read_csv(data / "report" / "comparison.csv").groupby("ratio")["difference"].max()
    assert list(numbers["best_baseline_difference_perplexity"].values()) == pytest.approx(
        worst.tolist()
    )
