"""Files out: from a path to verified bytes in order.

1. Opening asks for the layout once; from then on this version (inode and version number) is read, whatever
   happens to the name.
2. A range becomes parts, one per extent; each part is read by `read_chunk`.
3. Long ranges are read ahead. What lies on this machine: a thread per part, two parts at a time, a bounded number of
   frames each. What comes over gRPC: gRPC itself fetches what fits into the stream's window, and the next part is
   asked for when no more than a window is left of this one; one more thread would only hand frames on.
4. A chunk that is gone means that its bytes live elsewhere by now: the layout is fetched again.
"""

from __future__ import annotations

import io
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from quorumfs import limits
from quorumfs.errors import ChunkNotFoundError, IntegrityError, NotFoundError, UnavailableError
from quorumfs.namespace import Namespace
from quorumfs.read_chunk import ChunkReader
from quorumfs.replica_stream import Asked
from quorumfs.v1 import namespace_pb2, types_pb2

_MOVES_MAX = 3
_VERSIONS_MAX = 5
_AHEAD_FROM_BYTES = 2 * limits.MIB  # shorter ranges are read in the caller's thread


Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Part:
    """`length` bytes at `offset` of the file lie at `chunk_offset` of `chunk`."""

    offset: int
    length: int
    chunk: namespace_pb2.ChunkLocation
    chunk_offset: int

    @property
    def end(self) -> int:
        return self.offset + self.length


class OpenedFile:
    """One version of a file. Any thread may call; ranges may be read at the same time."""

    def __init__(self, namespace: Namespace, reader: ChunkReader, path: bytes) -> None:
        self._namespace = namespace
        self._reader = reader
        self._starts: list[int] = []
        self._parts: dict[int, Part] = {}
        self._lock = threading.Lock()
        layout = namespace.layout(path)
        self.info: namespace_pb2.FileInfo = layout.info
        self._learn(layout)

    @property
    def size(self) -> int:
        return self.info.size

    def read(self, offset: int, length: int | None = None) -> Iterator[memoryview]:
        """The bytes from `offset` on, in order, `length` of them or to the end; verified.

        Fewer only when the file ends. Close the iterator to give up early. Raises IntegrityError,
        UnavailableError, NoLeaderError.
        """
        end = self.size if length is None else min(self.size, offset + length)
        if end - offset <= _AHEAD_FROM_BYTES:
            return self._read_here(offset, end)
        return self._read_long(offset, end)

    def read_into(self, offset: int, view: memoryview) -> int:
        """Fill the beginning of `view` with verified bytes at `offset` without a copy between; how many.

        0 when that is not possible (no file of the chunk on this machine, no whole block): `read` gives them.
        """
        part = self._part_at(offset)
        start = part.chunk_offset + offset - part.offset
        return self._reader.read_into(part.chunk, start, view[: part.end - offset])

    def read_whole(self, offset: int = 0) -> bytes:
        """All bytes from `offset` on, verified. They are in memory once; errors are those of `read`."""
        length = max(0, self.size - offset)
        whole = io.BytesIO(bytes(length))  # its buffer is that of the result
        with whole.getbuffer() as view:
            at = self._fill(view, offset)
            for data in self.read(offset + at):
                view[at : at + len(data)] = data
                at += len(data)
        return whole.getvalue()

    def _fill(self, view: memoryview, offset: int) -> int:
        """Read into the beginning of `view` as far as that goes without a copy; how far."""
        at = 0
        while at < len(view) and (count := self.read_into(offset + at, view[at:])):
            at += count
        return at

    def _read_here(self, at: int, end: int, asked: Asked | None = None) -> Iterator[memoryview]:
        moves = 0
        while at < end:
            part = self._part_at(at)
            stop = min(end, part.end)
            try:
                start = part.chunk_offset + at - part.offset
                find_again = partial(self._again, part)
                for data in self._reader.read(part.chunk, start, stop - at, find_again, asked):
                    at += len(data)
                    yield data
            except ChunkNotFoundError as error:
                moves += 1
                if moves > _MOVES_MAX:
                    raise IntegrityError(
                        f"bytes of {self.name} at {at} cannot be found", cause=str(error)
                    ) from error

    def _read_long(self, at: int, end: int) -> Iterator[memoryview]:
        here = self._reader.is_here(self._part_at(at).chunk)
        yield from self._read_ahead(at, end) if here else self._read_in_turn(at, end)

    def _read_in_turn(self, at: int, end: int) -> Iterator[memoryview]:
        """Part after part in the caller's thread, the next one asked for before this one ends."""
        current: Asked | None = None
        asked: Asked | None = None
        try:
            while at < end:
                stop = min(end, self._part_at(at).end)
                current, asked, next_asked = asked, None, False
                for data in self._read_here(at, stop, current):
                    at += len(data)
                    if not next_asked and stop - at <= limits.STREAM_WINDOW_BYTES:
                        asked, next_asked = self._ask(stop, end), True
                    yield data
                if current is not None:
                    current.cancel()  # if another replica was read after all
        finally:
            for one in (current, asked):
                if one is not None:
                    one.cancel()

    def _ask(self, at: int, end: int) -> Asked | None:
        """Have the part at `at` sent, if it is known and there is one."""
        part = self._known_at(at) if at < end else None
        if part is None:
            return None
        return self._reader.ask(part.chunk, part.chunk_offset + at - part.offset, min(end, part.end) - at)

    def _read_ahead(self, at: int, end: int) -> Iterator[memoryview]:
        under_way: deque[_Ahead] = deque()
        try:
            while at < end or under_way:
                while at < end and len(under_way) < limits.CHUNKS_IN_FLIGHT:
                    stop = min(end, self._part_at(at).end)
                    under_way.append(_Ahead(self._read_here(at, stop)))
                    at = stop
                yield from under_way[0].taken()
                under_way.popleft()
        finally:
            for ahead in under_way:
                ahead.stop()

    def _part_at(self, at: int) -> Part:
        """The part that holds the byte at `at`, asked for if it is not known."""
        part = self._known_at(at)
        if part is None:
            self._learn(self._namespace.layout_of(self.info.id, self.info.version, at))
            part = self._known_at(at)
        if part is None:
            raise IntegrityError(
                f"bytes of {self.name} at {at} lie nowhere", cause="the layout has a gap there"
            )
        return part

    def _known_at(self, at: int) -> Part | None:
        with self._lock:
            place = bisect_right(self._starts, at) - 1
            part = self._parts[self._starts[place]] if place >= 0 else None
        return part if part is not None and at < part.end else None

    def _again(self, part: Part) -> namespace_pb2.ChunkLocation | None:
        """Where the chunk of `part` lies by now; None when another took its place."""
        layout = self._namespace.layout_of(self.info.id, self.info.version, part.offset, part.length)
        with self._lock:
            self._parts.pop(part.offset, None)
            self._starts = sorted(self._parts)
        self._learn(layout)
        found = self._known_at(part.offset)
        if found is None or found.chunk.chunk != part.chunk.chunk or found.chunk_offset != part.chunk_offset:
            return None
        return found.chunk

    def _learn(self, layout: namespace_pb2.Layout) -> None:
        chunks = {chunk.chunk: chunk for chunk in layout.chunks}
        with self._lock:
            for extent in layout.extents:
                if extent.length and extent.chunk in chunks:
                    self._parts[extent.offset] = _part(extent, chunks[extent.chunk])
            self._starts = sorted(self._parts)

    @property
    def name(self) -> str:
        """For messages."""
        return self.info.path.decode("utf-8", "replace") or f"inode {self.info.id}"


