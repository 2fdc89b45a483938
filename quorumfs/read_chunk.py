"""Reads a range of one chunk: verified, from the nearest good replica, going on elsewhere when one fails.

1. Whole blocks are asked for, because a checksum belongs to a block; what was not wanted is cut off.
2. Every block is verified before a byte of it is given away. A bad one: the replica is reported, and the
   reading goes on at the same offset from another.
3. No frame for a while is a failure like any other.
4. When no replica is left the layout is fetched again: chunks move. Only corrupt or missing replicas left is
   an IntegrityError; nodes that cannot be reached are tried again for a while, then it is unavailable.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from quorumfs import limits
from quorumfs.backoff import Backoff
from quorumfs.checksum import block_count, combine, compose, crc32c, verify_blocks
from quorumfs.clock import Clock, SystemClock
from quorumfs.errors import (
    ChunkNotFoundError,
    IntegrityError,
    InvalidArgumentError,
    QuorumFSError,
    UnavailableError,
)
from quorumfs.frames import WriteFrame, decode_frame
from quorumfs.rpc.channels import ChannelSource
from quorumfs.rpc.status import from_rpc
from quorumfs.suspects import Suspects
from quorumfs.v1 import chunks_pb2, namespace_pb2, types_pb2
from quorumfs.watchdog import Watchdog

_READ = "/quorumfs.v1.Chunks/Read"
_RETRY = Backoff(first_seconds=0.1, most_seconds=1.0)
_BLOCK = limits.BLOCK_BYTES

Report = Callable[[bytes, str, "types_pb2.ReplicaState.ValueType", str], object]
FindAgain = Callable[[], namespace_pb2.ChunkLocation | None]
"""Where the chunk is by now; None when the file has no such chunk any more."""


class ReplicaFailed(Exception):  # noqa: N818  never leaves the library
    """One replica did not give what was asked for. `state`: CORRUPT or MISSING when it never will."""

    def __init__(self, error: QuorumFSError, state: types_pb2.ReplicaState.ValueType | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.state = state
        self.gave_bytes = False  # and they are to be doubted


@dataclass(slots=True)
class _Attempt:
    """What is known of one chunk's replicas while one range of it is read."""

    bad: dict[str, types_pb2.ReplicaState.ValueType] = field(default_factory=dict)  # for good
    errors: dict[str, QuorumFSError] = field(default_factory=dict)  # node id -> the last failure

    def told(self) -> str:
        return "; ".join(f"{node}: {error}" for node, error in self.errors.items())


