"""The chunks of one upload: their ids and nodes, and the patience with which each is sent until it is durable.

Used by uploads of one file and by packs of many (upload.py, pack.py).
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from quorumfs.backoff import Backoff
from quorumfs.clock import Clock
from quorumfs.errors import NoPlacementError, OutcomeUnknownError, QuorumFSError, UnavailableError
from quorumfs.limits import STORE_CHUNK_SECONDS
from quorumfs.namespace import Namespace
from quorumfs.sources import Body
from quorumfs.store_chunk import ChunkFailed, ChunkStorer
from quorumfs.suspects import Suspects
from quorumfs.v1 import namespace_pb2, types_pb2

_ALLOCATE_AT_ONCE = 4
_RETRY = Backoff(first_seconds=0.05, most_seconds=1.0)


class ChunkSender:
    """Sends bodies as chunks of one upload. Any thread may call."""

    def __init__(
        self,
        targets: Targets,
        storer: ChunkStorer,
        suspects: Suspects,
        clock: Clock,
        chance: Callable[[], float],
        pause: Callable[[float], object],
    ) -> None:
        self._targets = targets
        self._storer = storer
        self._suspects = suspects
        self._clock = clock
        self._chance = chance
        self._pause = pause

    def expect(self, count: int, size_hint: int) -> None:
        """So many chunks of at most `size_hint` bytes will be sent, if nothing fails."""
        self._targets.expect(count, size_hint)

    def cancel(self) -> None:
        """The upload is over: what is under way ends, nobody tries again."""
        self._storer.cancel()
        self._targets.close()

    def send(self, body: Body, patience_seconds: float = STORE_CHUNK_SECONDS) -> namespace_pb2.SealedChunk:
        """Send one chunk until it is durable on enough nodes, under a new id each time.

        Raises what the last try failed with once `patience_seconds` are over; OSError of the body.
        """
        deadline = self._clock.monotonic() + patience_seconds
        attempt = 0
        while True:
            try:
                target, nodes = self._targets.take()
                stored = self._storer.store(target, nodes, body)
            except (ChunkFailed, NoPlacementError) as failure:
                error = failure.error if isinstance(failure, ChunkFailed) else failure
                if isinstance(failure, ChunkFailed):
                    self._suspects.add(failure.failed)
                if self._targets.closed or self._clock.monotonic() >= deadline:
                    raise error from failure
                self._pause(_RETRY.delay(attempt, self._chance()))
                attempt += 1
                continue
            self._suspects.add(stored.failed)
            return stored.chunk


class Targets:
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
        with before_the_commit():
            found = self._namespace.allocate(
                self._upload, count, self._size_hint, exclude, near_host=socket.gethostname()
            )
        usable = [target for target in found if target.replicas]
        if not usable:
            raise NoPlacementError("no datanode takes a chunk", cause="the leader named none")
        return usable


@contextmanager
def before_the_commit() -> Iterator[None]:
    """Until the commit an unknown outcome leaves no doubt about the file: it was not stored."""
    try:
        yield
    except OutcomeUnknownError as error:
        raise UnavailableError(
            "the file was not stored", cause=str(error), next="store it again once the cluster answers"
        ) from error
