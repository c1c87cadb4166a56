"""Writes a transformers tokenizer as GGUF fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf

from lop.errors import LopError
from lop.files import read_json
from lop.models.checkpoint import load_tokenizer

# llama.cpp's names of the ways to split text before byte-level BPE, by regular expression.
SPLITS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
    "": "gpt-2",  # ByteLevel's default expression
}
UNRANKED = -1e6  # the score of a token that results from no merge


def add_vocabulary(writer: Any, folder: Path, size: int) -> None:
    """Write the tokenizer of a checkpoint with `size` tokens, or a mark that there is none.

    Raises LopError if it is not BPE, or splits text in a way that is not in `SPLITS`.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        writer.add_tokenizer_model("no_vocab")
        return
    read: dict[str, Any] = read_json(file)
    model = read["model"]
    if model["type"] != "BPE":
        raise LopError(f"{file}: a tokenizer of type {model['type']}; expected BPE")
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    most = max([*model["vocab"].values(), *(each["id"] for each in read["added_tokens"])])
    if most >= size:
        raise LopError(f"{file}: has a token {most}, the model has {size} tokens")
    tokens, kinds = _tokens(read, size)
    if model.get("byte_fallback"):
        rank = {merge.replace(" ", ""): i for i, merge in reversed(list(enumerate(merges)))}
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([-float(rank.get(token, -UNRANKED)) for token in tokens])
        writer.add_add_space_prefix(_adds_space(read))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_split(file, read))
        writer.add_token_merges(merges)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    _add_special(writer, folder)


def _tokens(read: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Text and kind of each token, by id; ids that only the model has are unused tokens."""
    tokens = [f"[PAD{i}]" for i in range(size)]
    kinds = [int(gguf.TokenType.UNUSED)] * size
    fallback, unknown = read["model"].get("byte_fallback"), read["model"].get("unk_token")
    for token, i in read["model"]["vocab"].items():
        byte = fallback and len(token) == 6 and token.startswith("<0x")
        tokens[i], kinds[i] = token, int(gguf.TokenType.BYTE if byte else gguf.TokenType.NORMAL)
    for added in read["added_tokens"]:
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        tokens[added["id"]], kinds[added["id"]] = added["content"], int(kind)
    if unknown in tokens:
        kinds[tokens.index(unknown)] = int(gguf.TokenType.UNKNOWN)
    return tokens, kinds


def _split(file: Path, read: dict[str, Any]) -> str:
    parts = read.get("pre_tokenizer") or {}
    steps = parts.get("pretokenizers") or [parts]
    found = [step["pattern"].get("Regex") for step in steps if step.get("type") == "Split"]
    byte_level = any(step.get("type") == "ByteLevel" for step in steps)
    name = SPLITS.get(found[0] if found else "") if byte_level and len(found) < 2 else None
    if name is None:
        raise LopError(f"{file}: splits text in a way that lop has no llama.cpp name for: {found}")
    return name


def _adds_space(read: dict[str, Any]) -> bool:
    """Whether the tokenizer adds a space before a text."""
    steps = json.dumps([read.get("normalizer"), read.get("pre_tokenizer")])
    return '"Prepend"' in steps or '"prepend_scheme": "first"' in steps or "always" in steps


def _add_special(writer: Any, folder: Path) -> None:
    """Write special tokens, whether BOS and EOS are added to a text, and the chat template."""
    tokenizer = load_tokenizer(folder)
    for name in ("bos", "eos", "unk", "pad"):
        if (found := getattr(tokenizer, f"{name}_token_id", None)) is not None:
            getattr(writer, f"add_{name}_token_id")(found)
    around = tokenizer("")["input_ids"]
    writer.add_add_bos_token(bool(around) and around[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(bool(around) and around[-1] == tokenizer.eos_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
