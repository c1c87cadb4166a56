"""What llama.cpp makes of GGUF files, by the package xllamacpp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.engines.served import ANSWER, LONG, PAIRS, PROMPT, prompts
from lop.evaluation.timing import Paired, in_turn
from lop.models.checkpoint import load


@dataclass(frozen=True)
class Answer:
    """Generated tokens, and the seconds that reading the prompt and generating took."""

    tokens: list[int]
    prompt_s: float
    generate_s: float


class Engine:
    """A GGUF file in llama.cpp, on one thread, with a KV cache in float32: f16 tips near ties."""

    def __init__(self, path: Path) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.verbosity = 256, 1, 0
        params.cpuparams.n_threads = 1
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        self.server = xllamacpp.Server(params)

    def answer(self, prompt: Sequence[int], tokens: int) -> Answer:
        """So many tokens, greedily, after a prompt of token ids."""
        asked = {
            "prompt": list(prompt), "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
            "cache_prompt": False, "logprobs": 1,  # which come with token ids
        }  # fmt: skip
        found: Any = self.server.handle_completions(asked)
        times = found["timings"]
        said = [each["id"] for each in found["choices"][0]["logprobs"]["content"]]
        return Answer(said, times["prompt_ms"] / 1e3, times["predicted_ms"] / 1e3)


def answers(path: Path, prompts: Sequence[Sequence[int]], tokens: int) -> list[Answer]:
    """What a file says after each prompt."""
    engine = Engine(path)
    return [engine.answer(prompt, tokens) for prompt in prompts]


def same(file: Path, checkpoint: Path) -> bool:
    """Whether a file says what transformers makes of the checkpoint that it was written from."""
    model = load(checkpoint, dtype=torch.float32)
    asked = prompts(model.config.get_text_config().vocab_size)
    for ids, answer in zip(asked, answers(file, asked, ANSWER), strict=True):
        given = torch.tensor([ids])
        whole: Any = model.generate(  # type: ignore[operator]
            given, attention_mask=torch.ones_like(given), max_new_tokens=ANSWER,
            min_new_tokens=ANSWER, do_sample=False,
        )  # fmt: skip
        if answer.tokens != whole[0, len(ids) :].tolist():
            return False
    return True


def speed(dense: Path, small: Path) -> list[Paired]:
    """How many times as fast a file answers, and reads a prompt, in turn with the dense one's."""
    engines = [Engine(dense), Engine(small)]
    prompt = [10 + 7 * i % 400 for i in range(PROMPT)]

    def timed(engine: Engine) -> np.ndarray:
        found = engine.answer(prompt, LONG)
        return np.array([found.prompt_s + found.generate_s, found.prompt_s])

    return in_turn(lambda: timed(engines[0]), lambda: timed(engines[1]), PAIRS)


def version() -> str:
    """Of the package that brings llama.cpp."""
    return f"xllamacpp {version_of('xllamacpp')}"
