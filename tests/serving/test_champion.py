"""The predictor in service follows its source, and outlives it."""

import json
import shutil
import time
from dataclasses import replace

import pytest
import torch
from kits import kit_for
from service import SPACE, make_predictor, serving

from lop.errors import LopError
from lop.predictor import Predictor
from lop.serving.champion import Champion, source_of

pytest_plugins = ["service"]


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
        # on a busy machine it is stale for its polls come late, too: wait for what is wrong
        while not (about := client.ask("GET", "/model")[1])["error"]:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert client.ask("GET", "/health")[1]["stale"]
        assert about["version"] == before
        assert "trained for model someone-else" in about["error"]
        assert client.ask("POST", "/plans", {"ratio": 0.3})[0] == 200


def test_it_follows_an_alias_of_mlflows_registry(tmp_path, monkeypatch):
    import mlflow

    from lop import tracking

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    kits = [kit_for(tmp_path, SPACE, "model-a", seed) for seed in (1, 2)]
    with tracking.run("train", {}, {}) as run:
        versions = [run.register_kit(kit.path) for kit in kits]
    client, name = mlflow.MlflowClient(), tracking.KIT_NAME
    client.set_registered_model_alias(name, "champion", versions[0])
    uri, cache = f"models:/{name}@champion", tmp_path / "cache" / "downloads"
    source = source_of(uri, cache)
    champion = Champion(source, tmp_path / "cache", lambda _: None, every=60)
    assert champion.served.version == versions[0]
    client.set_registered_model_alias(name, "champion", versions[1])
    champion.refresh()
    assert (champion.error, champion.served.version) == (None, versions[1])
    assert source_of(uri, cache, of=kits[0]).load(versions[1]).config == kits[1].predictor.config
    other = kit_for(tmp_path, SPACE, "model-a", scores=1)
    with pytest.raises(LopError, match="has other scores than the kit in use"):
        source_of(uri, cache, of=other).load(versions[1])
    assert champion.served.predictor.plan(0.37) == kits[1].predictor.plan(0.37)
    database = tmp_path / "mlflow.db"
    database.rename(tmp_path / "away")
    champion.refresh()
    assert champion.stale
    assert champion.error == f"{database}: cannot read the registry: No such file or directory"
    shutil.copy(tmp_path / "away", database)
    champion.refresh()
    assert champion.stale
    assert champion.error.endswith("the registry was replaced; start the service again")
    (tmp_path / "away").rename(database)
    champion.refresh()
    assert not champion.stale
    client.delete_registered_model_alias(name, "champion")
    champion.refresh()
    assert champion.stale
    assert "\n" not in champion.error
    assert champion.served.version == versions[1]


@pytest.mark.parametrize("version", ["../../elsewhere", "", 3, None, "[" * 100_000])
def test_a_record_from_elsewhere_names_no_other_folder(made, tmp_path, version):
    make_predictor(tmp_path / "p", "model-a")
    source = source_of(str(tmp_path / "p"), tmp_path)
    champion = Champion(source, tmp_path / "cache", lambda _: None, every=60)
    good = champion.served.path
    record = {"key": source.key, "version": version, "fingerprint": champion.served.fingerprint}
    shutil.copytree(good, tmp_path / "elsewhere")
    (tmp_path / "cache" / "current.json").write_text(json.dumps(record))
    again = Champion(source, tmp_path / "cache", lambda _: None, every=60)
    assert again.served.path == good


def test_a_predictor_that_gives_no_plan_is_not_taken_into_service(tmp_path):
    make_predictor(tmp_path / "p", "model-a")
    source = source_of(str(tmp_path / "p"), tmp_path)
    champion = Champion(source, tmp_path / "cache", lambda _: None, every=60)
    before = champion.served
    predictor = Predictor(replace(before.predictor.config, kind="mlp", depth=12))
    with torch.no_grad():
        for weights in predictor.network.parameters():
            weights.copy_(1e38 * torch.rand(weights.shape).sub(0.5).sign())  # inf - inf
    predictor.save_pretrained(tmp_path / "p")
    champion.refresh()
    assert champion.served is before
    assert "must be finite numbers" in champion.error
