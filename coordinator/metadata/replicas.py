"""Where replicas are, and which chunks lack some: what services and duties ask, at any number of chunks.

Nothing here scans all chunks: what lacks replicas is found by the partial index over `chunk.live`, what a dead node
had by the index over replicas by node. Chunks that nothing refers to any more (orphans) lack nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from coordinator.metadata.contents import CONDEMNED
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

LIVE = t.REPLICA_STATE_LIVE

_NOT_ORPHAN = "NOT EXISTS (SELECT 1 FROM orphan WHERE orphan.chunk = chunk.id)"
_WANTING = f"FROM chunk WHERE state = 1 AND home = 0 AND live < want AND {_NOT_ORPHAN}"


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A row of the node table; of the disks in `info` only ids and paths are kept."""

    info: m.NodeInfo
    intent: t.NodeIntent.ValueType


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    node_id: str
    disk_id: str
    state: t.ReplicaState.ValueType


@dataclass(frozen=True, slots=True)
class ChunkCounts:
    """`missing`: no replica on a node that is there; `under_replicated`: some, but fewer than wanted."""

    files: int
    directories: int
    chunks: int
    under_replicated: int
    missing: int
    corrupt: int


@dataclass(frozen=True, slots=True)
class DamagedChunk:
    """A sealed chunk with fewer replicas than it wants. `live`, `others`: node ids by the state of their replica."""

    chunk: bytes
    length: int
    checksum: int
    want: int
    live: tuple[str, ...]
    others: tuple[str, ...]


def node_rows(tx: sqlite3.Connection) -> list[NodeRow]:
    rows = tx.execute("SELECT info, intent FROM node ORDER BY node_id")
    return [NodeRow(m.NodeInfo.FromString(info), t.NodeIntent.ValueType(intent)) for info, intent in rows]


def valid_chunk_ids(tx: sqlite3.Connection, chunks: Iterable[bytes]) -> set[bytes]:
    """Those of `chunks` that the metadata knows and has not condemned."""
    known = "SELECT state FROM chunk WHERE id = ?"
    found = ((chunk, tx.execute(known, (chunk,)).fetchone()) for chunk in chunks)
    return {chunk for chunk, row in found if row is not None and row[0] != CONDEMNED}


def replicas_of(tx: sqlite3.Connection, chunk: bytes) -> list[ReplicaRow]:
    rows = tx.execute(
        "SELECT node.node_id, coalesce(disk.disk_id, ''), replica.state FROM replica"
        " JOIN node ON node.key = replica.node LEFT JOIN disk ON disk.key = replica.disk"
        " WHERE replica.chunk = ? ORDER BY node.node_id",
        (chunk,),
    )
    return [ReplicaRow(node_id, disk_id, t.ReplicaState.ValueType(state)) for node_id, disk_id, state in rows]


def chunks_on(tx: sqlite3.Connection, node_id: str) -> list[bytes]:
    """The chunks that have a LIVE replica on a node, in order."""
    rows = tx.execute(
        "SELECT chunk FROM replica WHERE node = (SELECT key FROM node WHERE node_id = ?) AND state = ?"
        " ORDER BY chunk",
        (node_id, LIVE),
    )
    return [row[0] for row in rows]


def chunk_counts(tx: sqlite3.Connection, gone: Collection[str]) -> ChunkCounts:
    """How many there are of everything; replicas on the nodes `gone` count as lost."""
    files, directories, chunks = tx.execute(
        "SELECT files, directories, chunks FROM totals WHERE id = 1"
    ).fetchone()
    (corrupt,) = tx.execute(
        "SELECT count(DISTINCT chunk) FROM replica WHERE state IN (3, 4) AND state = ?",
        (t.REPLICA_STATE_CORRUPT,),
    ).fetchone()
    lacking, missing = tx.execute(f"SELECT count(*), coalesce(sum(live = 0), 0) {_WANTING}").fetchone()
    keys = _keys(tx, gone)
    if keys:
        hurt, dead = tx.execute(
            f"SELECT count(*), coalesce(sum(live = lost), 0) FROM ({_on_gone(keys)})"
        ).fetchone()
        (both,) = tx.execute(
            f"SELECT count(*) FROM ({_on_gone(keys)}) WHERE live < want"
        ).fetchone()  # counted above already
        lacking, missing = lacking + hurt - both, missing + dead
    return ChunkCounts(files, directories, chunks, lacking - missing, missing, corrupt)


def damaged_chunks(tx: sqlite3.Connection, gone: Collection[str], limit: int) -> list[DamagedChunk]:
    """Up to `limit` chunks that lack replicas when those on the nodes `gone` are lost; fewest copies first."""
    rows = tx.execute(f"SELECT id {_WANTING} ORDER BY live, id LIMIT ?", (limit,)).fetchall()
    keys = _keys(tx, gone)
    if keys:
        rows += tx.execute(
            f"SELECT id FROM ({_on_gone(keys)}) ORDER BY live - lost, id LIMIT ?", (limit,)
        ).fetchall()
    return [_damaged(tx, chunk) for chunk in dict.fromkeys(row[0] for row in rows)][:limit]


def _on_gone(keys: str) -> str:
    """Chunks that the loss of the nodes `keys` leaves with fewer replicas than they want."""
    return (
        "SELECT chunk.id AS id, live, want, lost FROM"
        f" (SELECT chunk, count(*) AS lost FROM replica WHERE node IN ({keys}) AND state = {LIVE} GROUP BY chunk)"
        f" JOIN chunk ON chunk.id = chunk WHERE live - lost < want AND state = 1 AND home = 0 AND {_NOT_ORPHAN}"
    )


def _keys(tx: sqlite3.Connection, node_ids: Collection[str]) -> str:
    """Their numbers, as SQL lists them; numbers only, so nothing can be smuggled in."""
    found = [
        tx.execute("SELECT key FROM node WHERE node_id = ?", (one,)).fetchone() for one in sorted(node_ids)
    ]
    return ", ".join(str(int(row[0])) for row in found if row is not None)


def _damaged(tx: sqlite3.Connection, chunk: bytes) -> DamagedChunk:
    length, checksum, want = tx.execute(
        "SELECT length, checksum, want FROM chunk WHERE id = ?", (chunk,)
    ).fetchone()
    rows = replicas_of(tx, chunk)
    live = tuple(row.node_id for row in rows if row.state == LIVE)
    others = tuple(row.node_id for row in rows if row.state != LIVE)
    return DamagedChunk(chunk, length, checksum, want, live, others)
