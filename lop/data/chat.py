"""How a model's own chat template asks a question, and how an answer to it begins and ends.

A model of text alone has a tokenizer and no processor; where it has no chat template, a question is
a line, and its answer the next one. What is said here of a processor holds for such a tokenizer.
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
SECONDS = 10.0  # for a template to say how it asks; they need milliseconds
Processor = ProcessorMixin | PreTrainedTokenizerBase
_ANSWER = "answer"  # stands for any answer where the template says what surrounds one


@dataclass(frozen=True)
class Chat:
    """What the template puts around an answer.

    `header` stands between the user's turn and the answer where the template knows no generation
    prompt, `lead` is the white space before the answer's text, `after` all that follows it.
    """

    header: str
    lead: str
    after: str


def tokenizer_of(processor: Processor) -> Any:
    """A processor's tokenizer, or the tokenizer of a model of text itself."""
    return getattr(processor, "tokenizer", processor)


def takes_pictures(processor: Processor) -> bool:
    """Whether there is a part for pictures in it."""
    return hasattr(processor, "image_processor")


def check_processor(processor: Any) -> None:
    """Raise LopError unless `processor` takes text, by a chat template that works where it takes
    pictures."""
    if not isinstance(tokenizer_of(processor), PreTrainedTokenizerBase):
        raise LopError(f"the model has a {type(processor).__name__} and no tokenizer")
    if takes_pictures(processor) and not _template(processor):
        raise LopError("the model's processor has no chat template; lop asks questions through one")
    chat(processor)


def chat(processor: Processor) -> Chat:
    """What the processor's template puts around an answer; LopError when it fails or never ends."""
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
    """A user's turn through the template, up to where the answer begins.

    `content` is of {"type": "image"} and {"type": "text", "text": …}; special tokens in its text
    are text. Raises LopError for pictures where the model takes none.
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
    """The text with spaces in whatever would be read as a special token or as a picture.

    `<image>` becomes `< image >`, as in `lop.evaluation.tasks.tables.plain`, so that evaluation
    asks the same.
    """
    special = _special(processor, len(tokenizer_of(processor)))
    return special.sub(lambda found: f"{found[0][0]} {found[0][1:-1]} {found[0][-1]}", text)


@lru_cache(maxsize=16)
def _special(processor: Processor, size: int) -> re.Pattern[str]:
    """The texts that the tokenizer or the processor takes for more than text."""
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
    """The template's texts and their pictures as the processor's own padded batch.

    Either all texts have pictures or none has any. The template says where special tokens are; the
    tokenizer adds its own only where the template writes no BOS: the rule of
    `apply_chat_template(tokenize=True)`, by which a tokenizer without a processor adds none to what
    a template wrote. One without a padding token pads with the one that ends a text; the mask
    covers it.
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
            padding_side=padding_side,  # some processors have a default of their own
            return_tensors="pt",
            **options,
        )
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        raise LopError(f"the processor does not take this: {first_line(error)}") from error
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
    """The tokens of a text that goes on: behind those that the tokenizer puts before any text, such
    as a BOS, and without one that would end it."""
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
    """The tokens that are no text: of templates, pictures and padding. What a tokenizer writes for
    words it does not know stands for text."""
    tokenizer = tokenizer_of(processor)
    found = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    placeholders = ("image_token_id", "video_token_id", "audio_token_id")
    own = {getattr(processor, name, None) for name in placeholders}
    known = {i for i in own if isinstance(i, int)}
    return sorted((found | known | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id})


def answer_ids(processor: Processor, asked: str, answer: str) -> list[int]:
    """The answer's tokens behind the text that asks for it, or alone where the two would merge."""
    encode = tokenizer_of(processor).encode
    start = encode(asked, add_special_tokens=False)
    whole = encode(asked + answer, add_special_tokens=False)
    if whole[: len(start)] == start and len(whole) > len(start):
        return whole[len(start) :]
    return encode(answer, add_special_tokens=False)


def end_token(model: PreTrainedModel, processor: Processor) -> int:
    """The token that ends an answer.

    Of what the template puts behind an assistant's answer, the first at which generation stops,
    else the first special token; where there is neither, the generation config's first
    `eos_token_id`, else the tokenizer's. Raises LopError when there is none of these.
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
        raise LopError("neither chat template, generation config nor tokenizer ends an answer")
    return end


def stop_tokens(model: PreTrainedModel, processor: Processor) -> list[int]:
    """Where generating an answer ends: the generation config's tokens and `end_token`."""
    return sorted({*_stops(model), end_token(model, processor)})


def longest(model: PreTrainedModel) -> int | None:
    """How many tokens the decoder takes, where its config says so."""
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
    """Raised in a thread whose template does not end."""


def _in_time(work: Any) -> str:
    """The work's result; LopError when it takes longer than `SECONDS`, and it is stopped."""
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
