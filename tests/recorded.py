"""What lop makes of FFNs alone, as it stood before there was attention beside them.

`python tests/recorded.py` prints it; recorded.json is what the version before printed.
"""

import hashlib
import json
import tempfile
from pathlib import Path

import conftest
import numpy as np
import pandas as pd
import torch
from toy import SPACE, Noisy
from toy import reward as told

from lop.data.encoding import encode
from lop.importance import collect
from lop.methods import flap_plan, random_plan
from lop.models.checkpoint import save
from lop.models.space import find_ffns, find_space
from lop.models.stored import Stored
from lop.plan import Plan
from lop.predictor import NETWORKS, PredictorConfig
from lop.predictor.training import train
from lop.profile import measure, solve
from lop.pruning import prune_checkpoint
from lop.reference import model as reference
from lop.reward import Reward
from lop.search import SEARCHERS
from lop.search.drawn import Drawn

SAID = np.random.default_rng(5).random((6, 4))


def plans():
    """Plans on a budget, searched, solved and predicted."""
    found = {
        "from_ratios": [Plan.from_ratios(r, SPACE, 0.1 * (i + 1)).kept for i, r in enumerate(SAID)],
        "uniform": [Plan.uniform(SPACE, ratio).kept for ratio in (0.1, 0.37, 0.8)],
    }
    for name, searcher in SEARCHERS.items():
        judge = Drawn(Noisy(0.1), range(5)) if name == "surrogate" else told
        steps = searcher(judge, Plan.uniform(SPACE, 0.4), 60, np.random.default_rng(3))
        found[f"search {name}"] = [step.plan.kept for step in steps][:20]
    measured = measure(told, SPACE)
    found["solve"] = [solve(measured, ratio).kept for ratio in (0.1, 0.33, 0.5, 0.7)]
    targets = (0.2, 0.4, 0.6)
    rows = [
        {"target": target, "plan": Plan.from_ratios(ratios, SPACE, target).ratios}
        for target, ratios in zip(targets, SAID, strict=False)
    ]
    for kind in NETWORKS:
        config = PredictorConfig(SPACE, "m", 0.2, 0.6, kind=kind, hidden=32)
        predictor = train(pd.DataFrame(rows), config, 0, epochs=30, profile=measured)
        found[f"predictor {kind}"] = [p.kept for p in predictor.plans([0.2, 0.33, 0.5, 0.6])]
    return found


def cases():
    """All of it."""
    samples, found = conftest.make_samples(), plans()
    words = [*samples["question"], *samples["answer"]]
    tokenizer = reference.build_tokenizer(words, conftest.SHAPE.vocab)
    processor = reference.build_processor(tokenizer)
    model = reference.build_model(tokenizer, conftest.SHAPE, seed=0).eval()
    with torch.no_grad():
        for ffn in find_ffns(model):
            for linear in ffn.maps:
                linear.weight.mul_(10)
    space, scores = find_space(model), collect(model, encode(samples, model, processor, 4))
    ratios = (0.2, 0.5)
    found["flap"] = [flap_plan(ratio, space, scores).kept for ratio in ratios]
    found["random"] = [random_plan(ratio, space, scores).kept for ratio in ratios]
    means = scores["mean_activation"]
    with Reward(model, processor, samples, scores["flap"], "loglik", 4, means) as reward:
        found["reward"] = [reward(flap_plan(ratio, space, scores)) for ratio in ratios]
    drawn = [
        torch.rand(units, generator=torch.Generator().manual_seed(i))
        for i, units in enumerate(space.units)
    ]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        save(model, processor, out / "model")
        found["dense"] = _digest(out / "model")
        plan = Plan(space, (19, 20, 21))
        prune_checkpoint(Stored(out / "model"), plan, drawn, out / "cut")
        found["checkpoint"] = {"model.safetensors": _digest(out / "cut")}
        config = json.loads((out / "cut" / "config.json").read_text())["text_config"]
        found["checkpoint config"] = config["per_layer_config"]
    return found


def _digest(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]


if __name__ == "__main__":
    print(json.dumps(cases(), indent=1))
