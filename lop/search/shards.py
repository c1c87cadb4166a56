"""Search samples on disk: one shard for each search, and an index of the current shards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from lop.errors import LopError
from lop.files import check_own, read_json, reading, replacing
from lop.plan import Space

INDEX = "index.json"
SHARD = re.compile(r"[a-z]+-[\d.e-]+-\d+-[0-9a-f]{12}\.parquet")  # searcher, target, seed, key
COLUMNS = (  # of a shard
    "target", "plan", "kept", "reward", "share", "gain", "gain_error", "searcher", "seed",
    "simulation", "depth", "seconds", "fingerprint", "model_fingerprint",
)  # fmt: skip


def write_index(directory: str | Path, shards: Iterable[Path]) -> None:
    """Write the names of the current shards; other shards stay on disk, for earlier settings."""
    with replacing(Path(directory) / INDEX) as tmp:
        tmp.write_text(json.dumps([shard.name for shard in shards], indent=2) + "\n")


def read_search(directory: str | Path) -> pd.DataFrame:
    """All samples of the current shards of a search directory, in order.

    Raises LopError if there are no search samples, or if a shard is missing or broken.
    """
    directory = Path(directory)
    if not (directory / INDEX).exists():
        raise LopError(f"{directory}: no {INDEX}; expected search samples, run the search first")
    names = _current(directory)
    if not names:
        raise LopError(f"{directory / INDEX}: lists no shard; run the search first")
    return read_shards(directory / name for name in names)


def read_shards(paths: Iterable[Path]) -> pd.DataFrame:
    """All samples of these shards, in order; LopError when one is missing or broken."""
    return pd.concat([_read_shard(path) for path in paths], ignore_index=True)


def list_searches(directory: str | Path) -> pd.DataFrame:
    """The shards of a search directory: a row for each, with its first and its best reward.

    `current` shards are those that `read_search` reads; others were made with other settings.
    Raises LopError if there is no shard, or if one is broken.
    """
    directory = Path(directory)
    current = _current(directory) if (directory / INDEX).exists() else []
    rows = []
    for path in directory.glob("[!.]*.parquet"):
        samples = _read_shard(path)
        first = samples.iloc[0]
        rows.append(
            {name: first[name] for name in ("searcher", "target", "seed")}
            | {"plans": len(samples), "began": first["reward"], "best": _best(samples)}
            | {"fingerprint": first["fingerprint"], "current": path.name in current}
        )
    if not rows:
        raise LopError(f"{directory}: no search samples; run the search first")
    order = ["current", "searcher", "target", "seed"]
    return pd.DataFrame(rows).sort_values(order, ascending=[False, True, True, True])


def curve(samples: pd.DataFrame) -> pd.DataFrame:
    """One search by simulation: reward, best reward so far, and simulations per second so far.

    Plans that were evaluated on only some of the samples are left out.
    """
    ordered = samples[samples["share"] == 1].sort_values("simulation")
    count, seconds = ordered["simulation"] + 1, ordered["seconds"]
    return pd.DataFrame(
        {
            "simulation": ordered["simulation"],
            "reward": ordered["reward"],
            "best_reward": ordered["reward"].cummax(),
            "simulations_per_second": count / seconds.clip(lower=1e-9),
        }
    )


def _best(samples: pd.DataFrame) -> float:
    """The highest reward of plans that were evaluated on all of the search's samples."""
    return float(samples.loc[samples["share"] == 1, "reward"].max())


def _read_shard(path: Path) -> pd.DataFrame:
    with reading(path, "search samples"):
        samples = pd.read_parquet(path)
    if missing := [name for name in COLUMNS if name not in samples]:
        raise LopError(
            f"{path}: not a search shard of this version of lop: no column {', '.join(missing)}; "
            "delete it and search again"
        )
    if samples.empty:
        raise LopError(f"{path}: a search shard without rows; delete it and search again")
    try:
        _check_plans(samples)
    except (TypeError, ValueError) as error:
        raise LopError(f"{path}: {error}") from error
    return samples


def _check_plans(samples: pd.DataFrame) -> None:
    """Raise ValueError or TypeError unless each row is a valid plan."""
    for column in ("target", "reward"):
        if not np.isfinite(samples[column].to_numpy(float)).all():
            raise ValueError(f"column {column}: expected finite numbers")
    ratios, kept = (np.stack(samples[name].tolist()).astype(float) for name in ("plan", "kept"))
    if ratios.shape != kept.shape or ratios.ndim != 2:
        raise ValueError("columns plan and kept: expected as many sites in both")
    if not ((ratios >= 0) & (ratios <= 1)).all():
        raise ValueError("column plan: expected ratios in [0, 1]")
    if not ((kept >= 0) & (kept == np.round(kept))).all():
        raise ValueError("column kept: expected whole units")


def check_fits(samples: pd.DataFrame, space: Space, model_fingerprint: str) -> None:
    """Raise LopError unless these search samples are plans for this model."""
    others = sorted(set(samples["model_fingerprint"]) - {model_fingerprint})
    if others:
        raise LopError(
            f"search samples of model {others[0]}, but scores of model {model_fingerprint}: "
            "give the scores that the search used"
        )
    d, kept = np.asarray(space.units), np.stack(samples["kept"].tolist())
    ratios = np.stack(samples["plan"].tolist())
    fits = kept.shape[1] == len(d) and (kept <= d).all()
    if not fits or not np.allclose(ratios, 1 - kept / d, atol=1e-6):
        raise LopError(f"search samples: their plans are not for units {list(space.units)}")


def check_directory(directory: Path) -> None:
    """Raise LopError for a directory that is not empty and has no search samples."""
    if directory.exists() and not directory.is_dir():
        raise LopError(f"{directory}: is a file; expected a directory for search samples")
    check_own(directory, lambda name: name == INDEX or SHARD.fullmatch(name), "search samples")


def _current(directory: Path) -> list[str]:
    """Names of the current shards, from the index; none may point outside the directory."""
    names = read_json(directory / INDEX)
    if isinstance(names, list) and all(isinstance(n, str) and Path(n).name == n for n in names):
        return names
    raise LopError(f"{directory / INDEX}: expected a list of names of files in {directory}")
