"""MLflow's registry of kits: versions, the champion's and the challenger's alias.

An alias has no compare-and-set in MLflow. What is atomic in each of its stores, and on each of its
servers, is to create a registered model, whose name is unique: that is the lock under which the
champion changes. It is held for two requests, during which the champion is looked at again. It says
who holds it, so that what a killed process held is taken away: at once where this machine knows it
dead, else after `ABANDONED` seconds.
"""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lop.errors import LopError
from lop.files import OWNER, has_ended, owner, replacing_dir, temporary_dir
from lop.tracking import store

KIT_NAME = "lop-kit"
CHAMPION, CHALLENGER = "champion", "challenger"
SCHEME = "models:/"
CACHE = Path(".lop/kits")
MOST_TEXT = 5000  # characters that MLflow keeps of a description
LOCK = "promotion-lock"  # ends the name of the registered model that is the lock
PATIENCE = 5.0  # seconds to wait for another's promotion
ABANDONED = 600.0  # seconds after which a lock of another machine is taken for left behind
HELD_BY = "a promotion is under way by "  # begins the description of the lock
OVER = "promoted_over"  # the tag that says which version was champion before


@dataclass(frozen=True)
class Version:
    """A registered kit; of which model it is stands in it."""

    name: str
    number: str
    tags: Mapping[str, str]


def register(run_id: str, path: str) -> str:
    """Log a kit as a pyfunc model (ratios in, plans out), register it, and make it the challenger.

    Its figures are metrics of the logged model, its card the version's description.
    """
    import mlflow

    from lop.kit import Kit

    kit = Kit.load(path)
    config = kit.predictor.config
    example = pd.DataFrame({"ratio": [config.min_ratio, config.max_ratio]})
    units = list(config.space.units)
    output = pd.DataFrame({"ratios": [[1.0 / 3] * len(units)] * 2, "kept": [units] * 2})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's advice on type hints and examples
        info = mlflow.pyfunc.log_model(
            name="kit",
            python_model=str(Path(__file__).parents[1] / "kit" / "pyfunc.py"),
            artifacts={"kit": path},
            signature=mlflow.models.infer_signature(example, output),
            input_example=example,
            pip_requirements=["lop"],
            registered_model_name=KIT_NAME,
            metadata={"model_fingerprint": config.model_fingerprint},
        )
    version = str(info.registered_model_version)
    if kit.figures:
        metric = kit.figures.metric
        found = {f"{metric}_{figure.ratio:g}": figure.value for figure in kit.figures.of}
        mlflow.log_metrics(found, model_id=info.model_id)
    card = (kit.path / "README.md").read_text().split("---\n", 2)[-1]  # without the front matter
    _client().update_model_version(KIT_NAME, version, description=card[:MOST_TEXT])
    enlist(version)
    return version


def enlist(number: str, name: str = KIT_NAME) -> None:
    """Make a version the challenger, and the champion if there is none."""
    client = _client()
    client.set_registered_model_alias(name, CHALLENGER, number)
    if CHAMPION in client.get_registered_model(name).aliases:
        return
    with _lock(client, name):  # another may have become champion meanwhile
        if CHAMPION not in client.get_registered_model(name).aliases:
            client.set_registered_model_alias(name, CHAMPION, number)


def version_of(alias: str, name: str = KIT_NAME) -> Version:
    """The version that an alias points at; LopError when there is none or no registry."""
    with _one_line(f"{SCHEME}{name}@{alias}"):
        found = _client().get_model_version_by_alias(name, alias)
    return Version(name, str(found.version), dict(found.tags))


def promote(champion: Version, challenger: Version, tags: Mapping[str, str]) -> None:
    """Give the champion's alias to the challenger, with `tags` on its version.

    Raises LopError when the champion is no longer the one it was judged against.
    """
    client, name = _client(), champion.name
    with _lock(client, name):
        now = version_of(CHAMPION, name).number
        if now != champion.number:
            raise LopError(
                f"{name}: the champion was version {champion.number}, now it is {now}: "
                "judge the challenger against that one"
            )
        _tag(client, challenger, {**tags, OVER: champion.number})
        client.set_registered_model_alias(name, CHAMPION, challenger.number)
        held = client.get_registered_model(name).aliases.get(CHALLENGER)
        if str(held) == challenger.number:  # some stores have it as an int
            client.delete_registered_model_alias(name, CHALLENGER)


def refuse(challenger: Version, tags: Mapping[str, str]) -> None:
    """Leave the champion, and say why on the challenger's version."""
    _tag(_client(), challenger, tags)


