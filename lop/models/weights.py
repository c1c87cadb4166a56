"""The files of a checkpoint folder: checks that none is outside it, finds the files that loading
uses, and reads their headers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.modeling_utils import _get_resolved_checkpoint_files

from lop.errors import LopError, first_line
from lop.files import read_json

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
INDEX = "model.safetensors.index.json"
LIMIT = 10**8  # largest bytes of a settings file or header: safetensors' limit
SETTINGS = (
    "config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json",
    "tokenizer_config.json", "special_tokens_map.json", INDEX,
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor of a safetensors file; `start` and `size` are the position of its bytes."""

    key: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    def read(self, whole: np.ndarray | None = None) -> Tensor:
        """The tensor, memory-mapped; `whole` is the file's bytes if they are mapped already."""
        if whole is None:
            raw = mapped(self.file, self.start, self.size)
        else:
            raw = whole[self.start : self.start + self.size]
        return torch.from_numpy(raw).view(DTYPES[self.dtype]).view(self.shape)

    def front(self, columns: int) -> Tensor:
        """A copy of the first columns of a matrix, (rows, columns); only they are read.

        Raises LopError if the file was truncated meanwhile.
        """
        rows, width = self.shape
        found = torch.empty(rows, columns, dtype=DTYPES[self.dtype])
        if not found.numel():
            return found
        step = width * found.itemsize
        with self.file.open("rb", buffering=0) as file:
            for number, row in enumerate(found.view(torch.uint8).numpy()):
                if os.preadv(file.fileno(), [row], self.start + number * step) < row.nbytes:
                    raise LopError(f"{self.file}: {self.key} is cut short")
        return found

    def values(self, indices: Tensor) -> Tensor:
        """Single values of the flattened tensor, (n,) -> (n,); only they are read."""
        dtype = DTYPES[self.dtype]
        with self.file.open("rb") as file:
            parts = []
            for index in indices.tolist():
                file.seek(self.start + index * dtype.itemsize)
                parts.append(file.read(dtype.itemsize))
        return torch.frombuffer(bytearray(b"".join(parts)), dtype=dtype)


def mapped(file: Path, start: int, size: int) -> np.ndarray:
    """Bytes of a file, memory-mapped; writing to them does not change the file."""
    return np.memmap(file, np.uint8, "c", start, (size,)) if size else np.empty(0, np.uint8)


def read_header(file: Path) -> list[Entry]:
    """The tensors of a safetensors file; LopError if it is not one, or is truncated."""
    with one_line(f"{file}: cannot read safetensors"):
        size = file.stat().st_size
        with file.open("rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
            if not 0 < length <= min(size - 8, LIMIT):
                raise ValueError("its header is cut short, or too long")
            header = json.loads(raw.read(length))
        header.pop("__metadata__", None)
        entries = []
        for key, info in header.items():
            begin, end = info["data_offsets"]
            entry = Entry(
                key, file, info["dtype"], tuple(info["shape"]), 8 + length + begin, end - begin
            )
            if entry.start + entry.size > size:
                raise ValueError(f"{key} is cut short")
            if entry.dtype not in DTYPES:
                raise ValueError(f"{key} is of {entry.dtype}; expected {', '.join(DTYPES)}")
            entries.append(entry)
        with safe_open(file, "pt"):  # also checks that sizes fit shapes and leave no gap
            pass
    return sorted(entries, key=lambda entry: entry.start)


def check_folder(folder: Path) -> None:
    """Raise LopError for a link out of a model folder, a special file, or settings that are not a
    JSON object.

    The target of a link would be read and copied into pruned checkpoints. Links into the `blobs` of
    the hub's cache are allowed.
    """
    root = folder.resolve()
    cache = root.parent.parent / "blobs" if root.parent.name == "snapshots" else root
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(parent, name) for name in [*folders, *names]):
            target = Path(os.path.realpath(path))  # `resolve` raises for links in a circle
            if not (target.is_relative_to(root) or target.is_relative_to(cache)):
                raise LopError(
                    f"{path}: is a link that leads out of the model folder; copy the file"
                )
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise LopError(f"{path}: is not an ordinary file")
    for path in (folder / name for name in SETTINGS if (folder / name).exists()):
        if path.stat().st_size > LIMIT:
            raise LopError(f"{path}: is larger than {LIMIT:,} bytes; expected settings")
        if not isinstance(read_json(path), dict):
            raise LopError(f"{path}: expected a JSON object")


def weight_files(
    folder: Path, config: PreTrainedConfig, variant: str | None = None
) -> tuple[list[Path], str | None]:
    """The files that `from_pretrained` loads from a folder, and the index that names them, if any.

    Raises LopError if there are no files, one is missing or outside the folder, or loading would
    use other files too, such as an adapter.
    """
    if (folder / "adapter_config.json").exists():
        raise LopError(f"{folder}: has an adapter beside its weights; merge it into them first")
    check_safetensors(folder)
    named = getattr(config, "transformers_weights", None)
    with one_line(f"{folder}: cannot tell which files hold the weights"):
        found, index = _get_resolved_checkpoint_files(
            str(folder),
            variant=variant,
            gguf_file=None,
            use_safetensors=True,
            user_agent=None,
            is_remote_code=True,  # no conversion of weights on the hub
            transformers_explicit_filename=named,
        )
        files = [Path(file) for file in found or ()]
        for file in files:
            if not file.is_relative_to(folder) or ".." in file.relative_to(folder).parts:
                raise LopError(f"{file}: is named as weights, but is outside of {folder}")
            if not file.is_file():
                raise LopError(f"{file}: no such file; the checkpoint is incomplete")
    return files, None if index is None else named or INDEX


def check_safetensors(folder: Path) -> None:
    """Raise LopError if a directory has weights only as a pickle: reading it could run code."""
    if not any(folder.glob("*.safetensors")) and not (folder / INDEX).exists():
        pickles = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
        if pickles:
            raise LopError(
                f"{pickles[0]}: is a pickle, which can run code when it is read; if you trust it, "
                "convert it: AutoModel….from_pretrained(…).save_pretrained(…)"
            )
        raise LopError(f"{folder}: no *.safetensors; expected a Hugging Face model directory")


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """Turn any error in the block into a LopError of one line that starts with `what`.

    For calls into transformers with values from a model folder's JSON files: bad values can raise
    errors of any class anywhere.
    """
    try:
        yield
    except LopError:
        raise
    except Exception as error:
        raise LopError(f"{what}: {first_line(error)}") from error
