"""Nodes that leave, for good or for a while: what they still hold that nobody else does.

1. Three kinds of nodes hold replicas that count for less. Those that are *gone* cannot be read. Those that are
   *leaving* (to be decommissioned) can, but what they hold is to be elsewhere as well. Those that are *resting* (in
   maintenance) come back: what they hold counts, unless no other replica is left that can be read.
2. What a node holds is read as a whole here, a second or a few for a million replicas: for surveys, and for what an
   operator asks.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from coordinator.metadata import lookup, tree
from coordinator.metadata.contents import ALLOCATED
from coordinator.metadata.replicas import Apart, Gone, LostDisk
from quorumfs.v1 import types_pb2 as t

PATHS_MAX = 3

_LIVE = int(t.REPLICA_STATE_LIVE)


@dataclass(frozen=True, slots=True)
class Held:
    """What a node holds, in chunks and bytes. `remaining_*`: what would not be in enough places without it.

    `last_copies`: of these, what no staying node has; `unreadable`: of what only damaged replicas are left, one of them
    here; `writing`: chunks of open uploads that are being written here.
    """

    chunks: int
    bytes: int
    remaining_chunks: int
    remaining_bytes: int
    last_copies: int
    unreadable: int
    writing: int

    @property
    def nothing_remains(self) -> bool:
        return not (self.remaining_chunks or self.unreadable or self.writing)


def held(tx: sqlite3.Connection, node_id: str, gone: Gone, apart: Apart) -> Held:
    """What `node_id` holds, and what of it would be missed if it left; all of it is read."""
    key = _key(tx, node_id)
    chunks, size, needed, needed_bytes, last = tx.execute(
        "SELECT count(*), coalesce(sum(length), 0), coalesce(sum(needed), 0),"
        " coalesce(sum(needed * length), 0), coalesce(sum(staying = 0), 0)"
        f" FROM ({_on(tx, (node_id,), gone, without(apart, node_id))})"
    ).fetchone()
    (unreadable,) = tx.execute(f"SELECT count(*) {_UNREADABLE}", (key, t.REPLICA_STATE_CORRUPT)).fetchone()
    (writing,) = tx.execute(
        f"SELECT count(*) {_WRITING}", (key, t.REPLICA_STATE_PENDING, ALLOCATED)
    ).fetchone()
    return Held(chunks, size, needed, needed_bytes, last, unreadable, writing)


def held_only_by(tx: sqlite3.Connection, leaving: Collection[str], gone: Gone) -> int:
    """How many chunks nobody could read without the nodes `leaving`, while what is `gone` is away too; all replicas
    on `leaving` are read."""
    keys = _numbers(tx, leaving)
    if not keys:
        return 0
    away = _numbers(tx, {*leaving, *(one for one in gone if not isinstance(one, LostDisk))})
    (number,) = tx.execute(
        f"SELECT count(*) FROM (SELECT DISTINCT chunk FROM replica WHERE node IN ({keys}) AND state = {_LIVE}) AS held"
        " JOIN chunk ON chunk.id = held.chunk WHERE state = 1 AND home = 0 AND want > 0 AND NOT EXISTS"
        f" (SELECT 1 FROM replica AS other WHERE other.chunk = held.chunk AND other.state = {_LIVE}"
        f" AND other.node NOT IN ({away}) AND other.disk NOT IN ({_disks(tx, gone)}))"
    ).fetchone()
    return int(number)


def remaining(tx: sqlite3.Connection, node_id: str, gone: Gone, apart: Apart, limit: int) -> list[bytes]:
    """The first chunks that would be missed if the node left, those with the fewest other copies first."""
    rows = tx.execute(
        f"SELECT id FROM ({_on(tx, (node_id,), gone, without(apart, node_id))}) WHERE needed"
        " ORDER BY staying, id LIMIT ?",
        (limit,),
    )
    return [row[0] for row in rows]


def unreadable(tx: sqlite3.Connection, node_id: str, limit: int) -> list[bytes]:
    """Chunks of which only damaged replicas are left, one of them on the node."""
    parameters = (_key(tx, node_id), t.REPLICA_STATE_CORRUPT, limit)
    return [row[0] for row in tx.execute(f"SELECT chunk.id {_UNREADABLE} LIMIT ?", parameters)]


def writing(tx: sqlite3.Connection, node_id: str, limit: int) -> list[tuple[bytes, bytes]]:
    """Chunks of open uploads that are being written to the node, and the path that each is for."""
    parameters = (_key(tx, node_id), t.REPLICA_STATE_PENDING, ALLOCATED, limit)
    rows = tx.execute(
        f"SELECT chunk.id, upload.parent, upload.name {_WRITING} LIMIT ?", parameters
    ).fetchall()
    return [(chunk, _path(tx, parent, name)) for chunk, parent, name in rows]


def moving(tx: sqlite3.Connection, gone: Gone, apart: Apart, limit: int) -> tuple[int, list[bytes]]:
    """Chunks that lack no replica by the loss of nodes alone, and have too few on nodes that stay: how many, and the
    first. All replicas on nodes that leave or rest are read."""
    of = sorted(apart.leaving | apart.resting)
    if not _numbers(tx, of):
        return 0, []
    found = f"SELECT id, staying FROM ({_on(tx, of, gone, apart)}) WHERE needed AND live - lost >= want"
    rows = tx.execute(f"{found} ORDER BY staying, id LIMIT ?", (limit,)).fetchall()
    number = len(rows)
    if number == limit:
        (number,) = tx.execute(f"SELECT count(*) FROM ({found})").fetchone()
    return number, [row[0] for row in rows]


def paths_of(tx: sqlite3.Connection, chunk: bytes, limit: int = PATHS_MAX) -> list[bytes]:
    """Some of the files, also those in the trash, that have an extent in the chunk."""
    rows = tx.execute(
        "SELECT DISTINCT version.inode FROM extent JOIN version ON version.id = extent.version"
        " WHERE extent.chunk = ? AND version.inode IS NOT NULL LIMIT ?",
        (chunk, limit),
    ).fetchall()
    return sorted(lookup.path_of(tx, tree.there(tx, row[0])) for row in rows)


def without(apart: Apart, node_id: str) -> Apart:
    """As if this node left as well."""
    return Apart(apart.leaving | {node_id}, apart.resting - {node_id})


_UNREADABLE = (
    "FROM replica JOIN chunk ON chunk.id = replica.chunk WHERE replica.node = ? AND replica.state = ?"
    " AND live = 0 AND want > 0 AND home = 0"
)
_WRITING = (
    "FROM replica JOIN chunk ON chunk.id = replica.chunk JOIN upload ON upload.id = chunk.upload"
    " WHERE replica.node = ? AND replica.state = ? AND chunk.state = ?"
)


def _on(tx: sqlite3.Connection, node_ids: Collection[str], gone: Gone, apart: Apart) -> str:
    """Sealed chunks with a LIVE replica on one of the nodes, but for those on lost disks: id, length, live, want,
    `lost` (LIVE replicas that are gone), `staying` (on nodes that are neither gone nor apart), `needed` (whether too
    few remain elsewhere)."""
    nodes = _numbers(tx, (one for one in gone if not isinstance(one, LostDisk)))
    disks = _disks(tx, gone)
    lost = f"(r.node IN ({nodes}) OR r.disk IN ({disks}))"
    conditions = {
        "lost": lost,
        "leaving": f"r.node IN ({_numbers(tx, apart.leaving)}) AND NOT {lost}",
        "resting": f"r.node IN ({_numbers(tx, apart.resting - apart.leaving)}) AND NOT {lost}",
    }
    counts = ", ".join(
        "(SELECT count(*) FROM replica AS r"
        f" WHERE r.chunk = chunk.id AND r.state = {_LIVE} AND {condition}) AS {name}"
        for name, condition in conditions.items()
    )
    counted = (
        f"SELECT chunk.id AS id, length, live, want, {counts} FROM"
        f" (SELECT DISTINCT chunk FROM replica WHERE node IN ({_numbers(tx, node_ids)}) AND state = {_LIVE}"
        f" AND disk NOT IN ({disks})) JOIN chunk ON chunk.id = chunk WHERE state = 1 AND home = 0 AND want > 0"
    )
    return (
        "SELECT id, length, live, want, lost, live - lost - leaving - resting AS staying,"
        " live - lost - leaving < want OR live - lost - leaving - resting = 0 AS needed"
        f" FROM ({counted})"
    )


def _disks(tx: sqlite3.Connection, gone: Gone) -> str:
    """The keys of the lost disks, as SQL lists them; of all nodes they are different."""
    lost = sorted(one for one in gone if isinstance(one, LostDisk))
    found = [
        tx.execute(
            "SELECT disk.key FROM disk JOIN node ON node.key = disk.node WHERE node_id = ? AND disk_id = ?",
            one,
        ).fetchone()
        for one in lost
    ]
    return ", ".join(str(int(row[0])) for row in found if row is not None)


def _numbers(tx: sqlite3.Connection, node_ids: Iterable[str]) -> str:
    """Their keys, as SQL lists them; numbers only, so nothing can be smuggled in."""
    keys = [_key(tx, one) for one in sorted(node_ids)]
    return ", ".join(str(key) for key in keys if key)


def _key(tx: sqlite3.Connection, node_id: str) -> int:
    """0, which is no node's, when it is not registered."""
    row = tx.execute("SELECT key FROM node WHERE node_id = ?", (node_id,)).fetchone()
    return 0 if row is None else int(row[0])


def _path(tx: sqlite3.Connection, parent: int, name: bytes) -> bytes:
    directory = tree.by_id(tx, parent)  # it may be gone while the upload is still open
    above = b"" if directory is None else lookup.path_of(tx, directory).rstrip(b"/")
    return above + b"/" + name
