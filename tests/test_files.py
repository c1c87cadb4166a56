"""Files and directories as others see them, while processes write, are killed, and come again."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread

import pytest

from lop import files
from lop.errors import LopError
from lop.files import (
    Kind,
    check_dir,
    check_file,
    clear_leftovers,
    content_digest,
    replacing,
    replacing_dir,
)

THING = Kind("a thing", ("a",))
EXCHANGES = [True, False]  # with the system's exchange of names, and without


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(path, content, count=3):
    with replacing_dir(path, THING) as tmp:
        for i in range(count):
            (tmp / "abc"[i]).write_text(content)


@pytest.fixture(params=EXCHANGES, ids=["exchange", "two renames"])
def exchange(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    return request.param


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a" / "b.txt"
    with replacing(path) as tmp:
        tmp.write_text("one")
        assert not path.exists()
        assert tmp.suffix == ".txt"
    assert path.read_text() == "one"
    with pytest.raises(RuntimeError), replacing(path) as tmp:
        tmp.write_text("half")
        raise RuntimeError
    assert path.read_text() == "one"
    assert names(path.parent) == ["b.txt"]


def test_a_directory_is_replaced_whole_or_not_at_all(tmp_path, exchange):
    path = tmp_path / "out"
    for content in ("one", "two"):
        write(path, content)
    assert (path / "a").read_text() == "two"
    with pytest.raises(RuntimeError), replacing_dir(path, THING) as tmp:
        (tmp / "half").touch()
        raise RuntimeError
    assert names(path) == ["a", "b", "c"]
    assert names(tmp_path) == ["out"]


def test_what_is_not_of_the_kind_is_not_replaced(tmp_path):
    predictor = Kind("a predictor", ("config.json",), frozenset({"widths"}), ("tasks",))
    model = tmp_path / "model"
    (model / ".git").mkdir(parents=True)
    (model / "config.json").write_text('{"model_type": "llama"}')
    for path, flaw in [
        (model, "has a config.json without widths"),
        (tmp_path, "holds no config.json"),
    ]:
        with pytest.raises(LopError, match=f"is not a predictor: it {flaw}; not replacing it"):
            replacing_dir(path, predictor).__enter__()
    (model / "config.json").write_text("[1]")
    with pytest.raises(LopError, match="has a config.json without"):
        check_dir(model, predictor)
    (model / "config.json").write_text('{"widths": [1]}')
    with pytest.raises(LopError, match="it holds a folder .git"):
        check_dir(model, predictor)
    (model / ".git").rename(model / "tasks")
    check_dir(model, predictor)
    grid = Kind("a grid", (), each=predictor)
    check_dir(tmp_path, grid)
    (tmp_path / "mine").mkdir()
    with pytest.raises(
        LopError, match="has a folder mine that is not a predictor: it holds no config.json"
    ):
        check_dir(tmp_path, grid)


def test_what_appears_meanwhile_is_not_replaced(tmp_path):
    with pytest.raises(LopError, match="holds no a"), replacing_dir(tmp_path / "x", THING) as tmp:
        (tmp / "a").touch()
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "thesis.tex").touch()
    assert names(tmp_path) == ["x"]


def test_links_files_devices_and_pipes_are_not_replaced(tmp_path):
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("dir")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    before = names(tmp_path)
    for path in (tmp_path / "pipe", Path("/dev/null")):
        for check in (check_file, lambda p: check_dir(p, THING)):
            with pytest.raises(LopError, match="already exists and is not"):
                check(path)
    for name in ("link", "dangling"):
        with pytest.raises(
            LopError, match=r"is a link to (dir|nowhere): give the target's own path"
        ):
            replacing(tmp_path / name).__enter__()
        with pytest.raises(LopError, match="is a link to"):
            replacing_dir(tmp_path / name, THING).__enter__()
    with pytest.raises(LopError, match="is not an ordinary file"):
        replacing(tmp_path / "dir").__enter__()
    with pytest.raises(LopError, match="is not a directory"):
        replacing_dir(tmp_path / "file", THING).__enter__()
    assert names(tmp_path) == before


def test_inputs_are_not_replaced_however_they_are_spelt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in" / "model", "x")
    (tmp_path / "way").symlink_to("in")
    for out in ("in/model", "in/../in/model", "way/model"):
        for given in ("in/model", tmp_path / "way" / "model", "./in//model/"):
            with pytest.raises(LopError, match="is an input of this command"):
                check_dir(out, THING, [None, "org/name", given])
    with pytest.raises(LopError, match="holds in/model/a, an input"):
        check_dir("way/model", THING, ["in/model/a"])
    with pytest.raises(LopError, match="is inside in/model, an input"):
        check_dir("way/model/new", THING, ["in/model"])
    with pytest.raises(LopError, match="is an input"):
        check_file("way/model/a", ["in/model/a"])
    check_dir("in/model2", THING, ["in/model", "not/there"])


def test_a_reader_always_finds_the_whole_directory(tmp_path):
    path, done, seen = tmp_path / "out", Event(), []
    write(path, "0")

    def read():
        while not done.is_set():
            folder = os.open(path, os.O_DIRECTORY)  # one directory, whatever its name is by then
            try:
                seen.append(os.listdir(folder))
            finally:
                os.close(folder)

    reader = Thread(target=lambda: _catch(read, seen))
    reader.start()
    for i in range(300):
        write(path, str(i))
    done.set()
    reader.join()
    assert len(seen) > 300
    assert all(isinstance(found, list) for found in seen), "it was there each time"


def _catch(work, seen):
    try:
        work()
    except OSError as error:
        seen.append(error)


WRITER = """
import signal, sys
from pathlib import Path
from lop import files
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
if not int(sys.argv[2]):
    files._exchange = lambda a, b: False
