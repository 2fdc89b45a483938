"""Files in: open, allocate, stream chunks to datanodes, commit. A file appears only at its commit.

1. Up to INLINE_BYTES_MAX bytes go into the metadata in one operation; when there is no room for them, or
   there are more, the file becomes an upload.
2. Chunks are allocated several at once, and two are under way at a time.
3. A chunk that fails is sent again under a new id, without the nodes that failed; the old one is garbage.
   With enough durable replicas it counts, and repair makes the rest.
4. The commit names the chunks with their acknowledgements and flips the version. Whatever goes wrong before
   it aborts the upload and is a refusal, for nothing became visible; only a commit whose answer is lost for
   good is reported as unknown, and left alone.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from quorumfs import limits
from quorumfs.backoff import Backoff
from quorumfs.checksum import combine, crc32c
from quorumfs.clock import Clock, SystemClock
from quorumfs.errors import (
    ChunkCondemnedError,
    InlineBudgetError,
    NoPlacementError,
    OutcomeUnknownError,
    QuorumFSError,
    TooLargeError,
    UnavailableError,
)
from quorumfs.keepalive import KeepAlive
from quorumfs.namespace import Namespace
from quorumfs.ops import NewFile
from quorumfs.rpc.channels import ChannelSource
from quorumfs.sources import Body, BytesSource, Source
from quorumfs.store_chunk import ChunkFailed, ChunkStorer, Tally
from quorumfs.suspects import Suspects
from quorumfs.v1 import namespace_pb2, types_pb2

Progress = Callable[[int], object]
"""Called with the bytes done so far, from any thread, one call at a time."""

_ALLOCATE_AT_ONCE = 4
_EXTENTS_BYTES = limits.EXTENTS_BYTES_MAX // 2
_CONDEMNED_ROUNDS = 3
_RETRY = Backoff(first_seconds=0.05, most_seconds=1.0)


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

    def upload(
        self, source: Source, new: NewFile, progress: Progress | None = None
    ) -> namespace_pb2.FileInfo:
        """Store all of `source` as `new`; durable and visible on return. What is there is replaced.

        Raises AlreadyExistsError, PreconditionFailedError, NoPlacementError, NoSpaceError, NoLeaderError,
        UnavailableError, OutcomeUnknownError; OSError of the source.
        """
        body = source.whole(limits.INLINE_BYTES_MAX)
        if body is not None:
            stored = self._put_inline(body, new)
            if stored is not None:
                if progress:
                    progress(len(body))
                return stored
            source = BytesSource(body)
        try:
            return self._put_chunks(source, new, progress)
        except ChunkCondemnedError:
            if not source.replayable:
                raise
        return self._put_chunks(source, new, progress)

    def _put_inline(self, body: bytes, new: NewFile) -> namespace_pb2.FileInfo | None:
        """The stored file; None when the metadata has no room for the body."""
        try:
            return self._namespace.put_file(new, body, crc32c(body))
        except (InlineBudgetError, TooLargeError):
            return None

    def _put_chunks(self, source: Source, new: NewFile, progress: Progress | None) -> namespace_pb2.FileInfo:
        with _before_the_commit():
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
        replication = opened.replication or limits.REPLICATION_DEFAULT
        self._min_replicas = min(opened.min_replicas or limits.MIN_REPLICAS_DEFAULT, replication)
        self._storer = ChunkStorer(
            uploader._channels, self._id, self._min_replicas, uploader._cluster_id(), Tally(progress)
        )
        self._targets = _Targets(uploader._namespace, uploader._suspects, self._id, self._min_replicas)
        self._pieces: list[_Piece] = []
        self._waiting: list[_Piece] = []  # not handed in yet
        self._weight = 0
        self._size = 0

    def run(self) -> namespace_pb2.FileInfo:
        bodies = self._source.bodies(self._chunk_size)
        if self._source.size is not None:
            self._targets.expect(-(-self._source.size // self._chunk_size), self._chunk_size)
        if self._source.size is not None and self._source.size <= self._chunk_size:
            for body in bodies:
                self._add(body, self._store(body))
        else:
            self._store_all(bodies)
        return self._commit()

    def _store_all(self, bodies: Iterator[Body]) -> None:
        """Chunks in order, CHUNKS_IN_FLIGHT at a time, each in a thread."""
        under_way: deque[tuple[Body, Future[namespace_pb2.SealedChunk]]] = deque()
        pool = ThreadPoolExecutor(limits.CHUNKS_IN_FLIGHT, thread_name_prefix="quorumfs-upload")
        try:
            for body in bodies:
                under_way.append((body, pool.submit(self._store, body)))
                if len(under_way) == limits.CHUNKS_IN_FLIGHT:
                    self._collect(under_way)
            while under_way:
                self._collect(under_way)
        except BaseException:
            self._storer.cancel()
            self._targets.close()
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
        with _before_the_commit():
            self._up._namespace.add_extents(
                self._id,
                [piece.sealed for piece in self._waiting],
                [piece.extent() for piece in self._waiting],
            )
        for piece in self._waiting:
            piece.handed_in = True
        self._waiting.clear()
        self._weight = 0

    def _store(self, body: Body) -> namespace_pb2.SealedChunk:
        """Send one chunk until it is durable on enough nodes, under a new id each time."""
        deadline = self._up._clock.monotonic() + limits.STORE_CHUNK_SECONDS
        attempt = 0
        while True:
            try:
                target, nodes = self._targets.take()
                stored = self._storer.store(target, nodes, body)
            except (ChunkFailed, NoPlacementError) as failure:
                error = failure.error if isinstance(failure, ChunkFailed) else failure
                if isinstance(failure, ChunkFailed):
                    self._up._suspects.add(failure.failed)
                if self._targets.closed or self._up._clock.monotonic() >= deadline:
                    raise error from failure
                self._up._pause(_RETRY.delay(attempt, self._up._chance()))
                attempt += 1
                continue
            self._up._suspects.add(stored.failed)
            return stored.chunk

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
            piece.sealed = self._store(piece.body)
        return True

    def _checksum(self) -> int:
        checksum = 0
        for piece in self._pieces:
            checksum = combine(checksum, piece.sealed.checksum, piece.sealed.length)
        return checksum


class _Targets:
    """Chunk ids with their nodes, allocated ahead and taken one by one. Any thread may call."""

    def __init__(self, namespace: Namespace, suspects: Suspects, upload: bytes, min_replicas: int) -> None:
        self._namespace = namespace
        self._suspects = suspects
        self._upload = upload
        self._min_replicas = min_replicas
        self._expected: int | None = None
        self._size_hint = 0
        self._ready: deque[namespace_pb2.AllocatedChunk] = deque()
        self._lock = threading.Lock()
        self.closed = False

    def expect(self, count: int, size_hint: int) -> None:
        """So many chunks of this size will be asked for, if nothing fails."""
        self._expected = count
        self._size_hint = size_hint

    def close(self) -> None:
        """The upload is over: nobody tries again."""
        self.closed = True

    def take(self) -> tuple[namespace_pb2.AllocatedChunk, list[types_pb2.NodeAddress]]:
        """A new chunk and the nodes to send it to, without suspects where that is possible.

        Raises NoPlacementError; after any other error nobody asks again.
        """
        avoid = self._suspects.current()
        with self._lock:
            if self.closed:
                raise UnavailableError("the upload was given up")
            while self._ready:
                target = self._ready.popleft()
                if not any(node.node_id in avoid for node in target.replicas):
                    return target, list(target.replicas)
            try:
                return self._allocate(avoid)
            except NoPlacementError:
                raise
            except QuorumFSError:
                self.closed = True  # who waits for the lock must not try as long again
                raise

    def _allocate(
        self, avoid: frozenset[str]
    ) -> tuple[namespace_pb2.AllocatedChunk, list[types_pb2.NodeAddress]]:
        count = max(1, min(_ALLOCATE_AT_ONCE, 1 if self._expected is None else self._expected))
        try:
            found = self._ask(count, sorted(avoid))
        except NoPlacementError:
            if not avoid:
                raise
            found = self._ask(1, [])
        if self._expected is not None:
            self._expected = max(0, self._expected - len(found))
        target = found[0]
        self._ready.extend(found[1:])
        good = [node for node in target.replicas if node.node_id not in avoid]
        return target, good if len(good) >= self._min_replicas else list(target.replicas)

    def _ask(self, count: int, exclude: list[str]) -> list[namespace_pb2.AllocatedChunk]:
        with _before_the_commit():
            found = self._namespace.allocate(
                self._upload, count, self._size_hint, exclude, near_host=socket.gethostname()
            )
        usable = [target for target in found if target.replicas]
        if not usable:
            raise NoPlacementError("no datanode takes a chunk", cause="the leader named none")
        return usable


@contextmanager
def _before_the_commit() -> Iterator[None]:
    """Until the commit an unknown outcome leaves no doubt about the file: it was not stored."""
    try:
        yield
    except OutcomeUnknownError as error:
        raise UnavailableError(
            "the file was not stored", cause=str(error), next="store it again once the cluster answers"
        ) from error


def _weight(piece: _Piece) -> int:
    return piece.sealed.ByteSize() + 48  # and the extent
