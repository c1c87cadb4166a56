"""The step that promotes the registered challenger to champion, or refuses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from lop import tracking
from lop.data.samples import read_samples
from lop.errors import LopError
from lop.kit import Kit
from lop.steps.searching import reward_of
from lop.tracking import CHALLENGER, CHAMPION, KIT_NAME
from lop.tracking.promotion import Verdict, check_same_model, judge, searched_of, values


def promote(
    model_path: str,
    samples_path: Path,
    ratios: Sequence[float],
    targets: Sequence[float],
    reward: str = "loglik",
    batch_size: int = 100,
    force: bool = False,
    reason: str = "",
    name: str = KIT_NAME,
) -> Verdict:
    """Compare the registry's challenger with its champion and promote it if it is better.

    Each kit's plans are cut by that kit's scores. `force` promotes the challenger regardless of the
    numbers, and needs a `reason`. Decision, numbers and reason are written as tags of its version.
    Raises LopError if there is nothing to compare, the two kits are for different models, or the
    champion changed meanwhile.
    """
    if force and not reason:
        raise LopError("promotion regardless of the numbers needs a reason")
    searched_of(ratios, targets)
    champion, challenger = (tracking.version_of(a, name) for a in (CHAMPION, CHALLENGER))
    if champion.number == challenger.number:
        raise LopError(
            f"{name}: version {champion.number} is the champion already; register another"
        )
    kits = [
        Kit.load(tracking.kit_path(f"models:/{name}/{each.number}"))
        for each in (champion, challenger)
    ]
    check_same_model(*kits)
    found = []
    for kit in kits:
        inputs = (model_path, samples_path, kit.scores_dir, *kit.by, reward, batch_size)
        with reward_of(*inputs) as judged:
            found.append(values(judged, kit.predictor, ratios))
    pictures = list(read_samples(samples_path)["image_id"])
    verdict = judge(found[0], found[1], ratios, targets, pictures)
    if force and not verdict.promoted:
        verdict = Verdict(True, f"{reason} (though {verdict.reason})", verdict.table)
    if verdict.promoted:
        tracking.promote(champion, challenger, _tags(verdict, champion.number, reward))
    else:
        tracking.refuse(challenger, _tags(verdict, champion.number, reward))
    return verdict


def _tags(verdict: Verdict, against: str, kind: str) -> Mapping[str, str]:
    return {
        "promotion": "promoted" if verdict.promoted else "refused",
        "promotion_reason": verdict.reason,
        "promotion_against": against,
        "promotion_at": datetime.now(UTC).isoformat(timespec="seconds"),
        f"promotion_{kind}": verdict.table.round(6).to_json(orient="records"),
    }