def rollback(reason: str, name: str = KIT_NAME) -> tuple[str, str]:
    """Give the alias back to the champion before; returns the numbers of both, then and now.

    Raises LopError when the champion was not promoted over another.
    """
    client = _client()
    with _one_line(f"{SCHEME}{name}@{CHAMPION}"), _lock(client, name):
        champion = version_of(CHAMPION, name)
        before = champion.tags.get(OVER)
        if before is None:
            raise LopError(
                f"{name}: version {champion.number} is the first champion, none to go back to"
            )
        client.set_registered_model_alias(name, CHAMPION, before)
        _tag(client, champion, {"rolled_back": reason or "no reason given"})
    return champion.number, before


def kit_path(uri: str | Path, cache: Path = CACHE) -> Path:
    """The directory of a kit: `uri` itself, or of `models:/NAME@ALIAS` or `models:/NAME/N`.

    What comes from a registry is kept in `cache`, once a version. Raises LopError when there is no
    such version, or no registry, and for what an older lop registered: a predictor alone.
    """
    from lop.kit import KIT

    path = _on_disk(uri, cache)
    if str(uri).startswith(SCHEME) and not (path / KIT.files[0]).is_file():
        raise LopError(
            f"{uri}: is a predictor that an older lop registered, not a kit: give it as "
            "--predictor, with its --scores; or `lop kit` makes a kit of both"
        )
    return path


def predictor_path(uri: str | Path, cache: Path = CACHE) -> Path:
    """The directory of a predictor: `uri` itself, or that in a registered kit, as `kit_path` takes
    it; or of a predictor that an older lop registered."""
    from lop.kit import PREDICTOR_IN

    path = _on_disk(uri, cache)
    of_kit = str(uri).startswith(SCHEME) and (path / PREDICTOR_IN).is_dir()
    return path / PREDICTOR_IN if of_kit else path


def _on_disk(uri: str | Path, cache: Path) -> Path:
    """What a registered version holds, or `uri` itself where it is a path."""
    if not str(uri).startswith(SCHEME):
        return Path(uri)
    name, _, alias = str(uri).removeprefix(SCHEME).partition("@")
    with _one_line(uri):
        client = _client()
        if alias:
            version = client.get_model_version_by_alias(name, alias)
        else:
            version = client.get_model_version(*name.rsplit("/", 1))
        which = f"{_uri()} {version.name} {version.version} {version.creation_timestamp}"
        digest = hashlib.sha256(which.encode()).hexdigest()[:8]
        path = cache / f"{version.name}-{version.version}-{digest}"
        if not path.exists():
            _download(f"{SCHEME}{version.name}/{version.version}", path)
    return path


def _download(uri: str, path: Path) -> None:
    import mlflow

    from lop.kit import KIT
    from lop.predictor import PREDICTOR

    with temporary_dir(path) as whole:
        mlflow.artifacts.download_artifacts(uri, dst_path=str(whole))
        (found,) = (whole / "artifacts").iterdir()  # named as the directory that was logged
        kind = KIT if (found / KIT.files[0]).is_file() else PREDICTOR
        with replacing_dir(path, kind) as tmp:
            for part in found.iterdir():
                part.rename(tmp / part.name)


def _tag(client: Any, version: Version, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.number, key, value)


@contextmanager
def _lock(client: Any, name: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    lock, end = f"{name}-{LOCK}", time.monotonic() + PATIENCE
    while True:
        try:
            client.create_registered_model(lock, description=f"{HELD_BY}{owner()}")
            break
        except MlflowException as error:
            # a server says that it does not exist where another gave it back at that moment
            if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"):
                raise
            if not _break(client, lock) and time.monotonic() > end:
                raise LopError(
                    f"{lock}: another promotion is under way; try again in a minute"
                ) from error
        time.sleep(0.1)
    try:
        yield
    finally:
        client.delete_registered_model(lock)


def _break(client: Any, lock: str) -> bool:
    """Take a lock away whose holder is dead; returns whether it was taken away, by whomever.

    It is renamed to a name of this very lock, and stays there: so whoever read it before, and comes
    late, finds that name taken and does not touch a lock made anew meanwhile.
    """
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_registered_model(lock)
        holder = (found.description or "").removeprefix(HELD_BY)
        ended = has_ended(holder) if OWNER.fullmatch(holder) else None
        if ended is None:
            ended = time.time() - found.creation_timestamp / 1000 > ABANDONED
        if not ended:
            return False
        broken = f"{lock}-broken-{found.creation_timestamp}-{holder[:40]}"
        client.rename_registered_model(lock, broken)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"):
            raise
    return True


@contextmanager
def _one_line(what: object) -> Iterator[None]:
    """Whatever a registry raises, as one line."""
    try:
        yield
    except LopError:
        raise
    except Exception as error:  # MLflow raises a type a kind of store
        line = str(error).strip().split("\n")[0]
        raise LopError(f"{what}: not in the registry at {_uri().split('@')[-1]}: {line}") from error


def _uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")


def _client() -> Any:
    return store.quiet().MlflowClient()
