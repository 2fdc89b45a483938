"""Reads a range of one chunk: verified, from the nearest good replica, going on elsewhere when one fails.

A replica on this machine is read from its file (short_circuit.py), any other one over gRPC (replica_stream.py).

1. Whole blocks are asked for, because a checksum belongs to a block; what was not wanted is cut off.
2. Every block is verified before a byte of it is given away. A bad one: the replica is reported, and the
   reading goes on at the same offset from another.
3. A late frame is asked of another replica too; no frame for a while is a failure like any other.
4. When no replica is left the layout is fetched again: chunks move. Only corrupt or missing replicas left is
   an IntegrityError; nodes that cannot be reached are tried again for a while, then it is unavailable.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from quorumfs import limits
from quorumfs.backoff import Backoff
from quorumfs.checksum import CHECKSUM_BYTES, block_count, combine, compose, crc32c, verify_blocks
from quorumfs.clock import Clock, SystemClock
from quorumfs.errors import (
    ChunkNotFoundError,
    IntegrityError,
    InvalidArgumentError,
    PreconditionFailedError,
    QuorumFSError,
    UnavailableError,
)
from quorumfs.frames import WriteFrame, decode_frame
from quorumfs.hedging import Hedging
from quorumfs.nearness import Nearness
from quorumfs.open_chunks import BadBlockError, OpenChunk
from quorumfs.replica_stream import Asked, Reading, ReplicaFailed, ReplicaStream, Wanted, corrupt
from quorumfs.rpc.channels import ChannelSource
from quorumfs.suspects import Suspects
from quorumfs.v1 import namespace_pb2, types_pb2
from quorumfs.watchdog import Watchdog

_RETRY = Backoff(first_seconds=0.1, most_seconds=1.0)
_BLOCK = limits.BLOCK_BYTES

Report = Callable[[bytes, str, "types_pb2.ReplicaState.ValueType", str], object]
FindAgain = Callable[[], namespace_pb2.ChunkLocation | None]
"""Where the chunk is by now; None when the file has no such chunk any more."""


class LocalFiles(Protocol):
    """What gives open files of replicas on this machine: `ShortCircuit`, or a test's fake."""

    def may_have(self, replica: namespace_pb2.ReplicaLocation) -> bool: ...

    def open(
        self, replica: namespace_pb2.ReplicaLocation, chunk: namespace_pb2.ChunkLocation
    ) -> AbstractContextManager[OpenChunk | None]: ...

    def drop(self, replica: namespace_pb2.ReplicaLocation, chunk: namespace_pb2.ChunkLocation) -> None: ...


