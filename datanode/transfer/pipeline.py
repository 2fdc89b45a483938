"""Decisions of the replicated write: who comes next, what it is told, who acknowledges, when to stop. Pure.

A chunk's replicas stand in a row. Each node passes the bytes on while it receives them, so the row behind a
lost node is lost with it. A node whose own disk fails goes on as a relay for those behind it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from datanode.store.layout import Birth
from quorumfs import limits
from quorumfs.errors import InvalidArgumentError, QuorumFSError, UnavailableError, WrongClusterError
from quorumfs.ids import ID_BYTES, ChunkId, UploadId
from quorumfs.rpc.status import to_detail
from quorumfs.v1.chunks_pb2 import WriteOpen
from quorumfs.v1.types_pb2 import NodeAddress, ReplicaAck

# host:port as nodes are registered. gRPC would take more (unix:/path, dns://server/name): that is not for a
# client to choose.
_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9][A-Za-z0-9_.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}")
_SCHEMES = frozenset({"dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds"})


@dataclass(frozen=True, slots=True)
class Opening:
    """A write as this node is asked for it. `behind`: the nodes after it, the next one first. `read_soon`: no other
    replica is read before this one."""

    chunk: ChunkId
    upload: UploadId
    birth: Birth
    behind: tuple[NodeAddress, ...]
    min_replicas: int
    size_hint: int
    read_soon: bool
    message: WriteOpen


def read_opening(message: WriteOpen | None, node_id: str, cluster_id: str) -> Opening:
    """What `message` asks for. Raises InvalidArgumentError, WrongClusterError."""
    if message is None:
        raise InvalidArgumentError("a write begins with its `open`")
    if len(message.chunk) != ID_BYTES or len(message.upload) not in (0, ID_BYTES):
        raise InvalidArgumentError("a write names its chunk and upload by 16 bytes each")
    if message.cluster_id and cluster_id and message.cluster_id != cluster_id:
        raise WrongClusterError(
            f"{node_id} does not belong to cluster {message.cluster_id}",
            cause=f"it belongs to {cluster_id}",
            next="check the coordinators' addresses",
        )
    behind = tuple(message.pipeline)
    names = [node_id, *(address.node_id for address in behind)]
    if len(names) > limits.REPLICATION_MAX or len(set(names)) != len(names):
        raise InvalidArgumentError(
            "a pipeline has each node once", cause=f"{', '.join(names)[:200]} was asked for"
        )
    _check_addresses([address.grpc for address in behind])
    birth = Birth(message.birth.history, message.birth.index, message.birth.cluster_ms)
    upload = UploadId(message.upload.ljust(ID_BYTES, b"\0"))
    return Opening(
        ChunkId(message.chunk),
        upload,
        birth,
        behind,
        message.min_replicas,
        message.size_hint,
        message.read_first in ("", node_id),
        message,
    )


def _check_addresses(addresses: Sequence[str]) -> None:
    for address in addresses:
        found = _ADDRESS.fullmatch(address)
        if found is None or found["host"].lower() in _SCHEMES:
            raise InvalidArgumentError(
                "a pipeline goes to host:port addresses", cause=f"{address[:100]!r} was asked for"
            )
    if len(set(addresses)) != len(addresses):
        raise InvalidArgumentError("a pipeline goes to each address once")


def passed_on(opening: Opening, keeps_own: bool) -> WriteOpen:
    """The `open` for the next node: one node less, and one replica less to make if this node keeps one."""
    message = WriteOpen()
    message.CopyFrom(opening.message)
    del message.pipeline[0]
    message.min_replicas = max(0, opening.min_replicas - (1 if keeps_own else 0))
    return message


def worth_going_on(opening: Opening, keeps_own: bool, tail_alive: bool) -> bool:
    """Whether enough replicas can still come of it; if not, the client sends anew at once."""
    possible = (1 if keeps_own else 0) + (len(opening.behind) if tail_alive else 0)
    return possible >= max(1, opening.min_replicas)


def own_ack(node_id: str, disk_id: str, error: QuorumFSError | None) -> ReplicaAck:
    """This node's line of the answer."""
    if error is None:
        return ReplicaAck(node_id=node_id, disk_id=disk_id, durable=True)
    return ReplicaAck(node_id=node_id, error=to_detail(error))


def lost_acks(behind: Sequence[NodeAddress], error: QuorumFSError) -> list[ReplicaAck]:
    """The lines of a lost row: the first node is to blame, those after it were only cut off."""
    if not behind:
        return []
    first, *others = behind
    acks = [ReplicaAck(node_id=first.node_id, error=to_detail(error))]
    for other in others:
        cut = UnavailableError(
            f"{other.node_id} was not reached", cause=f"{first.node_id} before it in the row was lost"
        )
        acks.append(ReplicaAck(node_id=other.node_id, error=to_detail(cut)))
    return acks


def complete_acks(behind: Sequence[NodeAddress], given: Sequence[ReplicaAck]) -> list[ReplicaAck]:
    """What the row answered, one line for each of its nodes: one that it does not mention is not durable."""
    by_node = {ack.node_id: ack for ack in given}
    silent = UnavailableError("the row did not say what became of this replica")
    return [
        by_node.get(address.node_id) or ReplicaAck(node_id=address.node_id, error=to_detail(silent))
        for address in behind
    ]
