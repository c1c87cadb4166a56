"""What cannot be compared is told before anything is cut or asked."""

import numpy as np
import pandas as pd
import pytest
import torch

from lop.data.samples import write_samples
from lop.errors import LopError
from lop.evaluation.latency import COLUMNS, REST, LatencyProfile, Machine, Request
from lop.importance import SCORES, save_scores
from lop.models.stored import Stored
from lop.steps import comparing
from lop.steps.grid import prune_grid
from lop.steps.pruning import Cutter


@pytest.mark.parametrize(
    ("methods", "ratios", "said"),
    [
        (["uniform", "flap", "uniform"], [0.2], "method 'uniform' is named twice"),
        (["uniform"], [0.2, 0.3, 0.20], "ratio 0.2 is named twice"),
    ],
)
def test_twice_the_same_is_refused_at_once(samples, tmp_path, methods, ratios, said):
    write_samples(samples, tmp_path / "s.parquet")
    cutter = Cutter("no model is read", tmp_path, "flap")
    with pytest.raises(LopError, match=said):
        comparing.compare(tmp_path / "out", cutter, methods, ratios, tmp_path / "s.parquet")
    assert not (tmp_path / "out").exists()


def test_samples_with_one_id_twice_are_refused_at_once(samples, tmp_path):
    write_samples(pd.concat([samples, samples]), tmp_path / "s.parquet")
    cutter = Cutter("no model is read", tmp_path, "flap")
    with pytest.raises(LopError, match=r"s\.parquet, row 12: id 's0' is that of row 0, too"):
        comparing.compare(tmp_path / "out", cutter, ["uniform"], [0.2], tmp_path / "s.parquet")
    assert not (tmp_path / "out").exists()


def test_methods_meet_a_latency_at_the_first_ratio_that_is_good_for_all(model_dir, model, tmp_path):
    """Also where at the largest of their own ratios one of them is above it again."""
    source = Stored(str(model_dir))
    space = source.space("ffn+attention")
    sites = source.sites("ffn+attention")
    scores = [torch.rand(of.units, generator=torch.manual_seed(0)) for of in sites]
    for name in SCORES:
        save_scores(scores, tmp_path / f"scores/{name}.safetensors", source.fingerprint, space)
    # the first layer's FFN is slow, and how much of it goes is not the same in all methods
    rows = [(REST, 0, 1.0, 1.0)]
    for site, units in enumerate(space.units):
        rows += [(site, kept, kept * (5.0 if site == 1 else 0.1), 0.0) for kept in (1, units)]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    timed = LatencyProfile(space, Request(), Machine.of(model), table)
    timed.save(tmp_path / "latency.parquet")
    cutter = Cutter(
        str(model_dir), tmp_path / "scores", "flap", latency_path=tmp_path / "latency.parquet"
    )
    methods, again = ["random", "uniform"], 0
    neuron = space.grain / space.total
    for share in np.arange(0.5, 0.95, 0.05):
        target = f"{share:.2f}x"
        (ratio,), aim = cutter.ratios([f"latency {target}"], methods), timed.amount(target)

        def meets(ratio, aim=aim):
            return {name: timed.of(cutter.planner(name)(ratio)) <= aim for name in methods}

        start = max(cutter.meeting("latency", target, name)[0] for name in methods)
        again += not all(meets(start).values())
        between = np.arange(round(start / neuron), round(ratio / neuron)) * neuron
        assert all(meets(ratio).values())
        assert not any(all(meets(r).values()) for r in between if r < ratio - neuron / 2)
    assert again, "no such case here"


def test_near_ratios_have_a_checkpoint_each(model_dir, scores, tmp_path):
    source = Stored(str(model_dir))
    for name in SCORES:
        path = tmp_path / f"scores/{name}.safetensors"
        save_scores(scores, path, source.fingerprint, source.space())
    cutter = Cutter(str(model_dir), tmp_path / "scores", "flap")
    prune_grid(tmp_path / "pruned", ["uniform"], [0.2, 0.2000001], cutter)
    there = sorted(path.name for path in (tmp_path / "pruned").iterdir() if path.is_dir())
    assert there == ["uniform-0.2", "uniform-0.2000001"]
