"""What soft state speaks of: nodes as they are known, reports, orders, inventories, changes of state."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.decisions.liveness import Liveness
from coordinator.decisions.packed import PackedIds
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t


@dataclass(frozen=True, slots=True)
class KnownNode:
    """A row of the node table: what is replicated about a node. `info.disks` has ids and paths only; `disk_ids`: of
    all disks that replicas may be said to lie on. `maintenance_until_ms`: in replicated time; 0: none."""

    info: m.NodeInfo
    intent: t.NodeIntent.ValueType = t.NODE_INTENT_NORMAL
    disk_ids: frozenset[str] = frozenset()
    maintenance_until_ms: int = 0

    @property
    def is_datanode(self) -> bool:
        return self.info.role == t.NODE_ROLE_DATANODE


@dataclass(frozen=True, slots=True)
class NodeTable:
    """All nodes as of the log's `index`."""

    index: int
    nodes: tuple[KnownNode, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """One replica as its datanode reports it; not verified against the metadata yet.

    `length` and `checksum` are told of one that was sealed just now; else they are 0. `since`: the node has looked
    then or later; None: nobody knows.
    """

    node_id: str
    chunk: bytes
    disk_id: str
    state: t.ReplicaState.ValueType
    length: int = 0
    checksum: int = 0
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """A command that was queued for a node. `kind` is the name of the proto's oneof, or what its giver calls it."""

    id: int
    node_id: str
    kind: str
    chunk: bytes
    source: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """An order and what became of it; `outcome` None: no answer in time, or the node began anew. `sent_at`: when it
    went out first."""

    order: Order
    outcome: m.CommandOutcome | None
    sent_at: float | None = None


@dataclass(frozen=True, slots=True)
class Inventory:
    """All replicas of one node as of one gathering, which began at `since`: LIVE chunk ids, and what is not live."""

    node_id: str
    gather_id: int
    live: PackedIds
    disks: dict[bytes, str]
    troubled: tuple[Report, ...]
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Transition:
    node_id: str
    before: Liveness
    after: Liveness
    silence_seconds: float


@dataclass(frozen=True, slots=True)
class Pulse:
    """What the last heartbeat of a node said. `age_seconds`: since it, or since the leadership began. `lost_disk_ids`:
    what lies on these counts as lost."""

    liveness: Liveness
    age_seconds: float
    heard: bool
    load: m.NodeLoad
    disks: tuple[t.DiskInfo, ...]
    lost_disk_ids: frozenset[str] = frozenset()
