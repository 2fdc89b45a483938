"""Chunks with more replicas than they want, replicas that are being deleted or moved: what trimming and balancing ask.

There is no index of what has too many: pages of all chunks are read in turn, in the database itself, some
milliseconds for ten thousand. What is being deleted is found by the index over replicas by node and state.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

from coordinator.metadata import replicas
from coordinator.metadata.replicas import LIVE, Gone, ReplicaRow
from quorumfs.v1 import types_pb2 as t

DELETING = t.REPLICA_STATE_DELETING

_PAGE_END = "SELECT max(id), count(*) FROM (SELECT id FROM chunk WHERE id > ? ORDER BY id LIMIT ?)"
_SETTLED = "state = 1 AND home = 0 AND upload IS NULL"
_LEAVING = (
    "SELECT chunk FROM replica WHERE node = (SELECT key FROM node WHERE node_id = ?) AND state = ? AND chunk > ?"
    " ORDER BY chunk LIMIT ?"
)
_PENDING = (
    "SELECT node_id, chunk FROM node CROSS JOIN replica ON replica.node = node.key AND replica.state = ?"
    " JOIN chunk ON chunk.id = replica.chunk AND chunk.state = 1 AND chunk.upload IS NULL"
    " ORDER BY node_id, chunk LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class Replicated:
    """A sealed chunk of no open upload with its replicas: nodes whose one is LIVE, LIVE on a lost disk, DELETING, or
    in any other state."""

    chunk: bytes
    length: int
    checksum: int
    want: int
    live: tuple[str, ...]
    lost: tuple[str, ...]
    leaving: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pending:
    """A move: the replica on `node_id` is to be made."""

    node_id: str
    replicas: Replicated


@dataclass(frozen=True, slots=True)
class Page:
    """`after`: where the next one begins; empty when this was the last."""

    chunks: list[Replicated]
    after: bytes


def too_many(tx: sqlite3.Connection, after: bytes, look_at: int, limit: int, gone: Gone) -> Page:
    """Of the `look_at` chunks behind `after`, those with more LIVE replicas than they want, up to `limit`."""
    last, count = tx.execute(_PAGE_END, (after, look_at)).fetchone()
    if not count:
        return Page([], b"")
    rows = tx.execute(
        f"SELECT id FROM chunk WHERE id > ? AND id <= ? AND live > want AND want > 0 AND {_SETTLED}"
        " ORDER BY id LIMIT ?",
        (after, last, limit),
    ).fetchall()
    chunks = replicated(tx, [row[0] for row in rows], gone)
    if len(rows) == limit:
        return Page(chunks, rows[-1][0])
    return Page(chunks, last if count == look_at else b"")


def replicated(tx: sqlite3.Connection, chunks: Collection[bytes], gone: Gone) -> list[Replicated]:
    """Those of `chunks` that are sealed, lie on datanodes and belong to no open upload."""
    found = []
    for chunk in chunks:
        row = tx.execute(
            f"SELECT length, checksum, want FROM chunk WHERE id = ? AND {_SETTLED}", (chunk,)
        ).fetchone()
        if row is not None:
            found.append(_replicated(chunk, row, replicas.replicas_of(tx, chunk), gone))
    return found


def _replicated(
    chunk: bytes, row: tuple[int, int, int], rows: Collection[ReplicaRow], gone: Gone
) -> Replicated:
    live = [one for one in rows if one.state == LIVE]
    return Replicated(
        chunk,
        *row,
        tuple(one.node_id for one in live if one.on not in gone),
        tuple(one.node_id for one in live if one.on in gone),
        tuple(one.node_id for one in rows if one.state == DELETING),
        tuple(one.node_id for one in rows if one.state not in (LIVE, DELETING)),
    )


def nodes_with_leaving(tx: sqlite3.Connection) -> list[str]:
    """The nodes on which any replica is being deleted."""
    rows = tx.execute(
        "SELECT node_id FROM node WHERE EXISTS (SELECT 1 FROM replica WHERE node = node.key AND state = ?)",
        (DELETING,),
    )
    return [node_id for (node_id,) in rows]


def leaving(tx: sqlite3.Connection, node_id: str, after: bytes, limit: int) -> list[bytes]:
    """A page of the chunks whose replica on a node is being deleted, in order, those after `after`."""
    return [row[0] for row in tx.execute(_LEAVING, (node_id, DELETING, after, limit))]


def pending(tx: sqlite3.Connection, limit: int) -> list[Pending]:
    """Moves that were begun and are not done, up to `limit`. Replicas that uploads were promised are none."""
    rows = tx.execute(_PENDING, (t.REPLICA_STATE_PENDING, limit)).fetchall()
    found = {one.chunk: one for one in replicated(tx, dict.fromkeys(row[1] for row in rows), ())}
    return [Pending(node_id, found[chunk]) for node_id, chunk in rows if chunk in found]
