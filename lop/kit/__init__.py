"""A kit: one directory with everything that pruning a model needs besides the model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict
from torch import Tensor

from lop.errors import LopError
from lop.evaluation.latency import LatencyProfile
from lop.files import Kind, check_dir, read_json, replacing_dir
from lop.importance import SCORES, load_scores, made_for, ranked, save_scores
from lop.kit.card import card
from lop.kit.figures import Figures
from lop.plan import Space
from lop.predictor import PREDICTOR, Predictor
from lop.predictor.sizes import SizePredictor
from lop.profile import Profile
from lop.reward.choice import AUTO, Candidate, chosen
from lop.reward.choice import FILE as CHOICE
from lop.typed import read_typed

SCORES_IN, PREDICTOR_IN, SIZE_PREDICTOR_IN = "importance", "predictor", "size-predictor"
PROFILE_IN, LATENCY_IN = "profile.parquet", "latency.parquet"
FIGURES_IN, SETTINGS_IN = "figures.json", "settings.json"
KIT = Kind(
    "a kit",
    ("kit.json",),
    frozenset({"model_fingerprint", "space", "score", "compensate"}),
    folders=(SCORES_IN, PREDICTOR_IN, SIZE_PREDICTOR_IN),
)


@dataclass(frozen=True)
class About:
    """The contents of kit.json: the model that a kit is for, and how its plans are cut."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    model_fingerprint: str
    space: Space
    score: str
    compensate: bool
    versions: dict[str, str]  # of the packages that wrote the kit


