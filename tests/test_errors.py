"""Whatever goes wrong is one line: libraries' errors about bad input with 2, bugs of lop with 1."""

import errno
import io
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import jinja2
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from lop import errors
from lop.errors import LopError, at, explained, explaining, run


def picture(path):
    Image.new("RGB", (64, 64)).save(path / "cut.jpg")
    (path / "cut.jpg").write_bytes((path / "cut.jpg").read_bytes()[:400])
    Image.open(path / "cut.jpg").load()


def giant(path):
    buffer = io.BytesIO()
    Image.new("1", (20000, 20000)).save(buffer, "PNG")
    Image.open(buffer).load()


def table(path):
    (path / "x.parquet").write_bytes(b"noise")
    pq.read_table(path / "x.parquet")


def weights(path):
    (path / "x.safetensors").write_bytes(b"noise" * 10)
    load_file(path / "x.safetensors")


def config(path):
    (path / "config.json").write_text('{"model_type": "smell"}')
    AutoConfig.from_pretrained(path)


def wrong_config(path):
    (path / "config.json").write_text('{"model_type": "llama", "rope_parameters": [3]}')
    AutoConfig.from_pretrained(path)


def tokenizer(path):
    (path / "config.json").write_text('{"model_type": "llama"}')
    (path / "tokenizer.json").write_text('{"version": 1}')
    AutoTokenizer.from_pretrained(path)


def template(path):
    jinja2.Template("{% for %}")


def template_of_another(path):
    jinja2.Template("{{ messages[0] + 3 }}").render(messages=["a"])


def nested_json(path):
    json.loads("[" * 100_000)


def broken_json(path):
    json.loads("{")


def text(path):
    (path / "x.txt").write_bytes(b"\xff")
    (path / "x.txt").read_text(encoding="utf-8")


def missing(path):
    (path / "no-such-file").read_text()


def directory(path):
    path.read_text()


def long_name(path):
    (path / ("x" * 300)).write_text("")


def full_disk(path):
    with at(path / "out.bin"):
        raise OSError(errno.ENOSPC, "No space left on device")


def read_only(path):
    raise OSError(errno.EROFS, "Read-only file system", str(path / "out.bin"))


def memory(path):
    raise MemoryError


def torch_memory(path):
    torch.empty(2**55)


def package(path):
    raise ModuleNotFoundError("No module named 'prometheus_client'", name="prometheus_client")


BAD = {
    picture: "[Tt]runcated",
    giant: "decompression bomb",
    table: "x.parquet|Parquet magic bytes",
    weights: "header",
    config: "model type `?smell",
    wrong_config: "(LOP_TRACEBACK=1|rope)",
    tokenizer: "",
    template: "end of statement block|expected",
    template_of_another: "jinja2 cannot use its input: TypeError",
    nested_json: "RecursionError",
    broken_json: "Expecting property name",
    text: "can't decode byte 0xff",
    missing: "/no-such-file: No such file or directory$",
    directory: ": Is a directory$",
    long_name: "xxx: File name too long$",
    full_disk: "/out.bin: No space left on device$",
    read_only: "/out.bin: Read-only file system$",
    memory: "out of memory: MemoryError; use a smaller batch size",
    torch_memory: "out of memory: .*allocate memory",
    package: r"prometheus_client is missing: pip install 'lop\[serve\]'$",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("fails", "message"), BAD.items(), ids=[f.__name__ for f in BAD])
def test_bad_input_is_one_line_and_exit_2(fails, message, tmp_path, capfd):
    assert run(fails, tmp_path) == 2
    said = capfd.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("lop")]
    assert said.endswith(f"{lines[0]}\n")
    assert re.search(message, lines[0].removeprefix("lop: ")), lines[0]
    assert len(lines) == 1
    assert "Traceback" not in said


def key(_):
    return {}["a"]


def attribute(_):
    return None.shape


def json_of_ours(_):
    return json.dumps({1, 2})


def shapes(_):
    return torch.ones(2) @ torch.ones(3)


def false(_):
    assert not _


@pytest.mark.parametrize("fails", [key, attribute, json_of_ours, shapes, false])
def test_a_bug_is_not_called_bad_input(fails, tmp_path, capsys):
    assert run(fails, tmp_path) == 1
    said = capsys.readouterr().err
    assert said.startswith("lop failed, which may be a bug in lop: ")
    assert said.count("\n") == 1
    file = Path(said.split("traceback in ")[1].strip())
    assert f"in {fails.__name__}" in file.read_text()
    file.unlink()


def test_a_traceback_is_printed_on_request(monkeypatch, capsys):
    monkeypatch.setenv(errors.TRACEBACK, "1")

    def fails():
        raise LopError("bad\ninput")

    assert run(fails) == 2
    said = capsys.readouterr().err
    assert "in fails" in said
    assert said.endswith("\nlop: bad input\n")


def test_what_ends_well_or_is_interrupted_keeps_its_code():
    def interrupted():
        raise KeyboardInterrupt

    assert run(lambda: None) == 0
    assert run(lambda: 1) == 1
    assert run(interrupted) == 130


def test_a_reader_that_goes_is_no_error():
    code = "from lop.errors import run\nimport sys\nsys.exit(run(lambda: print('x' * 10**6)))"
    command = f'"{sys.executable}" -c "{code}" | head -c 1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_error_crosses_processes_as_one_line(tmp_path):
    """A traceback does not; what tells that a library could not use its input is told before."""

    def failing(fails):
        with explaining():
            fails(tmp_path)

    with pytest.raises(LopError, match="RecursionError") as error:
        failing(nested_json)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    with pytest.raises(FileNotFoundError):
        failing(missing)  # tried again, where tasks are
    with pytest.raises(KeyError):
        failing(key)


def test_a_place_is_added_once(tmp_path):
    with pytest.raises(UnicodeDecodeError) as error, at("outer"), at("row 3"):
        text(tmp_path)
    assert str(explained(error.value)).startswith("row 3: 'utf-8' codec")


def test_what_may_pass_says_try_again(capsys):
    def hiccup():
        raise OSError(errno.EIO, "Input/output error", "data/search")

    assert errors.run(hiccup) == errors.TRY_AGAIN == 75
    assert capsys.readouterr().err == "lop: data/search: Input/output error\n"
