"""A pruned checkpoint goes to the hub as it goes to disk: a hub of a few lines takes it."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lop.models.checkpoint import load
from lop.models.space import find_space
from lop.plan import Plan, Space
from lop.pruning import prune

ROOT = Path(__file__).parents[2]
PUSH = "import sys, lop; lop.load(sys.argv[1]).push_to_hub('somebody/small', token='hf_of_a_test')"


@pytest.fixture
def hub(tmp_path):
    """Its address. What is committed to it lies in `tmp_path`/hub."""
    place = tmp_path / "hub"
    place.mkdir()

    class Hub(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            here = f"http://{self.headers['Host']}/somebody/small"
            what = self.path.split("?")[0].removeprefix("/api/models/somebody/small")
            if what == "/preupload/main":
                # no file is so large that it would have to go to another store first
                asked = json.loads(body)["files"]
                modes = [{"path": f["path"], "uploadMode": "regular"} for f in asked]
                self.say({"files": [mode | {"shouldIgnore": False} for mode in modes]})
            elif what == "/commit/main":
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        content = base64.b64decode(line["value"]["content"])
                        (place / line["value"]["path"]).write_bytes(content)
                self.say({"commitUrl": f"{here}/commit/1", "commitOid": "1"})
            else:
                known = {"/api/repos/create": {"url": here}, "/api/validate-yaml": {}}
                self.say(known.get(what), 200 if what in known else 404)

        def do_GET(self):  # nothing is there yet
            self.say({}, 404)

        do_HEAD = do_GET  # noqa: N815

        def say(self, answer, status=200):
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if status == 404:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_what_is_pushed_is_the_checkpoint(hub, model, processor, scores, tmp_path):
    plan = Plan.from_ratios([0.1, 0.5, 0.9], Space.ffns((40, 40, 40)), 0.5)
    prune(model, plan, scores).save_pretrained(tmp_path / "small")
    env = os.environ | {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-c", PUSH, str(tmp_path / "small")]
    done = subprocess.run(
        command, env=env | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    pushed = tmp_path / "hub"
    names = {path.name for path in pushed.iterdir()}
    files = {"config.json", "generation_config.json", "model.safetensors", "modeling_lop.py"}
    assert names == files | {"README.md"}
    assert find_space(load(pushed)).units == plan.kept
    for name in ("model.safetensors", "modeling_lop.py"):
        assert (pushed / name).read_bytes() == (tmp_path / "small" / name).read_bytes()