@dataclass(frozen=True)
class Kit:
    """Scores and predictor for one model; optionally its profile, latency profile and figures.

    >>> kit = lop.Kit.load("kit")
    >>> kit.predictor.plan(0.37)
    """

    path: Path
    about: About

    @classmethod
    def gather(
        cls,
        out: str | Path,
        scores: str | Path,
        predictor: str | Path,
        profile: str | Path | None = None,
        latency: str | Path | None = None,
        score: str = AUTO,
        compensate: bool | str = AUTO,
        figures: Figures | None = None,
        settings: Mapping[str, Any] | None = None,
        size_predictor: str | Path | None = None,
    ) -> Kit:
        """Write a kit with copies of these files to the directory `out`.

        `scores` is the directory that the importance stage wrote, `predictor` the directory of a
        predictor, `size_predictor` that of a predictor of units and bits, `latency` the file that
        `lop latency` wrote. `figures` are the measured values of the plans, `settings` those of
        `lop learn`. Raises LopError if a part is not for the model of the scores.
        """
        check_dir(out, KIT, (scores, predictor, profile, latency, size_predictor))
        space, model_fingerprint = made_for(scores)
        by = chosen(scores, score, compensate)
        files = [Path(scores) / f"{name}.safetensors" for name in SCORES]
        if (choice := Path(scores) / CHOICE).exists():
            files.append(choice)
        about = About(model_fingerprint, space, *by, _versions())
        _check_scores(about, Path(scores))
        _check_predictor(about, Predictor.from_pretrained(predictor), predictor)
        _check_tables(about, profile, latency)
        if size_predictor:
            read = SizePredictor.from_pretrained(size_predictor)
            _check_size_predictor(about, read, size_predictor)
        with replacing_dir(out, KIT) as tmp:
            (tmp / SCORES_IN).mkdir()
            for file in files:
                shutil.copyfile(file, tmp / SCORES_IN / file.name)
            _copy_predictor(Path(predictor), tmp / PREDICTOR_IN)
            if size_predictor:
                _copy_predictor(Path(size_predictor), tmp / SIZE_PREDICTOR_IN)
            for given, name in ((profile, PROFILE_IN), (latency, LATENCY_IN)):
                if given is not None:
                    shutil.copyfile(given, tmp / name)
            _describe(tmp, about, figures, settings)
        return cls.load(out)

    @classmethod
    def load(cls, path: str | Path, checked: bool = False) -> Kit:
        """The kit in a directory; LopError if a part is missing or does not fit the others.

        With `checked` (it was checked when it was written), scores and profiles are not read.
        """
        path = Path(path)
        if flaw := "is not there" if not path.is_dir() else KIT.flaw(path):
            raise LopError(f"{path}: is not a kit: it {flaw}")
        kit = cls(path, read_typed(About, path / KIT.files[0]))
        _check_predictor(kit.about, kit.predictor, kit.predictor_path)
        if not checked:
            _check_scores(kit.about, kit.scores_dir)
            _check_tables(kit.about, kit.profile_path, kit.latency_path)
            _check_size_predictor(kit.about, kit.size_predictor, kit.path / SIZE_PREDICTOR_IN)
            _ = kit.figures  # raises LopError if they cannot be read
        return kit

    @property
    def scores_dir(self) -> Path:
        """The directory with every score."""
        return self.path / SCORES_IN

    @property
    def predictor_path(self) -> Path:
        """The predictor's directory."""
        return self.path / PREDICTOR_IN

    @property
    def size_predictor_path(self) -> Path | None:
        """The directory of the predictor of units and bits, if there is one."""
        path = self.path / SIZE_PREDICTOR_IN
        return path if path.is_dir() else None

    @property
    def profile_path(self) -> Path | None:
        """The profile's file, if there is one."""
        return _there(self.path / PROFILE_IN)

    @property
    def latency_path(self) -> Path | None:
        """The latency profile's file, if there is one."""
        return _there(self.path / LATENCY_IN)

    @cached_property
    def latency(self) -> LatencyProfile | None:
        """The latency profile, which may be for another machine, if there is one."""
        return LatencyProfile.load(self.latency_path) if self.latency_path else None

    @cached_property
    def figures(self) -> Figures | None:
        """The measured values of the kit's plans, if there are any."""
        path = _there(self.path / FIGURES_IN)
        return read_typed(Figures, path) if path else None

    @property
    def settings(self) -> dict[str, Any] | None:
        """The settings of `lop learn`, if it wrote the kit."""
        path = _there(self.path / SETTINGS_IN)
        return read_json(path) if path else None

    @property
    def by(self) -> Candidate:
        """The score that units are ranked by, and whether lost output is compensated."""
        return Candidate(self.about.score, self.about.compensate)

    @cached_property
    def predictor(self) -> Predictor:
        """The predictor, read once."""
        return Predictor.from_pretrained(self.predictor_path)

    @cached_property
    def size_predictor(self) -> SizePredictor | None:
        """The predictor of units and bits, read once, if there is one."""
        path = self.size_predictor_path
        return SizePredictor.from_pretrained(path) if path else None

    def score(self, name: str | None = None) -> list[Tensor]:
        """The score `name`, (d_i,) for each site; by default the score that ranks units."""
        path = self.scores_dir / f"{name or self.about.score}.safetensors"
        return load_scores(path, self.about.model_fingerprint)

    def cuts_as(self, other: Kit) -> bool:
        """Whether both kits cut a plan to the same units, with the same compensation."""
        names = [self.about.score, *["mean_activation"] * self.about.compensate]
        pairs = (zip(self.score(name), other.score(name), strict=True) for name in names)
        return self.by == other.by and all(a.equal(b) for each in pairs for a, b in each)

    def orders(self) -> list[Tensor]:
        """The units of each site by descending score, (d_i,)."""
        return ranked(self.score())

    def reordered(
        self,
        out: str | Path,
        orders: Sequence[Tensor],
        model_fingerprint: str,
        recovered: bool = False,
    ) -> Kit:
        """Write this kit for the model with units in these `orders`, (d_i,) for each site;
        `model_fingerprint` is that of the reordered model.

        For `recovered` weights there is no compensation, because recovery trained the weights for
        the missing units, and no figures, because they were measured on other weights.
        """
        compensate = self.about.compensate and not recovered
        about = replace(self.about, model_fingerprint=model_fingerprint, compensate=compensate)
        space, made = self.about.space, f"{self.about.model_fingerprint} with units reordered"
        with replacing_dir(out, KIT) as tmp:
            for name in SCORES:
                # the mean activation has a value for each column of a unit, the scores have one
                each = zip(self.score(name), orders, strict=True)
                moved = [values.view(len(o), -1)[o].flatten() for values, o in each]
                path = tmp / SCORES_IN / f"{name}.safetensors"
                path.parent.mkdir(exist_ok=True)
                save_scores(moved, path, model_fingerprint, space, made)
            if (choice := self.scores_dir / CHOICE).exists():
                shutil.copyfile(choice, tmp / SCORES_IN / CHOICE)
            self.predictor.of_model(model_fingerprint).save_pretrained(tmp / PREDICTOR_IN)
            if sizes := self.size_predictor:
                sizes.of_model(model_fingerprint).save_pretrained(tmp / SIZE_PREDICTOR_IN)
            for path_ in (self.profile_path, self.latency_path):  # do not depend on the order
                if path_:
                    shutil.copyfile(path_, tmp / path_.name)
            _describe(tmp, about, None if recovered else self.figures, self.settings)
        return type(self).load(out)


