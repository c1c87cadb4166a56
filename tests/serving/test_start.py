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
        ({"token-file": "nowhere"}, "--token-file: expected a file that exists, got nowhere"),
        ({"token-file": "short"}, "short: expected a token of 16 or more ASCII characters"),
        ({"port": "99999"}, "--port: expected less than 65536"),
        ({"port": "-1"}, "--port: expected at least 0"),
        ({"host": "256.1.1.1", "token-file": "token"}, "cannot listen at 256.1.1.1"),
        ({"workers": "0"}, "--workers: expected at least 1"),
        ({"queue": "-3"}, "--queue: expected at least 1"),
        ({"keep": "99999"}, "--keep 99999: expected 1 to 10000"),
        ({"poll": "nan"}, "--poll: expected a finite number"),
        ({"poll": "inf"}, "--poll: expected a finite number"),
        ({"poll": "0"}, "--poll: expected greater than 0"),
        ({"poll": "-1"}, "--poll: expected greater than 0"),
        ({"predictor": "nowhere"}, "nowhere: no predictor directory"),
        ({"predictor": "models:/x"}, "expected models:/NAME@ALIAS"),
        ({"predictor": "other"}, "predictor trained for model someone-else"),
        ({"scores": "nowhere"}, "--scores: expected a directory that exists, got nowhere"),
        ({"model": "nowhere"}, "nowhere: no such model directory"),
        ({"out": "linked"}, "is a link"),
        ({"out": "short"}, "--out: expected a directory to write, got short"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_it_refuses_to_start_in_one_line(made, tmp_path, capsys, monkeypatch, changes, message):
    monkeypatch.delenv("LOP_SERVE_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("abc")
    Path("token").write_text(TOKEN)
    Path("linked").mkdir()
    Path("linked/.lock").touch()
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


def test_a_service_takes_no_folder_of_something_else(tmp_path):
    (tmp_path / "predictor").mkdir()
    (tmp_path / "predictor" / "config.json").touch()
    with pytest.raises(LopError, match="holds no checkpoints of lop serve"), owned(tmp_path):
        pass
    with owned(tmp_path / "served"):
        pass
    with owned(tmp_path / "served"):
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
