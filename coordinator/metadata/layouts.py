"""Where a file's bytes lie: its extents, their chunks, and the replicas of these, or their bodies."""

from __future__ import annotations

import sqlite3

from coordinator.metadata import lookup, tree
from coordinator.metadata.contents import IN_METADATA
from coordinator.metadata.listings import info
from coordinator.metadata.tree import FILE, Inode
from quorumfs import paths
from quorumfs.errors import NotFoundError, PathIsADirectoryError
from quorumfs.ids import ROOT_INODE
from quorumfs.limits import LAYOUT_EXTENTS_MAX, MIB
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t

BODIES_BYTES_MAX = 2 * MIB
END = 2**63 - 1

_EXTENTS = (
    "SELECT file_offset, length, chunk, chunk_offset FROM extent WHERE version = ?1 AND file_offset >= coalesce("
    "(SELECT max(file_offset) FROM extent WHERE version = ?1 AND file_offset <= ?2), 0)"
    " AND file_offset < ?3 ORDER BY file_offset LIMIT ?4"
)
_FIRST_EXTENTS = (
    "SELECT file_offset, length, chunk, chunk_offset FROM extent WHERE version = ?1 AND file_offset < ?2"
    " ORDER BY file_offset LIMIT ?3"
)
_CHUNK = "SELECT length, checksum, home FROM chunk WHERE id = ?"
_PURGED = "SELECT 1 FROM trash, totals WHERE inode = ? AND (purged = 1 OR trash.id <= purged_through)"
_BODY = "SELECT bytes FROM body WHERE chunk = ?"
_REPLICAS = (
    "SELECT node.info, coalesce(disk.disk_id, ''), replica.state FROM replica"
    " JOIN node ON node.key = replica.node LEFT JOIN disk ON disk.key = replica.disk"
    f" WHERE replica.chunk = ? AND replica.state NOT IN ({t.REPLICA_STATE_PENDING}, {t.REPLICA_STATE_DELETING})"
    " ORDER BY node.node_id"
)


Packs = dict[bytes, n.ChunkLocation]
"""Chunks on datanodes by their id that answers of one message have, which is of one read transaction."""
Extent = tuple[int, int, bytes, int]
"""File offset, length, chunk, chunk offset."""


def layout(tx: sqlite3.Connection, request: n.LayoutRequest, packs: Packs | None = None) -> n.Layout:
    """Extents that touch the wanted range, in order, with everything a reader needs; a page at most.

    `packs`: what earlier questions of `tx` have found; many small files share a chunk, which is looked up once.
    Raises NotFoundError (also for a version that is gone), PathIsADirectoryError, and like `lookup.locate`.
    """
    inode, path = _wanted(tx, request)
    found = n.Layout(info=info(tx, inode, path))
    fill(tx, request, found, {} if packs is None else packs)
    return found


def fill(tx: sqlite3.Connection, request: n.LayoutRequest, found: n.Layout, packs: Packs) -> None:
    """The rest of a layout of which `info` is known."""
    version = found.info.version
    begin = min(request.offset, END)
    end = min(begin + request.length, END) if request.length else END
    if begin:
        rows = tx.execute(_EXTENTS, (version, begin, end, LAYOUT_EXTENTS_MAX + 1)).fetchall()
    else:
        rows = tx.execute(_FIRST_EXTENTS, (version, end, LAYOUT_EXTENTS_MAX + 1)).fetchall()
    pages = _Chunks(tx, found, packs, request)
    for offset, length, chunk, chunk_offset in rows:
        if offset + length <= begin:
            continue
        if len(found.extents) == LAYOUT_EXTENTS_MAX or not pages.add(chunk):
            found.next_offset = offset
            break
        found.extents.add(offset=offset, length=length, chunk=chunk, chunk_offset=chunk_offset)


def fill_with(
    tx: sqlite3.Connection, request: n.LayoutRequest, found: n.Layout, packs: Packs, only: Extent
) -> None:
    """Like `fill`, of a file whose only extent is known and wanted."""
    offset, length, chunk, chunk_offset = only
    if not (request.new_chunks and chunk in packs):
        _Chunks(tx, found, packs, request).add(chunk)
    extent = found.extents.add()
    if offset:
        extent.offset = offset
    extent.length = length
    extent.chunk = chunk
    if chunk_offset:
        extent.chunk_offset = chunk_offset


