"""A model and samples in, a kit out: by Python and by the command line, killed and gone on with."""

import json
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from conftest import make_samples
from hypothesis import given
from hypothesis import strategies as st

import lop
from lop.cli import main
from lop.data.samples import read_samples, write_samples
from lop.errors import LopError
from lop.evaluation.timing import Paired
from lop.evaluation.tradeoff import Point, sentence
from lop.files import content_digest
from lop.kit.figures import Figure, Figures
from lop.models.weights import read_header
from lop.progress import Course
from lop.settings.params import Fit, Train
from lop.steps import learning, sizing, training
from lop.steps.sizing import Pace, affordable_simulations, sized


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Samples; and all that takes long as short as there is."""
    monkeypatch.setattr(sizing, "USUAL_EFFORT", len(sizing.EFFORTS) - 1)
    monkeypatch.setattr(learning, "REQUEST", (8, 1, 2))
    monkeypatch.setattr(learning, "REPEATS", 1)
    monkeypatch.setattr(learning, "Train", lambda: Train(fit_options=Fit(epochs=5)))
    write_samples(make_samples(60), tmp_path / "data.parquet")
    return tmp_path / "data.parquet"


def test_a_kit_is_learned_and_cuts_the_model(model_dir, data, tmp_path, capfd):
    kit = lop.learn(model_dir, data, tmp_path / "kit")
    assert [line.split(",")[1].split(":")[0] for line in capfd.readouterr().err.splitlines()] == [
        " samples", " scores", " latency", " profile", " search", " predictor", " figures",
    ]  # fmt: skip
    figures, tables = kit.figures, tmp_path / "kit-learning" / "samples"
    assert [figure.ratio for figure in figures.of][:3] == [0, 0.1, 0.2]
    sizes = [figure.bytes for figure in figures.of]
    assert sizes == sorted(sizes, reverse=True)
    assert (figures.metric, figures.of[0].loss) == ("accuracy", 0)
    assert figures.speed_at(0) == 1
    assert figures.value_at(0.15) == pytest.approx((figures.of[1].value + figures.of[2].value) / 2)
    seen = {"calibration", "reward", "train"}
    measured = set(read_samples(tmp_path / "kit-learning" / "measured.parquet")["image_id"])
    assert len(measured) > 1
    for name in seen:
        assert not measured & set(read_samples(tables / f"{name}.parquet")["image_id"])
    card = (tmp_path / "kit" / "README.md").read_text()
    assert figures.sentence() in card
    assert figures.markdown() in card
    assert kit.settings["simulations"] == 4
    with pytest.raises(LopError, match="has not learned bits; `lop learn --bits`"):
        lop.cut(kit, model_dir, tmp_path / "small", bits=[4, 8, 16], size="1MB")
    plan = lop.cut(kit, model_dir, tmp_path / "small", ratio=0.5)
    assert plan == kit.predictor.plan(0.5)
    small = lop.load(tmp_path / "small")
    assert sum(p.numel() for p in small.parameters()) < figures.of[1].parameters
    lop.cut(tmp_path / "kit", model_dir, tmp_path / "sized", size=f"{sizes[4]}")
    packed = tmp_path / "elastic"
    lop.pack(model_dir, kit, packed)
    assert lop.Kit.load(packed / "kit").figures == figures


def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(model_dir, data, tmp_path, monkeypatch):
    whole = lop.learn(model_dir, data, tmp_path / "whole")

    def die(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", die)
        with pytest.raises(KeyboardInterrupt):
            lop.learn(model_dir, data, tmp_path / "kit")
    work = tmp_path / "kit-learning"
    made = {path: path.stat().st_mtime_ns for path in work.rglob("*.*") if path.is_file()}
    assert not (tmp_path / "kit").exists()
    kit = lop.learn(model_dir, data, tmp_path / "kit")
    record = work / "learning.json"
    again = {path for path, at in made.items() if path.stat().st_mtime_ns != at}
    assert again == {record}, "nothing that was there is made again"
    assert content_digest(kit.predictor_path) == content_digest(whole.predictor_path)
    assert kit.figures.of[3].value == whole.figures.of[3].value
    took = json.loads(record.read_text())["took"]
    assert list(took) == [*sizing.sized(Pace(1, 1, 1, 3), 60).seconds]
    write_samples(make_samples(64), data)
    lop.learn(model_dir, data, tmp_path / "kit")
    assert work.joinpath("profile.parquet").stat().st_mtime_ns != made[work / "profile.parquet"]


def test_the_command_line_learns_and_evaluates_with_the_kit(model_dir, data, tmp_path, capsys):
    model = ["--model", str(model_dir)]
    learn = ["learn", *model, "--samples", str(data), "--out", str(tmp_path / "kit")]
    assert main(learn) == 0
    assert "pruning ratios 0.1 to 0.8" in capsys.readouterr().out
    kit = ["--kit", str(tmp_path / "kit")]
    ask = ["evaluate", *model, "--samples", str(data)]
    assert main([*ask, *kit, "--ratio", "0.5"]) == 0
    said = capsys.readouterr().out
    assert main(["prune", *model, *kit, "--ratio", "0.5", "--out", str(tmp_path / "small")]) == 0
    assert main(["evaluate", "--model", str(tmp_path / "small"), "--samples", str(data)]) == 0
    figures = capsys.readouterr().out.splitlines()
    for line in said.splitlines():
        if not line.startswith("latency"):
            assert line in figures, "as the checkpoint that `lop prune` writes"
    for more, says in (
        (kit, "expected one of --ratio, --params"),
        ([*kit, "--ratio", "0.5", "--size", "1MB"], "expected one of --ratio"),
        (["--ratio", "0.5"], "a budget needs --kit"),
    ):
        assert main([*ask, *more]) == 2
        assert says in capsys.readouterr().err
    assert main([*learn, "--hours", "0.00001"]) == 2
    said = capsys.readouterr().err
    assert "--hours 1e-05: too little for this model on this machine; expected at least" in said
    assert said.count("\n") == 1
    write_samples(make_samples(30).assign(answer=None), data)
    assert main(learn) == 2
    assert "s0" in capsys.readouterr().err, "a question without an answer is refused by its id"


PACE = Pace(reading=0.05, passing=0.01, request=0.5, sites=28)


@given(st.floats(0.001, 0.5), st.integers(24, 100_000), st.floats(0.5, 200))
def test_a_time_limit_is_kept_by_what_was_measured(passing, available, hours):
    pace = Pace(5 * passing, passing, 20 * passing, 28)
    try:
        sizes = sized(pace, available, hours)
    except LopError:
        return
    assert sum(sizes.seconds.values()) <= 3600 * hours
    kinds = (sizes.calibration, sizes.reward, sizes.measured, sizes.train or 0)
    assert sum(kinds) <= 0.96 * available
    assert min(kinds[:3]) >= 2


def test_more_time_means_more_samples_then_more_plans():
    few, many = (sized(PACE, 5000, hours) for hours in (1, 20))
    assert few.reward < many.reward
    assert few.effort.simulations <= many.effort.simulations
    assert sized(PACE, 5000).reward == sizing.USUAL


def test_a_slow_machine_makes_the_search_shorter():
    sizes = sized(PACE, 5000, 5)
    first = {name: sizes.seconds[name] for name in ("samples", "scores", "latency", "profile")}
    planned = sizes.effort.simulations
    assert affordable_simulations(sizes, first, 5) == planned
    slower = {name: 2 * seconds for name, seconds in first.items()}
    few = affordable_simulations(sizes, slower, 5)
    assert sizing.EFFORTS[-1].simulations <= few < planned
    assert affordable_simulations(sizes, slower, None) == planned


def test_what_is_left_is_corrected_by_what_was():
    course = Course({"a": 100.0, "b": 100.0})
    assert course.left("a") == 200
    assert course.left("a", 60.0) == 140
    course.took["a"] = 200.0
    assert 100 < course.left("b") <= 200
    assert "2 of 2, b: about" in course.said("b")
    course = Course({"a": 100.0, "b": 100.0})
    course.skip("a")
    assert course.said("b") == "1 of 1, b: about 2 min left"


FAST, NOISE = Paired(1.4, 1.35, 1.45), Paired(1.0, 0.9, 1.1)
GOOD, BAD = (0.5, FAST, 0.6, 0.2), (0.5, FAST, 3.0, 0.2)


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ([GOOD, (0.7, FAST, 0.1, 0.1)], "a: 50 % of the bytes, 1.40 times the speed, 0.6 ± 0.2 po"),
        ([BAD, (0.7, NOISE, -0.1, 0.1)], "b: 70 % of the bytes, no faster beyond noise, 0.1 ± 0.1"),
        ([BAD, (0.7, 1.2, 2.0, 0.2)], "Nothing stays within one point of accuracy: b: 70 % of"),
        ([(0.5, None, 0.6, 4.0)], "Too few samples to tell one point of accuracy: a: 50 %"),
    ],
)
def test_the_sentence_is_what_the_figures_support(points, says):
    named = [Point(name, *of) for name, of in zip("ab", points, strict=False)]
    assert sentence(named).startswith(says)


COURSE = """
from lop.progress import Course
course = Course({"a": 2.0, "b": 1.0})
for name in "ab":
    with course.step(name):
        pass
