"""MLflow's registry of kits: versions, and the aliases `champion` and `challenger`.

MLflow cannot compare and set an alias atomically. The creation of a registered model is atomic in
all of MLflow's stores and servers, because its name is unique. So the champion alias changes only
while its process holds a lock: a registered model with a reserved name. Under the lock, the process
reads the champion again before it changes the alias. The lock's description names its holder, so
that other processes can remove the lock of a killed process: at once on the same machine, else
after `ABANDONED` seconds.
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
MOST_TEXT = 5000  # longest description, in characters, that MLflow stores
LOCK = "promotion-lock"  # suffix of the name of the registered model that is the lock
PATIENCE = 5.0  # seconds to wait for the lock
ABANDONED = 600.0  # seconds after which another machine's lock counts as abandoned
HELD_BY = "a promotion is under way by "  # prefix of the lock's description, before its holder
OVER = "promoted_over"  # the tag with the number of the previous champion


@dataclass(frozen=True)
class Version:
    """A version of a registered kit."""

    name: str
    number: str
    tags: Mapping[str, str]


def register(run_id: str, path: str) -> str:
    """Log a kit as a pyfunc model (ratios in, plans out), register it, and make it the challenger.

    The kit's figures become metrics of the logged model, its card the version's description.
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
    """Make a version the challenger and, if there is no champion, also the champion."""
    client = _client()
    client.set_registered_model_alias(name, CHALLENGER, number)
    if CHAMPION in client.get_registered_model(name).aliases:
        return
    with _lock(client, name):  # another process may have set the champion meanwhile
        if CHAMPION not in client.get_registered_model(name).aliases:
            client.set_registered_model_alias(name, CHAMPION, number)


def version_of(alias: str, name: str = KIT_NAME) -> Version:
    """The version that an alias points at; LopError if the alias or the registry is missing."""
    with _one_line(f"{SCHEME}{name}@{alias}"):
        found = _client().get_model_version_by_alias(name, alias)
    return Version(name, str(found.version), dict(found.tags))


def promote(champion: Version, challenger: Version, tags: Mapping[str, str]) -> None:
    """Move the champion alias to the challenger, and set `tags` on the challenger's version.

    Raises LopError if `champion`, which the challenger was judged against, is no longer champion.
    """
    client, name = _client(), champion.name
    with _lock(client, name):
        now = version_of(CHAMPION, name).number
        if now != champion.number:
            raise LopError(
                f"{name}: the champion was version {champion.number}, now it is {now}: "
                "judge the challenger against that version"
            )
        _tag(client, challenger, {**tags, OVER: champion.number})
        client.set_registered_model_alias(name, CHAMPION, challenger.number)
        held = client.get_registered_model(name).aliases.get(CHALLENGER)
        if str(held) == challenger.number:  # some stores give an int
            client.delete_registered_model_alias(name, CHALLENGER)


def refuse(challenger: Version, tags: Mapping[str, str]) -> None:
    """Keep the champion, and set `tags`, which hold the reason, on the challenger's version."""
    _tag(_client(), challenger, tags)


def rollback(reason: str, name: str = KIT_NAME) -> tuple[str, str]:
    """Move the champion alias back to the previous champion; returns both version numbers: of the
    champion until now, and of the new one.

    Raises LopError if there was no champion before the current one.
    """
    client = _client()
    with _one_line(f"{SCHEME}{name}@{CHAMPION}"), _lock(client, name):
        champion = version_of(CHAMPION, name)
        before = champion.tags.get(OVER)
        if before is None:
            raise LopError(
                f"{name}: version {champion.number} is the first champion, there is no earlier one"
            )
        client.set_registered_model_alias(name, CHAMPION, before)
        _tag(client, champion, {"rolled_back": reason or "no reason given"})
    return champion.number, before


def kit_path(uri: str | Path, cache: Path = CACHE) -> Path:
    """The directory of a kit: `uri` itself if it is a path, or the downloaded registered version if
    it is `models:/NAME@ALIAS` or `models:/NAME/N`.

    Each registered version is downloaded once, into `cache`. Raises LopError if the version or the
    registry is missing, and if the version is a predictor alone, which an older lop registered.
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
    """The directory of a predictor: `uri` itself if it is a path, or the predictor in a registered
    kit, or a predictor that an older lop registered. For URIs see `kit_path`."""
    from lop.kit import PREDICTOR_IN

    path = _on_disk(uri, cache)
    of_kit = str(uri).startswith(SCHEME) and (path / PREDICTOR_IN).is_dir()
    return path / PREDICTOR_IN if of_kit else path


def _on_disk(uri: str | Path, cache: Path) -> Path:
    """The directory of a registered version in `cache`, or `uri` itself if it is a path."""
    if not str(uri).startswith(SCHEME):
        return Path(uri)
    name, _, alias = str(uri).removeprefix(SCHEME).partition("@")
    with _one_line(uri):
        client = _client()
        if alias:
            version = client.get_model_version_by_alias(name, alias)
        else:
            version = client.get_model_version(*name.rsplit("/", 1))
        identity = f"{_uri()} {version.name} {version.version} {version.creation_timestamp}"
        digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
        path = cache / f"{version.name}-{version.version}-{digest}"
        if not path.exists():
            _download(f"{SCHEME}{version.name}/{version.version}", path)
    return path


def _download(uri: str, path: Path) -> None:
    import mlflow

    from lop.kit import KIT
    from lop.predictor import PREDICTOR

    with temporary_dir(path) as download:
        mlflow.artifacts.download_artifacts(uri, dst_path=str(download))
        (found,) = (download / "artifacts").iterdir()  # has the name of the logged directory
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
            # a server answers "does not exist" if another process releases the lock just now
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
    """Remove a lock whose holder has ended; returns whether this or another process removed it.

    The lock is renamed, to a name that only this lock can get, and never deleted. Another process
    that read the same old lock finds that name taken, and so does not remove a newer lock.
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
def _one_line(uri: object) -> Iterator[None]:
    """Turn every error of the registry about `uri` into a LopError of one line."""
    try:
        yield
    except LopError:
        raise
    except Exception as error:  # each kind of MLflow store raises exceptions of its own
        line = str(error).strip().split("\n")[0]
        raise LopError(f"{uri}: not in the registry at {_uri().split('@')[-1]}: {line}") from error


def _uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")


def _client() -> Any:
    return store.quiet().MlflowClient()
