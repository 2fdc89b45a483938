"""Files in: open, allocate, stream chunks to datanodes, commit. A file appears only at its commit.

1. Up to INLINE_BYTES_MAX bytes go into the metadata in one operation; when there is no room for them, or
   there are more, small files go together (put_together.py), and the others become uploads.
2. Chunks are allocated several at once, and two are under way at a time.
3. A chunk that fails is sent again under a new id, without the nodes that failed; the old one is garbage.
   With enough durable replicas it counts, and repair makes the rest.
4. The commit names the chunks with their acknowledgements and flips the version. Whatever goes wrong before
   it aborts the upload and is a refusal, for nothing became visible; only a commit whose answer is lost for
   good is reported as unknown, and left alone.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from quorumfs import limits
from quorumfs.checksum import combine, crc32c
from quorumfs.clock import Clock, SystemClock
from quorumfs.errors import (
    ChunkCondemnedError,
    InlineBudgetError,
    OutcomeUnknownError,
    QuorumFSError,
    TooLargeError,
)
from quorumfs.keepalive import KeepAlive
from quorumfs.namespace import Namespace
from quorumfs.ops import NewFile
from quorumfs.rpc.channels import ChannelSource
from quorumfs.send_chunks import ChunkSender, Targets, before_the_commit
from quorumfs.sources import Body, BytesSource, Source
from quorumfs.store_chunk import ChunkStorer, Tally
from quorumfs.suspects import Suspects
from quorumfs.v1 import namespace_pb2, types_pb2

Progress = Callable[[int], object]
"""Called with the bytes done so far, from any thread, one call at a time."""


class Together(Protocol):
    """Stores small files with others' (`put_together.PutTogether`)."""

    def put(self, new: NewFile, body: bytes) -> namespace_pb2.FileInfo | None:
        """The stored file; None: it is to be stored by itself, and nothing was done."""
        ...


_EXTENTS_BYTES = limits.EXTENTS_BYTES_MAX // 2
_CONDEMNED_ROUNDS = 3