@dataclass(slots=True)
class _Attempt:
    """What is known of one chunk's replicas while one range of it is read."""

    bad: dict[str, types_pb2.ReplicaState.ValueType] = field(default_factory=dict)  # for good
    errors: dict[str, QuorumFSError] = field(default_factory=dict)  # node id -> the last failure
    reading: str = ""  # the node that is being read from
    asked: Asked | None = None  # before the reading began

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
        nearness: Nearness,
        local_files: LocalFiles | None = None,
        hedging: Hedging | None = None,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self._channels = channels
        self._suspects = suspects
        self._watchdog = watchdog
        self._report = report
        self._nearness = nearness
        self._local_files = local_files
        self._hedging = hedging or Hedging()
        self._clock = clock or SystemClock()
        self._chance = chance
        self._pause = pause
        self._last: (
            tuple[namespace_pb2.ChunkLocation, frozenset[str], namespace_pb2.ReplicaLocation] | None
        ) = None
        self._slow = Suspects(self._clock)  # lost a race: for reads only, writes are not to avoid them

    def read(
        self,
        chunk: namespace_pb2.ChunkLocation,
        offset: int,
        length: int,
        find_again: FindAgain,
        asked: Asked | None = None,
    ) -> Iterator[memoryview]:
        """`length` bytes at `offset` of the chunk, in order, verified; all of them or an error.

        `asked`: what `ask` gave for this range. Raises IntegrityError when only corrupt or missing replicas are
        left, UnavailableError.
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
        attempt = _Attempt(asked=asked)
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
                for data in self._from_replica(replica, chunk, at, end, attempt):
                    at += len(data)
                    yield data
            except ReplicaFailed as failure:
                self._note(chunk, attempt, failure)
                if failure.gave_bytes:
                    raise failure.error from failure
                if at > failed_at:  # it goes on, if slowly: the patience begins anew
                    failed_at, rounds = at, 0
                    deadline = self._clock.monotonic() + limits.READ_CHUNK_SECONDS
            else:
                self._suspects.clear(attempt.reading)
                self._slow.clear(attempt.reading)

    def read_into(self, chunk: namespace_pb2.ChunkLocation, offset: int, view: memoryview) -> int:
        """Fill the beginning of `view` with verified bytes at `offset` of the chunk, from a file on this machine.

        Returns how many. 0 when that cannot be done, whatever the reason: `read` can, or says why not. Only
        whole blocks are read; `view` may hold anything behind what is counted.
        """
        rest = chunk.length - offset
        if self._local_files is None or chunk.inline or offset % _BLOCK or rest <= 0:
            return 0
        count = min(len(view), rest)
        if count < rest:
            count -= count % _BLOCK
        replica = self._nearest(chunk) if count else None
        if replica is None:
            return 0
        with self._local_files.open(replica, chunk) as opened:
            if opened is None:
                return 0
            try:
                opened.read_into(view[:count], offset)
            except (BadBlockError, OSError):
                return 0
        return count

    def is_here(self, chunk: namespace_pb2.ChunkLocation) -> bool:
        """Whether `chunk` seems to be read from a file on this machine."""
        replica = self._nearest(chunk)
        return self._local_files is not None and replica is not None and self._local_files.may_have(replica)

    def ask(self, chunk: namespace_pb2.ChunkLocation, offset: int, length: int) -> Asked | None:
        """Have the first bytes of a range sent that will be read soon; `read` takes it. None if that is of no use.

        At most STREAM_WINDOW_BYTES are held for it. Nothing is raised: `read` says what is wrong.
        """
        replica = None if chunk.inline or offset + length > chunk.length else self._nearest(chunk)
        if replica is None or self.is_here(chunk):
            return None
        wanted = _whole_blocks(chunk, offset, offset + length)
        try:
            return Asked(ReplicaStream(self._channels, replica, wanted), wanted)
        except (ReplicaFailed, PreconditionFailedError):
            return None

    def _nearest(self, chunk: namespace_pb2.ChunkLocation) -> namespace_pb2.ReplicaLocation | None:
        """The best replica; remembered, because a file is read in many small steps."""
        avoided = self._avoided()
        last = self._last
        if last is not None and last[0] is chunk and last[1] == avoided:
            return last[2]
        order = self._nearness.order(chunk, avoided, ())
        if not order:
            return None
        self._last = chunk, avoided, order[0]
        return order[0]

    def _choose(
        self, chunk: namespace_pb2.ChunkLocation, attempt: _Attempt
    ) -> namespace_pb2.ReplicaLocation | None:
        """The best replica that has not failed in this round."""
        order = self._nearness.order(chunk, self._avoided(), attempt.errors)
        return order[0] if order else None

    def _avoided(self) -> frozenset[str]:
        return self._suspects.current() | self._slow.current()

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

    def _note(self, chunk: namespace_pb2.ChunkLocation, attempt: _Attempt, failure: ReplicaFailed) -> None:
        node_id = attempt.reading
        attempt.errors[node_id] = failure.error
        if failure.state is None or failure.gave_bytes:
            self._suspects.add([node_id])
        if failure.state is None:
            return
        attempt.bad[node_id] = failure.state
        try:
            self._report(chunk.chunk, node_id, failure.state, str(failure.error))
        except QuorumFSError:
            return  # the scrub finds it too; what counts here is the reading

    def _from_replica(
        self,
        replica: namespace_pb2.ReplicaLocation,
        chunk: namespace_pb2.ChunkLocation,
        offset: int,
        end: int,
        attempt: _Attempt,
    ) -> Iterator[memoryview]:
        """The bytes from `offset` to `end`, as one replica has them. Raises ReplicaFailed.

        After a race they come from two; `attempt` knows which one is being read.
        """
        attempt.reading = replica.node_id
        at = offset
        if self._local_files is not None:
            for data in self._from_file(self._local_files, replica, chunk, offset, end):
                at += len(data)
                yield data
        if at < end:
            yield from self._from_streams(replica, chunk, at, end, attempt)

    def _from_file(
        self,
        local_files: LocalFiles,
        replica: namespace_pb2.ReplicaLocation,
        chunk: namespace_pb2.ChunkLocation,
        offset: int,
        end: int,
    ) -> Iterator[memoryview]:
        """What can be read from the replica's file: all, or nothing, or until it fails. Raises ReplicaFailed."""
        with local_files.open(replica, chunk) as opened:
            if opened is None:
                return
            wanted = _whole_blocks(chunk, offset, end)
            for at in range(wanted.start, wanted.stop, limits.FRAME_BYTES):
                try:
                    data = opened.read(at, min(limits.FRAME_BYTES, wanted.stop - at))
                except BadBlockError as error:
                    local_files.drop(replica, chunk)
                    what = f"read chunk {chunk.chunk.hex()} from the file of {replica.node_id}"
                    raise corrupt(what, str(error)) from error
                except OSError:
                    local_files.drop(replica, chunk)
                    return
                yield memoryview(data)[max(0, offset - at) : end - at]

    def _from_streams(
        self,
        replica: namespace_pb2.ReplicaLocation,
        chunk: namespace_pb2.ChunkLocation,
        offset: int,
        end: int,
        attempt: _Attempt,
    ) -> Iterator[memoryview]:
        wanted = _whole_blocks(chunk, offset, end)
        start, stop = wanted.start, wanted.stop
        whole = start == 0 and stop == chunk.length
        reading = Reading(
            self._channels,
            self._watchdog,
            self._hedging,
            replica,
            wanted,
            lambda: self._another(chunk, attempt),
            self._clock,
            attempt.asked,
        )
        checksum, at = 0, start
        try:
            while at < stop:
                frame, told = self._next(reading, at, stop, attempt)
                if whole:
                    checksum = combine(checksum, told, len(frame.data))
                    if at + len(frame.data) == stop and checksum != chunk.checksum:
                        raise _not_the_chunk(reading, gave_bytes=at > start)
                data = frame.data[max(0, offset - at) : end - at]
                at += len(frame.data)
                if data:
                    yield data
        finally:
            reading.cancel()

    def _next(self, reading: Reading, at: int, stop: int, attempt: _Attempt) -> tuple[WriteFrame, int]:
        """The frame at byte `at`, verified, and the checksum of its data. Raises ReplicaFailed."""
        raw = reading.next(at)
        stream = reading.stream
        if stream.replica.node_id != attempt.reading:
            self._slow.add([attempt.reading])
            attempt.reading = stream.replica.node_id
        if raw is None:
            raise ReplicaFailed(UnavailableError(stream.what, cause=f"it ended at {at} of {stop} bytes"))
        try:
            frame = decode_frame(raw)
        except InvalidArgumentError as error:
            raise corrupt(stream.what, str(error)) from error
        return frame, _check_frame(frame, at, stop, stream.what)

    def _another(
        self, chunk: namespace_pb2.ChunkLocation, attempt: _Attempt
    ) -> namespace_pb2.ReplicaLocation | None:
        """Whom to ask besides the replica that is being read: a live one on a node that is well, or nobody."""
        avoided = self._avoided()
        order = self._nearness.order(chunk, avoided, {*attempt.errors, attempt.reading})
        if not order or order[0].state != types_pb2.REPLICA_STATE_LIVE or order[0].node_id in avoided:
            return None
        return order[0]


