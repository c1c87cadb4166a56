import pytest

from lop.errors import LopError
from lop.files import content_digest, replacing, replacing_dir


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


def test_a_digest_is_of_names_and_contents(tmp_path):
    (tmp_path / "d" / ".git").mkdir(parents=True)
    (tmp_path / "d" / "a").write_text("1")
    mark = content_digest(tmp_path / "d")
    (tmp_path / "d" / ".git" / "x").write_text("hidden")
    (tmp_path / "d" / "README.md").write_text("left out")
    assert content_digest(tmp_path / "d", without=["README.md"]) == mark
    assert content_digest(tmp_path / "d") != mark
    (tmp_path / "d" / "README.md").unlink()
    (tmp_path / "d" / "a").rename(tmp_path / "d" / "b")
    assert content_digest(tmp_path / "d") != mark
    assert content_digest(tmp_path / "d" / "b") != content_digest(tmp_path / "d")
