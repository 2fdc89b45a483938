"""New files of one log entry, on their way into the tables: kept, and written together.

1. Most entries of a busy cluster make many files. Row by row, what SQLite does for a file costs less than calling it
   does; `executemany` makes that one call per table.
2. Nothing else of the entry may see that: whatever reads or writes the namespace settles first
   (`Context.settle`), except who asks for one name and looks here as well (`holds`).
3. Names go to SQLite as bytearray: for bytes, its driver looks for adapters each time, which costs as much as a
   column of the row.
4. What is noted here is certain to happen: every check was made before. Counters are in `totals` already.
"""

from __future__ import annotations

import sqlite3

from quorumfs.v1 import types_pb2 as t

_VERSIONS = "INSERT INTO version (id, inode, size, checksum, created_index) VALUES (?, ?, ?, ?, ?)"
_EXTENTS = "INSERT INTO extent (version, file_offset, length, chunk, chunk_offset) VALUES (?, ?, ?, ?, ?)"
_INODES = (
    "INSERT INTO inode (id, type, parent, name, mode, mtime_ns, version, replication, target, changed_wall_ms)"
    f" VALUES (?, {t.INODE_TYPE_FILE}, ?, ?, ?, ?, ?, ?, NULL, ?)"
)
_DENTRIES = "INSERT INTO dentry (parent, name, inode) VALUES (?, ?, ?)"

InodeRow = tuple[int, int, bytearray, int, int, int, int, int]
"""Id, parent, name, mode, mtime (ns), version, replication, changed (ms) of a file."""
ExtentRow = tuple[int, int, int, bytes, int]
"""Version, file offset, length, chunk, chunk offset."""


class Arrivals:
    """Lives as long as one `apply`."""

    __slots__ = ("_dentries", "_extents", "_inodes", "_names", "_versions")

    def __init__(self) -> None:
        self._names: set[tuple[int, bytes]] = set()
        self._inodes: list[InodeRow] = []
        self._dentries: list[tuple[int, bytearray, int]] = []
        self._versions: list[tuple[int, int, int, int, int]] = []
        self._extents: list[ExtentRow] = []

    def holds(self, parent: int, name: bytes) -> bool:
        """Whether a new file is at this name, and not in the tables yet."""
        return (parent, name) in self._names

    def add(
        self,
        file: InodeRow,
        name: bytes,
        size: int,
        checksum: int,
        index: int,
        extent: ExtentRow | None,
    ) -> None:
        """A file at the free name `name`, and its content's version, made by entry `index`; `extent`: all of it."""
        number, parent, key, _, _, version, _, _ = file
        self._names.add((parent, name))
        self._inodes.append(file)
        self._dentries.append((parent, key, number))
        self._versions.append((version, number, size, checksum, index))
        if extent is not None:
            self._extents.append(extent)

    def write(self, tx: sqlite3.Connection) -> None:
        """Put them all into the tables."""
        if not self._names:
            return
        tx.executemany(_VERSIONS, self._versions)
        if self._extents:
            tx.executemany(_EXTENTS, self._extents)
        tx.executemany(_INODES, self._inodes)
        tx.executemany(_DENTRIES, self._dentries)
        for kept in (self._names, self._inodes, self._dentries, self._versions, self._extents):
            kept.clear()
