"""Plans over HTTP, and what is wrong with a request."""

import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
import torch
from conftest import SHAPE
from service import JSON, SPACE, TOKEN, refused, serving

from lop.errors import LopError
from lop.evaluation.latency import REST, LatencyProfile, Machine, Request
from lop.models import costs
from lop.models.checkpoint import load
from lop.models.stored import Stored
from lop.plan import Plan
from lop.predictor import Predictor
from lop.pruning import prune
from lop.serving.guard import MOST_BYTES

pytest_plugins = ["service"]


def test_a_plan_is_the_predictors(client, made):
    predictor = Predictor.from_pretrained(made / "predictor")
    status, plan = client.ask("POST", "/plans", {"ratio": 0.37})
    assert status == 200
    expected = predictor.plan(0.37)
    assert (tuple(plan["kept"]), tuple(plan["ratios"])) == (expected.kept, expected.ratios)
    assert plan["units"] == [SHAPE.ffn] * SHAPE.layers
    status, several = client.ask("POST", "/plans", {"ratios": [0.2, 0.37]})
    assert status == 200
    assert [p["ratio"] for p in several["plans"]] == [0.2, 0.37]
    assert several["plans"][1] == plan


def test_many_at_once_get_each_its_own(client, made):
    predictor = Predictor.from_pretrained(made / "predictor")
    ratios = [0.1 + i / 100 for i in range(48)]
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda r: client.ask("POST", "/plans", {"ratio": r}), ratios))
    assert [tuple(a["kept"]) for _, a in answers] == [predictor.plan(r).kept for r in ratios]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("", 422, "expected a JSON object"),
        ("{", 400, "not JSON"),
        ("[" * 10_000, 400, "JSON"),
        (b'{"ratio": \xff}', 400, "JSON"),
        ('{"ratio": ' + "1" * 5000 + "}", 400, "JSON"),
        ("[]", 422, "expected a JSON object"),
        ("{}", 422, "expected one of ratio, params, size, flops_per_token, latency, ratios"),
        (
            '{"ratio": 0.3, "ratios": [0.3]}',
            422,
            "expected one of ratio, params, size, flops_per_token, latency, ratios",
        ),
        ('{"ratio": NaN}', 422, "body.ratio: Input should be a finite number"),
        ('{"ratio": -Infinity}', 422, "body.ratio: Input should be a finite number"),
        ('{"ratio": 1e999}', 422, "body.ratio: Input should be a finite number"),
        ('{"ratio": "0.3"}', 422, "body.ratio: Input should be a valid number"),
        ('{"ratio": true}', 422, "body.ratio: Input should be a valid number"),
        ('{"ratio": {"a": 1}}', 422, "body.ratio: Input should be a valid number"),
        ('{"params": "1"}', 422, "parameters of 1 cannot be met: this model reaches"),
        ('{"size": "much"}', 422, "expected an amount such as 5.2B"),
        ('{"latency": "0.7x"}', 422, "latency: this service has no latency profile"),
        ('{"params": ""}', 422, "'': expected an amount such as 5.2B"),
        ('{"size": ""}', 422, "'': expected an amount such as 5.2B"),
        ('{"flops_per_token": " "}', 422, "' ': expected an amount such as 5.2B"),
        ('{"params": "1e999"}', 422, "parameters of inf cannot be met"),
        ('{"size": 9}', 422, "body.size: Input should be a valid string"),
        ('{"ratio": 0.9}', 422, "pruning ratio 0.9: expected"),
        ('{"ratio": -0.1}', 422, "pruning ratio -0.1: expected"),
        ('{"ratios": [0.3, 0.05]}', 422, "pruning ratio 0.05: expected"),
        ('{"ratios": []}', 422, "body.ratios: List should have at least 1 item"),
        (json.dumps({"ratios": [0.3] * 33}), 422, "body.ratios: List should have at most 32"),
        ('{"ratios": 0.3}', 422, "body.ratios: Input should be a valid list"),
        ('{"ratio": 0.3, "rato": 1}', 422, "body.rato: Extra inputs are not permitted"),
        ('{"ratio": 0.3, "a\\n\\u2028b": 1}', 422, "Extra inputs are not permitted"),
        ('{"ratio": 0.3, "\\ud800": 1}', 422, "body"),
        ("x" * (MOST_BYTES + 1), 413, f"at most {MOST_BYTES} bytes"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_wrong_input_is_one_clear_line(client, body, status, message):
    assert message in refused(client.ask("POST", "/plans", body), status)


def test_a_body_of_unknown_length_is_limited_too(client):
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)
    chunks = (b"x" * 1000 for _ in range(100))
    connection.request("POST", "/plans", chunks, JSON, encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 413
    assert "at most" in json.loads(response.read())["error"]


def test_wrong_paths_and_methods_are_one_clear_line(client):
    refused(client.ask("GET", "/plans"), 405)
    refused(client.ask("GET", "/nowhere"), 404)
    refused(client.ask("POST", "/plans", '{"ratio": 0.3}', {"Content-Type": "text/plain"}), 422)
    assert "no such checkpoint" in refused(client.ask("GET", "/checkpoints/none"), 404)
    assert "no such checkpoint" in refused(client.ask("DELETE", "/checkpoints/%00"), 404)
    for name in ("../up", ".hidden", "a/b", "a\\b", "", "x" * 65, "a\n", "é", 7):
        answer = client.ask("POST", "/checkpoints", {"ratio": 0.3, "name": name})
        assert "body.name" in refused(answer, 422)
    answer = client.ask("POST", "/checkpoints", {"ratio": 0.9})
    assert "pruning ratio 0.9: expected" in refused(answer, 422)
    assert client.ask("GET", "/checkpoints") == (200, {"checkpoints": []})


def test_without_a_token_only_this_machines_names_are_heard(client):
    assert client.ask("GET", "/health", headers={"Host": "localhost:80"})[0] == 200
    for host in ("evil.example", "127.0.0.1.evil.example:8080"):
        assert "without a token" in refused(
            client.ask("GET", "/model", headers={"Host": host}), 403
        )


def test_it_says_what_it_is_and_how_it_does(client, made):
    _, about = client.ask("GET", "/model")
    config = Predictor.from_pretrained(made / "predictor").config
    assert about["model_fingerprint"] == config.model_fingerprint
    assert (about["min_ratio"], about["max_ratio"]) == (0.1, 0.6)
    assert about["fingerprint"] == about["version"]
    status, health = client.ask("GET", "/health")
    assert status == 200
    assert (health["live"], health["ready"], health["stale"]) == (True, True, False)
    client.ask("POST", "/plans", {"ratio": 0.3})
    text = client.ask("GET", "/metrics")[1].decode()
    assert 'lop_requests_total{method="POST",route="/plans",status="200"}' in text
    assert "lop_predictor_stale 0.0" in text
    assert 'lop_jobs{state="failed"} 0.0' in text


def test_not_ready_is_503(client, monkeypatch):
    monkeypatch.setattr("lop.serving.app.PROBE_SECONDS", 0.1)
    hold = threading.Event()
    client.parts.planner.thread.submit(hold.wait)
    try:
        status, health = client.ask("GET", "/health")
    finally:
        hold.set()
    assert (status, health["live"], health["ready"]) == (503, True, False)
    assert health["error"] == "no plan within 0.1 s"


def test_every_route_is_documented_with_its_types(client):
    assert client.ask("GET", "/docs")[0] == 200
    paths = client.ask("GET", "/openapi.json")[1]["paths"]
    expected = {"/plans", "/checkpoints", "/checkpoints/{id}", "/checkpoints/{id}/files/{name}"}
    expected |= {"/stream"}
    assert set(paths) == expected | {"/model", "/metrics", "/health"}
    plan = paths["/plans"]["post"]
    assert plan["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("Request")
    assert "PlanAnswer" in json.dumps(plan["responses"]["200"])
    assert "ErrorAnswer" in json.dumps(plan["responses"]["4XX"])


def test_a_size_becomes_the_ratio_that_meets_it(client, made):
    model = Stored(made / "model")
    aim = model.parameters - 40 * model.space().grain
    status, plan = client.ask("POST", "/plans", {"params": str(aim)})
    assert (status, plan["parameters"]) == (200, aim)
    assert sum(plan["units"]) - sum(plan["kept"]) == 40


def test_a_latency_becomes_the_ratio_that_meets_it(made, tmp_path):
    """By a profile of another machine, where a neuron takes 0.1 ms and all else 4 ms."""
    rows = [(REST, 0, 4.0, 0.0)]
    rows += [(site, k, k / 10, 0.0) for site, n in enumerate(SPACE.units) for k in (n // 2, n)]
    table = pd.DataFrame(rows, columns=["site", "kept", "prefill_ms", "decode_ms"])
    there = Machine("cpu", "a phone", "float32", 1)
    timed = LatencyProfile(SPACE, Request(), there, table)
    timed.save(tmp_path / "latency.parquet")
    of = {"latency_path": tmp_path / "latency.parquet", "elsewhere": True}
    with serving(made, tmp_path / "out", **of) as client:
        status, plan = client.ask("POST", "/plans", {"latency": "0.8x"})
        assert status == 200
        assert 0.79 * 16 < timed.of(Plan(SPACE, tuple(plan["kept"]))) <= 0.8 * 16
        told = refused(client.ask("POST", "/plans", {"latency": "soon"}), 422)
        assert "expected a value such as 0.7x" in told
    with (
        pytest.raises(LopError, match="set --elsewhere"),
        serving(made, tmp_path / "out", **of | {"elsewhere": False}),
    ):
        pass


def test_the_whole_models_parameters_are_counted_exactly(made):
    means = [torch.rand(SHAPE.ffn) for _ in range(SHAPE.layers)]
    plan = Plan(SPACE, (10, 20, 30))
    for mean in (None, means):
        pruned = prune(load(made / "model"), plan, means, mean)
        cost = costs.parameters(Stored(made / "model"), plan.space, compensate=mean is not None)
        assert cost.of(plan) == sum(p.numel() for p in pruned.parameters())


def test_a_token_is_asked_for(made, tmp_path):
    with serving(made, tmp_path, TOKEN) as client:
        for path in ("/health", "/docs", "/openapi.json"):
            assert client.ask("GET", path)[0] == 200
        wrong = ({}, {"Authorization": "Bearer 0123456789abcdeX"}, {"Authorization": TOKEN})
        for headers in wrong:
            for method, path in (("POST", "/plans"), ("GET", "/metrics"), ("GET", "/nowhere")):
                refused(client.ask(method, path, "{}", JSON | headers), 401)
        right = JSON | {"Authorization": f"Bearer {TOKEN}", "Host": "lop.example"}
        assert client.ask("POST", "/plans", {"ratio": 0.3}, right)[0] == 200
        assert client.ask("GET", "/model", headers=right)[0] == 200
