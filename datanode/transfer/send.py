"""Sends ranges of a chunk: the serving side of `Chunks.Read`.

Data and stored checksums go out as they lie on the disk, aligned to blocks; the reader verifies them. Nothing
is computed here: checking again would cost a fifth of the speed and prove nothing about the way between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from datanode.store.chunks import ChunkStore
from datanode.store.reader import ChunkReader
from datanode.transfer.admission import Gate
from datanode.transfer.meter import Meter
from datanode.transfer.watch import StreamWatch
from quorumfs import limits
from quorumfs.errors import IntegrityError, InvalidArgumentError
from quorumfs.frames import encode_frame
from quorumfs.ids import chunk_id
from quorumfs.v1.chunks_pb2 import ReadChunkRequest

READER_IDLE_SECONDS_MAX = 60.0  # a reader that takes nothing for so long loses its place


@dataclass(frozen=True, slots=True)
class Range:
    """Whole blocks of a chunk: [start, end), in pieces of `step` bytes."""

    start: int
    end: int
    step: int


def aligned_range(request: ReadChunkRequest, length: int) -> Range:
    """The blocks that hold what `request` wants of a chunk of `length` bytes. Raises InvalidArgumentError."""
    step = request.frame_bytes or limits.FRAME_BYTES
    if step % limits.BLOCK_BYTES or step > limits.FRAME_BYTES_MAX:
        raise InvalidArgumentError(
            f"frames of {step} bytes cannot be sent",
            cause=f"a multiple of {limits.BLOCK_BYTES} up to {limits.FRAME_BYTES_MAX} is asked for",
        )
    if request.offset > length:
        raise InvalidArgumentError(
            f"chunk {request.chunk.hex()} has no byte {request.offset}", cause=f"its length is {length}"
        )
    wanted_end = request.offset + request.length if request.length else length
    start = request.offset - request.offset % limits.BLOCK_BYTES
    end = min(length, -(-wanted_end // limits.BLOCK_BYTES) * limits.BLOCK_BYTES)
    return Range(start, max(start, end), step)


class Sender:
    """Gives chunks out. Any number of threads."""

    def __init__(self, store: ChunkStore, gate: Gate, watch: StreamWatch, meter: Meter) -> None:
        self._store = store
        self._gate = gate
        self._watch = watch
        self._meter = meter

    def send(self, request: ReadChunkRequest, cancel: Callable[[], object]) -> Iterator[bytes]:
        """Encoded frames of the range. Admission and opening happen at the first one.

        Raises BusyError, ChunkNotFoundError, InvalidArgumentError, IntegrityError (the replica is then
        verified and replaced; what was sent before is good if its checksums say so).
        """
        chunk = chunk_id(request.chunk)
        with self._gate.enter(), self._watch.track(cancel, READER_IDLE_SECONDS_MAX) as watched:
            try:
                with self._store.open_reader(chunk) as opened:
                    for frame in _frames(opened, aligned_range(request, opened.length)):
                        self._meter.sent(len(frame))  # a reader that has all it wants ends the call here
                        yield frame
                        watched.progress()
            except IntegrityError:
                self._store.suspect(chunk)
                raise


def _frames(opened: ChunkReader, wanted: Range) -> Iterator[bytes]:
    for offset in range(wanted.start, wanted.end, wanted.step):
        length = min(wanted.step, wanted.end - offset)
        yield encode_frame(offset, opened.read(offset, length), opened.checksums(offset, length))
