"""The task `lop_text`: the log-likelihood of texts per token, as in the rewards.

It runs without lm-eval, whose rolling likelihood is per word or byte, and starts a text with a
token that the model's own tokenizer may not add.
"""

from __future__ import annotations

import hashlib

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from lop.data.chat import Processor
from lop.data.encoding import IGNORE, Batch, encode
from lop.data.samples import document, letters, read_samples
from lop.errors import LopError
from lop.evaluation.tasks.scoring import TEXT_COLUMNS

LOGITS = 2**26  # at most so many at once: 256 MB in float32


def ask(
    model: PreTrainedModel, processor: Processor, samples: str, batch_size: int = 64
) -> pd.DataFrame:
    """The log-likelihood, in nats, and number of tokens of each text in the table `samples`.

    Columns are `TEXT_COLUMNS`, one row for each text. Raises LopError if there are no texts, or if
    one has no token to predict.
    """
    table = read_samples(samples)
    rows = table.to_dict("records")
    texts = table[[document(row) is not None for row in rows]]
    if texts.empty:
        raise LopError(f"{samples}: only questions and no text; lop_vqa asks questions")
    # sorted by length, so that batches have little padding
    texts = texts.assign(letters=[letters(row) for row in texts.to_dict("records")])
    ordered = texts.sort_values("letters", kind="stable")
    found = [_read(model, batch) for batch in encode(ordered, model, processor, batch_size)]
    loglik, tokens = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    table = pd.DataFrame(
        {
            "id": ordered["id"],
            "group": ordered["image_id"],
            "picture": ordered["image_id"],
            "category": ordered["category"],
            "prompt_hash": [hashlib.sha256(of.encode()).hexdigest()[:12] for of in ordered["text"]],
            "loglik": loglik,
            "tokens": tokens,
        },
        columns=TEXT_COLUMNS,
    )
    if len(empty := table[table["tokens"] == 0]):
        raise LopError(f"{samples}: id {empty['id'].iloc[0]}: a text without a token to predict")
    return table.loc[texts.index].reset_index(drop=True)


@torch.inference_mode()
def _read(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Log-likelihood and number of a batch's targets, (B,) each."""
    targets, vocabulary = batch.targets, model.get_output_embeddings().weight.shape[0]
    at_once = max(1, LOGITS // (targets.shape[1] * vocabulary))
    parts = []
    for start in range(0, len(targets), at_once):
        inputs = {name: of[start : start + at_once] for name, of in batch.inputs.items()}
        logits = model(**inputs, use_cache=False).logits.float()
        wanted = targets[start : start + at_once].to(logits.device)
        of = logits.gather(2, wanted.clamp_min(0)[..., None])[..., 0] - logits.logsumexp(2)
        parts.append((of.double() * (wanted != IGNORE)).sum(1).cpu())
    return torch.cat(parts), (targets != IGNORE).sum(1).cpu()
