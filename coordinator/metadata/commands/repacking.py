"""Extents move from sparse chunks to a new one that has their bytes too (docs/decisions/0012).

A chunk never changes: whatever extent lies within a range of it, whoever made it and when, names those bytes. So the
state as of the entry decides what moves, and no proposal is too old. Only open uploads are held to what they named:
the version that one began from, and its own extents, keep their chunks until it is over.
"""

from __future__ import annotations

from coordinator.metadata import contents
from coordinator.metadata.contents import Last
from coordinator.metadata.context import Context
from quorumfs.errors import BusyError, UploadGoneError
from quorumfs.limits import CHUNK_SIZE_BYTES_MAX
from quorumfs.v1 import entries_pb2 as e

SYSTEM = "system"

_SOURCE = "SELECT want FROM chunk WHERE id = ? AND state = ? AND home = ? AND upload IS NULL"
_PACK = "SELECT length FROM chunk WHERE id = ? AND upload = ? AND state = ? AND live >= ?"
_WITHIN = (
    "chunk = ? AND chunk_offset >= ? AND chunk_offset + length <= ?"
    " AND version NOT IN (SELECT base_version FROM upload UNION ALL SELECT version FROM upload)"
)


def repack(context: Context, command: e.RepackChunks) -> int:
    """How many extents were moved. What is too much for an entry keeps its chunk. Raises UploadGoneError."""
    row = context.execute("SELECT min_replicas FROM upload WHERE id = ?", (command.upload,)).fetchone()
    if row is None:
        raise UploadGoneError("the upload of the pack is not open")
    moved = 0
    for one in command.ranges:
        try:
            moved += _repack(context, command.upload, row[0], one)
        except BusyError:
            break
    return moved


def _repack(context: Context, upload: bytes, min_replicas: int, one: e.RepackChunks.Range) -> int:
    source = context.execute(_SOURCE, (one.chunk, contents.SEALED, contents.ON_DATANODES)).fetchone()
    pack = context.execute(_PACK, (one.into, upload, contents.SEALED, min_replicas)).fetchone()
    fits = max(one.offset, one.length, one.into_offset) <= CHUNK_SIZE_BYTES_MAX
    if source is None or pack is None or not fits or one.into_offset + one.length > pack[0]:
        return 0
    within = (one.chunk, one.offset, one.offset + one.length)
    (count,) = context.execute(f"SELECT count(*) FROM extent WHERE {_WITHIN}", within).fetchone()
    if not count:
        return 0
    context.spend(count)
    context.execute(
        f"UPDATE extent SET chunk = ?, chunk_offset = chunk_offset - ? + ? WHERE {_WITHIN}",
        (one.into, one.offset, one.into_offset, *within),
    )
    context.execute("UPDATE chunk SET want = max(want, ?) WHERE id = ?", (source[0], one.into))
    if context.execute("SELECT 1 FROM extent WHERE chunk = ? LIMIT 1", (one.chunk,)).fetchone() is None:
        contents.let_go(context, one.chunk, Last(b"", context.principal or SYSTEM))
    return int(count)
