"""Where replicas are, and which chunks lack some: what services and duties ask, at any number of chunks.

1. Nothing here scans all chunks. What lacks replicas is found by the partial index over `chunk.live`; what is lost with
   a node by the index over replicas by node. Orphans want no replica and so are in neither.
2. A node that is gone may have held a million replicas. `endangered_chunks` and `chunk_counts` read all of them: for
   now and then. What is asked every second reads pages and single chunks.
3. What is `gone` is the leader's soft state, not the metadata's: whole nodes, and disks of nodes that are there. Their
   replicas stay in the table, and count again when they are back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from coordinator.metadata.contents import CONDEMNED, SEALED
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

LIVE = t.REPLICA_STATE_LIVE

# Its conditions are those of the index `chunk_wanting`.
_WANTING = "FROM chunk WHERE state = 1 AND home = 0 AND live < want"
_CHUNK = "SELECT state, upload IS NOT NULL, length, checksum FROM chunk WHERE id = ?"
_NODE = "SELECT key FROM node WHERE node_id = ?"
_NODES = "SELECT key, info, intent, maintenance_until_ms FROM node"
_DISK = "SELECT node, disk.key FROM disk JOIN node ON node.key = disk.node WHERE node_id = ? AND disk_id = ?"


class LostDisk(NamedTuple):
    """A disk that failed, or was taken out, of a node that is there."""

    node_id: str
    disk_id: str


class FailedDisk(LostDisk):
    """One that failed and is still in its node, and equal to the same as a `LostDisk`: what lies on it counts for
    nothing, but can be read perhaps, when nobody else has it."""

    __slots__ = ()


Gone = Collection[str | LostDisk]
"""Whose replicas count as lost: nodes by their id, and disks."""


@dataclass(frozen=True, slots=True)
class Apart:
    """Nodes whose replicas can be read and count for less. What those that are `leaving` have is to be elsewhere as
    well; those that are `resting` come back: it counts, unless nobody else that stays has any."""

    leaving: frozenset[str] = frozenset()
    resting: frozenset[str] = frozenset()

    def suffice(self, live: Collection[str], want: int) -> bool:
        """Whether LIVE replicas on these nodes, none of which is gone, are what a chunk wants."""
        leaving = sum(node_id in self.leaving for node_id in live)
        resting = sum(node_id in self.resting for node_id in live) if self.resting else 0
        staying = len(live) - leaving - resting
        alone = want > 0 and not staying and len(live) > 0
        return staying + resting >= want and not alone


NOBODY = Apart()


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A row of the node table; of the disks in `info` only ids and paths are kept. `disk_ids`: of all that it ever
    registered, for replicas may name them. `maintenance_until_ms`: in replicated time; 0: none."""

    info: m.NodeInfo
    intent: t.NodeIntent.ValueType
    disk_ids: frozenset[str] = frozenset()
    maintenance_until_ms: int = 0


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    node_id: str
    disk_id: str
    state: t.ReplicaState.ValueType

    @property
    def on(self) -> LostDisk:
        """Its disk, as it is called when it is gone."""
        return LostDisk(self.node_id, self.disk_id)


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """A chunk's content, known once its upload has handed it in (`sealed`). `under_way`: that upload is open."""

    sealed: bool
    under_way: bool
    length: int
    checksum: int


@dataclass(frozen=True, slots=True)
class ChunkCounts:
    """`missing`: no replica on a node that is there; `under_replicated`: some, but fewer than wanted. Of these,
    `on_failed_disks` have none but on disks that failed and can be read perhaps."""

    files: int
    directories: int
    chunks: int
    under_replicated: int
    missing: int
    corrupt: int
    on_failed_disks: int = 0


@dataclass(frozen=True, slots=True)
class DamagedChunk:
    """A sealed chunk with fewer replicas than it wants. `live`, `leaving` (being deleted), `others`: node ids by the
    state of their replica; one on a lost disk is among the others. `last_resort`: those of them that have it on a disk
    that failed, from which it can be read perhaps."""

    chunk: bytes
    length: int
    checksum: int
    want: int
    live: tuple[str, ...]
    others: tuple[str, ...]
    leaving: tuple[str, ...] = ()
    last_resort: tuple[str, ...] = ()


def node_rows(tx: sqlite3.Connection, role: int = t.NODE_ROLE_UNSPECIFIED) -> list[NodeRow]:
    """All of them, or the few of a role, by id."""
    if role != t.NODE_ROLE_UNSPECIFIED:
        rows = tx.execute(f"{_NODES} WHERE role = ? ORDER BY node_id", (role,)).fetchall()
        return [_node(row, _disk_ids(tx, row[0])) for row in rows]
    disks: dict[int, set[str]] = {}
    for key, disk_id in tx.execute("SELECT node, disk_id FROM disk"):
        disks.setdefault(key, set()).add(disk_id)
    rows = tx.execute(f"{_NODES} ORDER BY node_id").fetchall()
    return [_node(row, disks.get(row[0], ())) for row in rows]