class _Ahead:
    """Reads an iterator in a thread of its own, at most READ_AHEAD_FRAMES pieces ahead of who takes them."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self._queue: deque[memoryview] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._ended = False
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="quorumfs-read-ahead", daemon=True).start()

    def taken(self) -> Iterator[memoryview]:
        """The pieces in order; raises what the iterator raised, after what came before it."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._ended)
                if not self._queue:
                    break
                piece = self._queue.popleft()
                self._changed.notify_all()
            yield piece
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Nobody takes any more; the thread ends with its next piece."""
        with self._changed:
            self._stopped = True
            self._queue.clear()
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            for piece in self._pieces:
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._stopped or len(self._queue) < limits.READ_AHEAD_FRAMES
                    )
                    if self._stopped:
                        return
                    self._queue.append(piece)
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001  raised again in the thread that takes
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()


def of_one_version(open_file: Callable[[], OpenedFile], read: Callable[[OpenedFile], Read]) -> Read:
    """What `read` makes of all of a file, begun anew where that helps: once when bytes did not match (the replicas that
    had them are avoided by now), and when the version was replaced and purged while it was read.

    NotFoundError comes from opening alone: nothing is at the path. Raises UnavailableError when one version after the
    other is purged.
    """
    for tried in range(1, _VERSIONS_MAX + 1):
        opened = open_file()
        try:
            return read(opened)
        except IntegrityError:
            if tried > 1:
                raise
        except NotFoundError as error:
            gone, name = error, opened.name
    raise UnavailableError(
        f"{name} cannot be read: it was replaced {_VERSIONS_MAX} times while it was read",
        cause=str(gone),
        next="try again, or keep what is replaced in the trash",
    ) from gone


def _part(extent: types_pb2.Extent, chunk: namespace_pb2.ChunkLocation) -> Part:
    return Part(extent.offset, extent.length, chunk, extent.chunk_offset)
