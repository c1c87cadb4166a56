"""Prompts by a model's own chat template, and the begin and end of an answer.

A text model has a tokenizer and no processor; without a chat template, a question is one line and
its answer the next. In this module, "processor" includes such a tokenizer.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from lop.errors import LopError, first_line

IMAGE = "<image>"  # lm-eval's placeholder for a picture, and many processors' own
SECONDS = 10.0  # limit for rendering a template, which takes milliseconds
Processor = ProcessorMixin | PreTrainedTokenizerBase
_ANSWER = "answer"  # a sample answer, to find what the template puts around one


@dataclass(frozen=True)
class Chat:
    """The text that the template puts around an answer.

    `header` is between the user's turn and the answer if the template has no generation prompt,
    `lead` is the white space before the answer's text, `after` is everything after it.
    """

    header: str
    lead: str
    after: str


def tokenizer_of(processor: Processor) -> Any:
    """A processor's tokenizer, or the tokenizer of a text model itself."""
    return getattr(processor, "tokenizer", processor)


def takes_pictures(processor: Processor) -> bool:
    """Whether there is a part for pictures in it."""
    return hasattr(processor, "image_processor")


def check_processor(processor: Any) -> None:
    """Raise LopError unless `processor` has a tokenizer and, if it takes pictures, a working chat
    template."""
    if not isinstance(tokenizer_of(processor), PreTrainedTokenizerBase):
        raise LopError(f"the model has a {type(processor).__name__} and no tokenizer")
    if takes_pictures(processor) and not _template(processor):
        raise LopError("the model's processor has no chat template; lop asks questions through one")
    chat(processor)


def chat(processor: Processor) -> Chat:
    """The text that the processor's template puts around an answer; LopError if the template fails
    or does not end."""
    template = _template(processor)
    return _read(processor, template) if template else Chat("", "", "")


def _template(processor: Processor) -> str:
    return str(getattr(processor, "chat_template", None) or "")


@lru_cache(maxsize=16)
def _read(processor: Processor, template: str) -> Chat:
    picture = [{"type": "image"}] if takes_pictures(processor) else []
    question = _turn("user", [*picture, {"type": "text", "text": "question"}])
    asked = _in_time(lambda: _render(processor, [question], True))
    try:
        answer = _turn("assistant", [{"type": "text", "text": _ANSWER}])
        whole = _in_time(lambda: _render(processor, [question, answer], False))
    except LopError:  # a template of a single turn
        return Chat("", "", "")
    before, _, after = whole.rpartition(_ANSWER)
    if not before.startswith(asked):
        return Chat("", "", after)
    gap = before[len(asked) :]
    if not gap.strip():
        return Chat("", gap, after)
    if asked != _render(processor, [question], False):
        return Chat("", "", after)  # what it writes into past turns only, as a thought left out
    header = gap.rstrip(" ")
    return Chat(header, gap[len(header) :], after)


def ask(processor: Processor, content: Sequence[dict[str, Any]]) -> str:
    """A user turn rendered by the template, up to the begin of the answer.

    `content` has parts {"type": "image"} and {"type": "text", "text": …}; special tokens in a text
    are escaped. Raises LopError for pictures if the model takes none.
    """
    if not takes_pictures(processor) and any(part["type"] == "image" for part in content):
        raise LopError("a picture, and the model has a tokenizer only: it takes no pictures")
    parts = [part | {"text": plain(processor, part["text"])} if "text" in part else part
             for part in content]  # fmt: skip
    if not _template(processor):
        return "".join(part["text"] for part in parts) + "\n"
    header = chat(processor).header
    return _render(processor, [_turn("user", parts)], True) + header


def plain(processor: Processor, text: str) -> str:
    """Escape a text: add spaces in everything that would be read as a special token or as a
    picture.

    `<image>` becomes `< image >`, as in `lop.evaluation.tasks.tables.plain`, so that evaluation has
    the same prompts.
    """
    special = _special(processor, len(tokenizer_of(processor)))
    return special.sub(lambda found: f"{found[0][0]} {found[0][1:-1]} {found[0][-1]}", text)


@lru_cache(maxsize=16)
def _special(processor: Processor, size: int) -> re.Pattern[str]:
    """Matches the texts that the tokenizer or the processor reads as special tokens."""
    tokenizer = tokenizer_of(processor)
    names = ("image_token", "video_token", "audio_token", "boi_token", "eoi_token")
    own = [getattr(processor, name, None) for name in names]
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    found = {IMAGE, *tokenizer.all_special_tokens, *added, *own}
    longest_first = sorted({t for t in found if isinstance(t, str) and len(t) > 1}, key=len)[::-1]
    return re.compile("|".join(map(re.escape, longest_first)))


def tokenize(
    processor: Processor,
    texts: Sequence[str],
    images: Sequence[Sequence[Image.Image]],
    padding_side: str,
) -> BatchFeature:
    """Rendered texts and their pictures as the processor's padded batch.

    Either all texts have pictures or none has. The template writes the special tokens; the
    tokenizer adds its own only if the template writes no BOS. This is the rule of
    `apply_chat_template(tokenize=True)`, by which a tokenizer without a processor adds none to a
    rendered template. A tokenizer without a padding token pads with its end token, which the mask
    covers.
    """
    if not any(images):
        return padded(processor, [prompt_ids(processor, text) for text in texts], padding_side)
    tokenizer = tokenizer_of(processor)
    bos = tokenizer.bos_token
    options: dict[str, Any] = (
        {"add_special_tokens": False} if bos and texts[0].startswith(bos) else {}
    )
    before = tokenizer.padding_side, tokenizer.pad_token
    tokenizer.padding_side = padding_side
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or bos
    try:
        batch = processor(
            text=list(texts),
            images=[list(of) for of in images],
            padding=True,
            padding_side=padding_side,  # some processors have another default
            return_tensors="pt",
            **options,
        )
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        raise LopError(f"the processor cannot use this input: {first_line(error)}") from error
    finally:
        tokenizer.padding_side, tokenizer.pad_token = before
    batch.pop("labels", None)  # PaliGemma's: with them its forward would compute a loss
    return batch


