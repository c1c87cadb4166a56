"""What the lm-eval task `lop_vqa` needs: its samples, their prompt, and how an answer is judged.

The samples come from memory, not through the `datasets` cache: nothing is left on disk, a changed
file is never answered with an old copy, and each picture is decoded once.
"""

from __future__ import annotations

from typing import Any

from datasets import Dataset, Features, List, Value
from PIL.Image import Image

from lop.errors import LopError
from lop.tasks.samples import prompt_text, read_samples
from lop.tasks.tables import decode

_TEXT = Value("string")
_FEATURES = Features(
    {
        "id": _TEXT,
        "image_id": _TEXT,
        # bytes, not `datasets.Image`, which would decode each picture whenever a row is read
        "images": List({"bytes": Value("binary"), "path": _TEXT}),
        "question": _TEXT,
        "choices": List(_TEXT),
        "answer": _TEXT,
        "category": _TEXT,
        "answers": List(_TEXT),
    }
)


def load(samples: str | None = None, **_: Any) -> dict[str, Dataset]:
    """The samples at path `samples` (whatever `read_samples` reads) as the split `test`.

    lm-eval passes all of the task's metadata here; whatever is not `samples` is ignored.
    """
    if samples is None:
        raise LopError('lop_vqa: no samples; give their path as metadata, {"samples": "<path>"}')
    rows = read_samples(samples).to_dict("records")
    return {"test": Dataset.from_list(rows, features=_FEATURES)}


def doc_to_text(doc: dict[str, Any]) -> str:
    """A placeholder for each picture, then the question with its choices."""
    text = prompt_text(doc)
    if "<image>" in text:
        # lm-eval would take it for one more picture
        raise LopError(f"sample {doc['id']}: a question must not contain the text <image>")
    return "<image>" * len(doc["images"]) + text


def doc_to_image(doc: dict[str, Any]) -> list[Image]:
    """The pictures, in RGB."""
    return [decode(image["bytes"]) for image in doc["images"]]


def row(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """What was answered, and whether that is right: exactly, but for case and outer space."""
    return {
        "id": doc["id"],
        "group": doc["id"],
        "category": doc["category"],
        "answer": doc["answer"],
        "prediction": results[0],
        "correct": _normal(results[0]) == _normal(doc["answer"]),
    }


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Exact match of answer and prediction, but for case and surrounding space."""
    return {"exact_match": float(_normal(results[0]) == _normal(doc["answer"]))}


def _normal(answer: str) -> str:
    return answer.strip().lower()
