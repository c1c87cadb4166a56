"""Archives come by pip, and are the very ones that were meant."""

import zipfile

import pytest

from benchmarks.real.packages import digest, download
from lop.errors import LopError

METADATA = "Metadata-Version: 2.1\nName: prose\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel that pip finds in a folder, and no other index."""
    path = tmp_path / "index" / "prose-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("prose/text.txt", "Once upon a time.")
        archive.writestr("prose-1.0.dist-info/METADATA", METADATA)
        archive.writestr("prose-1.0.dist-info/WHEEL", WHEEL)
        archive.writestr("prose-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    return path


def test_an_archive_is_downloaded_once(wheel, tmp_path):
    sha256 = digest(wheel)
    found = download("prose==1.0", sha256, tmp_path / "into")
    assert found.read_bytes() == wheel.read_bytes()
    wheel.unlink()  # what is there is not asked for again
    assert download("prose==1.0", sha256, tmp_path / "into") == found


def test_another_archive_is_refused(wheel, tmp_path):
    with pytest.raises(LopError, match="prose==1.0: pip brought another file"):
        download("prose==1.0", "0" * 64, tmp_path / "into")


def test_a_package_that_there_is_not_is_named(wheel, tmp_path):
    with pytest.raises(LopError, match="verse==1.0: pip cannot download it: .*No matching"):
        download("verse==1.0", "0" * 64, tmp_path / "into")
