"""Receives a chunk: passes it on, verifies it, keeps it. The serving side of `Chunks.Write`.

Per message, in this order: to the next node, unchanged; then each block against its checksum; then to the
disk. A chunk that comes in one message, with its opening and its end, is verified and written first, and passed on
in one: there is no end to hold back from those behind. After the `end`: the own disk is synced first, while the row
behind does the same; then its answer is waited for. Only `end` seals: a stream that breaks off leaves nothing, here
or behind.

What the *sender* did wrong (bytes out of order, blocks that do not match, no end) fails the call. What this
node or one behind it cannot do is a line of the answer, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from datanode.store.chunks import ChunkStore
from datanode.store.writer import ChunkInfo, ChunkWriter
from datanode.transfer import pipeline
from datanode.transfer.admission import Gate
from datanode.transfer.forward import Forward
from datanode.transfer.meter import Meter
from datanode.transfer.pipeline import Opening
from datanode.transfer.watch import StreamWatch
from quorumfs import limits
from quorumfs.errors import (
    BusyError,
    InvalidArgumentError,
    NoSpaceError,
    PreconditionFailedError,
    QuorumFSError,
    TooLargeError,
    UnavailableError,
)
from quorumfs.frames import WriteFrame, decode_write, encode_end, encode_frame, encode_open
from quorumfs.rpc.channels import ChannelSource
from quorumfs.v1.chunks_pb2 import WriteEnd, WriteResponse
from quorumfs.v1.types_pb2 import ReplicaAck

SILENCE_SECONDS_MAX = limits.STALL_SECONDS * 4
MESSAGE_BYTES_MAX = limits.FRAME_BYTES_MAX + limits.BLOCK_BYTES

# What this node's own disk cannot do; anything else is the sender's fault or a bug.
_OWN_FAILURES = (NoSpaceError, UnavailableError, BusyError, PreconditionFailedError)


class Stream(Protocol):
    """What is needed of `grpc.ServicerContext`."""

    def cancel(self) -> object: ...

    def time_remaining(self) -> float | None: ...


class Receiver:
    """Takes chunks in. Any number of threads, each with its own stream."""

    def __init__(
        self,
        node_id: str,
        cluster_id: Callable[[], str],
        store: ChunkStore,
        channels: ChannelSource,
        gate: Gate,
        watch: StreamWatch,
        meter: Meter,
    ) -> None:
        self._node_id = node_id
        self._cluster_id = cluster_id
        self._store = store
        self._channels = channels
        self._gate = gate
        self._watch = watch
        self._meter = meter

    def receive(self, messages: Iterator[bytes], stream: Stream) -> WriteResponse:
        """One chunk, from `open` to `end`. Which replicas are durable is in the answer, this node's first.

        Raises BusyError (nothing was read), InvalidArgumentError, IntegrityError, WrongClusterError. When it
        raises, or the peer goes away, nothing remains here.
        """
        with self._gate.enter(), self._watch.track(stream.cancel, SILENCE_SECONDS_MAX) as watched:
            raw = _checked(next(messages, b""))
            first = decode_write(raw)
            opening = pipeline.read_opening(first.open, self._node_id, self._cluster_id())
            # While the row behind takes nothing this node takes nothing either: that is not the sender's silence.
            watched.allowed_seconds += limits.stall_seconds(len(opening.behind))
            leg, tail = _OwnLeg(self._store, opening), None
            try:
                if first.end is None:
                    tail = self._tail(opening, leg, stream.time_remaining())
                    end = self._take_frames(messages, opening, leg, tail, watched.progress)
                else:
                    self._meter.received(len(raw))
                    if first.data:
                        leg.append(first)
                    tail = self._tail(opening, leg, stream.time_remaining(), first, first.end)
                    end = first.end if self._is_worth_it(opening, leg, tail) else None
                if end is None:
                    return self._given_up(opening, leg, tail)
                watched.allowed_seconds = float("inf")  # of the peer nothing is expected any more
                leg.seal(end)
                behind = tail.acks(limits.seal_seconds(len(opening.behind))) if tail else []
                return WriteResponse(replicas=[leg.ack(self._node_id), *behind])
            finally:
                leg.abort()
                row_lost = tail is not None and not tail.alive
                self._meter.written(sealed=leg.sealed, row_lost=row_lost)
                if tail is not None:
                    tail.cancel()

    def _tail(
        self,
        opening: Opening,
        leg: _OwnLeg,
        seconds: float | None,
        frame: WriteFrame | None = None,
        end: WriteEnd | None = None,
    ) -> Forward | None:
        """The call to the next node; with `frame` and `end`, all that it is told."""
        if not opening.behind:
            return None
        message = encode_open(pipeline.passed_on(opening, leg.keeps))
        if frame is None or end is None:
            return Forward(self._channels, opening.behind, message, seconds)
        data = encode_frame(frame.offset, frame.data, frame.block_checksums)
        whole = b"".join((message, data, encode_end(end.length, end.checksum)))
        return Forward(self._channels, opening.behind, whole, seconds, whole=True)

    def _is_worth_it(self, opening: Opening, leg: _OwnLeg, tail: Forward | None) -> bool:
        return pipeline.worth_going_on(opening, leg.keeps, tail is not None and tail.alive)

    def _take_frames(
        self,
        messages: Iterator[bytes],
        opening: Opening,
        leg: _OwnLeg,
        tail: Forward | None,
        progress: Callable[[], None],
    ) -> WriteEnd | None:
        """All up to the `end`; None when too few replicas are left for it to be worth going on."""
        while self._is_worth_it(opening, leg, tail):
            raw = next(messages, None)
            if raw is None:
                raise InvalidArgumentError(
                    f"chunk {opening.chunk.hex()} was not ended", cause="the stream closed without its `end`"
                )
            progress()
            self._meter.received(len(_checked(raw)))
            if tail is not None:
                tail.push(raw)
            frame = decode_write(raw)
            if frame.end is not None:
                return frame.end
            if not frame.data:
                raise InvalidArgumentError(
                    f"chunk {opening.chunk.hex()} was not continued", cause="a frame without bytes came"
                )
            leg.append(frame)
        return None

    def _given_up(self, opening: Opening, leg: _OwnLeg, tail: Forward | None) -> WriteResponse:
        behind = [] if tail is None else tail.given_up()
        return WriteResponse(replicas=[leg.given_up(self._node_id, opening), *behind])


def _checked(raw: bytes) -> bytes:
    """Nobody needs larger messages, and a few of each stream are held. Raises TooLargeError."""
    if len(raw) > MESSAGE_BYTES_MAX:
        raise TooLargeError(
            "a frame is too large",
            cause=f"{len(raw)} bytes; at most {MESSAGE_BYTES_MAX}",
            next="send smaller",
        )
    return raw


class _OwnLeg:
    """This node's own replica while it comes in; remembers why it was lost."""

    def __init__(self, store: ChunkStore, opening: Opening) -> None:
        self._writer: ChunkWriter | None = None
        self._error: QuorumFSError | None = None
        self._info: ChunkInfo | None = None
        try:
            self._writer = store.begin(
                opening.chunk,
                opening.upload,
                opening.birth,
                opening.size_hint,
                read_soon=opening.read_soon,
            )
        except _OWN_FAILURES as error:
            self._error = error

    @property
    def keeps(self) -> bool:
        return self._error is None

    @property
    def sealed(self) -> bool:
        return self._info is not None

    def append(self, frame: WriteFrame) -> None:
        if self._writer is None:
            return
        try:
            self._writer.append(frame.offset, frame.data, frame.block_checksums)
        except _OWN_FAILURES as error:
            self._lose(error)

    def seal(self, end: WriteEnd) -> None:
        if self._writer is None:
            return
        try:
            self._info = self._writer.seal(end.length, end.checksum)
        except _OWN_FAILURES as error:
            self._lose(error)

    def ack(self, node_id: str) -> ReplicaAck:
        return pipeline.own_ack(node_id, self._info.disk_id if self._info else "", self._error)

    def given_up(self, node_id: str, opening: Opening) -> ReplicaAck:
        """The line of a node that could have gone on, but not alone."""
        error = self._error or UnavailableError(
            f"{node_id} gave chunk {opening.chunk.hex()} up",
            cause=f"fewer than {opening.min_replicas} replicas were left",
        )
        return pipeline.own_ack(node_id, "", error)

    def abort(self) -> None:
        """Nothing remains unless it was sealed."""
        if self._writer is not None and self._info is None:
            self._writer.abort()
            self._writer = None

    def _lose(self, error: QuorumFSError) -> None:
        self._error = error
        self.abort()
