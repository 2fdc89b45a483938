"""What the collection does at datanodes, over gRPC: ask what a chunk's header says, delete, restore.

Every order carries the leader's epoch; the node decides whether it obeys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc

from coordinator.decisions.collection import Birth, Found, Restored
from quorumfs.errors import ChunkNotFoundError, Code, QuorumFSError, UnavailableError
from quorumfs.limits import RPC_DEADLINE_SECONDS
from quorumfs.rpc.channels import ChannelSource
from quorumfs.rpc.circuit import Circuits
from quorumfs.rpc.status import from_rpc, is_composed
from quorumfs.v1 import chunks_pb2 as pb
from quorumfs.v1 import chunks_pb2_grpc
from quorumfs.v1 import types_pb2 as t

DELETE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Deleted:
    """`gone`: in quarantine now, or not there. `refused`: the node keeps them; `why` is its last reason. `held`: of
    those, what waits for an operator's release."""

    gone: frozenset[bytes] = frozenset()
    refused: frozenset[bytes] = frozenset()
    why: str = ""
    held: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Orders:
    """In whose name, and how much of the log whoever orders knows. `fork_index`: where its history began. `released`:
    of the chunks, what may go though it is of an earlier history, or an operator of one has restored it."""

    epoch: t.Epoch
    commit_index: int
    condemned: Sequence[tuple[bytes, int]] = field(default=())
    fork_index: int = 0
    released: frozenset[bytes] = frozenset()


class Holders(Protocol):
    """Datanodes by their id. Everything raises QuorumFSError when the node is unreachable or refuses the order."""

    def find(self, node_id: str, chunk: bytes) -> Found | None:
        """What the header says; None: it is not there, or cannot be read."""
        ...

    def delete(self, node_id: str, orders: Orders) -> Deleted:
        """Have condemned chunks put in quarantine."""
        ...

    def quarantined(self, node_id: str, after: bytes, limit: int) -> list[bytes]:
        """A page of what lies in its quarantine, in order."""
        ...

    def restore(self, node_id: str, epoch: t.Epoch, chunks: Sequence[bytes], void_below: int) -> Restored:
        """Void their condemnations up to that index and bring them back."""
        ...


class RemoteHolders:
    """`address`: a node's gRPC address, None when it is not known. `circuits`: those of the process, so that no duty
    waits for a node that another has just waited for in vain.

    `look_seconds`: for somebody who waits for the answer, questions take no longer. They are asked whatever the
    circuits say, for a node that is back must not be called silent; who is late for an operator is not for a duty, so
    that no circuit opens. An answer closes one."""

    def __init__(
        self,
        channels: ChannelSource,
        address: Callable[[str], str | None],
        circuits: Circuits,
        look_seconds: float | None = None,
    ) -> None:
        self._channels = channels
        self._address = address
        self._circuits = circuits
        self._look_seconds = look_seconds

    def find(self, node_id: str, chunk: bytes) -> Found | None:
        try:
            info: pb.ChunkInfo = self._look(node_id, "Stat", pb.StatChunkRequest(chunk=chunk))
        except ChunkNotFoundError:
            return None
        except QuorumFSError as error:
            if error.code is Code.CORRUPT:
                return None
            raise
        birth = Birth(info.birth.history, info.birth.index, info.birth.cluster_ms)
        return Found(birth, info.length, info.checksum, info.quarantined)

    def present(self, node_id: str, after: bytes, limit: int) -> list[bytes]:
        request = pb.ListChunksRequest(after=after, limit=limit, ids_only=True)
        answer: pb.ListChunksResponse = self._look(node_id, "List", request)
        return [one.chunk for one in answer.chunks]

    def delete(self, node_id: str, orders: Orders) -> Deleted:
        request = pb.DeleteChunksRequest(
            epoch=orders.epoch,
            commit_index=orders.commit_index,
            fork_index=orders.fork_index,
            chunks=[
                pb.DeleteChunk(chunk=chunk, condemn_index=index, released=chunk in orders.released)
                for chunk, index in orders.condemned
            ],
        )
        answer: pb.DeleteChunksResponse = self._call(node_id, "Delete", request, DELETE_SECONDS)
        return Deleted(
            frozenset([*answer.quarantined, *answer.absent]),
            frozenset(answer.refused),
            answer.error.message,
            frozenset(answer.held),
        )

    def quarantined(self, node_id: str, after: bytes, limit: int) -> list[bytes]:
        request = pb.ListChunksRequest(after=after, limit=limit, quarantined=True, ids_only=True)
        answer: pb.ListChunksResponse = self._look(node_id, "List", request)
        return [one.chunk for one in answer.chunks]

    def restore(self, node_id: str, epoch: t.Epoch, chunks: Sequence[bytes], void_below: int) -> Restored:
        request = pb.RestoreChunksRequest(epoch=epoch, chunks=chunks, void_below_index=void_below)
        answer: pb.RestoreChunksResponse = self._call(node_id, "Restore", request, DELETE_SECONDS)
        return Restored(len(answer.restored), frozenset(answer.refused), answer.error.message)

    def _look(self, node_id: str, method: str, request: Any) -> Any:
        if self._look_seconds is None:
            return self._call(node_id, method, request)
        answer = self._send(
            node_id, self._address_of(node_id), method, request, self._look_seconds, sent=False
        )
        self._circuits.ended(node_id, None)
        return answer

    def _call(self, node_id: str, method: str, request: Any, seconds: float = RPC_DEADLINE_SECONDS) -> Any:
        address = self._address_of(node_id)
        self._circuits.admit(node_id)
        silence: QuorumFSError | None = None
        try:
            return self._send(node_id, address, method, request, seconds)
        except QuorumFSError as error:
            cause = error.__cause__
            silence = None if isinstance(cause, grpc.RpcError) and is_composed(cause) else error
            raise
        finally:
            self._circuits.ended(node_id, silence)

    def _address_of(self, node_id: str) -> str:
        address = self._address(node_id)
        if not address:
            raise UnavailableError(f"{node_id} is not known here")
        return address

    def _send(
        self, node_id: str, address: str, method: str, request: Any, seconds: float, *, sent: bool = True
    ) -> Any:
        """`sent`: a lost answer leaves doubt; a question's does not."""
        try:
            stub = chunks_pb2_grpc.ChunksStub(self._channels.get(address))
            return getattr(stub, method)(request, timeout=seconds)
        except grpc.RpcError as error:
            raise from_rpc(error, f"{method} at {node_id}", sent=sent) from error
