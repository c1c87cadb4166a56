"""The commands on a real tiny model, as in the steps by hand."""

import json
import re
import shutil

import pandas as pd
import pytest
from commands import command_of, cut

from lop.cli import main
from lop.models.checkpoint import load
from lop.models.space import find_space
from lop.reference import easyvqa, easyvqa_benchmarks

pytest_plugins = ["commands"]


def test_samples_lists_what_was_searched(made, capsys):
    data = ["--model", str(made / "model"), "--samples", str(made / "samples.parquet")]
    data += ["--scores", str(made / "scores"), "--out", str(made / "search")]
    assert main(["search", *data, "--target", "0.2", "--seed", "7", "--simulations", "3"]) == 0
    capsys.readouterr()
    assert main(["samples", "--search", str(made / "search")]) == 0
    _, first, *_, last = capsys.readouterr().out.splitlines()
    assert first.split()[:3] == ["surrogate", "0.2", "7"]
    assert first.split()[-1] == "current"
    assert last.startswith("3 searches, ")
    assert main(["samples", "--search", str(made / "search"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["current"] for row in rows] == [True, False, False]
    assert all(row["best"] >= row["began"] for row in rows)
    assert main(["samples", "--search", str(made / "scores")]) == 2
    assert "no search samples; run the search first" in capsys.readouterr().err


def test_predict_prints_the_plan_and_how_much_of_the_whole_model_it_is(made, capsys):
    command = ["predict", "--predictor", str(made / "predictor"), "--ratio", "0.37"]
    assert main(command) == 0
    *_, total, said = capsys.readouterr().out.splitlines()
    assert total.split() == ["ffn:", "7,296", "of", "11,520", "parameters,", "36.7%", "less"]
    assert said == "a share of ffn; give --model for the share of the whole model"
    of_model = ["--model", str(made / "model")]
    assert main([*command, *of_model]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert main([*command, *of_model, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert sum(plan["kept"]) == 76
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == {"ratio", "ratios", "kept"}
    assert cut(made) == 0
    record = json.loads((made / "small" / "pruning.json").read_text())
    dense, small = record["dense_parameters"], record["parameters"]
    assert (plan["parameters"], plan["reduction"]) == (small, 1 - small / dense)
    assert said == f"{dense:,} -> {small:,} parameters ({1 - small / dense:.1%} of the whole model)"


@pytest.mark.parametrize("method", ["lop", "knapsack", "flap"])
def test_prune_writes_a_checkpoint_that_can_be_evaluated(made, capsys, method):
    assert cut(made, "--method", method) == 0
    said = capsys.readouterr().out
    assert "of the whole model" in said
    assert sum(find_space(load(made / "small")).units) == 76
    card = (made / "small" / "README.md").read_text()
    assert "37.0% of its FFN neurons pruned" in card
    record = json.loads((made / "small" / "pruning.json").read_text())
    assert f"{record['dense_parameters']:,} -> {record['parameters']:,}" in said
    samples = str(made / "samples.parquet")
    assert main(["evaluate", "--model", str(made / "small"), "--samples", samples]) == 0
    assert "lop_vqa, 12 questions" in capsys.readouterr().out


def test_evaluate_takes_tasks_and_keeps_what_is_finished(made, capsys):
    rows = easyvqa_benchmarks.mme(easyvqa.load("holdout").head(120))
    easyvqa_benchmarks.write(rows, made / "mme" / "data" / "test-00000-of-00001.parquet")
    command = ["evaluate", "--model", str(made / "model"), "--out", str(made / "out")]
    assert main([*command, "--tasks", f"easyvqa_mme={made / 'mme'}"]) == 0
    said = capsys.readouterr().out
    assert f"easyvqa_mme, {len(rows)} questions\n  score" in said
    assert "latency" not in said, "nothing to measure it on"
    saved = json.loads((made / "out" / "easyvqa_mme.json").read_text())
    assert saved["primary"] == "score"
    written = (made / "out" / "easyvqa_mme.parquet").stat().st_mtime_ns
    samples = ["--samples", str(made / "samples.parquet")]
    assert main([*command, *samples, "--tasks", "lop_vqa", f"easyvqa_mme={made / 'mme'}"]) == 0
    assert (made / "out" / "easyvqa_mme.parquet").stat().st_mtime_ns == written
    for tasks, message in (
        (["smell"], "--tasks: expected 'lop_vqa', 'lop_text', "),
        (["easyvqa_pope"], "easyvqa_pope: no data at"),
        ([f"pope={made / 'nowhere'}"], "task pope: no data at"),
        ([f"pope={made / 'mme'}"], "no column 'image_source'"),
        ([f"mme={made / 'mme'}"], "row 0: category"),
    ):
        assert main([*command, *samples, "--tasks", *tasks]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_output_replaces_nothing_but_its_own_kind(made, capsys):
    """Neither an input of the command, nor a folder of another kind, nor what a link points at."""
    dense = made / "other"
    shutil.copytree(made / "model", dense)
    (dense / "lop.json").unlink(missing_ok=True)
    (made / "link").symlink_to(made / "model")
    search = ["--search", str(made / "search"), "--scores", str(made / "scores/flap.safetensors")]
    train = ["train", *search, "--epochs", "1", "--out"]
    data = ["--model", str(made / "model"), "--samples", str(made / "samples.parquet")]
    before = contents(made)
    for command, message in [
        (command_of(made, "--out", made / "model"), "is an input of this command"),
        (command_of(made, "--out", made / "predictor"), "is an input of this command"),
        (command_of(made, "--out", made / "search"), "already exists and is not"),
        (command_of(made, "--out", dense), "already exists and is not"),
        (command_of(made, "--out", made / "link"), "is a link to"),
        (command_of(made, "--out", made), "holds .*, an input of this command"),
        (command_of(made, "--out", made / "model/small"), "is inside .*, an input of this command"),
        ([*train, str(made / "model")], "already exists and is not a predictor"),
        ([*train, str(made / "scores")], "is an input|holds .*, an input"),
        (["importance", *data, "--out", str(made / "predictor")], "already exists and is not"),
        (["importance", *data, "--out", str(made / "model")], "is an input of this command"),
    ]:
        assert main(command) == 2, command
        error = capsys.readouterr().err
        assert re.search(message, error), error
        assert error.count("\n") == 1
        assert contents(made) == before


def test_a_search_beside_hidden_files_leaves_them_alone(made, capsys):
    for name in (".gitlab-ci.yml", ".env.local"):
        (made / "search" / name).write_text("somebody's")
    (made / "search" / ".git.d").mkdir()
    data = ["--model", str(made / "model"), "--samples", str(made / "samples.parquet")]
    data += ["--scores", str(made / "scores"), "--out", str(made / "search")]
    assert main(["search", *data, "--target", "0.2", "--simulations", "2"]) == 0
    hidden = sorted(p.name for p in (made / "search").glob(".*"))
    assert hidden == [".env.local", ".git.d", ".gitlab-ci.yml"]


def test_a_sibling_is_cut_when_told_so(made, capsys):
    sibling = load(made / "model")
    sibling.get_input_embeddings().weight.data[0] += 1
    sibling.save_pretrained(made / "model")
    assert cut(made) == 2
    assert "takes this one with --sibling" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="predictor trained for model"):
        assert main([*command_of(made), "--sibling"]) == 0
    assert sum(find_space(load(made / "small")).units) == 76


def test_compare_sets_methods_side_by_side(made, capsys):
    places = [f"--{name}={made / name}" for name in ("model", "scores", "predictor")]
    places += [f"--profile={made / 'profile.parquet'}", f"--samples={made / 'samples.parquet'}"]
    methods = ["lop", "knapsack", "uniform", "random", "magnitude", "wanda_sp", "flap"]
    grid = ["--methods", *methods, "--ratios", "0.4", "--out", str(made / "all")]
    assert main(["compare", *places, *grid]) == 0
    said = capsys.readouterr().out
    assert said.startswith("| ratio | model | LOP | Knapsack | Uniform | Random | Magnitude |")
    assert "LOP minus each other" in said
    assert said.strip() == (made / "all" / "comparison.md").read_text().strip()
    table = pd.read_csv(made / "all" / "comparison.csv")
    assert len(table) == 7
    assert table.groupby("ratio")["ffn_neurons"].nunique().eq(1).all()
    grid = ["--methods", "lop", "flap", "--ratios", "0.4", "--keep=none"]
    assert main(["compare", *places, *grid, "--out", str(made / "none")]) == 0
    assert [path.name for path in (made / "none" / "pruned").iterdir()] == ["plans.json"]
    dropped = pd.read_csv(made / "none" / "comparison.csv").set_index("name")["accuracy"]
    pd.testing.assert_series_equal(dropped, table.set_index("name").loc[dropped.index, "accuracy"])


def test_compare_needs_a_predictor_for_lop_alone(made, capsys):
    places = [f"--{name}={made / name}" for name in ("model", "scores")]
    places += [f"--samples={made / 'samples.parquet'}", f"--out={made / 'all'}", "--ratios", "0.4"]
    assert main(["compare", *places, "--methods", "uniform"]) == 0
    assert main(["compare", *places, "--methods", "uniform", "lop"]) == 2
    assert "method 'lop' needs a predictor" in capsys.readouterr().err
