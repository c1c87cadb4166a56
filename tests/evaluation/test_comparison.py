"""What cannot be compared is told before anything is cut or asked."""

import pandas as pd
import pytest

from lop.data.samples import write_samples
from lop.errors import LopError
from lop.importance import SCORES, save_scores
from lop.models.stored import Stored
from lop.steps import comparing
from lop.steps.pruning import Cutter, prune_grid


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


def test_near_ratios_have_a_checkpoint_each(model_dir, scores, tmp_path):
    source = Stored(str(model_dir))
    for name in SCORES:
        path = tmp_path / f"scores/{name}.safetensors"
        save_scores(scores, path, source.fingerprint, source.space())
    cutter = Cutter(str(model_dir), tmp_path / "scores", "flap")
    prune_grid(tmp_path / "pruned", ["uniform"], [0.2, 0.2000001], cutter)
    there = sorted(path.name for path in (tmp_path / "pruned").iterdir() if path.is_dir())
    assert there == ["uniform-0.2", "uniform-0.2000001"]
