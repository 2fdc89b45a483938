"""The stream to the next node of a pipeline: bytes go out as they came in, from a short bounded outbox.

1. `push` hands over a message and waits for room, at most `limits.stall_seconds` of the row. A next node that
   fails, or takes nothing for so long, is *lost*: its call is cancelled, the messages are let go, this node goes
   on alone. So is one that drips: all waits together are that long at most, and what the bytes that it took may take
   at `limits.SLOWEST_BYTES_PER_SECOND`. Time in which the sender gives nothing is none of these.
2. gRPC sends from a thread of its own, which takes messages from the outbox. It ends with the call.
3. A lost row is never joined again within the same chunk: what it has is not whole.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import grpc

from datanode.transfer import pipeline
from datanode.transfer.outbox import Outbox
from datanode.transfer.watch import STREAM_SECONDS_MAX
from quorumfs import limits
from quorumfs.errors import QuorumFSError, TimedOutError, UnavailableError
from quorumfs.rpc.channels import ChannelSource
from quorumfs.rpc.status import from_rpc
from quorumfs.v1.chunks_pb2 import WriteResponse
from quorumfs.v1.types_pb2 import NodeAddress, ReplicaAck

QUEUED_BYTES = 4 * limits.MIB
WRITE_METHOD = "/quorumfs.v1.Chunks/Write"

_POLL_SECONDS = 0.25


class Forward:
    """One chunk's stream to the row behind. Used by one thread; never raises for what the row does."""

    def __init__(
        self,
        channels: ChannelSource,
        behind: Sequence[NodeAddress],
        opening: bytes,
        seconds: float | None,
        stall_seconds: float | None = None,
        bytes_per_second: float = limits.SLOWEST_BYTES_PER_SECOND,
        *,
        whole: bool = False,
    ) -> None:
        """Begins the call; `opening` is the first message, or the `whole` chunk with its end, `seconds` the rest of
        the caller's deadline. `stall_seconds`: instead of what a row of this length is given. `bytes_per_second`:
        that it must take."""
        self._behind = tuple(behind)
        self._stall_seconds = limits.stall_seconds(len(behind)) if stall_seconds is None else stall_seconds
        self._bytes_per_second = bytes_per_second
        self._waited_seconds = 0.0
        self._taken_bytes = 0
        self._outbox = Outbox(QUEUED_BYTES)
        if not whole:
            self._outbox.put(opening, 0)
        self._lost: QuorumFSError | None = None
        self._call: Any = None
        try:
            channel = channels.get(behind[0].grpc)
            write: Any = channel.unary_unary if whole else channel.stream_unary
            self._call = write(
                WRITE_METHOD, request_serializer=None, response_deserializer=WriteResponse.FromString
            ).future(
                opening if whole else iter(self._outbox),
                timeout=min(seconds or STREAM_SECONDS_MAX, STREAM_SECONDS_MAX),
            )
        except (grpc.RpcError, QuorumFSError, ValueError) as error:
            self._lose(
                UnavailableError(f"{behind[0].node_id} cannot be reached", cause=str(error) or repr(error))
            )

    @property
    def alive(self) -> bool:
        """Whether the row may still end up with the chunk."""
        return self._lost is None

    def push(self, message: bytes) -> None:
        """Pass `message` on, unchanged. Waits for room; loses the row when there is none for too long."""
        if self._lost is not None:
            return
        began = time.monotonic()
        earned = self._stall_seconds + self._taken_bytes / self._bytes_per_second
        patience = min(self._stall_seconds, earned - self._waited_seconds)
        while not self._call.done():
            if self._outbox.put(message, min(_POLL_SECONDS, max(0.0, patience))):
                self._waited_seconds += time.monotonic() - began
                self._taken_bytes += len(message)
                return
            if time.monotonic() - began >= patience:
                self._lose(self._stalled(self._why_stalled(patience)))
                return
        self._lose(self._ended_early())

    def _why_stalled(self, patience: float) -> str:
        if patience >= self._stall_seconds:
            return f"it took nothing for {self._stall_seconds:g} s"
        waited = self._waited_seconds + max(0.0, patience)
        return f"it was waited for {waited:.1f} s in all and took {self._taken_bytes} bytes"

    def acks(self, patience_seconds: float) -> list[ReplicaAck]:
        """One line for each node of the row, after the last message; waits at most `patience_seconds`."""
        if self._lost is None:
            self._outbox.end()
            try:
                answer: WriteResponse = self._call.result(timeout=patience_seconds)
                return pipeline.complete_acks(self._behind, answer.replicas)
            except grpc.FutureTimeoutError:
                self._lose(self._stalled(f"it did not answer within {patience_seconds:g} s"))
            except grpc.FutureCancelledError:
                self._lose(self._stalled("the call was cancelled"))
            except grpc.RpcError as error:
                self._lose(from_rpc(error, f"writing to {self._behind[0].node_id}", sent=False))
        assert self._lost is not None
        return pipeline.lost_acks(self._behind, self._lost)

    def given_up(self) -> list[ReplicaAck]:
        """One line for each node of the row when the chunk is not to be ended."""
        self.cancel()
        assert self._lost is not None
        return pipeline.lost_acks(self._behind, self._lost)

    def cancel(self) -> None:
        """Let go of the row: it forgets the chunk. After `acks` there is nothing left to do."""
        if self._lost is None:
            self._lose(self._stalled("the write was given up"))

    def _lose(self, error: QuorumFSError) -> None:
        self._lost = error
        if self._call is not None:
            self._call.cancel()
        self._outbox.discard()  # which also wakes the sending thread if it waits

    def _ended_early(self) -> QuorumFSError:
        """Why the call ended before the last message: its error, or what the row says in its answer."""
        try:
            answer: WriteResponse = self._call.result(timeout=0)
        except grpc.RpcError as error:
            return from_rpc(error, f"writing to {self._behind[0].node_id}", sent=False)
        except (grpc.FutureTimeoutError, grpc.FutureCancelledError):
            return self._stalled("the call was cancelled")
        reasons = "; ".join(
            f"{ack.node_id}: {ack.error.message}" for ack in answer.replicas if not ack.durable
        )
        return UnavailableError(f"{self._behind[0].node_id} gave the chunk up", cause=reasons)

    def _stalled(self, cause: str) -> QuorumFSError:
        return TimedOutError(f"{self._behind[0].node_id} was dropped from the write", cause=cause)
