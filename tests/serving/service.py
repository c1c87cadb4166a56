"""Parts of a service's tests: a real service over real HTTP on a tiny model."""

import http.client
import json
import threading
import time
from contextlib import contextmanager

import pytest
import torch
from conftest import SHAPE
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from lop.importance import RANKINGS, SCORES, save_scores
from lop.models.checkpoint import save
from lop.models.fingerprints import fingerprint
from lop.plan import Space
from lop.predictor import Predictor, PredictorConfig
from lop.reference import model as reference
from lop.reward import choice
from lop.reward.choice import Choice
from lop.serving.app import build_app
from lop.serving.champion import source_of
from lop.serving.jobs import Limits
from lop.serving.server import http_server, listening, owned, put_together
from lop.steps.pruning import Cutter

SPACE = Space.ffns((SHAPE.ffn,) * SHAPE.layers)
TOKEN = "0123456789abcdef"
JSON = {"Content-Type": "application/json"}


def make_predictor(path, model_fingerprint, seed=0):
    config = PredictorConfig(SPACE, model_fingerprint, 0.1, 0.6)
    torch.manual_seed(seed)
    predictor = Predictor(config)
    torch.nn.init.normal_(predictor.network.head.weight, std=0.2)
    predictor.save_pretrained(path)
    return predictor


@pytest.fixture(scope="session")
def made(processor, tmp_path_factory):
    """A model, its scores and a predictor, in a folder."""
    root = tmp_path_factory.mktemp("served")
    model = reference.build_model(processor.tokenizer, SHAPE, seed=0).eval()
    save(model, processor, root / "model")
    for name in SCORES:
        scores = [torch.rand(SHAPE.ffn) for _ in range(SHAPE.layers)]
        save_scores(scores, root / "scores" / f"{name}.safetensors", fingerprint(model), SPACE)
    restored, scores = dict.fromkeys(RANKINGS, False), {"false": "flap", "true": "flap"}
    auto = Choice("flap", False, restored, scores, (0.3,), 12, "loglik", "", ())
    choice.save(auto, root / "scores" / choice.FILE)
    make_predictor(root / "predictor", fingerprint(model))
    return root


class Client:
    def __init__(self, port, parts):
        self.port, self.parts = port, parts

    def ask(self, method, path, body=None, headers=JSON):
        """Status, and the body: read as JSON if that is what it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        if body is not None and not isinstance(body, bytes | str):
            body = json.dumps(body)
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        said = response.read()
        kind = response.headers.get("content-type", "")
        connection.close()
        return response.status, json.loads(said) if said and kind == "application/json" else said

    def finished(self, name, seconds=300):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status, job = self.ask("GET", f"/checkpoints/{name}")
            assert status == 200
            if job["state"] in ("done", "failed"):
                return job
            time.sleep(0.05)
        raise AssertionError(f"{name} is still {job['state']}")


@contextmanager
def serving(
    made,
    out,
    token=None,
    scores="scores",
    bounds=None,
    protocol=AutoHTTPProtocol,
    figures=None,
    **of,
):
    cutter = Cutter(str(made / "model"), made / scores, "flap", **of)
    source = source_of(str(made / "predictor"), out)
    with listening("127.0.0.1", 0) as sock, owned(out):
        parts = put_together(source, cutter, out, Limits(), poll=0.1, figures=figures)
        server = http_server(build_app(parts, token), bounds, protocol)
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            yield Client(sock.getsockname()[1], parts)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def client(made, tmp_path_factory):
    with serving(made, tmp_path_factory.mktemp("out")) as client:
        yield client


def refused(answer, *statuses):
    """The one line of an answer that turns a request away."""
    status, said = answer
    assert status in statuses, answer
    assert list(said) == ["error"]
    assert said["error"].isprintable()
    assert 0 < len(said["error"]) <= 500
    return said["error"]