def _copy_predictor(source: Path, out: Path) -> None:
    out.mkdir()
    for name in PREDICTOR.files:
        shutil.copyfile(source / name, out / name)


def _check_predictor(about: About, predictor: Predictor, at: str | Path) -> None:
    with _of(at):
        predictor.check_fits(about.space, about.model_fingerprint)


def _check_size_predictor(about: About, predictor: SizePredictor | None, at: str | Path) -> None:
    """Raise LopError unless a predictor of units and bits, if there is one, fits a kit's model."""
    if predictor is None:
        return
    config = predictor.config
    if config.model_fingerprint != about.model_fingerprint or not config.space.fits(about.space):
        raise LopError(
            f"{at}: made for model {config.model_fingerprint} with units "
            f"{list(config.space.units)}, the kit is for {about.model_fingerprint} with "
            f"{list(about.space.units)}"
        )


def _check_scores(about: About, scores: Path) -> None:
    """Raise LopError unless the scores in a directory fit a kit."""
    for name in SCORES:
        path = scores / f"{name}.safetensors"
        space, of_model = made_for(path)
        if of_model != about.model_fingerprint:
            raise LopError(
                f"{path}: scores of model {of_model}, the kit is for {about.model_fingerprint}"
            )
        if space != about.space:
            raise LopError(
                f"{path}: scores of units {list(space.units)} ({space.scope}), the kit is for "
                f"{list(about.space.units)} ({about.space.scope}), or for other floors"
            )
    chosen(scores, about.score, about.compensate)


def _check_tables(about: About, profile: str | Path | None, latency: str | Path | None) -> None:
    """Raise LopError unless the profile and latency profile fit a kit's model."""
    if profile:
        with _of(profile):
            Profile.load(Path(profile)).check_fits(about.space)
    if latency:
        with _of(latency):
            LatencyProfile.load(Path(latency)).check_fits(about.space, None)


@contextmanager
def _of(path: str | Path) -> Iterator[None]:
    """Add the path of a kit's part to LopErrors in the block that do not name it."""
    try:
        yield
    except LopError as error:
        text = str(error)
        raise error if text.startswith(str(path)) else LopError(f"{path}: {text}") from error


def _there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _versions() -> dict[str, str]:
    found = {}
    for package in ("lop", "torch", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def _describe(
    folder: Path, about: About, figures: Figures | None, settings: Mapping[str, Any] | None
) -> None:
    """Write kit.json and the card, and figures and settings if given."""
    contents = {KIT.files[0]: asdict(about)}
    contents |= {FIGURES_IN: asdict(figures)} if figures else {}
    contents |= {SETTINGS_IN: dict(settings)} if settings else {}
    for name, values in contents.items():
        (folder / name).write_text(json.dumps(values, indent=2) + "\n")
    of = (about.model_fingerprint, about.space.scope, about.score, about.compensate)
    (folder / "README.md").write_text(card(*of, figures, settings))
