"""One call of `Chunks.Read`, message by message, and the race of two of them when the first is late.

1. No message for READ_STALL_SECONDS is a failure like any other.
2. A *hedge* is a second stream, from another replica and the same offset. Its first message is waited for in a
   thread of its own, so that a read that is not late costs no thread. Whoever has a message first goes on; the
   other call is cancelled.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc

from quorumfs import limits
from quorumfs.clock import Clock
from quorumfs.errors import (
    ChunkNotFoundError,
    IntegrityError,
    PreconditionFailedError,
    QuorumFSError,
    UnavailableError,
)
from quorumfs.hedging import Hedging
from quorumfs.rpc.channels import ChannelSource
from quorumfs.rpc.status import from_rpc
from quorumfs.v1 import chunks_pb2, namespace_pb2, types_pb2
from quorumfs.watchdog import Watchdog

_READ = "/quorumfs.v1.Chunks/Read"


class ReplicaFailed(Exception):  # noqa: N818  never leaves the library
    """One replica did not give what was asked for. `state`: CORRUPT or MISSING when it never will."""

    def __init__(self, error: QuorumFSError, state: types_pb2.ReplicaState.ValueType | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.state = state
        self.gave_bytes = False  # and they are to be doubted


@dataclass(frozen=True, slots=True)
class Wanted:
    """Bytes [start, stop) of a chunk: whole blocks."""

    chunk: bytes
    start: int
    stop: int


class ReplicaStream:
    """A call under way. `next` by one thread at a time, `cancel` by any."""

    def __init__(
        self, channels: ChannelSource, replica: namespace_pb2.ReplicaLocation, wanted: Wanted
    ) -> None:
        """Send the question. Raises ReplicaFailed when the channel is closed, PreconditionFailedError in a fork."""
        self.replica = replica
        self.what = f"read chunk {wanted.chunk.hex()} from {replica.node_id} at {replica.grpc}"
        request = chunks_pb2.ReadChunkRequest(
            chunk=wanted.chunk,
            offset=wanted.start,
            length=wanted.stop - wanted.start,
            frame_bytes=limits.FRAME_BYTES,
        )
        try:
            read: Any = channels.get(replica.grpc).unary_stream(
                _READ, request_serializer=None, response_deserializer=None
            )
            self._call = read(request.SerializeToString())
        except PreconditionFailedError:
            raise
        except (QuorumFSError, ValueError) as error:
            raise ReplicaFailed(UnavailableError(self.what, cause=str(error))) from error

    def next(self) -> bytes | None:
        """The next message; None at the end of the stream. Raises ReplicaFailed."""
        try:
            raw: bytes | None = next(self._call, None)
        except grpc.RpcError as error:
            raise _failure(from_rpc(error, self.what, sent=False)) from error
        return raw

    def cancel(self) -> None:
        """End the call; of no effect on one that has ended."""
        self._call.cancel()


class Asked:
    """A range that was asked for before it is read: its first messages are on their way. Any thread."""

    def __init__(self, stream: ReplicaStream, wanted: Wanted) -> None:
        self._node_id = stream.replica.node_id
        self._wanted = wanted
        self._stream: ReplicaStream | None = stream
        self._lock = threading.Lock()

    def take(self, replica: namespace_pb2.ReplicaLocation, wanted: Wanted) -> ReplicaStream | None:
        """The call, once, if it is what is wanted now."""
        with self._lock:
            if replica.node_id != self._node_id or wanted != self._wanted:
                return None
            stream, self._stream = self._stream, None
            return stream

    def cancel(self) -> None:
        """Nobody needs it any more; of no effect on a call that was taken."""
        with self._lock:
            stream, self._stream = self._stream, None
        if stream is not None:
            stream.cancel()


class Reading:
    """The messages of one range, from one replica or, after a race, from the one that won."""

    def __init__(
        self,
        channels: ChannelSource,
        watchdog: Watchdog,
        hedging: Hedging,
        replica: namespace_pb2.ReplicaLocation,
        wanted: Wanted,
        another: Callable[[], namespace_pb2.ReplicaLocation | None],
        clock: Clock,
        asked: Asked | None = None,
    ) -> None:
        """Ask `replica`, unless `asked` is that. `another`: whom a hedge may ask; None if there is nobody. Raises
        ReplicaFailed."""
        self._channels = channels
        self._watchdog = watchdog
        self._hedging = hedging
        self._wanted = wanted
        self._another = another
        self._clock = clock
        taken = asked.take(replica, wanted) if asked else None
        self.stream = taken or ReplicaStream(channels, replica, wanted)
        self.left: list[namespace_pb2.ReplicaLocation] = []
        hedging.opened()

    def next(self, at: int) -> bytes | None:
        """The message that begins at byte `at` of the chunk; None at the end. Raises ReplicaFailed.

        Afterwards `stream` is the one that it came from; those that lost a race are in `left`.
        """
        race = _Race(self.stream, lambda: self._hedge(at))
        begun = self._clock.monotonic()
        with (
            self._watchdog.limit(limits.READ_STALL_SECONDS, race.cancel) as watch,
            self._watchdog.limit(self._hedging.delay_seconds(), race.begin),
        ):
            try:
                raw = self.stream.next()
            except ReplicaFailed as failure:
                winner = race.end()
                if winner is None and watch.expired:
                    cause = f"nothing came for {limits.READ_STALL_SECONDS:g} s"
                    raise ReplicaFailed(UnavailableError(self.stream.what, cause=cause)) from failure
                if winner is None:
                    raise
            else:
                winner = race.end()
        self._hedging.answered(self._clock.monotonic() - begun)
        if winner is None:
            return raw
        self.left.append(self.stream.replica)
        self.stream, raw = winner
        return raw

    def cancel(self) -> None:
        """End what is under way."""
        self.stream.cancel()

    def _hedge(self, at: int) -> ReplicaStream | None:
        other = self._another()
        if other is None or not self._hedging.spend():
            return None
        wanted = Wanted(self._wanted.chunk, at, self._wanted.stop)
        try:
            return ReplicaStream(self._channels, other, wanted)
        except ReplicaFailed:
            return None


class _Race:
    """One wait for a message: from `first`, and if that is late, from what `hedge` opens. Any thread."""

    def __init__(self, first: ReplicaStream, hedge: Callable[[], ReplicaStream | None]) -> None:
        self._first = first
        self._hedge = hedge
        self._second: ReplicaStream | None = None
        self._winner: tuple[ReplicaStream, bytes] | None = None
        self._over = False
        self._lock = threading.Lock()

    def begin(self) -> None:
        """The first stream is late. Where no thread can be started there is no hedge."""
        with suppress(RuntimeError):
            threading.Thread(target=self._run, name="quorumfs-hedge", daemon=True).start()

    def cancel(self) -> None:
        """Both have taken too long."""
        self._first.cancel()

    def end(self) -> tuple[ReplicaStream, bytes] | None:
        """The wait is over. The hedge and its message, if it was faster: the first call is then cancelled.

        Else the hedge is cancelled, and the first call goes on.
        """
        with self._lock:
            self._over = True
            winner, second = self._winner, self._second
        if second is not None and winner is None:
            second.cancel()
        return winner

    def _run(self) -> None:
        second = None if self._over else self._hedge()
        if second is None:
            return
        if not self._entered(second):
            second.cancel()
            return
        try:
            raw = second.next()
        except ReplicaFailed:
            return
        if raw is not None and self._won(second, raw):
            self._first.cancel()  # wakes who waits for it
        else:
            second.cancel()

    def _entered(self, second: ReplicaStream) -> bool:
        with self._lock:
            self._second = second
            return not self._over

    def _won(self, second: ReplicaStream, raw: bytes) -> bool:
        with self._lock:
            if not self._over:
                self._winner = second, raw
            return not self._over


def corrupt(what: str, cause: str) -> ReplicaFailed:
    return ReplicaFailed(IntegrityError(what, cause=cause), types_pb2.REPLICA_STATE_CORRUPT)


def _failure(error: QuorumFSError) -> ReplicaFailed:
    if isinstance(error, ChunkNotFoundError):
        return ReplicaFailed(error, types_pb2.REPLICA_STATE_MISSING)
    if isinstance(error, IntegrityError):
        return ReplicaFailed(error, types_pb2.REPLICA_STATE_CORRUPT)
    return ReplicaFailed(error)
