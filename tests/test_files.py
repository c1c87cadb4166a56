import pytest

from lop.errors import LopError
from lop.files import replacing, replacing_dir


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a" / "b.txt"
    with replacing(path) as tmp:
        tmp.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with pytest.raises(RuntimeError), replacing(path) as tmp:
        tmp.write_text("half")
        raise RuntimeError
    assert path.read_text() == "one"
    assert [f.name for f in path.parent.iterdir()] == ["b.txt"]


def test_a_directory_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "out"
    for content in ("one", "two"):
        with replacing_dir(path, like="a") as tmp:
            (tmp / "a").write_text(content)
    assert (path / "a").read_text() == "two"
    with pytest.raises(RuntimeError), replacing_dir(path, like="a") as tmp:
        (tmp / "half").touch()
        raise RuntimeError
    assert [f.name for f in path.iterdir()] == ["a"]
    assert [f.name for f in tmp_path.iterdir()] == ["out"]


def test_what_is_not_of_the_kind_is_not_replaced(tmp_path):
    thesis = tmp_path / "thesis.tex"
    thesis.touch()
    for path in (tmp_path, thesis):
        with pytest.raises(LopError, match="holds no config.json"):
            replacing_dir(path, like="config.json").__enter__()
    assert thesis.exists()