class Uploader:
    """Stores files. Any thread may call; each call uses two threads of its own for large files."""

    def __init__(
        self,
        namespace: Namespace,
        channels: ChannelSource,
        suspects: Suspects,
        keep_alive: KeepAlive,
        cluster_id: Callable[[], str],
        *,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self._namespace = namespace
        self._channels = channels
        self._suspects = suspects
        self._keep_alive = keep_alive
        self._cluster_id = cluster_id
        self._clock = clock or SystemClock()
        self._chance = chance
        self._pause = pause
        self.refusals = Refusals(self._clock)

    def upload(
        self,
        source: Source,
        new: NewFile,
        progress: Progress | None = None,
        together: Together | None = None,
    ) -> namespace_pb2.FileInfo:
        """Store all of `source` as `new`; durable and visible on return. What is there is replaced. `together`: where
        a small file may go.

        Raises AlreadyExistsError, PreconditionFailedError, NoPlacementError, NoSpaceError, NoLeaderError,
        UnavailableError, OutcomeUnknownError; OSError of the source.
        """
        body = source.whole(limits.INLINE_BYTES_MAX)
        if body is not None:
            stored = self._put_inline(body, new)
            if stored is not None:
                return _whole(stored, body, progress)
            source = BytesSource(body)
        body = _small(source) if together is not None else None
        if together is not None and body is not None:
            stored = together.put(new, body)
            if stored is not None:
                return _whole(stored, body, progress)
            source = BytesSource(body)
        try:
            return self._put_chunks(source, new, progress)
        except ChunkCondemnedError:
            if not source.replayable:
                raise
        return self._put_chunks(source, new, progress)

    def sender(self, opened: namespace_pb2.UploadInfo, tally: Tally) -> ChunkSender:
        """What sends the chunks of an open upload."""
        replication = opened.replication or limits.REPLICATION_DEFAULT
        min_replicas = min(opened.min_replicas or limits.MIN_REPLICAS_DEFAULT, replication)
        return ChunkSender(
            Targets(self._namespace, self._suspects, opened.upload, min_replicas),
            ChunkStorer(self._channels, opened.upload, min_replicas, self._cluster_id(), tally),
            self._suspects,
            self._clock,
            self._chance,
            self._pause,
        )

    def _put_inline(self, body: bytes, new: NewFile) -> namespace_pb2.FileInfo | None:
        """The stored file; None when the metadata has no room for the body, or had none just now."""
        if self.refusals.cover(len(body)):
            return None
        try:
            return self._namespace.put_file(new, body, crc32c(body))
        except (InlineBudgetError, TooLargeError) as error:
            self.refusals.add(error, len(body))
        return None

    def _put_chunks(self, source: Source, new: NewFile, progress: Progress | None) -> namespace_pb2.FileInfo:
        with before_the_commit():
            opened = self._namespace.open_upload(new, source.size or 0)
        with self._keep_alive.holding(opened.upload):
            job = _Job(self, opened, source, progress)
            try:
                return job.run()
            except OutcomeUnknownError:
                raise  # of the commit, which may yet happen: an abort could only confuse
            except BaseException:
                self._abort(opened.upload)
                raise

    def _abort(self, upload: bytes) -> None:
        try:
            self._namespace.abort(upload)
        except QuorumFSError:
            return  # it expires by itself; the first error is the one to tell


class Refusals:
    """What the metadata did not take lately: a body that it refuses has been through the log. Any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: tuple[int, float] | None = None

    def add(self, error: InlineBudgetError | TooLargeError, length: int) -> None:
        """A body of `length` bytes was refused with `error`: for want of a budget any other would have been."""
        least = 1 if isinstance(error, InlineBudgetError) else length
        self._last = least, self._clock.monotonic() + limits.INLINE_REFUSED_SECONDS

    def cover(self, length: int) -> bool:
        """Whether a body of `length` bytes would be refused too."""
        last = self._last
        return last is not None and length >= last[0] and self._clock.monotonic() < last[1]


@dataclass(slots=True)
class _Piece:
    """A chunk of the file: where it stands, what is in it, and what became of it."""

    offset: int
    body: Body | None  # None once it cannot be sent again
    sealed: namespace_pb2.SealedChunk
    handed_in: bool = False  # by AddExtents

    def extent(self) -> types_pb2.Extent:
        return types_pb2.Extent(
            offset=self.offset, length=self.sealed.length, chunk=self.sealed.chunk, chunk_offset=0
        )


class _Job:
    """One upload from its opening to its commit."""

    def __init__(
        self,
        uploader: Uploader,
        opened: namespace_pb2.UploadInfo,
        source: Source,
        progress: Progress | None,
    ) -> None:
        self._up = uploader
        self._id = opened.upload
        self._source = source
        self._chunk_size = opened.chunk_size_bytes or limits.CHUNK_SIZE_BYTES
        self._sender = uploader.sender(opened, Tally(progress))
        self._pieces: list[_Piece] = []
        self._waiting: list[_Piece] = []  # not handed in yet
        self._weight = 0
        self._size = 0

    def run(self) -> namespace_pb2.FileInfo:
        bodies = self._source.bodies(self._chunk_size)
        if self._source.size is not None:
            self._sender.expect(-(-self._source.size // self._chunk_size), self._chunk_size)
        if self._source.size is not None and self._source.size <= self._chunk_size:
            for body in bodies:
                self._add(body, self._sender.send(body))
        else:
            self._store_all(bodies)
        return self._commit()

    def _store_all(self, bodies: Iterator[Body]) -> None:
        """Chunks in order, CHUNKS_IN_FLIGHT at a time, each in a thread."""
        under_way: deque[tuple[Body, Future[namespace_pb2.SealedChunk]]] = deque()
        pool = ThreadPoolExecutor(limits.CHUNKS_IN_FLIGHT, thread_name_prefix="quorumfs-upload")
        try:
            for body in bodies:
                under_way.append((body, pool.submit(self._sender.send, body)))
                if len(under_way) == limits.CHUNKS_IN_FLIGHT:
                    self._collect(under_way)
            while under_way:
                self._collect(under_way)
        except BaseException:
            self._sender.cancel()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _collect(self, under_way: deque[tuple[Body, Future[namespace_pb2.SealedChunk]]]) -> None:
        body, future = under_way.popleft()
        self._add(body, future.result())

    def _add(self, body: Body, sealed: namespace_pb2.SealedChunk) -> None:
        piece = _Piece(self._size, body if self._source.replayable else None, sealed)
        self._pieces.append(piece)
        self._waiting.append(piece)
        self._weight += _weight(piece)
        self._size += sealed.length
        if self._weight > _EXTENTS_BYTES:
            self._hand_in()

    def _hand_in(self) -> None:
        """Tell the leader of the chunks so far: a commit has no room for all of a large file's."""
        with before_the_commit():
            self._up._namespace.add_extents(
                self._id,
                [piece.sealed for piece in self._waiting],
                [piece.extent() for piece in self._waiting],
            )
        for piece in self._waiting:
            piece.handed_in = True
        self._waiting.clear()
        self._weight = 0

    def _commit(self) -> namespace_pb2.FileInfo:
        for last in (*(False,) * (_CONDEMNED_ROUNDS - 1), True):
            try:
                return self._up._namespace.commit(
                    self._id,
                    self._size,
                    self._checksum(),
                    [piece.sealed for piece in self._waiting],
                    [piece.extent() for piece in self._waiting],
                )
            except ChunkCondemnedError as error:
                if last or not self._replace_condemned(error):
                    raise
        raise AssertionError("the last try returns or raises")

    def _replace_condemned(self, error: ChunkCondemnedError) -> bool:
        """Send the condemned chunks again; False when that cannot be done within this upload."""
        named = {text.strip() for text in error.ids.get("chunk", "").split(",") if text.strip()}
        condemned = [piece for piece in self._pieces if not named or piece.sealed.chunk.hex() in named]
        if not condemned or any(piece.handed_in or piece.body is None for piece in condemned):
            return False
        for piece in condemned:
            assert piece.body is not None
            piece.sealed = self._sender.send(piece.body)
        return True

    def _checksum(self) -> int:
        checksum = 0
        for piece in self._pieces:
            checksum = combine(checksum, piece.sealed.checksum, piece.sealed.length)
        return checksum


def _small(source: Source) -> bytes | None:
    """All of it, if it may go together with others'."""
    if not source.replayable or source.size is None or not 0 < source.size <= limits.TOGETHER_BYTES_MAX:
        return None
    return source.whole(limits.TOGETHER_BYTES_MAX)


def _whole(stored: namespace_pb2.FileInfo, body: bytes, progress: Progress | None) -> namespace_pb2.FileInfo:
    """The file that was stored in one step."""
    if progress:
        progress(len(body))
    return stored


def _weight(piece: _Piece) -> int:
    return piece.sealed.ByteSize() + 48  # and the extent
