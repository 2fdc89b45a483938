"""Puts one chunk on its replicas: one pass of the bytes through the pipeline, watched.

1. The chunk goes to the first replica, which forwards it to the next while it receives. One that fits a frame goes
   as one message with its opening and its end.
2. It counts when `min_replicas` nodes say that it is durable; making the others is repair's business.
3. A row of nodes breaks at one of them: only that one is to blame, not those behind it that were cut off, nor
   those before it that could not go on alone.
4. No progress is a failure too: a stopped node closes no connection. Reading the source is not waiting for
   the node, so bodies never block on anything but a disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from quorumfs import limits
from quorumfs.checksum import compose
from quorumfs.errors import (
    IntegrityError,
    OutcomeUnknownError,
    QuorumFSError,
    TimedOutError,
    UnavailableError,
)
from quorumfs.frames import encode_end, encode_open
from quorumfs.nearness import read_first
from quorumfs.own_host import is_here
from quorumfs.rpc.channels import ChannelSource
from quorumfs.rpc.status import from_detail, from_rpc
from quorumfs.sources import Body
from quorumfs.v1 import chunks_pb2, namespace_pb2, types_pb2

_WRITE = "/quorumfs.v1.Chunks/Write"
_LOOKS_PER_STALL = 4


@dataclass(frozen=True, slots=True)
class Stored:
    """A sealed chunk, and the nodes that are to blame for the replicas it does not have."""

    chunk: namespace_pb2.SealedChunk
    failed: frozenset[str]


class ChunkFailed(Exception):  # noqa: N818  never leaves the library
    """The chunk did not become durable on enough nodes. `failed`: the ids of those to blame."""

    def __init__(self, error: QuorumFSError, failed: frozenset[str]) -> None:
        super().__init__(str(error))
        self.error = error
        self.failed = failed


class Tally:
    """Bytes sent so far over all chunks under way; what was sent in vain is taken back. Any thread."""

    def __init__(self, report: Callable[[int], object] | None) -> None:
        self._report = report
        self._total = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        if self._report is None:
            return
        with self._lock:
            self._total += count
            self._report(self._total)


class ChunkStorer:
    """Sends chunks to datanodes. Any thread may call `store`; `cancel` ends all that are under way."""

    def __init__(
        self, channels: ChannelSource, upload: bytes, min_replicas: int, cluster_id: str, tally: Tally
    ) -> None:
        self._channels = channels
        self._upload = upload
        self._min_replicas = min_replicas
        self._cluster_id = cluster_id
        self._tally = tally
        self._calls: set[Any] = set()
        self._cancelled = False
        self._lock = threading.Lock()

    def store(
        self, target: namespace_pb2.AllocatedChunk, nodes: list[types_pb2.NodeAddress], body: Body
    ) -> Stored:
        """Send `body` as the chunk `target` to `nodes`. Raises ChunkFailed; OSError of the source; UnavailableError
        when no thread can be started for it."""
        opening = chunks_pb2.WriteOpen(
            chunk=target.chunk,
            upload=self._upload,
            birth=target.birth,
            pipeline=nodes[1:],
            cluster_id=self._cluster_id,
            min_replicas=self._min_replicas,
            size_hint=body.length,
            read_first=read_first(target.chunk, nodes, is_here),
        )
        sending = _Sending(encode_open(opening), body, self._tally, len(nodes))
        try:
            response = self._send(nodes[0], sending)
            return self._judge(target, nodes, sending, response)
        except ChunkFailed:
            sending.void()
            raise

    def cancel(self) -> None:
        """End what is under way, and refuse what comes."""
        with self._lock:
            self._cancelled = True
            calls = list(self._calls)
        for call in calls:
            call.cancel()

    def _send(self, head: types_pb2.NodeAddress, sending: _Sending) -> chunks_pb2.WriteResponse:
        what = f"store a chunk on {head.node_id} at {head.grpc}"
        try:
            channel = self._channels.get(head.grpc)
            write: Any = channel.stream_unary(
                _WRITE, request_serializer=None, response_deserializer=chunks_pb2.WriteResponse.FromString
            )
            call = write.future(iter(sending))
        except (QuorumFSError, ValueError) as error:  # the channel was closed
            raise _failed(head, UnavailableError(what, cause=str(error))) from error
        except RuntimeError as error:  # no thread could be started to send it: no node's fault
            raise UnavailableError(what, cause=str(error)) from error
        sending.call = call
        with self._lock:
            self._calls.add(call)
            cancelled = self._cancelled
        if cancelled:
            call.cancel()
        try:
            return _await(call, sending)
        except grpc.FutureTimeoutError:
            waited = sending.patience_seconds
            raise _failed(head, TimedOutError(what, cause=f"no progress for {waited:g} s")) from None
        except grpc.FutureCancelledError as error:
            sending.check()
            raise _failed(head, UnavailableError(what, cause="the call was cancelled")) from error
        except grpc.RpcError as error:
            sending.check()
            raise _failed(head, from_rpc(error, what, sent=False)) from error
        finally:
            call.cancel()  # of no effect on a call that ended; an interrupted thread leaves none behind
            sending.call = None  # no cycle: the body's buffer is let go at once
            with self._lock:
                self._calls.discard(call)

    def _judge(
        self,
        target: namespace_pb2.AllocatedChunk,
        nodes: list[types_pb2.NodeAddress],
        sending: _Sending,
        response: chunks_pb2.WriteResponse,
    ) -> Stored:
        durable = [ack for ack in response.replicas if ack.durable]
        failed = blamed([node.node_id for node in nodes], response.replicas)
        if len({ack.node_id for ack in durable}) < self._min_replicas:
            told = "; ".join(f"{ack.node_id}: {_reason(ack)}" for ack in response.replicas if not ack.durable)
            error = UnavailableError(
                f"a chunk became durable on {len(durable)} of {len(nodes)} datanodes",
                cause=told or f"{self._min_replicas} are asked for",
            )
            raise ChunkFailed(error, failed or frozenset({nodes[0].node_id}))
        if not sending.ended:  # what is called durable is not the chunk
            sending.check()
            early = IntegrityError(f"{nodes[0].node_id} answered before it had the whole chunk")
            raise _failed(nodes[0], early)
        sealed = namespace_pb2.SealedChunk(
            chunk=target.chunk, length=sending.length, checksum=sending.checksum, replicas=durable
        )
        return Stored(sealed, failed)


class _Sending:
    """The stream of one chunk, made while gRPC takes it. Its numbers say how far it has come."""

    def __init__(self, opening: bytes, body: Body, tally: Tally, row: int) -> None:
        self._opening = opening
        self._row = row
        self._body = body
        self._tally = tally
        self._voided = False
        self.call: Any = None
        self.error: OSError | QuorumFSError | None = None
        self.taken = 0
        self.length = 0
        self.checksum = 0
        self.ended = False
        self._waited_seconds = 0.0
        self._offered_at: float | None = None  # of the frame that nobody has taken yet

    def __iter__(self) -> Iterator[bytes]:
        if self._body.length <= limits.WRITE_FRAME_BYTES:
            return self._one_message()
        return self._messages()

    def _one_message(self) -> Iterator[bytes]:
        """Opening, bytes and end joined: messages that are joined are one."""
        try:
            (frame,) = self._body.frames()
        except (OSError, QuorumFSError) as error:
            self._fail(error)
            return
        self.length, self.checksum, self.ended = frame.length, compose(frame.table, frame.length), True
        self._tally.add(frame.length)
        self._offered_at = time.monotonic()
        yield b"".join((self._opening, frame.wire, encode_end(self.length, self.checksum)))
        self._offered_at = None
        self.taken = 1

    def _messages(self) -> Iterator[bytes]:
        yield self._opening
        table = bytearray()
        try:
            for frame in self._body.frames():
                if self._voided:
                    return
                table += frame.table
                self._offered_at = began = time.monotonic()
                yield frame.wire
                self._offered_at = None
                self._waited_seconds += time.monotonic() - began
                self.taken += 1
                self.length += frame.length
                self._tally.add(frame.length)
        except (OSError, QuorumFSError) as error:
            self._fail(error)
            return
        self.checksum = compose(table, self.length)
        self.ended = True
        yield encode_end(self.length, self.checksum)

    def _fail(self, error: OSError | QuorumFSError) -> None:
        """Of the source. gRPC would only log it. Without the end no replica is sealed."""
        self.error = error
        call = self.call
        if call is not None:
            call.cancel()

    @property
    def patience_seconds(self) -> float:
        """How long nothing may move: longer than the head waits for the nodes behind it."""
        if self.ended and self._offered_at is None:
            return max(limits.SEAL_SECONDS, limits.seal_seconds(self._row) + limits.STALL_SECONDS)
        return max(limits.WRITE_STALL_SECONDS, limits.stall_seconds(self._row))

    @property
    def drips(self) -> bool:
        """Whether the datanodes take so little that it would take for ever, though never nothing for long. What the
        source takes its time for is not theirs."""
        offered_at = self._offered_at
        waits = 0.0 if offered_at is None else time.monotonic() - offered_at
        earned = self.patience_seconds + self.length / limits.SLOWEST_BYTES_PER_SECOND
        return not self.ended and self._waited_seconds + waits > earned

    def check(self) -> None:
        """Raise the source's error, if that is what ended the stream."""
        if self.error is not None:
            raise self.error

    def void(self) -> None:
        """What was sent does not count."""
        if not self._voided:
            self._voided = True
            self._tally.add(-self.length)