def _wanted(tx: sqlite3.Connection, request: n.LayoutRequest) -> tuple[Inode, bytes]:
    """The file, with the version that is asked for. A version that a reader holds may have moved to the trash."""
    if not request.inode:
        inode, path = lookup.locate(tx, request.ref, follow=request.follow)
    else:
        holder = _holder(tx, request)
        inode, path = holder, lookup.path_of(tx, holder)
    if inode.type != FILE:
        raise PathIsADirectoryError(f"{paths.show(path)} is no file", cause="only files have a layout")
    return inode, path


def _holder(tx: sqlite3.Connection, request: n.LayoutRequest) -> Inode:
    """The inode that has the version now. One that is purged is gone: it may be half reaped."""
    number = request.inode
    if request.version:
        row = (
            tx.execute("SELECT inode FROM version WHERE id = ?", (request.version,)).fetchone()
            if request.version <= END
            else None
        )
        number = row[0] if row is not None and row[0] is not None else 0
    inode = tree.by_id(tx, number) if 0 < number <= END else None
    if inode is None or _is_purged(tx, inode):
        raise NotFoundError(
            f"version {request.version} of inode {request.inode} is gone",
            cause="the file was deleted or overwritten, and its former content purged",
        )
    return inode


def _is_purged(tx: sqlite3.Connection, inode: Inode) -> bool:
    top = tree.upwards(tx, inode.id)[-1]
    return top != ROOT_INODE and tx.execute(_PURGED, (top,)).fetchone() is not None


def location(tx: sqlite3.Connection, chunk: bytes) -> n.ChunkLocation | None:
    """Where a chunk is, as readers are told; None when there is none, or when it lies in the metadata."""
    row = tx.execute(_CHUNK, (chunk,)).fetchone()
    if row is None or row[2] == IN_METADATA:
        return None
    found = n.Layout()
    _Chunks(tx, found, {}, n.LayoutRequest(no_body=True)).add(chunk)
    return found.chunks[0]


class _Chunks:
    """The chunks of one answer, each once, and how many bytes of bodies it has taken."""

    def __init__(
        self, tx: sqlite3.Connection, found: n.Layout, packs: Packs, request: n.LayoutRequest
    ) -> None:
        self._tx = tx
        self._found = found
        self._packs = packs
        self._with_bodies = not request.no_body
        self._only_new = request.new_chunks
        self._seen: set[bytes] = set()
        self._nodes: dict[bytes, m.NodeInfo] = {}
        self._body_bytes = 0

    def add(self, chunk: bytes) -> bool:
        """False when the answer has no room for its body."""
        if chunk in self._seen:
            return True
        known = self._packs.get(chunk)
        if known is not None:
            self._seen.add(chunk)
            if not self._only_new:
                self._found.chunks.append(known)
            return True
        length, checksum, home = self._tx.execute(_CHUNK, (chunk,)).fetchone()
        inline = home == IN_METADATA
        if inline and self._with_bodies:
            if self._body_bytes and self._body_bytes + length > BODIES_BYTES_MAX:
                return False
            self._body_bytes += length
        self._seen.add(chunk)
        row = self._found.chunks.add(chunk=chunk, length=length, checksum=checksum, inline=inline)
        if not inline:
            self._add_replicas(row)
            self._packs[chunk] = n.ChunkLocation()
            self._packs[chunk].CopyFrom(
                row
            )  # as it is in the metadata: whoever completes `row` leaves this alone
        elif self._with_bodies:
            (row.body,) = self._tx.execute(_BODY, (chunk,)).fetchone()
        return True

    def _add_replicas(self, row: n.ChunkLocation) -> None:
        for raw, disk_id, state in self._tx.execute(_REPLICAS, (row.chunk,)):
            node = self._nodes.get(raw)
            if node is None:
                node = self._nodes[raw] = m.NodeInfo.FromString(raw)
            row.replicas.add(
                node_id=node.node_id,
                grpc=node.grpc,
                http=node.http,
                disk_id=disk_id,
                state=t.ReplicaState.ValueType(state),
                host=node.labels.get("host", "") or node.host,
                zone=node.labels.get("zone", ""),
            )
