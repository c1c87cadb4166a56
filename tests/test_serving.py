"""A real service over real HTTP on a tiny model, real pruning jobs included."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import uvicorn
from conftest import SHAPE

from lop.cli import main
from lop.errors import LopError
from lop.importance import SCORES, save_scores
from lop.models import reference
from lop.models.checkpoint import fingerprint, load, save
from lop.models.ffn import ffn_widths
from lop.models.stored import Stored
from lop.plan import Plan
from lop.predictor import Predictor, PredictorConfig
from lop.pruning import prune
from lop.serving.app import build_app
from lop.serving.champion import Champion, source_of
from lop.serving.guard import MOST_BYTES
from lop.serving.jobs import Job, Jobs, Limits, Refused
from lop.serving.server import listening, owned, put_together
from lop.sizes import parameters_of
from lop.steps import Cutter

TARGETS = "ratio, params, size, flops_per_token, ratios"
TOKEN = "0123456789abcdef"
JSON = {"Content-Type": "application/json"}


def make_predictor(path, model_fingerprint, seed=0):
    config = PredictorConfig((SHAPE.ffn,) * SHAPE.layers, model_fingerprint, 0.1, 0.6)
    torch.manual_seed(seed)
    predictor = Predictor(config)
    torch.nn.init.normal_(predictor.network.head.weight, std=0.2)
    predictor.save_pretrained(path)
    return predictor


@pytest.fixture(scope="module")
def made(processor, tmp_path_factory):
    """A model, its scores and a predictor, in a folder."""
    root = tmp_path_factory.mktemp("served")
    model = reference.build_model(processor.tokenizer, SHAPE, seed=0).eval()
    save(model, processor, root / "model")
    for name in SCORES:
        scores = [torch.rand(SHAPE.ffn) for _ in range(SHAPE.layers)]
        save_scores(scores, root / "scores" / f"{name}.safetensors", fingerprint(model))
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
def serving(made, out, token=None, scores="scores"):
    cutter = Cutter(str(made / "model"), made / scores, "flap")
    source = source_of(str(made / "predictor"), out)
    with listening("127.0.0.1", 0) as sock, owned(out):
        parts = put_together(source, cutter, out, Limits(), poll=0.1)
        config = uvicorn.Config(build_app(parts, token), log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            yield Client(sock.getsockname()[1], parts)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
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


def test_a_plan_is_the_predictors(client, made):
    predictor = Predictor.from_pretrained(made / "predictor")
    status, plan = client.ask("POST", "/plans", {"ratio": 0.37})
    assert status == 200
    expected = predictor.plan(0.37)
    assert (tuple(plan["kept"]), tuple(plan["ratios"])) == (expected.kept, expected.ratios)
    assert plan["widths"] == [SHAPE.ffn] * SHAPE.layers
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
        ("{}", 422, "expected one of ratio, params, size, flops_per_token, ratios"),
        (
            '{"ratio": 0.3, "ratios": [0.3]}',
            422,
            "expected one of ratio, params, size, flops_per_token, ratios",
        ),
        ('{"ratio": NaN}', 422, "body.ratio: Input should be a finite number"),
        ('{"ratio": -Infinity}', 422, "body.ratio: Input should be a finite number"),
        ('{"ratio": 1e999}', 422, "body.ratio: Input should be a finite number"),
        ('{"ratio": "0.3"}', 422, "body.ratio: Input should be a valid number"),
        ('{"ratio": true}', 422, "body.ratio: Input should be a valid number"),
        ('{"ratio": {"a": 1}}', 422, "body.ratio: Input should be a valid number"),
        ('{"params": "1"}', 422, "parameters of 1 cannot be met: this model reaches"),
        ('{"size": "much"}', 422, "expected an amount such as 5.2B"),
        ('{"size": 9}', 422, "body.size: Input should be a valid string"),
        ('{"ratio": 0.9}', 422, "pruning ratio 0.9 is out of reach"),
        ('{"ratio": -0.1}', 422, "pruning ratio -0.1 is out of reach"),
        ('{"ratios": [0.3, 0.05]}', 422, "pruning ratio 0.05 is out of reach"),
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
    assert "out of reach" in refused(answer, 422)
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


def test_every_route_is_documented_with_its_types(client):
    assert client.ask("GET", "/docs")[0] == 200
    paths = client.ask("GET", "/openapi.json")[1]["paths"]
    expected = {"/plans", "/checkpoints", "/checkpoints/{id}", "/checkpoints/{id}/files/{name}"}
    assert set(paths) == expected | {"/model", "/metrics", "/health"}
    plan = paths["/plans"]["post"]
    assert plan["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("Request")
    assert "PlanAnswer" in json.dumps(plan["responses"]["200"])
    assert "ErrorAnswer" in json.dumps(plan["responses"]["4XX"])


def test_a_checkpoint_is_cut_found_again_and_removed(made, tmp_path):
    out = tmp_path / "out"
    with serving(made, out) as client:
        _, plan = client.ask("POST", "/plans", {"ratio": 0.37})
        status, job = client.ask("POST", "/checkpoints", {"ratio": 0.37, "name": "small"})
        assert (status, job["id"]) == (202, "small")
        assert job["state"] in ("queued", "running")
        assert "is there already" in refused(
            client.ask("POST", "/checkpoints", {"ratio": 0.3, "name": "small"}), 409
        )
        job = client.finished("small")
        assert (job["state"], job["error"]) == ("done", None)
        got = tmp_path / "got"
        got.mkdir()
        for file in job["files"]:
            status, content = client.ask("GET", f"/checkpoints/small/files/{file['name']}")
            assert (status, len(content)) == (200, file["bytes"])
            (got / file["name"]).write_bytes(content)
        assert list(ffn_widths(load(got))) == plan["kept"]
        assert json.loads((got / "pruning.json").read_text())["parameters"] == plan["parameters"]
        assert {k: job[k] for k in ("parameters", "reduction")} == (
            {k: plan[k] for k in ("parameters", "reduction")}
        )
    with serving(made, out) as client:
        assert client.ask("GET", "/checkpoints/small") == (200, job)
        assert client.ask("DELETE", "/checkpoints/small")[0] == 204
        refused(client.ask("GET", "/checkpoints/small"), 404)
    assert list((out / "checkpoints").iterdir()) == list((out / "jobs").iterdir()) == []


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_documented_commands_work(made, tmp_path):
    page = Path("docs/serving.md").read_text()
    commands = "".join(re.findall(r"```sh\n(.*?)```", page, re.S))
    commands = re.sub(r"^(pip|lop) .*\n", "", commands, flags=re.M)
    assert commands.count("curl") == 11
    model = Stored(made / "model")
    small = model.parameters - 40 * model.neuron_parameters
    commands = commands.replace("1.8M", str(small))
    with serving(made, tmp_path / "out") as client:
        commands = commands.replace("localhost:8080", f"localhost:{client.port}")
        run = ["bash", "-euc", commands]
        said = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said
    assert "per_layer_config" in (tmp_path / "config.json").read_text()
    assert '"state":"done"' in said.stdout


def test_no_file_outside_a_checkpoint_is_given_out(made, tmp_path):
    out = tmp_path / "out"
    place = out / "checkpoints" / "mine"
    (place / "sub").mkdir(parents=True)
    (place / "pruning.json").write_text('{"ratio": 0.3}')
    (place / "sub" / "file").write_text("deeper")
    (tmp_path / "secret").write_text("secret")
    (place / "link").symlink_to(tmp_path / "secret")
    (out / "checkpoints" / "elsewhere").symlink_to(made / "model")
    with serving(made, out) as client:
        _, job = client.ask("GET", "/checkpoints/mine")
        assert (job["state"], [f["name"] for f in job["files"]]) == ("done", ["pruning.json"])
        for name in ("link", "sub", "..", "../../jobs", "%2e%2e%2f.lock", "sub%2ffile", "%00"):
            refused(client.ask("GET", f"/checkpoints/mine/files/{name}"), 404)
        refused(client.ask("GET", "/checkpoints/elsewhere"), 404)
        refused(client.ask("POST", "/checkpoints", {"ratio": 0.3, "name": "elsewhere"}), 409)
    assert (made / "model" / "config.json").exists()


def test_a_failed_job_says_why_and_may_be_asked_for_again(made, tmp_path):
    scores = tmp_path / "scores"
    scores.mkdir()
    (scores / "flap.safetensors").symlink_to(made / "scores" / "flap.safetensors")
    with serving(made, tmp_path / "out", scores=scores) as client:  # the other scores are missing
        for _ in range(2):
            assert client.ask("POST", "/checkpoints", {"ratio": 0.3, "name": "x"})[0] == 202
            job = client.finished("x")
            assert (job["state"], job["files"]) == ("failed", [])
            assert "cannot read neuron scores" in job["error"]
            assert job["error"].isprintable()
    assert list((tmp_path / "out" / "checkpoints").iterdir()) == []


class Held(Jobs):
    """Jobs that last until they are let go."""

    def __init__(self, *args):
        self.go = threading.Event()
        super().__init__(*args)

    def _cut(self, job, cutter):
        self.go.wait()


def test_no_more_is_taken_on_than_the_limits_say(tmp_path):
    jobs = Held(tmp_path, lambda: (None, "1"), Limits(workers=1, queue=2, keep=4))
    try:
        jobs.submit("a", 0.3)
        while jobs.get("a").state == "queued":
            time.sleep(0.01)
        jobs.submit("b", 0.3)
        jobs.submit("c", 0.3)
        with pytest.raises(Refused, match="2 jobs are waiting") as told:
            jobs.submit("d", 0.3)
        assert told.value.status == 429
        jobs.delete("b")
        jobs.submit("d", 0.3)
        jobs.delete("c")
        jobs.go.set()
        while jobs.count("done") < 2:
            time.sleep(0.01)
        for name in ("e", "f"):
            jobs.submit(name, 0.3)
        with pytest.raises(Refused, match="4 checkpoints are kept") as told:
            jobs.submit("g", 0.3)
        assert told.value.status == 507
    finally:
        jobs.go.set()
        jobs.close()


def test_what_was_not_done_is_begun_again(made, tmp_path):
    cutter = Cutter(str(made / "model"), made / "scores", "flap", False, made / "predictor")
    jobs = Jobs(tmp_path, lambda: (cutter, "1"))
    for name in ("first", "second"):
        jobs.submit(name, 0.3)
    jobs.close()
    (tmp_path / "checkpoints" / ".first.killed").mkdir()
    (tmp_path / "jobs" / "broken.json").write_text("{")
    again = Jobs(tmp_path, lambda: (cutter, "1"))
    try:
        end = time.monotonic() + 300
        while again.count("done") < 2:
            assert time.monotonic() < end, again.all()
            time.sleep(0.05)
        assert [job.name for job in again.all()] == ["first", "second"]
        assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["first", "second"]
    finally:
        again.close()


def test_a_running_job_can_be_stopped(made, tmp_path):
    with serving(made, tmp_path) as client:
        client.ask("POST", "/checkpoints", {"ratio": 0.3, "name": "x"})
        assert client.ask("DELETE", "/checkpoints/x")[0] == 204
        end = time.monotonic() + 60
        while client.ask("GET", "/checkpoints/x")[0] == 200 and time.monotonic() < end:
            time.sleep(0.05)
        assert client.ask("GET", "/checkpoints") == (200, {"checkpoints": []})
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_size_becomes_the_ratio_that_meets_it(client, made):
    model = Stored(made / "model")
    aim = model.parameters - 40 * model.neuron_parameters
    status, plan = client.ask("POST", "/plans", {"params": str(aim)})
    assert (status, plan["parameters"]) == (200, aim)
    assert sum(plan["widths"]) - sum(plan["kept"]) == 40


def test_the_whole_models_parameters_are_counted_exactly(made):
    means = [torch.rand(SHAPE.ffn) for _ in range(SHAPE.layers)]
    plan = Plan((SHAPE.ffn,) * SHAPE.layers, (10, 20, 30))
    for mean in (None, means):
        pruned = prune(load(made / "model"), plan, means, mean)
        count = parameters_of(Stored(made / "model"), compensate=mean is not None)
        assert count(plan) == sum(p.numel() for p in pruned.parameters())


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


@pytest.mark.parametrize("late", [b"{}", b""], ids=["late body", "no body"])
def test_a_refusal_is_read_before_the_connection_ends(made, tmp_path, late):
    """A service that closes on a body still under way resets the connection under the answer."""
    with serving(made, tmp_path, TOKEN) as client, socket.socket() as raw:
        raw.settimeout(60)
        raw.connect(("127.0.0.1", client.port))
        raw.sendall(b"POST /plans HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
        said = raw.recv(1000)
        assert said.startswith(b"HTTP/1.1 401")
        time.sleep(0.2)
        raw.sendall(late)
        while part := raw.recv(1000):  # to its end, which comes in time and is no reset
            said += part
        assert said.endswith(b'token"}')


def options(made, changes):
    places = {name: made / name for name in ("model", "scores", "predictor")}
    return [f"--{name}={value}" for name, value in (places | {"port": 0} | changes).items()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"host": "0.0.0.0"}, "--host 0.0.0.0 can be reached from other machines"),
        ({"token-file": "nowhere"}, "nowhere: cannot read a token"),
        ({"token-file": "short"}, "short: expected a token of 16 or more ASCII characters"),
        ({"port": "99999"}, "cannot listen at 127.0.0.1 port 99999"),
        ({"host": "256.1.1.1", "token-file": "token"}, "cannot listen at 256.1.1.1"),
        ({"workers": "0"}, "--workers 0: expected more than 0"),
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


def unreachable(*_):
    raise LopError("MLflow's registry at http://nowhere: out of reach")


def test_the_last_good_predictor_outlives_its_source(made, tmp_path):
    fits = []
    first = Predictor.from_pretrained(made / "predictor")
    make_predictor(tmp_path / "p", first.config.model_fingerprint)
    source = source_of(str(tmp_path / "p"), tmp_path)
    champion = Champion(source, tmp_path / "cache", fits.append, every=60)
    old = champion.served
    assert not champion.stale
    champion.source = replace(source, version=unreachable)
    champion.refresh()
    assert (champion.stale, champion.served) == (True, old)
    assert champion.error.startswith("MLflow's registry")
    dead = replace(source, version=unreachable, load=unreachable)
    restarted = Champion(dead, tmp_path / "cache", fits.append, every=60)
    assert restarted.stale
    assert restarted.served.fingerprint == old.fingerprint
    assert restarted.served.predictor.plan(0.37) == first.plan(0.37)
    restarted.source = source
    make_predictor(tmp_path / "p", first.config.model_fingerprint, seed=1)
    restarted.refresh()
    assert not restarted.stale
    assert restarted.served.version != old.version
    assert restarted.served.predictor.plan(0.37) != first.plan(0.37)
    (restarted.served.path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(LopError, match="out of reach"):
        Champion(dead, tmp_path / "cache", fits.append, every=60)


def test_a_newer_predictor_of_another_model_is_not_taken(made, tmp_path):
    mine = tmp_path / "made"
    mine.mkdir()
    for name in ("model", "scores"):
        (mine / name).symlink_to(made / name)
    good = Predictor.from_pretrained(made / "predictor")
    good.save_pretrained(mine / "predictor")
    with serving(mine, tmp_path / "out") as client:
        before = client.ask("GET", "/model")[1]["version"]
        make_predictor(mine / "predictor", "someone-else")
        end = time.monotonic() + 30
        while not client.ask("GET", "/health")[1]["stale"]:
            assert time.monotonic() < end
            time.sleep(0.05)
        _, about = client.ask("GET", "/model")
        assert about["version"] == before
        assert "trained for model someone-else" in about["error"]
        assert client.ask("POST", "/plans", {"ratio": 0.3})[0] == 200


def test_it_follows_an_alias_of_mlflows_registry(tmp_path, monkeypatch):
    import mlflow

    from lop import tracking

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    predictors = [make_predictor(tmp_path / f"p{i}", "model-a", seed=i) for i in (1, 2)]
    with tracking.run("train", {}, {}) as run:
        versions = [run.register_predictor(tmp_path / f"p{i}") for i in (1, 2)]
    client, name = mlflow.MlflowClient(), tracking.PREDICTOR_NAME
    client.set_registered_model_alias(name, "champion", versions[0])
    source = source_of(f"models:/{name}@champion", tmp_path / "cache" / "downloads")
    champion = Champion(source, tmp_path / "cache", lambda _: None, every=60)
    assert champion.served.version == versions[0]
    client.set_registered_model_alias(name, "champion", versions[1])
    champion.refresh()
    assert (champion.error, champion.served.version) == (None, versions[1])
    assert champion.served.predictor.plan(0.37) == predictors[1].plan(0.37)
    client.delete_registered_model_alias(name, "champion")
    champion.refresh()
    assert champion.stale
    assert "\n" not in champion.error
    assert champion.served.version == versions[1]


def test_a_record_of_a_job_survives_being_read(tmp_path):
    jobs = Held(tmp_path, lambda: (None, "1"))
    try:
        jobs.go.set()
        jobs.submit("a", 0.25)
        while jobs.get("a").state != "done":
            time.sleep(0.01)
        record = json.loads((tmp_path / "jobs" / "a.json").read_text())
        assert Job(**record) == jobs.get("a")
    finally:
        jobs.close()