def begin():
    n = 0
    while True:
        n += 1
        with files.replacing_dir(Path(sys.argv[1]) / "out", files.Kind("", ("a",))) as tmp:
            for name in "abc":
                (tmp / name).write_text(str(n))
        with files.replacing(Path(sys.argv[1]) / "file.txt") as tmp:
            tmp.write_text(f"{n} " * 1000)
        if n == 1:
            print("ready", flush=True)
begin()
"""


def start_writer(folder, exchange=True):
    command = [sys.executable, "-c", WRITER, str(folder), str(int(exchange))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.parametrize("with_exchange", EXCHANGES)
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_leaves_old_or_new_and_what_it_left_goes_with_the_next_write(
    tmp_path, with_exchange, kill
):
    draw = random.Random(0)
    for _ in range(12):
        writer = start_writer(tmp_path, with_exchange)
        time.sleep(draw.uniform(0, 0.02))
        writer.send_signal(kill)
        writer.wait()
        if with_exchange:  # at once; else when somebody writes beside it
            assert (tmp_path / "out").exists()
        with replacing(tmp_path / "other.txt") as tmp:
            tmp.touch()
        assert names(tmp_path) == ["file.txt", "other.txt", "out"]
        assert names(tmp_path / "out") == ["a", "b", "c"]
        assert len({(tmp_path / "out" / name).read_text() for name in "abc"}) == 1
        assert len(set((tmp_path / "file.txt").read_text().split())) == 1


def test_a_kill_between_two_renames_is_mended_by_the_next_write(tmp_path):
    code = "\n".join(
        [
            "import os, signal, sys; from pathlib import Path; from lop import files",
            "files._exchange = lambda a, b: False",
            "rename, calls = Path.rename, []",
            "def die(a, b):",
            "    calls.append(a)",
            "    if len(calls) == 3: os.kill(os.getpid(), signal.SIGKILL)",
            "    return rename(a, b)",
            "Path.rename = die",
            "with files.replacing_dir(sys.argv[1], files.Kind('', ('a',))) as tmp:",
            "    (tmp / 'a').write_text('new')",
        ]
    )
    path = tmp_path / "out"
    write(path, "old")
    died = subprocess.run([sys.executable, "-c", code, str(path)])
    assert died.returncode == -signal.SIGKILL
    assert not path.exists()
    clear_leftovers(tmp_path)
    assert names(tmp_path) == ["out"]
    assert (path / "a").read_text() == "old"


def test_an_exit_between_two_renames_costs_nothing(tmp_path, monkeypatch):
    path = tmp_path / "out"
    write(path, "old")
    monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    rename, calls = Path.rename, []

    def leave(a, b):
        calls.append(a)
        if len(calls) == 3:
            sys.exit(1)  # as a handler of SIGTERM does
        return rename(a, b)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", leave)
        with pytest.raises(SystemExit):
            write(path, "new")
    assert names(tmp_path) == ["out"]
    assert (path / "a").read_text() == "old"


def test_only_what_dead_processes_left_is_cleared(tmp_path):
    theirs = [".gitlab-ci.yml", ".env.local", ".out.x7f3", ".lop-tmp-notes", ".lop-tmp-1-2-3-x"]
    for name in theirs:
        (tmp_path / name).touch()
    (tmp_path / ".git.d").mkdir()
    with replacing(tmp_path / "mine") as mine:  # of this process, which lives
        other = subprocess.run(
            [sys.executable, "-c", "from lop.files import owner; print(owner())"],
            capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        (tmp_path / f".lop-tmp-{other}-01234567-.txt").touch()
        dead = tmp_path / f".lop-tmp-{other}-89abcdef-"
        dead.mkdir()
        (dead / "weights").touch()
        far, old = (tmp_path / f".lop-tmp-00000000-{i}-1-01234567-" for i in (1, 2))
        far.touch()
        clear_leftovers(tmp_path)
        assert names(tmp_path) == sorted([*theirs, ".git.d", mine.name, far.name])
        far.rename(old)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "ABANDONED", -1.0)
        clear_leftovers(tmp_path)
    assert names(tmp_path) == sorted([*theirs, ".git.d", "mine"])


def test_modes_are_by_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "file") as tmp:
            tmp.write_text("x")
            tmp.chmod(0o600)
        with replacing_dir(tmp_path / "dir", THING) as tmp:
            (tmp / "a").touch(0o600)
            (tmp / "sub").mkdir(0o700)
    finally:
        os.umask(before)
    found = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert found == {"file": 0o640, "dir": 0o750, "a": 0o640, "sub": 0o750}


LIMITED = """
import resource, signal, sys
from lop import files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # then writing fails, as on a full disk
try:
    if sys.argv[1] == "dir":
        with files.replacing_dir("out", files.Kind("", ("a",))) as tmp:
            (tmp / "a").write_bytes(b"x" * 5000)
    else:
        with files.replacing("out") as tmp:
            tmp.write_bytes(b"x" * 5000)
except OSError as error:
    print(error.errno)
"""


@pytest.mark.parametrize("what", ["dir", "file"])
def test_a_write_that_fails_leaves_nothing_and_says_why(tmp_path, what):
    command = [sys.executable, "-c", LIMITED, what]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert told.stdout == "27\n", told.stderr  # EFBIG
    assert names(tmp_path) == []


def test_a_folder_that_is_a_file_is_the_callers_error(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "x", tmp_path / ("x" * 300)):
        with pytest.raises(OSError, match="File exists|Not a directory|too long"):
            replacing(path).__enter__()
        with pytest.raises(OSError, match="File exists|Not a directory|too long"):
            replacing_dir(path, THING).__enter__()


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
