"""The current predictor of a service, reloaded when its source has a new version.

If the source fails, such as an unreachable registry, the service keeps the last good predictor;
a copy on disk keeps it over a restart.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from lop.errors import LopError
from lop.files import clear_leftovers, remove_dir, replacing, temporary_dir
from lop.kit import Kit
from lop.predictor import PREDICTOR, Predictor
from lop.typed import read_typed

SQLITE = re.compile(r"sqlite(\+\w+)?:///(?P<path>[^?]+)")
REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")

COPY = re.compile(r"served-[0-9a-f]{8}-([0-9a-f]{16}|\d+)")  # directory of a predictor's copy


@dataclass(frozen=True)
class Source:
    """A source of predictors: `version` gives its newest version, `load` loads a version."""

    uri: str
    key: str  # identifies the source in the cache
    version: Callable[[], str]
    load: Callable[[str], Predictor]


@dataclass(frozen=True)
class Served:
    """A predictor in use, and the path of its copy."""

    version: str
    fingerprint: str
    predictor: Predictor
    path: Path


@dataclass(frozen=True)
class Current:
    """The record in current.json: the copy that the service used last."""

    key: Annotated[str, Field(pattern="^[0-9a-f]{8}$")]
    version: Annotated[str, Field(pattern="^[0-9a-zA-Z]{1,64}$")]
    fingerprint: str


class Database:
    """The file of an SQLite registry. MLflow keeps it open, so it would not notice that the file
    was deleted or replaced."""

    def __init__(self, uri: str) -> None:
        found = SQLITE.match(uri)
        self.path = Path(found["path"]) if found else None
        self.seen: os.stat_result | None = None

    def check(self) -> None:
        """Raise LopError if the file is missing, or was replaced since the first check."""
        if self.path is None:
            return
        try:
            now = self.path.stat()
        except OSError as error:
            raise LopError(f"{self.path}: cannot read the registry: {error.strerror}") from error
        self.seen = self.seen or now
        if not os.path.samestat(self.seen, now):
            raise LopError(f"{self.path}: the registry was replaced; start the service again")


def source_of(uri: str, cache: Path, of: Kit | None = None) -> Source:
    """The source for `uri`: a predictor directory, or `models:/NAME@ALIAS` or `models:/NAME/N`.

    Registered versions are downloaded to `cache`. With `of`, versions are kits, and `load` raises
    LopError for a kit whose scores are not those of `of`.
    """
    if not uri.startswith("models:"):
        path = Path(uri)
        return Source(
            uri,
            _key(str(path.resolve())),
            lambda: file_fingerprint(path),
            lambda _: Predictor.from_pretrained(path),
        )
    found = REGISTERED.fullmatch(uri)
    if not found:
        raise LopError(f"{uri}: expected models:/NAME@ALIAS or models:/NAME/N")
    from lop import tracking  # imports pandas and MLflow, which a directory does not need

    name, alias, version = found["name"], found["alias"], found["version"]
    database = Database(os.environ.get(tracking.URI) or "sqlite:///mlflow.db")

    def newest() -> str:
        database.check()
        return version or tracking.version_of(alias, name).number

    def load(number: str) -> Predictor:
        with temporary_dir(cache / "download") as tmp:
            uri = f"models:/{name}/{number}"
            if of is None:
                return Predictor.from_pretrained(tracking.predictor_path(uri, tmp))
            kit = Kit.load(tracking.kit_path(uri, tmp))
            if not kit.cuts_as(of):
                raise LopError(
                    f"{uri}: has other scores than the kit in use; restart the service to use it"
                )
            return kit.predictor

    return Source(
        uri,
        _key(os.environ.get("MLFLOW_TRACKING_URI", ""), uri),
        newest,
        load,
    )


class Champion:
    """The newest predictor of a source that could be loaded and that fits the service's model.

    `fits` raises LopError for a predictor of another model.
    """

    def __init__(
        self, source: Source, cache: Path, fits: Callable[[Predictor], None], every: float
    ) -> None:
        self.source, self.cache, self.fits, self.every = source, cache, fits, every
        self.error: str | None = None
        self.confirmed: float | None = None  # time of the last good answer; monotonic seconds
        found = self._cached()
        if found is None:
            found = self._fetch(source.version())
            self.confirmed = time.monotonic()
        self.served = found
        self._delete_copies(found)

    def refresh(self) -> None:
        """Ask the source for its newest version and load it; on failure, set `error`."""
        try:
            version = self.source.version()
            if version != self.served.version:
                new = self._fetch(version)
                self._delete_copies(new, self.served)  # a job may still read the old copy
                self.served = new
        except Exception as error:  # on any error, the last good predictor stays in use
            self.error = " ".join(str(error).split()) or type(error).__name__
        else:
            self.error, self.confirmed = None, time.monotonic()

    @property
    def stale_seconds(self) -> float | None:
        """Seconds since the source confirmed the current version; None if it never did."""
        return None if self.confirmed is None else time.monotonic() - self.confirmed

    @property
    def stale(self) -> bool:
        """Whether the last poll of the source failed, or no poll ended for three periods."""
        seconds = self.stale_seconds
        return self.error is not None or seconds is None or seconds > 3 * self.every

    def _fetch(self, version: str) -> Served:
        predictor = self.source.load(version)
        self.fits(predictor)
        predictor.plan(predictor.config.max_ratio)  # LopError if it cannot give a plan
        path = self._copy(self.source.key, version)
        predictor.save_pretrained(path)
        fingerprint = file_fingerprint(path)
        record = Current(self.source.key, version, fingerprint)
        with replacing(self.cache / "current.json") as tmp:
            tmp.write_text(json.dumps(asdict(record)) + "\n")
        return Served(version, fingerprint, predictor, path)

    def _cached(self) -> Served | None:
        """The copy of the predictor last loaded from this source, if it is complete and fits."""
        try:
            record = read_typed(Current, self.cache / "current.json")
            if record.key != self.source.key:
                return None
            path = self._copy(record.key, record.version)
            predictor = Predictor.from_pretrained(path)
            self.fits(predictor)
            if file_fingerprint(path) != record.fingerprint:
                return None
        except LopError:
            return None
        return Served(record.version, record.fingerprint, predictor, path)

    def _delete_copies(self, *kept_predictors: Served) -> None:
        """Delete the copies of all other predictors."""
        kept = [served.path for served in kept_predictors]
        for path in self.cache.iterdir():
            if COPY.fullmatch(path.name) and path not in kept:
                with suppress(OSError):
                    if not path.is_symlink() and PREDICTOR.flaw(path) is None:
                        remove_dir(path)
        clear_leftovers(self.cache)

    def _copy(self, key: str, version: str) -> Path:
        return self.cache / f"served-{key}-{version}"


def file_fingerprint(predictor: Path) -> str:
    """Sixteen hex digits over the contents of a predictor directory."""
    digest = hashlib.sha256()
    try:
        for name in ("config.json", "model.safetensors"):
            digest.update((predictor / name).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise LopError(f"{predictor}: no predictor directory: {error.strerror}") from error
    except OSError as error:
        raise LopError(f"{error.filename}: cannot read it: {error.strerror}") from error
    return digest.hexdigest()[:16]


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
