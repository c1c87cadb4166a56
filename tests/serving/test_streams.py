"""Checkpoints that are sent as they are cut, from an elastic one and its kit."""

import http.client
import io
import json
import signal
import subprocess
import sys
import tarfile
import time

import pytest
import torch
from service import JSON, Client, refused, serving

import lop
from lop.files import content_digest
from lop.kit import Kit
from lop.models.checkpoint import load, load_processor
from lop.steps.pruning import Cutter, prune_one

pytest_plugins = ["service"]


@pytest.fixture(scope="module")
def elastic(made, tmp_path_factory):
    """A folder as `made`, whose model is elastic: its scores and predictor are the kit's."""
    root = tmp_path_factory.mktemp("elastic")
    kit = Kit.gather(root / "kit", made / "scores", made / "predictor", score="flap")
    lop.pack(made / "model", kit, root / "model")
    own = Kit.load(root / "model" / "kit")
    (root / "scores").symlink_to(own.scores_dir)
    (root / "predictor").symlink_to(own.predictor_path)
    return root


def unpacked(content, out):
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(out, filter="data")
    (folder,) = out.iterdir()
    return folder


def test_what_is_streamed_is_the_checkpoint_that_prune_writes(elastic, tmp_path):
    cutter = Cutter.of_kit(str(elastic / "model"), Kit.load(elastic / "model" / "kit"))
    prune_one(tmp_path / "file", "lop", 0.37, cutter)
    with serving(elastic, tmp_path / "out") as client:
        before = content_digest(tmp_path / "out")
        status, content = client.ask("POST", "/stream", {"ratio": 0.37})
        assert status == 200
        got = unpacked(content, tmp_path / "got")
        assert got.name == "lop-0.37"
        assert content_digest(got) == content_digest(tmp_path / "file")
        aim = cutter.source.parameters - 40 * cutter.source.space().grain
        status, content = client.ask("POST", "/stream", {"params": str(aim)})
        small = load(unpacked(content, tmp_path / "other"))
        assert sum(parameter.numel() for parameter in small.parameters()) == aim
        assert content_digest(tmp_path / "out") == before, "nothing is written"
    model = load(got)
    assert torch.isfinite(next(model.parameters())).all()
    assert load_processor(got).chat_template


def test_what_cannot_be_streamed_is_said_in_one_line(elastic, tmp_path):
    with serving(elastic, tmp_path / "out", token="0123456789abcdef") as client:
        refused(client.ask("POST", "/stream", {"ratio": 0.3}), 401)
    with serving(elastic, tmp_path / "out") as client:
        for body, says in (
            ({"ratio": 0.9}, "pruning ratio 0.9: expected"),
            ({"params": "1"}, "cannot be met"),
            ({}, "expected one of ratio, params"),
            ({"ratio": 0.3, "name": "x"}, "Extra inputs are not permitted"),
        ):
            assert says in refused(client.ask("POST", "/stream", body), 422)
        assert client.ask("POST", "/stream", {"ratio": 0.3})[0] == 200, "no refusal took a slot"


def test_so_many_at_once_and_a_client_that_leaves_makes_room(elastic, tmp_path, monkeypatch):
    monkeypatch.setattr("lop.serving.streams.PIECE", 512)  # more than the sockets hold
    with serving(elastic, tmp_path / "out") as client:
        slots = client.parts.streams.slots
        first = client.parts.streams.open(0.3)
        next(first.pieces)
        said = refused(client.ask("POST", "/stream", {"ratio": 0.3}), 429)
        assert "1 checkpoints are being streamed" in said
        del first
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)
        connection.request("POST", "/stream", json.dumps({"ratio": 0.3}), dict(JSON))
        answer = connection.getresponse()
        assert int(answer.headers["content-length"]) > 10_000
        assert answer.headers["content-disposition"] == 'attachment; filename="lop-0.3.tar"'
        answer.read(10)
        connection.close()
        end = time.monotonic() + 30
        while not slots._value and time.monotonic() < end:
            time.sleep(0.01)
        assert client.ask("POST", "/stream", {"ratio": 0.3})[0] == 200
        assert slots._value == 1


def test_the_command_serves_an_elastic_checkpoint_with_its_kit(elastic, tmp_path):
    run = "import sys; from lop.cli import main; sys.exit(main())"
    given = ["--model", elastic / "model", "--kit", elastic / "model" / "kit"]
    given += ["--out", tmp_path / "out", "--port", "0"]
    command = [sys.executable, "-c", run, "serve", *map(str, given)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        client = Client(int(process.stdout.readline().split()[0].rsplit(":", 1)[1]), None)
        assert client.ask("GET", "/model")[1]["score"] == "flap"
        status, content = client.ask("POST", "/stream", {"ratio": 0.3})
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert status == 200
    assert load(unpacked(content, tmp_path / "got")).config.model_type == "qwen2_5_vl"
