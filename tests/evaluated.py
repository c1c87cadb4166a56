"""What the stages before a report leave behind, small: drawn answers in the files' own form."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from lop.data.samples import write_samples
from lop.evaluation.answers import Evaluation
from lop.evaluation.tasks.scoring import EASYVQA_MME, POPE
from lop.plan import Plan, Space
from lop.search import write_index

SPACE = Space.ffns((40, 40, 40))
BENCHMARKS = ("easyvqa_mme", "easyvqa_mmbench", "easyvqa_mmmu", "easyvqa_pope")


def answers(ids, groups, categories, truths, right, seed):
    """A table of answers, each right with probability `right`; a higher one keeps what was right"""
    correct = np.random.default_rng(seed).random(len(ids)) < right
    other = {"yes": "no", "no": "yes"}
    said = [t if c else other.get(t, "?") for t, c in zip(truths, correct, strict=True)]
    columns = {"id": ids, "group": groups, "category": categories, "prompt_hash": "0"}
    return pd.DataFrame(columns | {"answer": truths, "prediction": said, "correct": correct})


def benchmark_answers(task, right, count=60):
    """Answers in the form of a benchmark: pairs an image, or four rotations a question."""
    numbers = range(count)
    if task == "easyvqa_mmbench":
        ids = [str(i // 4 + (i % 4) * 1_000_000) for i in numbers]
        groups = [str(i // 4) for i in numbers]
        return answers(ids, groups, "colour", ["ABCD"[i % 4] for i in numbers], right, seed=1)
    kinds = POPE if task == "easyvqa_pope" else [k for half in EASYVQA_MME.values() for k in half]
    categories = [kinds[i // 2 % len(kinds)] for i in numbers]
    groups = [f"{categories[i]}/{i // 2}" for i in numbers]
    truths = [["yes", "no"][i % 2] for i in numbers]
    return answers([f"q{i}" for i in numbers], groups, categories, truths, right, seed=2)


def write_evaluation(root, samples, right, tasks=()):
    """`data/evaluation` and `data/pruned` of models by their share of right answers."""
    metrics, plans = {}, []
    for name, share in right.items():
        own = answers(
            samples["id"], samples["image_id"], samples["category"], samples["answer"], share, 0
        )
        tables = {"lop_vqa": own} | {task: benchmark_answers(task, share) for task in tasks}
        found = {task: Evaluation(table, task).summary() for task, table in tables.items()}
        for task, table in tables.items():
            path = root / "evaluation" / name / f"{task}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            table.to_parquet(path, index=False)
            path.with_suffix(".json").write_text(json.dumps(found[task]))
        head = found["lop_vqa"]["metrics"]["accuracy"]
        ratio = 0.0 if name == "dense" else float(name.rpartition("-")[2])
        metrics[name] = {
            "accuracy": head["value"],
            "stderr": head["stderr"],
            "count": len(own),
            "by_category": {},
            "parameters": int(1000 * (2 - ratio)),
            "disk_bytes": int(4000 * (2 - ratio)),
            "peak_bytes": 9000,
            "peak_of": "rss",
            "latency_ms": 10 - ratio,
            "batch": 8,
            "flops_per_token": int(1000 * (2 - ratio)),
            "tasks": found,
        }
        if name != "dense":
            faster = {"": 1 + ratio, "_low": 1 + ratio / 2, "_high": 1 + 2 * ratio}
            metrics[name] |= {f"speedup{end}": of for end, of in faster.items()}
            metrics[name] |= {f"batch_speedup{end}": of - 0.2 for end, of in faster.items()}
            plan = Plan.uniform(SPACE, ratio)
            method = name.rpartition("-")[0]
            row = {"method": method, "ratio": ratio, "kept": plan.kept, "plan": plan.ratios}
            row |= {"kinds": plan.space.kinds, "layers": plan.space.layers}
            plans.append(row)
    (root / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    (root / "pruned").mkdir()
    (root / "pruned" / "plans.json").write_text(json.dumps(plans))


def write_rest(root, samples):
    """`data/search`, `data/training` and `data/samples` to go with it."""
    rows = [
        {"target": 0.3, "reward": reward, "searcher": "mcts", "seed": 0, "simulation": i}
        | {"seconds": 1.0 + i, "kept": [28, 28, 28], "plan": [0.3, 0.3, 0.3], "depth": i}
        | {"share": 1.0, "gain": 0.0, "gain_error": 0.0}
        | {"fingerprint": "f", "model_fingerprint": "m"}
        for i, reward in enumerate([-2.0, -1.5, -1.7])
    ]
    for name in ("search", "training"):
        (root / name).mkdir()
    pd.DataFrame(rows).to_parquet(root / "search" / "mcts-0.3-0-f.parquet")
    write_index(root / "search", [Path("mcts-0.3-0-f.parquet")])
    trained = {"samples": 3, "predict_ms": 2.5}
    (root / "training" / "metrics.json").write_text(json.dumps(trained))
    write_samples(samples, root / "samples" / "benchmark.parquet")
