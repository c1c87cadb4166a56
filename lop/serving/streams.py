"""Checkpoints as tar archives that are created while they are sent, without files on disk."""

from __future__ import annotations

import tarfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from lop.models.cutting import CutFile
from lop.plan import checkpoint_name
from lop.serving.jobs import Refused
from lop.steps.pruning import Cutter

PIECE = 2**20  # bytes that are passed to the connection at once
BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Stream:
    """An archive to send: its name, its size in bytes, and its content in pieces."""

    name: str
    size: int
    pieces: Generator[bytes | memoryview, None, None]


class Archive(StreamingResponse):
    """The response that sends a stream, and closes it even if the client disconnects."""

    def __init__(self, stream: Stream) -> None:
        headers = {
            "content-length": str(stream.size),
            "content-disposition": f'attachment; filename="{stream.name}"',
        }
        super().__init__(stream.pieces, headers=headers, media_type="application/x-tar")
        self.stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.stream.pieces.close()


class Streams:
    """The archives that a service sends, at most `limit` at once.

    `cutter` returns the cutter and the predictor's version, as for `lop.serving.jobs.Jobs`.
    """

    def __init__(self, cutter: Callable[[], tuple[Cutter, str]], limit: int = 1) -> None:
        self.cutter, self.limit = cutter, limit
        self.slots = threading.Semaphore(limit)
        self.lock = threading.Lock()
        self.ready: tuple[str, Cutter] | None = None  # version, and cutter with the files it read

    def open(self, ratio: float) -> Stream:
        """Begin an archive of the checkpoint at a ratio; Refused if too many are being sent.

        Everything except the weights is computed now, so that errors occur before the response
        starts.
        """
        if not self.slots.acquire(blocking=False):
            raise Refused(429, f"{self.limit} checkpoints are being streamed; try again later")
        try:
            name = checkpoint_name("lop", ratio)
            files = self._cutter().files("lop", ratio)
            heads = [_head(f"{name}/{file.name}", file.size) for file in files]
            size = sum(len(h) + f.size + _padding(f) for h, f in zip(heads, files, strict=True))
            pieces = self._pieces(heads, files)
            next(pieces)  # from now on, closing the generator releases the slot
        except BaseException:
            self.slots.release()
            raise
        return Stream(f"{name}.tar", size + 2 * BLOCK, pieces)

    def _pieces(
        self, heads: Sequence[bytes], files: Sequence[CutFile]
    ) -> Generator[bytes | memoryview, None, None]:
        try:
            yield b""
            for head, file in zip(heads, files, strict=True):
                yield head
                for piece in file.pieces():
                    view = memoryview(piece)
                    for start in range(0, len(view), PIECE):
                        yield view[start : start + PIECE]
                yield bytes(_padding(file))
        finally:
            self.slots.release()  # before the last bytes: free when the client has them all
        yield bytes(2 * BLOCK)

    def _cutter(self) -> Cutter:
        """The cutter of the current predictor, reused so that it reads model and scores once."""
        cutter, version = self.cutter()
        with self.lock:
            if self.ready is None or self.ready[0] != version:
                self.ready = version, cutter
            return self.ready[1]


def _head(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, int(time.time())
    return info.tobuf(tarfile.GNU_FORMAT)


def _padding(file: CutFile) -> int:
    return -file.size % BLOCK
