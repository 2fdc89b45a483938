"""The replicated counters: the next ids, how much there is, and how far the trash is emptied. Read once per entry,
written once at its end."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

COLUMNS = (
    "next_inode, next_version, next_trash, next_node, next_disk,"
    " files, directories, symlinks, chunks, logical_bytes, inline_bytes, purged_through"
)
_row = attrgetter(*COLUMNS.split(", "))  # for every entry; dataclasses.astuple copies deeply
_WRITE = f"UPDATE totals SET ({COLUMNS}) = (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) WHERE id = 1"


@dataclass(slots=True)
class Totals:
    """The row of `totals`, its columns in the order of COLUMNS. Commands change it in place; `store` writes it if
    anything changed."""

    next_inode: int
    next_version: int
    next_trash: int
    next_node: int
    next_disk: int
    files: int
    directories: int
    symlinks: int
    chunks: int
    logical_bytes: int
    inline_bytes: int
    purged_through: int

    def copy(self) -> Totals:
        return Totals(*_row(self))

    def store(self, tx: sqlite3.Connection, loaded: Sequence[int]) -> Sequence[int]:
        """Write them if they differ from `loaded`, the row as it is in the database; the row as it is then."""
        row: tuple[int, ...] = _row(self)
        if row != loaded:
            tx.execute(_WRITE, row)
        return row

    def take_inode(self) -> int:
        taken = self.next_inode
        self.next_inode = taken + 1
        return taken

    def take_version(self) -> int:
        taken = self.next_version
        self.next_version = taken + 1
        return taken

    def take_trash(self) -> int:
        taken = self.next_trash
        self.next_trash = taken + 1
        return taken

    def take_node(self) -> int:
        taken = self.next_node
        self.next_node = taken + 1
        return taken

    def take_disk(self) -> int:
        taken = self.next_disk
        self.next_disk = taken + 1
        return taken
