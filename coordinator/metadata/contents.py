"""What files consist of: versions, extents, chunks, and how a chunk's life ends.

A chunk is valid while an extent names it or its upload is open. Who takes the last of these away calls
`let_go`: an inline chunk is deleted with its body on the spot, any other becomes an orphan, which GC finds and
for which nobody makes replicas any more.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.metadata.arrivals import ExtentRow
from coordinator.metadata.context import Context
from quorumfs.v1 import types_pb2 as t

# chunk.state
ALLOCATED, SEALED, CONDEMNED = 0, 1, 2
# chunk.home
ON_DATANODES, IN_METADATA = 0, 1

# orphan.hold
RELEASED, FREE, RESTORED, OF_ANOTHER_LOG = -1, 0, 1, 2  # what is above FREE holds

ALL = 2**62

_NEW_CHUNK = (
    "INSERT INTO chunk (id, state, home, upload, length, checksum, want, live,"
    " birth_history, birth_index, birth_ms) VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?)"
)
_NEW_VERSION = "INSERT INTO version (id, inode, size, checksum, created_index) VALUES (?, ?, ?, ?, ?)"
_NEW_EXTENT = "INSERT INTO extent (version, file_offset, length, chunk, chunk_offset) VALUES (?, ?, ?, ?, ?)"
_NEW_ORPHAN = (
    "INSERT INTO orphan (chunk, since_index, since_ms, deleted_by, path,"
    " condemned_index, condemned_ms, cycle, hold)"
)


@dataclass(frozen=True, slots=True)
class Last:
    """What is known of the last that referred to a chunk: its path, and who took it away."""

    path: bytes
    deleted_by: str


def new_version(context: Context, inode: int | None, size: int, checksum: int) -> int:
    """A version of its own number; `inode` None: of an upload."""
    version = context.totals.take_version()
    add_version(context, version, inode, size, checksum)
    return version


def add_version(context: Context, version: int, inode: int | None, size: int, checksum: int) -> None:
    context.execute(_NEW_VERSION, (version, inode, size, checksum, context.index))


def new_extent(context: Context, version: int, extent: t.Extent) -> None:
    add_extent(context, (version, extent.offset, extent.length, extent.chunk, extent.chunk_offset))


def add_extent(context: Context, row: ExtentRow) -> None:
    context.execute(_NEW_EXTENT, row)


def new_inline_chunk(context: Context, body: bytes, checksum: int, want: int) -> bytes:
    """A sealed chunk whose home is the metadata; its id."""
    chunk = context.derived_id(0)
    birth = (context.history, context.index, context.now_ms)
    context.execute(_NEW_CHUNK, (chunk, SEALED, IN_METADATA, None, len(body), checksum, want, *birth))
    context.execute("INSERT INTO body (chunk, bytes) VALUES (?, ?)", (chunk, body))
    context.totals.chunks += 1
    context.totals.inline_bytes += len(body)
    return chunk


def new_upload_chunk(context: Context, chunk: bytes, upload: bytes, want: int) -> None:
    """A chunk whose bytes are still to come, protected by its open upload."""
    birth = (context.history, context.index, context.now_ms)
    context.execute(_NEW_CHUNK, (chunk, ALLOCATED, ON_DATANODES, upload, 0, 0, want, *birth))
    context.totals.chunks += 1


def drop_version(context: Context, version: int, last: Last) -> None:
    """Delete a version with all its extents; chunks that nothing else names are let go."""
    drop_extents(context, version, ALL, last)
    context.execute("DELETE FROM version WHERE id = ?", (version,))


def drop_extents(context: Context, version: int, most: int, last: Last) -> tuple[int, int]:
    """Delete up to `most` of a version's extents, the hindmost first: how many there were, and the file offset
    where they began, 0 when there were none."""
    rows = context.execute(
        "SELECT file_offset, chunk FROM extent WHERE version = ? ORDER BY file_offset DESC LIMIT ?",
        (version, most),
    ).fetchall()
    if not rows:
        return 0, 0
    begins: int = rows[-1][0]
    context.execute("DELETE FROM extent WHERE version = ? AND file_offset >= ?", (version, begins))
    for chunk in dict.fromkeys(row[1] for row in rows):
        if context.execute("SELECT 1 FROM extent WHERE chunk = ? LIMIT 1", (chunk,)).fetchone() is None:
            let_go(context, chunk, last)
    return len(rows), begins


def let_go(context: Context, chunk: bytes, last: Last) -> None:
    """No extent names `chunk` any more. While its upload is open it lives on."""
    row = context.execute("SELECT home, upload, length FROM chunk WHERE id = ?", (chunk,)).fetchone()
    home, upload, length = row
    if home == IN_METADATA:
        delete_inline(context, chunk, length)
    elif upload is None:
        context.execute(
            f"{_NEW_ORPHAN} VALUES (?, ?, ?, ?, ?, 0, 0, 0, 0)",
            (chunk, context.index, context.now_ms, last.deleted_by, last.path),
        )
        context.execute("UPDATE chunk SET want = 0 WHERE id = ?", (chunk,))


def delete_inline(context: Context, chunk: bytes, length: int) -> None:
    context.execute("DELETE FROM body WHERE chunk = ?", (chunk,))
    context.execute("DELETE FROM chunk WHERE id = ?", (chunk,))
    context.totals.chunks -= 1
    context.totals.inline_bytes -= length


def release_upload(context: Context, upload: bytes, last: Last) -> None:
    """An upload is over: its chunks stand on their extents alone, and those without one are orphans.

    Chunks of an earlier history are held: in the part of it that was lost, the upload may have become a file.
    """
    context.execute(
        f"{_NEW_ORPHAN} SELECT id, ?, ?, ?, ?, 0, 0, 0, CASE WHEN birth_history < ? THEN ? ELSE 0 END"
        " FROM chunk WHERE upload = ?"
        " AND NOT EXISTS (SELECT 1 FROM extent WHERE extent.chunk = chunk.id) ORDER BY id",
        (
            context.index,
            context.now_ms,
            last.deleted_by,
            last.path,
            context.history,
            OF_ANOTHER_LOG,
            upload,
        ),
    )
    context.execute(
        "UPDATE chunk SET upload = NULL, want = CASE WHEN EXISTS"
        " (SELECT 1 FROM extent WHERE extent.chunk = chunk.id) THEN want ELSE 0 END WHERE upload = ?",
        (upload,),
    )