def _await(call: Any, sending: _Sending) -> chunks_pb2.WriteResponse:
    """The response. Raises grpc.FutureTimeoutError when nothing moves any more, or as good as nothing."""
    still = 0
    while True:
        seen = (sending.taken, sending.ended)
        try:
            response: chunks_pb2.WriteResponse = call.result(
                timeout=sending.patience_seconds / _LOOKS_PER_STALL
            )
            return response
        except grpc.FutureTimeoutError:
            # Looked at several times: what moved just after a look must not double the time until it is noticed.
            still = still + 1 if seen == (sending.taken, sending.ended) else 0
            if still == _LOOKS_PER_STALL or sending.drips:
                raise


def blamed(row: Sequence[str], acks: Iterable[types_pb2.ReplicaAck]) -> frozenset[str]:
    """Who broke a row of nodes, by what each of them is said to have done (rule 3).

    A refusal of its own (no space, a bad disk, it took nothing for too long) is a node's own fault. One that
    was merely "unavailable" is so when it is the first that could not be reached; the head answered, so that
    it has only given up. Who is not mentioned at all is to blame like one that could not be reached.
    """
    given = {ack.node_id: ack for ack in acks}
    if any(node not in given for node in row[:1]):
        return frozenset(row[:1])
    found: set[str] = set()
    broken = False
    for place, node in enumerate(row):
        ack = given.get(node)
        if ack is not None and ack.durable:
            continue
        if ack is not None and ack.error.code not in (0, types_pb2.ERROR_CODE_UNAVAILABLE):
            found.add(node)
            broken = broken or place > 0
        elif place and not broken:
            found.add(node)
            broken = True
    return frozenset(found)


def _failed(head: types_pb2.NodeAddress, error: QuorumFSError) -> ChunkFailed:
    if isinstance(error, OutcomeUnknownError):  # of a chunk that is sent again under a new id: it failed
        error = UnavailableError(error.message, cause=error.cause)
    return ChunkFailed(error, frozenset({head.node_id}))


def _reason(ack: types_pb2.ReplicaAck) -> str:
    return str(from_detail(ack.error)) if ack.HasField("error") else "it is not durable there"