class ChunkReader:
    """Reads ranges of chunks. Any thread may call."""

    def __init__(
        self,
        channels: ChannelSource,
        suspects: Suspects,
        watchdog: Watchdog,
        report: Report,
        *,
        host: str | None = None,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self._channels = channels
        self._suspects = suspects
        self._watchdog = watchdog
        self._report = report
        self._host = socket.gethostname() if host is None else host
        self._clock = clock or SystemClock()
        self._chance = chance
        self._pause = pause

    def read(
        self, chunk: namespace_pb2.ChunkLocation, offset: int, length: int, find_again: FindAgain
    ) -> Iterator[memoryview]:
        """`length` bytes at `offset` of the chunk, in order, verified; all of them or an error.

        Raises IntegrityError when only corrupt or missing replicas are left, UnavailableError.
        """
        if offset + length > chunk.length:
            raise IntegrityError(
                f"chunk {chunk.chunk.hex()} is too short",
                cause=f"bytes {offset} to {offset + length} of {chunk.length} were asked for",
            )
        if chunk.inline:
            yield _inline(chunk, offset, length)
            return
        at, end = offset, offset + length
        attempt = _Attempt()
        deadline = self._clock.monotonic() + limits.READ_CHUNK_SECONDS
        rounds = 0
        failed_at = -1
        while at < end:
            replica = self._choose(chunk, attempt)
            if replica is None:
                chunk = self._look_again(chunk, attempt, find_again, deadline, rounds)
                rounds += 1
                if chunk.inline:
                    yield _inline(chunk, at, end - at)
                    return
                continue
            try:
                for data in self._from_replica(replica, chunk, at, end):
                    at += len(data)
                    yield data
            except ReplicaFailed as failure:
                self._note(chunk, replica, attempt, failure)
                if failure.gave_bytes:
                    raise failure.error from failure
                if at > failed_at:  # it goes on, if slowly: the patience begins anew
                    failed_at, rounds = at, 0
                    deadline = self._clock.monotonic() + limits.READ_CHUNK_SECONDS
            else:
                self._suspects.clear(replica.node_id)

    def _choose(
        self, chunk: namespace_pb2.ChunkLocation, attempt: _Attempt
    ) -> namespace_pb2.ReplicaLocation | None:
        """The best replica that has not failed in this round."""
        avoid = self._suspects.current()
        spread = int.from_bytes(chunk.chunk[:4], "little")  # so that not all read from the same node

        def rank(place: int) -> tuple[bool, bool, bool, bool, int]:
            replica = chunk.replicas[place]
            return (
                replica.state != types_pb2.REPLICA_STATE_LIVE,
                replica.node_id in avoid,
                replica.node_state not in (types_pb2.NODE_STATE_ALIVE, types_pb2.NODE_STATE_UNSPECIFIED),
                replica.host != self._host,
                (place + spread) % len(chunk.replicas),
            )

        good = [
            place
            for place, replica in enumerate(chunk.replicas)
            if replica.grpc and replica.node_id not in attempt.errors
        ]
        return chunk.replicas[min(good, key=rank)] if good else None

    def _look_again(
        self,
        chunk: namespace_pb2.ChunkLocation,
        attempt: _Attempt,
        find_again: FindAgain,
        deadline: float,
        rounds: int,
    ) -> namespace_pb2.ChunkLocation:
        """Where the chunk is by now, with the replicas that are bad for good struck out."""
        what = f"chunk {chunk.chunk.hex()} cannot be read"
        if rounds:
            self._pause(_RETRY.delay(rounds - 1, self._chance()))
        found = find_again()
        if found is None:
            raise ChunkNotFoundError(what, cause="the file does not name it any more")
        reachable = [replica for replica in found.replicas if replica.node_id not in attempt.bad]
        if not found.inline and not reachable:
            raise IntegrityError(
                f"{what}: no good replica is left",
                cause=attempt.told() or "the leader knows of none",
                next="dfsctl locate shows where its replicas were; start the nodes that hold one",
            )
        if rounds and self._clock.monotonic() >= deadline:
            raise UnavailableError(f"{what}: no replica can be reached", cause=attempt.told())
        attempt.errors = {node: error for node, error in attempt.errors.items() if node in attempt.bad}
        return found

    def _note(
        self,
        chunk: namespace_pb2.ChunkLocation,
        replica: namespace_pb2.ReplicaLocation,
        attempt: _Attempt,
        failure: ReplicaFailed,
    ) -> None:
        attempt.errors[replica.node_id] = failure.error
        if failure.state is None or failure.gave_bytes:
            self._suspects.add([replica.node_id])
        if failure.state is None:
            return
        attempt.bad[replica.node_id] = failure.state
        try:
            self._report(chunk.chunk, replica.node_id, failure.state, str(failure.error))
        except QuorumFSError:
            return  # the scrub finds it too; what counts here is the reading

    def _from_replica(
        self,
        replica: namespace_pb2.ReplicaLocation,
        chunk: namespace_pb2.ChunkLocation,
        offset: int,
        end: int,
    ) -> Iterator[memoryview]:
        """The bytes from `offset` to `end`, as one replica has them. Raises ReplicaFailed."""
        what = f"read chunk {chunk.chunk.hex()} from {replica.node_id} at {replica.grpc}"
        start = offset - offset % _BLOCK
        stop = min(chunk.length, -(-end // _BLOCK) * _BLOCK)
        whole = start == 0 and stop == chunk.length
        checksum = 0
        at = start
        for frame in self._frames(replica, chunk.chunk, start, stop - start, what):
            _check_frame(frame, at, stop, what)
            if whole:
                checksum = combine(checksum, compose(frame.block_checksums, len(frame.data)), len(frame.data))
                if at + len(frame.data) == stop and checksum != chunk.checksum:
                    failure = _corrupt(what, "the whole does not match the checksum in the metadata")
                    # Each block matched its own checksum, but what was given away is another chunk's.
                    failure.gave_bytes = at > start
                    raise failure
            data = frame.data[max(0, offset - at) : end - at]
            at += len(frame.data)
            if data:
                yield data
            if at >= stop:
                return
        raise ReplicaFailed(UnavailableError(what, cause=f"it ended at {at} of {stop} bytes"))

    def _frames(
        self, replica: namespace_pb2.ReplicaLocation, chunk: bytes, offset: int, length: int, what: str
    ) -> Iterator[WriteFrame]:
        request = chunks_pb2.ReadChunkRequest(
            chunk=chunk, offset=offset, length=length, frame_bytes=limits.FRAME_BYTES
        )
        try:
            channel = self._channels.get(replica.grpc)
            read: Any = channel.unary_stream(_READ, request_serializer=None, response_deserializer=None)
            call = read(request.SerializeToString())
        except (QuorumFSError, ValueError) as error:  # the channel was closed
            raise ReplicaFailed(UnavailableError(what, cause=str(error))) from error
        try:
            while True:
                raw = self._next(call, what)
                if raw is None:
                    return
                try:
                    yield decode_frame(raw)
                except InvalidArgumentError as error:
                    raise _corrupt(what, str(error)) from error
        finally:
            call.cancel()

    def _next(self, call: Any, what: str) -> bytes | None:
        """The next message; None at the end of the stream."""
        with self._watchdog.limit(limits.READ_STALL_SECONDS, call.cancel) as watch:
            try:
                raw: bytes | None = next(call, None)
            except grpc.RpcError as error:
                if watch.expired:
                    cause = f"nothing came for {limits.READ_STALL_SECONDS:g} s"
                    raise ReplicaFailed(UnavailableError(what, cause=cause)) from error
                raise _replica_failure(from_rpc(error, what, sent=False)) from error
        return raw


def _check_frame(frame: WriteFrame, at: int, stop: int, what: str) -> None:
    length = len(frame.data)
    if frame.offset != at or not length or at + length > stop:
        raise ReplicaFailed(
            UnavailableError(what, cause=f"{length} bytes at {frame.offset} came where {at} was expected")
        )
    if length % _BLOCK and at + length != stop:
        raise ReplicaFailed(UnavailableError(what, cause=f"a frame of {length} bytes in the middle"))
    bad = verify_blocks(frame.data, frame.block_checksums)
    if bad is not None:
        raise _corrupt(what, f"block {at // _BLOCK + bad} of {block_count(stop)} does not match its checksum")


def _inline(chunk: namespace_pb2.ChunkLocation, offset: int, length: int) -> memoryview:
    if len(chunk.body) != chunk.length or crc32c(chunk.body) != chunk.checksum:
        raise IntegrityError(
            f"chunk {chunk.chunk.hex()} in the metadata does not match its checksum",
            cause=f"{len(chunk.body)} bytes came of {chunk.length}",
        )
    return memoryview(chunk.body)[offset : offset + length]


def _corrupt(what: str, cause: str) -> ReplicaFailed:
    return ReplicaFailed(IntegrityError(what, cause=cause), types_pb2.REPLICA_STATE_CORRUPT)


def _replica_failure(error: QuorumFSError) -> ReplicaFailed:
    if isinstance(error, ChunkNotFoundError):
        return ReplicaFailed(error, types_pb2.REPLICA_STATE_MISSING)
    if isinstance(error, IntegrityError):
        return ReplicaFailed(error, types_pb2.REPLICA_STATE_CORRUPT)
    return ReplicaFailed(error)
