"""The report: what stands in it, that both its forms say the same, and what is left out."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from evaluated import BENCHMARKS, write_evaluation, write_rest

from lop.errors import LopError
from lop.evaluation.comparison import Comparison
from lop.report import benchmarks, lead, plots
from lop.report.html import literal, to_html
from lop.steps import reporting

RIGHT = {"dense": 0.95, "lop-0.3": 0.9, "lop-0.5": 0.8, "flap-0.3": 0.89, "flap-0.5": 0.3}


@pytest.fixture(scope="module")
def made(samples_of_module, tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    write_evaluation(root, samples_of_module, RIGHT, tasks=BENCHMARKS)
    write_rest(root, samples_of_module)
    (root / "pruned.json").write_text(json.dumps({"flap-0.3": 0.0007}))
    report(root, root / "samples")
    return root


@pytest.fixture(scope="module")
def samples_of_module(samples):
    return samples


def report(root, samples=None):
    places = [root / name for name in ("evaluation", "pruned", "search", "training")]
    reporting.report(root / "report", *places, samples)
    return (root / "report" / "report.md").read_text()


def row(text, start):
    line = next(line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def section(text, title):
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_page_begins_with_what_is_saved_and_lost(made):
    text = (made / "report/report.md").read_text()
    first, picture, _ = text.split("\n\n")[2:5]
    assert picture == "![accuracy against size and speed](tradeoff.png)"
    assert (made / "report/tradeoff.png").stat().st_size > 10_000
    table = pd.read_csv(made / "report/tradeoff.csv").set_index("name")
    assert list(table.index) == ["dense", "lop-0.3", "lop-0.5"]
    assert table.loc["lop-0.5", "size"] == pytest.approx(0.75)
    answered = [
        pd.read_parquet(made / f"evaluation/{name}/lop_vqa.parquet")["correct"].mean()
        for name in ("dense", "lop-0.5")
    ]
    assert table.loc["lop-0.5", "loss"] == pytest.approx(100 * (answered[0] - answered[1]))
    loss, error = table.loc["lop-0.3", ["loss", "loss_stderr"]]
    assert f"85 % of the bytes, 1.30 times the speed, {loss:.1f} ± {error:.1f} points" in first
    assert first == f"**{reporting.claim(made / 'evaluation', made / 'pruned')}**"


def test_recovered_checkpoints_are_a_line_of_their_own(samples, tmp_path):
    right = {"dense": 0.95, "lop-0.5": 0.5, "lop_recovered-0.5": 0.95}
    many = pd.concat([samples] * 40, ignore_index=True)
    for name in ("id", "image_id"):
        many[name] += "-" + many.index.astype(str)
    write_evaluation(tmp_path, many, right)
    compared = Comparison.read(tmp_path / "evaluation", tmp_path / "pruned")
    rows = lead.table(compared)
    assert list(rows["method"]) == ["dense", "lop", "lop_recovered"]
    said = lead.claim(compared, rows)
    assert said.startswith("LOP, recovered at 50 %: 75 % of the bytes, 1.50 times the speed, 0.0")


def test_the_main_table_has_the_papers_form_and_says_what_it_is(made):
    text = section((made / "report/report.md").read_text(), "Benchmarks built from easy-VQA")
    assert "These are not the published benchmarks" in text
    head = row(text, "ratio, method")
    assert head[1:] == [
        "MME-P (easy-VQA)",
        "MME-R (easy-VQA)",
        "MMBench, circular (easy-VQA)",
        "MMMU (easy-VQA)",
        "POPE, F1 (easy-VQA)",
        "average (easy-VQA)",
        "of dense (easy-VQA), %",
        "plan in",
    ]
    assert row(text, "30 % LOP")[-1] == "2.5 ms"
    assert row(text, "30 % FLAP")[-1] == "0.7 ms"
    assert row(text, "0 % dense")[-2] == "100.0"


def test_averages_and_their_share_of_dense_by_hand(made):
    compared = Comparison.read(made / "evaluation", made / "pruned")
    columns = benchmarks.main_columns(compared, " (easy-VQA)")
    kept = [("easyvqa_mmbench", "circular"), ("easyvqa_mmmu", "accuracy"), ("easyvqa_pope", "f1")]
    mean, dense = (
        100 * np.mean([compared.score(name, *one)[0] for one in kept])
        for name in ("lop-0.5", "dense")
    )
    assert benchmarks.average(compared, "lop-0.5", columns).value == pytest.approx(mean)
    share = benchmarks.relative(compared, "lop-0.5", columns)
    assert share.value == pytest.approx(100 * mean / dense)
    assert 0 < share.stderr < 20
    assert benchmarks.relative(compared, "dense", columns).stderr == pytest.approx(0, abs=1e-6)


def test_only_differences_beyond_twice_their_error_are_marked(made):
    text = section((made / "report/report.md").read_text(), "Benchmarks built from easy-VQA")
    for ratio, marked in ((0.5, True), (0.3, False)):
        ours, other = (
            pd.read_parquet(made / f"evaluation/{name}-{ratio:g}/easyvqa_mmmu.parquet")
            for name in ("lop", "flap")
        )
        apart = (ours["correct"].astype(int) - other["correct"]).groupby(ours["group"]).mean()
        assert (apart.mean() > 2 * apart.sem()) == marked, "by hand"
        assert ("▼" in row(text, f"{100 * ratio:g} % FLAP")[4]) == marked
    assert not set("▼▲") & set("".join(row(text, "50 % LOP")))
    table = pd.read_csv(made / "report/benchmarks.csv")
    one = table[(table["name"] == "flap-0.5") & (table["task"] == "easyvqa_mmmu")].iloc[0]
    assert one["lop_minus_this"] > 2 * one["paired_stderr"] > 0


def test_answers_that_do_not_give_the_recorded_figure_are_not_paired(made):
    compared = Comparison.read(made / "evaluation", made / "pruned")
    pair = ("lop-0.5", "flap-0.5", "easyvqa_mmmu", "accuracy")
    assert compared.difference(*pair)[1] > 0
    of = (compared.scores["name"] == "lop-0.5") & (compared.scores["task"] == "easyvqa_mmmu")
    compared.scores.loc[of, "value"] = 0.99
    difference, error = compared.difference(*pair)
    assert np.isnan(error)
    assert difference == pytest.approx(0.99 - compared.score("flap-0.5", *pair[2:])[0])


class Page(HTMLParser):
    """The text, pictures and links of a web page."""

    def __init__(self, page):
        super().__init__()
        self.text, self.sources, self.tags = [], [], set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data.split()


def test_the_web_page_says_what_the_markdown_says_and_needs_nothing_else(made):
    text = (made / "report/report.md").read_text()
    page = Page((made / "report/report.html").read_text())
    assert page.sources
    assert all(source.startswith("data:image/") for source in page.sources)
    assert len(page.sources) == len(re.findall(r"!\[", text))
    assert not {"script", "link", "iframe"} & page.tags
    numbers = re.findall(r"\d+\.\d+ ± \d+\.\d+", text)
    said = " ".join(page.text)
    assert len(numbers) > 40
    assert all(number in said for number in numbers)


def test_examples_show_pictures_and_answers(made, samples):
    text = section((made / "report/report.md").read_text(), "What changes when LOP prunes")
    shown = [line for line in text.splitlines() if line.startswith("| ![picture](example-")]
    assert shown
    truth = {q.replace("?", r"\?") for q in samples["question"]}
    assert all(line.split("|")[2].strip().replace("?", r"\?") in truth for line in shown)
    assert all("**" in line for line in shown), "the answer it lost is wrong, in bold"
    assert (made / "report/example-0-0.png").read_bytes().startswith(b"\x89PNG")


def test_with_lop_vqa_alone_the_report_comes_out(samples, tmp_path):
    write_evaluation(tmp_path, samples, {"dense": 0.9, "lop-0.3": 0.8, "flap-0.3": 0.5})
    write_rest(tmp_path, samples)
    text = report(tmp_path)
    assert "Benchmarks" not in text
    assert "## Accuracy at each ratio" in text
    assert "![picture]" not in text, "no samples were given"
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert numbers["predict_ms"] == 2.5


def test_a_missing_model_leaves_no_half_report(samples, tmp_path):
    write_evaluation(tmp_path, samples, {"dense": 0.9, "lop-0.3": 0.8})
    write_rest(tmp_path, samples)
    (tmp_path / "evaluation/lop-0.3/lop_vqa.parquet").unlink()
    with pytest.raises(LopError, match="no answers to task 'lop_vqa'"):
        report(tmp_path)
    assert not list(tmp_path.glob("*report*"))


def without(key):
    return lambda found: {k: v for k, v in found.items() if k != key}


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("evaluation/metrics.json", lambda m: [], "metrics.json: expected an object, found list"),
        ("evaluation/metrics.json", lambda m: m | {"dense": 5}, "dense: expected an object"),
        (
            "evaluation/metrics.json",
            lambda m: m | {"dense": without("latency_ms")(m["dense"])},
            "metrics.json, dense: no 'latency_ms'",
        ),
        (
            "evaluation/metrics.json",
            lambda m: m | {"dense": m["dense"] | {"accuracy": "high"}},
            "dense: accuracy 'high' is not of the type",
        ),
        (
            "evaluation/metrics.json",
            lambda m: m | {"dense": m["dense"] | {"tasks": {"pope": {"count": 1}}}},
            "dense, pope: no 'primary'",
        ),
        (
            "evaluation/metrics.json",
            lambda m: m | {"dense": without("accuracy")(m["dense"])},
            "methods are compared by lop_vqa, which dense was not asked",
        ),
        ("evaluation/metrics.json", without("lop-0.3"), "no evaluation of lop-0.3"),
        ("pruned/plans.json", lambda p: {}, "plans.json: expected a list of plans"),
        ("pruned/plans.json", lambda p: [], "plans.json: expected a list of plans"),
        ("pruned/plans.json", lambda p: [without("kept")(p[0])], "plan 0: no 'kept'"),
        ("pruned/plans.json", lambda p: [p[0] | {"ratio": "x"}], "plan 0: ratio 'x' is not of"),
        ("pruned/plans.json", lambda p: [p[0] | {"method": "x"}], "plan 0: no method 'x'"),
        ("pruned/plans.json", lambda p: [p[0], p[0]], "'lop-0.3' is named twice"),
        ("training/metrics.json", lambda t: {"loss": 1}, "training/metrics.json: no 'samples'"),
    ],
)
def test_foreign_files_are_one_line(samples, tmp_path, file, change, said):
    write_evaluation(tmp_path, samples, {"dense": 0.9, "lop-0.3": 0.8})
    write_rest(tmp_path, samples)
    found = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps(change(found)))
    with pytest.raises(LopError, match=said) as caught:
        report(tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*report*"))


def test_the_front_holds_what_no_other_betters():
    points = pd.DataFrame({"name": list("abcd"), "size": [1, 2, 2, 3], "value": [5, 7, 6, 7]})
    assert plots.pareto_front(points, "size")["name"].tolist() == ["a", "b"]


def test_text_of_questions_cannot_break_the_page():
    nasty = 'a|b\n# c <script>alert(1)</script> ![x](y) **d** `e` & "f" \\'
    page = Page(to_html(f"# t\n\n| q |\n| --- |\n| {literal(nasty)} |\n", lambda name: b""))
    assert " ".join(page.text).endswith(" ".join(nasty.split()))
    assert not {"script", "img", "strong", "code"} & page.tags
    assert len(literal("x" * 1000, limit=50)) == 50
