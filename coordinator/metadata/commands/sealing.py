"""Sealed chunks and extents as uploads hand them in: what is believed, and what is refused.

1. A chunk counts as sealed when enough datanodes acknowledge it as durable; it keeps its length and checksum
   from then on. Handed in again, it must be the same; further acknowledgements add to its replicas.
2. An extent may name a chunk of its own open upload, or one that the base version names.
3. Checksums compose: when a file is its chunks, each whole, once and in order, theirs make its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from coordinator.metadata import contents
from coordinator.metadata.commands.chunks import disk_key
from coordinator.metadata.context import Context
from quorumfs.checksum import combine
from quorumfs.errors import (
    ChunkCondemnedError,
    ChunkNotFoundError,
    IntegrityError,
    InvalidArgumentError,
    PreconditionFailedError,
)
from quorumfs.ids import ID_BYTES
from quorumfs.limits import CHUNK_SIZE_BYTES_MAX, REPLICATION_MAX
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t

FILE_BYTES_MAX = 2**62
COMPOSED_EXTENTS_MAX = 20_000
ACKS_MAX = 4 * REPLICATION_MAX

_CHUNK = "SELECT state, upload, length, checksum, live FROM chunk WHERE id = ?"
_IN_BASE = "SELECT 1 FROM extent WHERE version = ? AND chunk = ? LIMIT 1"
_DATANODE = "SELECT key FROM node WHERE node_id = ? AND role = ?"

Disks = dict[tuple[str, str], tuple[int, int] | None]
"""(node id, disk id) -> their keys, as far as looked up."""


class Open(NamedTuple):
    """The row of an open upload."""

    id: bytes
    version: int
    parent: int
    name: bytes
    if_absent: int
    expected_version: int
    base_version: int
    replication: int
    min_replicas: int
    chunk_size_bytes: int
    mode: int
    mtime_ns: int
    deadline_ms: int


def take_chunks(context: Context, upload: Open, chunks: Iterable[n.SealedChunk]) -> None:
    """Raises InvalidArgumentError, ChunkNotFoundError, ChunkCondemnedError, PreconditionFailedError."""
    disks: Disks = {}
    for sealed in chunks:
        _take_chunk(context, upload, sealed, disks)


def _take_chunk(context: Context, upload: Open, sealed: n.SealedChunk, disks: Disks) -> None:
    row = context.execute(_CHUNK, (sealed.chunk,)).fetchone() if len(sealed.chunk) == ID_BYTES else None
    if row is None:
        raise _no_chunk(sealed.chunk)
    state, owner, length, checksum, _ = row
    if state == contents.CONDEMNED:
        raise ChunkCondemnedError(
            f"chunk {sealed.chunk.hex()} is condemned", next="send its bytes again under a new id"
        )
    if owner != upload.id:
        if _in_base(context, upload, sealed.chunk) and (length, checksum) == (sealed.length, sealed.checksum):
            return
        raise ChunkNotFoundError(f"chunk {sealed.chunk.hex()} is not of this upload")
    if not 0 < sealed.length <= CHUNK_SIZE_BYTES_MAX:
        raise InvalidArgumentError(f"a chunk cannot have {sealed.length} bytes")
    if state == contents.SEALED and (length, checksum) != (sealed.length, sealed.checksum):
        raise PreconditionFailedError(
            f"chunk {sealed.chunk.hex()} was handed in before, with another length or checksum"
        )
    _take_acks(context, upload, sealed, disks)


def _take_acks(context: Context, upload: Open, sealed: n.SealedChunk, disks: Disks) -> None:
    """The chunk is sealed where it is durable; what was promised elsewhere is not there. A replica that was found
    damaged since it was first handed in stays so."""
    holders = _holders(context, sealed, disks)
    for node, disk in holders.items():
        context.execute(
            "INSERT INTO replica (chunk, node, disk, state) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (chunk, node)"
            " DO UPDATE SET disk = ?3, state = ?4 WHERE state = ?5",
            (sealed.chunk, node, disk, t.REPLICA_STATE_LIVE, t.REPLICA_STATE_PENDING),
        )
    context.execute(
        "DELETE FROM replica WHERE chunk = ? AND state = ?", (sealed.chunk, t.REPLICA_STATE_PENDING)
    )
    (live,) = context.execute(
        "SELECT count(*) FROM replica WHERE chunk = ? AND state = ?", (sealed.chunk, t.REPLICA_STATE_LIVE)
    ).fetchone()
    if live < upload.min_replicas:
        raise PreconditionFailedError(
            f"chunk {sealed.chunk.hex()} is durable on {live} datanodes",
            cause=f"this upload asks for {upload.min_replicas}",
            next="send it again, or add replicas",
        )
    context.execute(
        "UPDATE chunk SET state = ?, length = ?, checksum = ?, live = ? WHERE id = ?",
        (contents.SEALED, sealed.length, sealed.checksum, live, sealed.chunk),
    )


def _holders(context: Context, sealed: n.SealedChunk, disks: Disks) -> dict[int, int]:
    """Node key -> disk key of those datanodes that acknowledged the chunk as durable."""
    if len(sealed.replicas) > ACKS_MAX:
        raise InvalidArgumentError(f"a chunk cannot have {len(sealed.replicas)} acknowledgements")
    found: dict[int, int] = {}
    for ack in sealed.replicas:
        holder = ack.node_id, ack.disk_id
        if holder not in disks:
            disks[holder] = _disk(context, *holder)
        disk = disks[holder]
        if ack.durable and disk is not None:
            found[disk[0]] = disk[1]
    return found


def _disk(context: Context, node_id: str, disk_id: str) -> tuple[int, int] | None:
    """The keys of a datanode and of its disk; None for a node that is none."""
    row = context.execute(_DATANODE, (node_id, t.NODE_ROLE_DATANODE)).fetchone()
    return (row[0], disk_key(context, row[0], disk_id)) if row is not None else None


def take_extents(context: Context, upload: Open, extents: Iterable[t.Extent]) -> None:
    """Raises InvalidArgumentError, ChunkNotFoundError, ChunkCondemnedError, PreconditionFailedError."""
    for extent in extents:
        _check_extent(context, upload, extent)
        row = context.execute(
            "SELECT length, chunk, chunk_offset FROM extent WHERE version = ? AND file_offset = ?",
            (upload.version, extent.offset),
        ).fetchone()
        if row is None:
            contents.new_extent(context, upload.version, extent)
        elif row != (extent.length, extent.chunk, extent.chunk_offset):
            raise InvalidArgumentError(f"two extents at offset {extent.offset}")


def _check_extent(context: Context, upload: Open, extent: t.Extent) -> None:
    row = context.execute(_CHUNK, (extent.chunk,)).fetchone() if len(extent.chunk) == ID_BYTES else None
    if row is None:
        raise _no_chunk(extent.chunk)
    state, owner, length, _, _ = row
    if state == contents.CONDEMNED:
        raise ChunkCondemnedError(f"chunk {extent.chunk.hex()} is condemned")
    if owner != upload.id and not _in_base(context, upload, extent.chunk):
        raise ChunkNotFoundError(
            f"chunk {extent.chunk.hex()} is neither of this upload nor of the version it began from"
        )
    if state != contents.SEALED:
        raise PreconditionFailedError(
            f"chunk {extent.chunk.hex()} is not sealed", next="hand in its acknowledgements with it"
        )
    if not extent.length or extent.offset + extent.length > FILE_BYTES_MAX:
        raise InvalidArgumentError(f"no extent of {extent.length} bytes at offset {extent.offset}")
    if extent.chunk_offset + extent.length > length:
        raise InvalidArgumentError(
            f"chunk {extent.chunk.hex()} has {length} bytes",
            cause=f"an extent names {extent.length} from {extent.chunk_offset} on",
        )


def check_whole(context: Context, upload: Open, size: int, checksum: int) -> None:
    """The extents of the upload are a file of `size` bytes, and those chunks that are its own are still where they
    were acknowledged. Raises PreconditionFailedError, IntegrityError."""
    end = 0
    composed: int | None = 0
    rows = context.execute(
        "SELECT file_offset, extent.length, chunk_offset, chunk.length, chunk.checksum,"
        " CASE WHEN upload = ? AND live < ? THEN chunk.id END"
        " FROM extent JOIN chunk ON chunk.id = extent.chunk WHERE version = ? ORDER BY file_offset",
        (upload.id, upload.min_replicas, upload.version),
    )
    for count, (offset, length, chunk_offset, chunk_length, chunk_checksum, lost) in enumerate(rows):
        if lost is not None:
            raise PreconditionFailedError(
                f"chunk {lost.hex()} is not durable any more on {upload.min_replicas} datanodes",
                cause="replicas were lost since it was handed in",
                next="try again in a little while, or send it again",
            )
        if offset != end:
            raise PreconditionFailedError(
                f"the extents have a {'gap' if offset > end else 'overlap'} at offset {min(offset, end)}"
            )
        end += length
        whole = chunk_offset == 0 and length == chunk_length and count < COMPOSED_EXTENTS_MAX
        composed = combine(composed, chunk_checksum, length) if whole and composed is not None else None
    if end != size:
        raise PreconditionFailedError(f"the extents end at {end}, the file at {size}")
    if composed is not None and composed != checksum:
        raise IntegrityError(
            "the file's checksum is not that of its chunks", cause=f"{checksum:08x}, composed {composed:08x}"
        )


def _in_base(context: Context, upload: Open, chunk: bytes) -> bool:
    return context.execute(_IN_BASE, (upload.base_version, chunk)).fetchone() is not None


def _no_chunk(chunk: bytes) -> ChunkNotFoundError:
    return ChunkNotFoundError(f"there is no chunk {chunk[:ID_BYTES].hex() or '(none)'}")
