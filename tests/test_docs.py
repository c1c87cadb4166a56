"""The reference pages say all there is, and nothing that is not."""

import re
from pathlib import Path

import yaml

from lop.cli.reference import page


def keys(value, name):
    """Every setting below `value`, by its dotted name; the entries of a list share theirs."""
    if isinstance(value, dict):
        return {key for part in value for key in keys(value[part], f"{name}.{part}".lstrip("."))}
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return {key for each in value for key in keys(each, name)}
    return {name}


def test_every_setting_is_documented_and_no_other():
    settings = keys(yaml.safe_load(Path("params.yaml").read_text()), "")
    documented = set(
        re.findall(r"^\| `([a-z0-9_.]+)` \|", Path("docs/params.md").read_text(), re.M)
    )
    inner = {name.rpartition(".")[0] for name in settings}  # a mapping may have a row of its own
    assert settings - documented == set()
    assert documented - settings - inner == set()


def test_the_command_lines_page_is_the_parsers():
    assert Path("docs/cli.md").read_text() == page(), "python -m lop.cli.reference > docs/cli.md"


def test_links_between_the_pages_lead_somewhere():
    for doc in [Path("README.md"), *Path("docs").glob("*.md")]:
        for link in re.findall(r"\]\(((?!https?:)[^)#]+)", doc.read_text()):
            assert (doc.parent / link).exists(), f"{doc}: {link}"
