"""What vLLM makes of checkpoints, run by the interpreter that has it, one process a question.

    python benchmarks/engines/served.py tokens FOUND.json CHECKPOINT …
    python benchmarks/engines/served.py memory FOUND.json CHECKPOINT
    python benchmarks/engines/served.py speed FOUND.json DENSE SMALL

It imports nothing of lop: only the plugin, which vLLM finds itself, comes from there.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # two engines may share a core

LENGTHS = (5, 11, 24, 40)  # of prompts, in tokens
ANSWER = 24  # tokens
BATCH, PROMPT, LONG, PAIRS = 4, 64, 17, 5  # of what is timed; LONG are the tokens of an answer
PICTURE = "what colour is the shape?"


def prompts(vocabulary: int) -> list[list[int]]:
    """Token ids, the same for every model of a vocabulary; none of a special token's."""
    import torch

    drawn = torch.Generator().manual_seed(0)
    high = min(vocabulary, 20_000) * 3 // 4
    return [torch.randint(10, high, (n,), generator=drawn).tolist() for n in LENGTHS]


def picture() -> Any:
    """A red square on white."""
    from PIL import Image

    found = Image.new("RGB", (64, 64), "white")
    found.paste((220, 30, 30), (16, 16, 48, 48))
    return found


def engine(path: str, **options: Any) -> Any:
    """vLLM's engine for a checkpoint, in float32."""
    from vllm import LLM

    settings: dict[str, Any] = {
        "dtype": "float32", "max_model_len": 256, "enforce_eager": True, "max_num_seqs": BATCH,
        "kv_cache_memory_bytes": 64 << 20, "disable_log_stats": True,
    }  # fmt: skip
    return LLM(path, **settings | options)


def has_pictures(path: str) -> bool:
    """Whether a checkpoint takes pictures."""
    return "vision_config" in json.loads((Path(path) / "config.json").read_text())


def by_transformers(path: str) -> list[list[int]]:
    """The tokens that transformers generates, greedily."""
    import torch
    import transformers as tf

    auto = tf.AutoModelForImageTextToText if has_pictures(path) else tf.AutoModelForCausalLM
    model = auto.from_pretrained(path, trust_remote_code=True, dtype=torch.float32).eval()
    inputs: list[Any]
    if has_pictures(path):
        processor = tf.AutoProcessor.from_pretrained(path)
        inputs = [processor(text=[asked(path)], images=[picture()], return_tensors="pt")]
    else:
        rows = [torch.tensor([ids]) for ids in prompts(vocabulary(path))]
        inputs = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in rows]
    found = []
    for each in inputs:
        ids = model.generate(**each, max_new_tokens=ANSWER, do_sample=False)
        found.append(ids[0, each["input_ids"].shape[1] :].tolist())
    return found


def by_vllm(path: str) -> list[list[int]]:
    """The tokens that vLLM generates, greedily."""
    from vllm import SamplingParams

    how = SamplingParams(temperature=0, max_tokens=ANSWER, detokenize=False)
    asks: list[Any]
    if has_pictures(path):
        llm = engine(path, limit_mm_per_prompt={"image": 1, "video": 0})
        asks = [{"prompt": asked(path), "multi_modal_data": {"image": picture()}}]
    else:
        llm = engine(path, skip_tokenizer_init=True)
        asks = [{"prompt_token_ids": ids} for ids in prompts(vocabulary(path))]
    answers = llm.generate(asks, how, use_tqdm=False)
    found = [list(each.outputs[0].token_ids) for each in answers]
    del llm
    gc.collect()  # or the end of this engine would undo the beginning of the next
    return found


def asked(path: str) -> str:
    """A question about a picture, as the checkpoint's chat template has it."""
    from transformers import AutoProcessor

    content = [{"type": "image"}, {"type": "text", "text": PICTURE}]
    said = [{"role": "user", "content": content}]
    template = AutoProcessor.from_pretrained(path).apply_chat_template
    return str(template(said, add_generation_prompt=True, tokenize=False))


def vocabulary(path: str) -> int:
    """How many tokens a checkpoint knows."""
    config = json.loads((Path(path) / "config.json").read_text())
    return int(config.get("text_config", config)["vocab_size"])


def tokens(paths: list[str]) -> list[dict[str, Any]]:
    """Of each checkpoint, what transformers and vLLM generate, or how vLLM refuses it."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    found = []
    for path in paths:
        each: dict[str, Any] = {"path": path, "transformers": by_transformers(path)}
        try:
            each["vllm"] = by_vllm(path)
        except Exception as error:  # of whatever kind: it is what there is to know
            each["refused"] = f"{type(error).__name__}: {error}"
        found.append(each)
    return found


def memory(path: str) -> dict[str, Any]:
    """Bytes that a process grows by as its engine gets ready, a KV cache of 64 MiB included."""
    import psutil
    import vllm.model_executor.models.registry  # noqa: F401, what is imported is no model's

    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    process = psutil.Process()
    before = process.memory_info().rss
    llm = engine(path, skip_tokenizer_init=True)
    return {"path": path, "grown": process.memory_info().rss - before, "blocks": bool(llm)}


def speed(dense: str, small: str) -> dict[str, Any]:
    """Tokens a second of two checkpoints in turn, after a round that does not count.

    Each engine is a process of its own; the one that is not asked waits.
    """
    from vllm import SamplingParams

    engines = [engine(path, skip_tokenizer_init=True) for path in (dense, small)]
    high = min(vocabulary(path) for path in (dense, small)) - 10
    asks = [
        {"prompt_token_ids": [10 + (7 * i + 31 * j) % (high - 10) for i in range(PROMPT)]}
        for j in range(BATCH)
    ]
    found: dict[str, Any] = {"paths": [dense, small]}
    for name, answer in (("prefill", 1), ("decode", LONG)):
        how = SamplingParams(temperature=0, max_tokens=answer, ignore_eos=True, detokenize=False)
        rounds = []
        for _ in range(PAIRS + 1):
            times = []
            for llm in engines:
                llm.reset_prefix_cache()
                begun = time.perf_counter()
                llm.generate(asks, how, use_tqdm=False)
                times.append(time.perf_counter() - begun)
            rounds.append(times)
        found[name] = {"tokens": BATCH * (PROMPT if answer == 1 else answer), "s": rounds[1:]}
    return found


def main() -> None:
    """Answer one question about checkpoints, into a file."""
    what, out, *paths = sys.argv[1:]
    if what == "tokens":
        found: Any = tokens(paths)
    elif what == "memory":
        found = memory(*paths)
    else:
        found = speed(*paths)
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