"""


def test_on_a_terminal_there_is_one_bar():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    os.set_blocking(ours, False)
    subprocess.run([sys.executable, "-c", COURSE], stderr=theirs, check=True)
    shown = os.read(ours, 10_000).decode()
    assert "1 of 2, a: about 3 s left" in shown
    assert "2 of 2, b: about" in shown
    assert "%|" in shown


def test_a_kit_with_bits_meets_a_size_by_units_and_bits(model_dir, data, tmp_path, capsys):
    kit = lop.learn(model_dir, data, tmp_path / "kit", bits=[4, 8, 16], group=8)
    config = kit.size_predictor.config
    assert (config.bits, config.group) == ((4, 8, 16), 8)
    assert "embeddings" in config.others

    def stored(folder):
        return sum(entry.size for entry in read_header(folder / "model.safetensors"))

    size = int(0.8 * kit.figures.of[0].bytes)
    plan = lop.cut(kit, model_dir, tmp_path / "small", bits=[4, 8, 16], size=str(size))
    assert plan.bits
    assert 0.8 * size < stored(tmp_path / "small") <= size
    lop.load(tmp_path / "small")
    prune = ["prune", f"--model={model_dir}", f"--kit={tmp_path / 'kit'}", f"--size={size}"]
    prune += ["--bits", "4", "8", "16"]
    assert main([*prune, "--group=8", f"--out={tmp_path / 'same'}"]) == 0
    weights = [tmp_path / name / "model.safetensors" for name in ("same", "small")]
    assert len({path.read_bytes() for path in weights}) == 1
    capsys.readouterr()
    assert main([*prune, f"--out={tmp_path / 'x'}"]) == 2
    assert "measured in groups of 8, not of 32" in capsys.readouterr().err
    kit.size_predictor.of_model("another").save_pretrained(tmp_path / "kit" / "size-predictor")
    with pytest.raises(LopError, match="size-predictor: made for model another with units"):
        lop.Kit.load(tmp_path / "kit")


def test_the_notebook_runs_as_it_stands(model_dir, data, tmp_path, monkeypatch, capsys):
    cells = json.loads(Path("docs/learn.ipynb").read_text())["cells"]
    monkeypatch.chdir(tmp_path)
    model_dir.rename("my-model")
    Path("my-data").mkdir()
    data.rename("my-data/samples.parquet")
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(cell["source"], names)
    assert re.search(r"^3[67]\.\d% of ffn removed: ", capsys.readouterr().out, re.M)
    assert lop.load("elastic", ratio=0.2).num_parameters() == names["elastic"].num_parameters()


def test_few_samples_that_all_keep_their_answers_are_not_sure():
    figures = [Figure(0.0, 10, 40, 0.9, 0.04, 0, None), Figure(0.5, 5, 20, 0.9, 0.04, 0, 0.0)]
    few, many = (Figures("accuracy", n, None, tuple(figures)).sentence() for n in (46, 2000))
    assert few.startswith("Too few samples to tell one point of accuracy")
    assert many.startswith("50 % pruned: 50 % of the bytes, speed not measured, 0.0 ± 0.1 points")
