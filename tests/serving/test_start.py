"""`lop serve` starts, refuses to, and stops."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from service import JSON, TOKEN, Client, make_predictor, refused

from lop.cli import main
from lop.errors import LopError
from lop.serving.server import owned

pytest_plugins = ["service"]


def options(made, changes):
    places = {name: made / name for name in ("model", "scores", "predictor")}
    return [f"--{name}={value}" for name, value in (places | {"port": 0} | changes).items()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"host": "0.0.0.0"}, "--host 0.0.0.0 can be reached from other machines"),
        ({"token-file": "nowhere"}, "nowhere: cannot read a token"),
        ({"token-file": "short"}, "short: expected a token of 16 or more ASCII characters"),
        ({"port": "99999"}, "--port 99999: expected 0 to 65535"),
        ({"port": "-1"}, "--port -1: expected 0 to 65535"),
        ({"host": "256.1.1.1", "token-file": "token"}, "cannot listen at 256.1.1.1"),
        ({"workers": "0"}, "--workers 0: expected 1 to 10000"),
        ({"queue": "-3"}, "--queue -3: expected 1 to 10000"),
        ({"keep": "99999"}, "--keep 99999: expected 1 to 10000"),
        ({"poll": "nan"}, "--poll nan: expected 0.1 to 86400"),
        ({"poll": "inf"}, "--poll inf: expected 0.1 to 86400"),
        ({"poll": "0"}, "--poll 0: expected 0.1 to 86400"),
        ({"poll": "-1"}, "--poll -1: expected 0.1 to 86400"),
        ({"predictor": "nowhere"}, "nowhere: no predictor directory"),
        ({"predictor": "models:/x"}, "expected models:/NAME@ALIAS"),
        ({"predictor": "other"}, "predictor trained for model someone-else"),
        ({"scores": "nowhere"}, "cannot read neuron scores"),
        ({"model": "nowhere"}, "nowhere: no such model directory"),
        ({"out": "linked"}, "is a link"),
        ({"out": "short"}, "short: cannot write there"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_it_refuses_to_start_in_one_line(made, tmp_path, capsys, monkeypatch, changes, message):
    monkeypatch.delenv("LOP_SERVE_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("abc")
    Path("token").write_text(TOKEN)
    Path("linked").mkdir()
    Path("linked/checkpoints").symlink_to(made)
    make_predictor("other", "someone-else")
    assert main(["serve", *options(made, {"out": "out"} | changes)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("lop: ")
    assert error.count("\n") == 1


def test_two_services_do_not_share_a_place(made, tmp_path):
    with owned(tmp_path), pytest.raises(LopError, match="another lop serve"), owned(tmp_path):
        pass


def test_the_command_serves_until_it_is_told_to_stop(made, tmp_path):
    run = "import sys; from lop.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", run, "serve", *options(made, {"out": tmp_path / "out"})]
    env = os.environ | {"LOP_SERVE_TOKEN": TOKEN}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        line = process.stdout.readline()
        client = Client(int(line.split()[0].rsplit(":", 1)[1]), None)
        refused(client.ask("POST", "/plans", {"ratio": 0.3}), 401)
        right = JSON | {"Authorization": f"Bearer {TOKEN}"}
        assert client.ask("POST", "/plans", {"ratio": 0.3}, right)[0] == 200
        assert client.ask("POST", "/checkpoints", {"ratio": 0.3}, right)[0] == 202
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM
    record = json.loads((tmp_path / "out" / "jobs" / "lop-0.3.json").read_text())
    assert record["state"] in ("queued", "running")
    assert list((tmp_path / "out" / "checkpoints").iterdir()) == []