def prompt_ids(processor: Processor, asked: str) -> list[int]:
    """The tokens of a question as `ask` writes it, without pictures."""
    tokenizer = tokenizer_of(processor)
    bos = tokenizer.bos_token
    templated = bool(_template(processor)) and tokenizer is processor
    if templated or (bos and asked.startswith(bos)):
        return tokenizer.encode(asked, add_special_tokens=False)
    return text_ids(processor, asked)


def text_ids(processor: Processor, text: str) -> list[int]:
    """The tokens of a text that may continue: with the tokens that the tokenizer puts before any
    text, such as a BOS, and without an end token."""
    tokenizer = tokenizer_of(processor)
    return [*_before(tokenizer), *tokenizer.encode(text, add_special_tokens=False)]


def _before(tokenizer: Any) -> list[int]:
    bare = tokenizer.encode(_ANSWER, add_special_tokens=False)
    whole = tokenizer.encode(_ANSWER)
    start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    return whole[:start]


def padded(processor: Processor, rows: Sequence[Sequence[int]], padding_side: str) -> BatchFeature:
    """Tokens as a batch: input_ids and attention_mask, (B, T) each."""
    tokenizer = tokenizer_of(processor)
    fills = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, 0)
    fill = next(token for token in fills if token is not None)

    def stack(rows: Sequence[Tensor], value: int) -> Tensor:
        return pad_sequence(
            list(rows), batch_first=True, padding_value=value, padding_side=padding_side
        )

    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    mask = stack([torch.ones_like(row) for row in ids], 0)
    return BatchFeature({"input_ids": stack(ids, fill), "attention_mask": mask})


def special_ids(processor: Processor) -> list[int]:
    """The ids of tokens that are not text: special tokens of templates, pictures and padding. The
    token for unknown words counts as text."""
    tokenizer = tokenizer_of(processor)
    found = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    placeholders = ("image_token_id", "video_token_id", "audio_token_id")
    own = {getattr(processor, name, None) for name in placeholders}
    known = {i for i in own if isinstance(i, int)}
    return sorted((found | known | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id})


def answer_ids(processor: Processor, asked: str, answer: str) -> list[int]:
    """The answer's tokens after its prompt; tokenized alone if prompt and answer would merge in one
    token."""
    encode = tokenizer_of(processor).encode
    start = encode(asked, add_special_tokens=False)
    whole = encode(asked + answer, add_special_tokens=False)
    if whole[: len(start)] == start and len(whole) > len(start):
        return whole[len(start) :]
    return encode(answer, add_special_tokens=False)


def end_token(model: PreTrainedModel, processor: Processor) -> int:
    """The token that ends an answer.

    Among the tokens that the template puts after an assistant's answer, it is the first one at
    which generation stops, else the first special token. If there is neither, it is the generation
    config's first `eos_token_id`, else the tokenizer's. Raises LopError if none of these exists.
    """
    tokenizer, stops = tokenizer_of(processor), _stops(model)
    after = tokenizer.encode(chat(processor).after, add_special_tokens=False)
    special = [i for i, token in tokenizer.added_tokens_decoder.items() if token.special]
    candidates = [
        *(token for token in after if token in stops),
        *(token for token in after if token in special),
        *stops,
        tokenizer.eos_token_id,
    ]
    end = next((token for token in candidates if token is not None), None)
    if end is None:
        raise LopError("no end token in the chat template, generation config or tokenizer")
    return end


def stop_tokens(model: PreTrainedModel, processor: Processor) -> list[int]:
    """The tokens at which generation stops: the generation config's and `end_token`."""
    return sorted({*_stops(model), end_token(model, processor)})


def longest(model: PreTrainedModel) -> int | None:
    """The decoder's context length in tokens, if its config has one."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _stops(model: PreTrainedModel) -> list[int]:
    config: Any = model.generation_config
    end = None if config is None else config.eos_token_id
    return [] if end is None else [int(i) for i in (end if isinstance(end, list) else [end])]


def _turn(role: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"role": role, "content": content}


def _render(processor: Processor, turns: list[dict[str, Any]], generation: bool) -> str:
    if not takes_pictures(processor):  # templates of text models take a text for a turn's content
        turns = [
            turn | {"content": "".join(part["text"] for part in turn["content"])} for turn in turns
        ]
    try:
        return processor.apply_chat_template(  # type: ignore[return-value]
            turns, add_generation_prompt=generation, tokenize=False
        )
    except Exception as error:  # a template is a program, and may raise anything
        raise LopError(f"the chat template fails: {first_line(error)}") from error


class _TooLong(BaseException):
    """Raised in the thread of a template that does not end."""


def _in_time(work: Any) -> str:
    """The result of `work`; if it takes longer than `SECONDS`, it is stopped, with LopError."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except (LopError, _TooLong) as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if thread.is_alive():
        number = ctypes.c_ulong(thread.ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(number, ctypes.py_object(_TooLong))
        raise LopError(f"the chat template does not end within {SECONDS:.0f} seconds")
    if isinstance(found[0], LopError):
        raise found[0]
    return found[0]
