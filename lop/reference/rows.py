"""Packs many questions about one picture into one row, so that training takes minutes on two cores.

Picture and chat header are computed once, and each question attends only to them and to itself. So
a row gives the same logits as its questions one by one with the stock processor and model.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_position_ids

from lop.data import pictures as decoding
from lop.data.encoding import IGNORE, prompt
from lop.reference import model as reference
from lop.reference.model import GRID, IMAGE, IMAGE_TOKENS, MERGE, PATCH


@dataclass
class Prompts:
    """The tokens around a question, and the positions of tokens, for one processor."""

    header: np.ndarray  # token ids before the question
    tail: np.ndarray  # token ids between question and answer
    end: int  # token id after the answer
    positions: np.ndarray  # of the header's tokens, (3, header)
    offset: int  # position of a question's first token
    image_at: int  # column of the first image token

    @classmethod
    def of(cls, processor: Qwen2_5_VLProcessor) -> "Prompts":
        tokenizer = processor.tokenizer
        empty = {"images": [None], "question": "\0", "choices": None}
        before, after = prompt(processor, empty).split("\0")
        header = tokenizer(before.replace(IMAGE, IMAGE * IMAGE_TOKENS)).input_ids
        image_at = header.index(tokenizer.convert_tokens_to_ids(IMAGE))
        side = GRID // MERGE
        cells = np.arange(IMAGE_TOKENS)
        picture = np.stack([0 * cells, cells // side, cells % side]) + image_at
        rest = len(header) - image_at - IMAGE_TOKENS
        lead = np.broadcast_to(np.arange(image_at), (3, image_at))
        trail = np.broadcast_to(np.arange(rest) + image_at + side, (3, rest))
        return cls(
            header=np.array(header),
            tail=np.array(tokenizer(after).input_ids),
            end=tokenizer.convert_tokens_to_ids(reference.END),
            positions=np.concatenate([lead, picture, trail], axis=1),
            offset=image_at + side + rest,
            image_at=image_at,
        )


@dataclass
class Question:
    """The tokens of one question and its gold answer; `start` is where the answer starts."""

    tokens: np.ndarray
    start: int
    row: int  # row in the data frame it came from
    category: str


@dataclass
class Picture:
    """One picture (3, 64, 64), uint8, and all its questions."""

    pixels: Tensor
    questions: list[Question]
    known: bool  # whether it is from the knowledge task: it must not be flipped or turned
    shape: int = IGNORE  # index of its easy-VQA shape, IGNORE if unknown


@dataclass
class Batch:
    """Packed rows: ids, labels (B, T); positions (3, B, T); mask (B, 1, T, T); segment (B, T).

    `labels[b, t]` is the token that `t` must predict; `segment` numbers the questions of a row
    from 1 (0: header, -1: padding).
    """

    ids: Tensor
    labels: Tensor
    positions: Tensor
    mask: Tensor
    segment: Tensor


def read_pictures(frame: pd.DataFrame, processor: Qwen2_5_VLProcessor) -> list[Picture]:
    """The frame's rows as pictures with tokenised questions, in order of first appearance."""
    prompts, tokenizer = Prompts.of(processor), processor.tokenizer
    questions = tokenizer(frame.question.tolist()).input_ids
    answers = tokenizer(frame.answer.tolist()).input_ids
    categories, images = frame.category.tolist(), frame.images.tolist()
    pictures = []
    for image_id, rows in frame.groupby("image_id", sort=False).indices.items():
        image = decoding.decode(images[rows[0]][0]["bytes"])
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        asked = []
        for i in rows:
            head = np.concatenate([questions[i], prompts.tail])
            tokens = np.concatenate([head, answers[i], [prompts.end]]).astype(np.int64)
            asked.append(Question(tokens, len(head), int(i), categories[i]))
        pictures.append(Picture(pixels, asked, str(image_id).startswith("knowledge")))
    return pictures


