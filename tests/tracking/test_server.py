"""A real MLflow server with a database: nested runs, an outage in the middle, the registry."""

import json
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
from kits import kit_for

from flows.server import free_port, started
from lop import tracking
from lop.cli import main
from lop.data.samples import write_samples
from lop.errors import LopError
from lop.models.stored import Stored
from lop.predictor import Predictor
from lop.serving.champion import Champion, source_of
from lop.steps import promoting

NAME = tracking.KIT_NAME


class Server:
    """An MLflow server that can be taken down and brought back at the same address."""

    def __init__(self, root):
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        self.command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        self.command += ["--backend-store-uri", f"sqlite:///{root}/server.db", "--workers", "1"]
        self.command += ["--artifacts-destination", str(root / "artifacts")]
        self.up()

    def up(self):
        self.running = started(self.command, f"{self.uri}/health")
        self.running.__enter__()

    def down(self):
        self.running.__exit__(None, None, None)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(tracking.URI, server.uri)
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        yield server
    server.down()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def logged():
    import mlflow

    names = [tracking.EXPERIMENT]
    runs = mlflow.search_runs(experiment_names=names, output_format="list")
    return {run.info.run_name: run for run in runs}


def test_an_outage_costs_nothing(server, here, monkeypatch, capsys):
    (here / "curve.csv").write_text("epoch,mse\n0,0.5\n")
    with tracking.run("pipeline", {}, {}) as pipeline:
        monkeypatch.setenv(tracking.PARENT, pipeline.id)
        with tracking.run("before", {"lr": 0.1}, {"dvc_lock": "l"}) as run:
            run.inputs({"data/search": "0123456789abcdef0123456789abcdef.dir"})
            run.metrics({"early": 1.0})
            server.down()
            with pytest.warns(UserWarning, match="queued, log it with `lop track`") as warned:
                run.metrics({"late": 2.0})
                run.artifact(here / "curve.csv")
                with run.child("inside", {"seed": 1}, {"fingerprint": "f"}, "fingerprint") as one:
                    one.curve(pd.DataFrame({"step": [0, 1], "reward": [-2.0, -1.0]}), "step")
            assert len(warned) == 1
        assert main(["track"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        server.up()
    (here / "curve.csv").write_text("changed since")

    assert main(["track"]) == 0
    assert capsys.readouterr().out == "2 runs logged\n"
    assert main(["track"]) == 0
    assert capsys.readouterr().out == "0 runs logged\n"
    runs = logged()
    before, inside = runs["before"], runs["inside"]
    assert before.data.tags["mlflow.parentRunId"] == runs["pipeline"].info.run_id
    assert inside.data.tags["mlflow.parentRunId"] == before.info.run_id
    assert before.data.metrics == {"early": 1.0, "late": 2.0}
    assert inside.data.metrics == {"reward": -1.0}
    assert before.data.params == {"lr": "0.1"}
    assert before.info.status == inside.info.status == "FINISHED"
    (given,) = before.inputs.dataset_inputs
    assert given.dataset.digest == "0123456789abcdef0123456789abcdef.dir"
    import mlflow

    kept = mlflow.artifacts.load_text(f"runs:/{before.info.run_id}/curve.csv")
    assert kept.startswith("epoch,mse"), "the file as it was"


@pytest.fixture
def judged(server, here, model_dir, samples):
    """A model with validation samples, and what registers kits for it."""
    write_samples(samples, here / "validation.parquet")
    places = (str(model_dir), here / "validation.parquet")
    stored = Stored(model_dir)

    def register(seed, model=None):
        kit = kit_for(here, stored.space(), model or stored.fingerprint, seed, std=0.5)
        with tracking.run("train", {}, {}) as run:
            return run.register_kit(kit.path), kit.predictor

    def promote(**options):
        return promoting.promote(*places, [0.2, 0.4, 0.5], targets=[0.2, 0.5], **options)

    return register, promote


def champion():
    return tracking.version_of(tracking.CHAMPION)


def test_a_challenger_is_judged_promoted_and_rolled_back(judged, capsys):
    register, promote = judged
    first, predictor = register(0)
    assert champion().number == first, "the first one is champion too"
    found = tracking.predictor_path(f"models:/{NAME}@champion")
    assert Predictor.from_pretrained(found).plan(0.3) == predictor.plan(0.3)
    with pytest.raises(LopError, match="is the champion already"):
        promote()

    same, _ = register(0)
    verdict = promote()
    assert not verdict.promoted
    assert verdict.reason == "not significantly better: +0 ± 0 on average, lower bound +0"
    assert champion().number == first
    tags = tracking.version_of(tracking.CHALLENGER).tags
    assert tags["promotion"] == "refused"
    assert [row["ratio"] for row in json.loads(tags["promotion_loglik"])] == [0.2, 0.4, 0.5]
    with pytest.raises(LopError, match="needs a reason"):
        promote(force=True)
    assert promote(force=True, reason="as a test").promoted
    assert champion().number == same
    assert champion().tags["promotion_reason"] == (
        "as a test (though not significantly better: +0 ± 0 on average, lower bound +0)"
    )
    assert main(["rollback", "--reason", "no need of it"]) == 0
    assert capsys.readouterr().out.endswith(
        f"champion is version {first} again, instead of version {same}\n"
    )
    assert champion().number == first
    assert main(["rollback"]) == 2
    assert "is the first champion" in capsys.readouterr().err

    register(1, model="another-model")
    with pytest.raises(LopError, match="learned for model .* the challenger for another-model"):
        promote()


def test_two_promotions_at_once_cannot_both_win(judged):
    register, _ = judged
    before = champion()
    rivals = [tracking.Version(NAME, register(seed)[0], {}) for seed in (2, 3)]

    def attempt(rival):
        try:
            tracking.promote(before, rival, {"promotion": "promoted"})
        except LopError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(2) as threads:
        outcomes = list(threads.map(attempt, rivals))
    assert sum(outcome is None for outcome in outcomes) == 1, outcomes
    (lost,) = filter(None, outcomes)
    assert f"the champion was version {before.number}, now it is" in lost
    assert champion().number == rivals[outcomes.index(None)].number


def test_a_service_outlives_an_outage_and_follows_again(judged, server, here):
    register, _ = judged
    newer = tracking.Version(NAME, register(4)[0], {})
    source = source_of(f"models:/{NAME}@champion", here / "cache")
    in_service = Champion(source, here / "cache", lambda predictor: None, every=1.0)
    before = in_service.served.version
    assert before != newer.number
    server.down()
    try:
        in_service.refresh()
        restarted = Champion(source, here / "cache", lambda predictor: None, every=1.0)
    finally:
        server.up()
    assert in_service.error
    for one in (in_service, restarted):
        assert (one.served.version, one.stale) == (before, True)
        one.refresh()
        assert (one.served.version, one.stale) == (before, False)
    tracking.promote(champion(), newer, {"promotion": "promoted"})
    in_service.refresh()
    assert in_service.served.version == newer.number


def test_what_is_not_in_the_registry_is_one_line(server, here):
    for uri in (f"models:/{NAME}@nobody", "models:/nothing/1", "models:/nothing"):
        with pytest.raises(LopError, match=f"^{uri}: not in the registry at http"):
            tracking.predictor_path(uri)
    assert tracking.predictor_path("data/predictor").name == "predictor"