def node_row(tx: sqlite3.Connection, node_id: str) -> NodeRow | None:
    """One of them."""
    row = tx.execute(f"{_NODES} WHERE node_id = ?", (node_id,)).fetchone()
    return None if row is None else _node(row, _disk_ids(tx, row[0]))


def _disk_ids(tx: sqlite3.Connection, node: int) -> list[str]:
    return [disk_id for (disk_id,) in tx.execute("SELECT disk_id FROM disk WHERE node = ?", (node,))]


def _node(row: tuple[int, bytes, int, int], disk_ids: Iterable[str]) -> NodeRow:
    _, info, intent, until_ms = row
    return NodeRow(
        m.NodeInfo.FromString(info), t.NodeIntent.ValueType(intent), frozenset(disk_ids), int(until_ms)
    )


def chunk_rows(tx: sqlite3.Connection, chunks: Iterable[bytes]) -> dict[bytes, ChunkRow]:
    """Those of `chunks` that the metadata knows and has not condemned."""
    found = {}
    for chunk in chunks:
        row = tx.execute(_CHUNK, (chunk,)).fetchone()
        if row is not None and row[0] != CONDEMNED:
            found[chunk] = ChunkRow(row[0] == SEALED, bool(row[1]), row[2], row[3])
    return found


def replicas_of(tx: sqlite3.Connection, chunk: bytes) -> list[ReplicaRow]:
    rows = tx.execute(
        "SELECT node.node_id, coalesce(disk.disk_id, ''), replica.state FROM replica"
        " JOIN node ON node.key = replica.node LEFT JOIN disk ON disk.key = replica.disk"
        " WHERE replica.chunk = ? ORDER BY node.node_id",
        (chunk,),
    )
    return [ReplicaRow(node_id, disk_id, t.ReplicaState.ValueType(state)) for node_id, disk_id, state in rows]


def chunks_on(tx: sqlite3.Connection, node_id: str, after: bytes, limit: int) -> list[bytes]:
    """A page of the chunks that have a LIVE replica on a node, in order, those after `after`."""
    rows = tx.execute(
        f"SELECT chunk FROM replica WHERE node = ({_NODE}) AND state = ? AND chunk > ? ORDER BY chunk LIMIT ?",
        (node_id, LIVE, after, limit),
    )
    return [row[0] for row in rows]


def chunk_counts(tx: sqlite3.Connection, gone: Gone) -> ChunkCounts:
    """How many there are of everything; replicas that are `gone` count as lost, and all of them are read."""
    files, directories, chunks = tx.execute(
        "SELECT files, directories, chunks FROM totals WHERE id = 1"
    ).fetchone()
    (corrupt,) = tx.execute(
        "SELECT count(DISTINCT chunk) FROM replica JOIN chunk ON chunk.id = replica.chunk"
        " WHERE replica.state IN (3, 4) AND replica.state = ? AND want > 0",  # damaged garbage harms nobody
        (t.REPLICA_STATE_CORRUPT,),
    ).fetchone()
    lacking, missing = tx.execute(f"SELECT count(*), coalesce(sum(live = 0), 0) {_WANTING}").fetchone()
    lying, desperate = _lying(tx, gone), 0
    if lying:
        hurt, lost, desperate, counted_above = tx.execute(
            "SELECT count(*), coalesce(sum(live = lost AND NOT readable), 0),"
            " coalesce(sum(live = lost AND readable), 0), coalesce(sum(live < want), 0)"
            f" FROM ({_on_gone(tx, lying, gone)})"
        ).fetchone()
        lacking, missing = lacking + hurt - counted_above, missing + lost
    return ChunkCounts(files, directories, chunks, lacking - missing, missing, corrupt, desperate)


def wanting_chunks(tx: sqlite3.Connection, after: tuple[int, bytes], limit: int) -> list[tuple[int, bytes]]:
    """A page of the chunks that lack replicas and have some, as (how many LIVE ones, chunk), in that order: those after
    `after`. LIVE replicas that are gone count here."""
    return tx.execute(
        f"SELECT live, id {_WANTING} AND live > 0 AND (live, id) > (?, ?) ORDER BY live, id LIMIT ?",
        (*after, limit),
    ).fetchall()


def endangered_chunks(tx: sqlite3.Connection, gone: Gone, limit: int) -> list[bytes]:
    """Chunks that have a replica, if only on a disk that failed, but too few without those that are `gone`: up to
    `limit`, fewest copies first.

    All replicas on those nodes and disks are read.
    """
    lying = _lying(tx, gone)
    if not lying:
        return []
    rows = tx.execute(
        f"SELECT id FROM ({_on_gone(tx, lying, gone)}) WHERE live > lost OR readable"
        " ORDER BY live - lost, id LIMIT ?",
        (limit,),
    )
    return [row[0] for row in rows]


def a_lost_chunk(tx: sqlite3.Connection, gone: Gone) -> bytes | None:
    """One that wants replicas and has no LIVE one but those that are `gone`, if there is any."""
    lying = _lying(tx, gone)
    row = tx.execute(f"SELECT id {_WANTING} AND live = 0 LIMIT 1").fetchone()
    if row is None and lying:
        row = tx.execute(
            f"SELECT id FROM ({_on_gone(tx, lying, gone)}) WHERE live = lost AND NOT readable LIMIT 1"
        ).fetchone()
    return None if row is None else bytes(row[0])