def pack(rows: list[list[Question]], prompts: Prompts, length: int) -> Batch:
    """Rows of questions as one batch, with `length` text tokens after the header."""
    begin = len(prompts.header)
    size = (len(rows), begin + length)
    ids, labels = np.zeros(size, np.int64), np.full(size, IGNORE)
    segment, positions = np.full(size, -1), np.zeros((3, *size), np.int64)
    ids[:, :begin], segment[:, :begin] = prompts.header, 0
    positions[:, :, :begin] = prompts.positions[:, None]
    for b, questions in enumerate(rows):
        at = begin
        for number, question in enumerate(questions, start=1):
            end = at + len(question.tokens)
            ids[b, at:end] = question.tokens
            labels[b, at + question.start - 1 : end - 1] = question.tokens[question.start :]
            segment[b, at:end] = number
            positions[:, b, at:end] = np.arange(prompts.offset, prompts.offset + end - at)
            at = end
    seen = torch.from_numpy(segment)
    same = seen[:, :, None] == seen[:, None, :]
    causal = torch.ones(size[1], size[1], dtype=torch.bool).tril()
    mask = torch.where((same | (seen == 0)[:, None, :]) & causal, 0.0, -1e9)
    return Batch(
        torch.from_numpy(ids), torch.from_numpy(labels), torch.from_numpy(positions),
        mask[:, None], seen,
    )  # fmt: skip


def patchify(pixels: Tensor) -> Tensor:
    """Pictures (B, 3, 64, 64) in 0..255 as patches (B, 64, 384), as the processor makes them."""
    scaled = pixels.float() / 127.5 - 1
    side = GRID // MERGE
    tiles = scaled.view(-1, 3, side, MERGE, PATCH, side, MERGE, PATCH)
    tiles = tiles.permute(0, 2, 5, 3, 6, 1, 4, 7)  # B, row, column, row in merge, ..., 3, 8, 8
    twice = tiles.unsqueeze(6).expand(*tiles.shape[:6], 2, PATCH, PATCH)  # two equal frames
    return twice.reshape(len(pixels), GRID * GRID, -1)


def see(model: Qwen2_5_VLForConditionalGeneration, patches: Tensor) -> Tensor:
    """Image tokens (B, 16, hidden) of patches (B, 64, 384): the stock vision tower, batched.

    The stock code loops over the pictures in Python; the result is the same.
    """
    tower = model.model.visual
    weight = tower.patch_embed.proj.weight
    x = F.linear(patches, weight.view(len(weight), -1)).float()
    grid = torch.tensor([[1, GRID, GRID]])
    cos, sin = tower.rotary_pos_emb(x, get_vision_position_ids(grid, MERGE))
    for block in tower.blocks:
        attention, normed = block.attn, block.norm1(x)
        qkv = attention.qkv(normed).view(*x.shape[:2], 3, attention.num_heads, -1)
        q, k, v = qkv.unbind(2)
        q, k = apply_rotary_pos_emb_vision(q, k, cos, sin)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        mixed = (q @ k.transpose(2, 3) * attention.scaling).softmax(-1) @ v
        x = x + attention.proj(mixed.transpose(1, 2).reshape(x.shape))
        x = x + block.mlp(block.norm2(x))
    return tower.merger(x).view(len(x), IMAGE_TOKENS, -1)


def read(
    model: Qwen2_5_VLForConditionalGeneration,
    images: Tensor,
    ids: Tensor,
    positions: Tensor,
    mask: Tensor,
    image_at: int,
) -> Tensor:
    """Final hidden states (B, T, hidden) of packed rows with image tokens (B, 16, hidden)."""
    embeds = model.model.language_model.embed_tokens(ids)
    parts = embeds[:, :image_at], images.to(embeds.dtype), embeds[:, image_at + IMAGE_TOKENS :]
    output = model.model.language_model(
        inputs_embeds=torch.cat(parts, dim=1),
        attention_mask={"full_attention": mask},
        position_ids=positions,
        use_cache=False,
    )
    return output.last_hidden_state
