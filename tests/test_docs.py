"""The commands of the docs, run as they stand there."""

import re
import shlex
from pathlib import Path

import pandas as pd

from lop.cli import main
from lop.tasks.samples import write_samples

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
    fewer = {"500": "6", "200": "6", "1500": "6", "100": "4"}
    for command in commands("your-model.md"):
        assert main([fewer.get(word, word) for word in command[1:]]) == 0, command
    exec("\n".join(blocks("your-model.md", "python")), {})
    assert Path("small-from-memory/modeling_lop.py").exists()


def many(samples):
    tables = [
        samples.assign(id=samples["id"] + f"-{i}", image_id=samples["image_id"] + f"-{i}")
        for i in range(4)
    ]
    return pd.concat(tables, ignore_index=True)


def test_every_page_linked_is_there():
    pages = [*DOCS.glob("*.md"), DOCS.parent / "README.md"]
    for page in pages:
        for link in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