def damaged_chunks(
    tx: sqlite3.Connection, chunks: Iterable[bytes], gone: Gone, apart: Apart = NOBODY
) -> list[DamagedChunk]:
    """Those of `chunks` that lack replicas now, when those that are `gone` are lost and those on nodes that are `apart`
    count for less."""
    found = (_damaged(tx, chunk, gone, apart) for chunk in chunks)
    return [one for one in found if one is not None]


def _damaged(tx: sqlite3.Connection, chunk: bytes, gone: Gone, apart: Apart) -> DamagedChunk | None:
    row = tx.execute(
        "SELECT length, checksum, want FROM chunk WHERE id = ? AND state = 1 AND home = 0", (chunk,)
    ).fetchone()
    if row is None:
        return None
    length, checksum, want = row
    replicas = replicas_of(tx, chunk)
    live = tuple(one.node_id for one in replicas if one.state == LIVE and one.on not in gone)
    if apart.suffice([node_id for node_id in live if node_id not in gone], want):
        return None
    leaving = tuple(one.node_id for one in replicas if one.state == t.REPLICA_STATE_DELETING)
    others = tuple(one.node_id for one in replicas if one.node_id not in {*live, *leaving})
    failed = failed_disks(gone)
    desperate = tuple(one.node_id for one in replicas if one.state == LIVE and one.on in failed)
    return DamagedChunk(chunk, length, checksum, want, live, others, leaving, desperate)


def healed_elsewhere(
    tx: sqlite3.Connection, state: int, after: tuple[bytes, str], limit: int, gone: Gone
) -> tuple[list[tuple[bytes, str]], tuple[bytes, str]]:
    """Of a page of the replicas in `state`, CORRUPT or MISSING, behind `after`, as (chunk, node): those whose chunk has
    all it wants without them; and behind what the next page begins."""
    rows = tx.execute(
        "SELECT replica.chunk, node_id FROM replica JOIN node ON node.key = replica.node"
        " JOIN chunk ON chunk.id = replica.chunk WHERE replica.state IN (3, 4) AND replica.state = ? AND live >= want"
        " AND (replica.chunk, node_id) > (?, ?) ORDER BY replica.chunk, node_id LIMIT ?",
        (state, *after, limit),
    ).fetchall()
    hurt = {one.chunk for one in damaged_chunks(tx, dict.fromkeys(chunk for chunk, _ in rows), gone)}
    return [one for one in rows if one[0] not in hurt], rows[-1] if len(rows) == limit else (b"", "")


def unplaced(tx: sqlite3.Connection, node_id: str, after: bytes, limit: int) -> tuple[list[bytes], bytes]:
    """Of a page of a node's LIVE replicas behind `after`: those of which nobody has said on which disk they lie; and
    behind what the next page begins."""
    rows = tx.execute(
        f"SELECT chunk, disk FROM replica WHERE node = ({_NODE}) AND state = ? AND chunk > ? ORDER BY chunk LIMIT ?",
        (node_id, LIVE, after, limit),
    ).fetchall()
    return [chunk for chunk, disk in rows if not disk], rows[-1][0] if len(rows) == limit else b""


def failed_disks(gone: Gone) -> frozenset[LostDisk]:
    """Of what is gone, what can be read perhaps."""
    return frozenset(one for one in gone if isinstance(one, FailedDisk))


def _on_gone(tx: sqlite3.Connection, lying: str, gone: Gone) -> str:
    """Chunks that the loss of the replicas `lying` there leaves with fewer than they want; `readable`: whether one of
    these lies on a disk that failed and is still there."""
    failed = _lying(tx, failed_disks(gone)) or "0"
    return (
        "SELECT chunk.id AS id, live, want, lost, readable FROM"
        f" (SELECT chunk, count(*) AS lost, max({failed}) AS readable FROM replica"
        f" WHERE ({lying}) AND state = {LIVE} GROUP BY chunk)"
        " JOIN chunk ON chunk.id = chunk WHERE live - lost < want AND state = 1 AND home = 0"
    )


def _lying(tx: sqlite3.Connection, gone: Gone) -> str:
    """The condition that a replica lies there, empty when none can; of numbers only, so nothing can be smuggled in."""
    nodes = [tx.execute(_NODE, (one,)).fetchone() for one in gone if not isinstance(one, LostDisk)]
    disks = [tx.execute(_DISK, one).fetchone() for one in gone if isinstance(one, LostDisk)]
    conditions = []
    if any(nodes):
        conditions.append(f"node IN ({_listed(row[0] for row in nodes if row)})")
    if any(disks):
        of = _listed(row[0] for row in disks if row)
        conditions.append(f"(node IN ({of}) AND disk IN ({_listed(row[1] for row in disks if row)}))")
    return " OR ".join(conditions)


def _listed(keys: Iterable[int]) -> str:
    return ", ".join(str(key) for key in sorted({int(key) for key in keys}))
