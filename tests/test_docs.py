"""The docs: their commands run as they stand there, and the reference pages say all there is."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd

from lop.cli import main
from lop.cli.reference import page
from lop.data.samples import write_samples
from lop.reference import easyvqa, easyvqa_benchmarks

DOCS = Path("docs").resolve()


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.S)


def commands(page):
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("lop ")]


def test_the_steps_by_hand_are_as_described(model_dir, samples, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model_dir.rename("my-model")
    Path("my-data").mkdir()
    write_samples(many(samples), Path("my-data/samples.parquet"))
    Path("my-texts").mkdir()
    for i in range(40):
        Path(f"my-texts/{i}.txt").write_text(f"What is it? It is a red shape, said {i}.\n")
    fewer = {"500": "6", "1500": "6", "4000": "6", "50": "4", "300": "2"}
    for command in commands("your-model.md"):
        assert main([fewer.get(word, word) for word in command[1:]]) == 0, command
    exec("\n".join(blocks("your-model.md", "python")), {})
    assert Path("small-from-memory/modeling_lop.py").exists()


def test_the_benchmarks_are_asked_as_described(model_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model_dir.rename("small")
    seen, rng = easyvqa.load("holdout").head(60), np.random.default_rng(0)
    part = "data/test-00000-of-00001.parquet"  # as in clones of the hub's
    for place, rows in (
        ("data/POPE", easyvqa_benchmarks.pope(seen, rng)),
        ("lmms-lab/MME", [row | {"category": "color"} for row in easyvqa_benchmarks.mme(seen)]),
    ):
        easyvqa_benchmarks.write(rows, tmp_path / place / part)
    (command,) = commands("benchmarks.md")
    assert main(command[1:]) == 0
    said = capsys.readouterr().out
    assert "pope, " in said
    assert "mme, " in said
    assert {path.name for path in Path("answers").glob("*.json")} >= {"pope.json", "mme.json"}


def many(samples):
    """More of them, each time with other pictures: a few bytes behind a PNG change none of it."""

    def others(i):
        images = [
            [{"bytes": image["bytes"] + bytes(i), "path": None} for image in of]
            for of in samples["images"]
        ]
        names = {name: samples[name] + f"-{i}" for name in ("id", "image_id")}
        return samples.assign(images=images, **names)

    return pd.concat([others(i) for i in range(4)], ignore_index=True)


def test_the_command_lines_page_is_the_parsers():
    assert Path("docs/cli.md").read_text() == page(), "python -m lop.cli.reference > docs/cli.md"


def anchors(page):
    """What a link may name in a page: its titles, as GitHub writes them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_linked_is_there():
    pages = [*DOCS.glob("**/*.md"), DOCS.parent / "README.md"]
    for doc in pages:
        for link, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", doc.read_text()):
            page = doc.parent / link if link else doc
            assert page.exists(), f"{doc.name}: {link}"
            assert not anchor or anchor in anchors(page), f"{doc.name}: {link}#{anchor}"
