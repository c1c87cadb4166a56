import pytest

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
        with replacing_dir(path) as tmp:
            (tmp / content).touch()
    assert [f.name for f in path.iterdir()] == ["two"]
    with pytest.raises(RuntimeError), replacing_dir(path) as tmp:
        (tmp / "half").touch()
        raise RuntimeError
    assert [f.name for f in path.iterdir()] == ["two"]
    assert [f.name for f in tmp_path.iterdir()] == ["out"]