def _whole_blocks(chunk: namespace_pb2.ChunkLocation, offset: int, end: int) -> Wanted:
    """The blocks that hold the bytes from `offset` to `end`."""
    start = offset - offset % _BLOCK
    return Wanted(chunk.chunk, start, min(chunk.length, -(-end // _BLOCK) * _BLOCK))


def _check_frame(frame: WriteFrame, at: int, stop: int, what: str) -> int:
    """The checksum of its data, which is the one that its table composes to. Raises ReplicaFailed."""
    length = len(frame.data)
    if frame.offset != at or not length or at + length > stop:
        raise ReplicaFailed(
            UnavailableError(what, cause=f"{length} bytes at {frame.offset} came where {at} was expected")
        )
    if length % _BLOCK and at + length != stop:
        raise ReplicaFailed(UnavailableError(what, cause=f"a frame of {length} bytes in the middle"))
    checksum = crc32c(frame.data)
    if len(frame.block_checksums) != CHECKSUM_BYTES * block_count(length) or checksum != compose(
        frame.block_checksums, length
    ):
        bad = at // _BLOCK + (verify_blocks(frame.data, frame.block_checksums) or 0)
        raise corrupt(what, f"block {bad} of {block_count(stop)} does not match its checksum")
    return checksum


def _inline(chunk: namespace_pb2.ChunkLocation, offset: int, length: int) -> memoryview:
    if len(chunk.body) != chunk.length or crc32c(chunk.body) != chunk.checksum:
        raise IntegrityError(
            f"chunk {chunk.chunk.hex()} in the metadata does not match its checksum",
            cause=f"{len(chunk.body)} bytes came of {chunk.length}",
        )
    return memoryview(chunk.body)[offset : offset + length]


def _not_the_chunk(reading: Reading, *, gave_bytes: bool) -> ReplicaFailed:
    """Each block matched its own checksum, but what was read is another chunk's."""
    what, cause = reading.stream.what, "the whole does not match the checksum in the metadata"
    failure = ReplicaFailed(IntegrityError(what, cause=cause)) if reading.left else corrupt(what, cause)
    failure.gave_bytes = gave_bytes
    return failure
