"""Bodies in the metadata, for the duty that moves them to datanodes. Reads only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

# A body is written once, when its file is made: the order of the rows is that of their age.
_OLDEST = (
    "SELECT chunk.id, length, want, birth_ms FROM body JOIN chunk ON chunk.id = body.chunk"
    " ORDER BY body.rowid LIMIT ?"
)
_BODY = "SELECT bytes, checksum FROM body JOIN chunk ON chunk.id = body.chunk WHERE body.chunk = ?"


@dataclass(frozen=True, slots=True)
class InlineRow:
    chunk: bytes
    length: int
    want: int
    birth_ms: int


def inline_bytes(tx: sqlite3.Connection) -> int:
    """Bytes that all bodies take together."""
    (number,) = tx.execute("SELECT inline_bytes FROM totals WHERE id = 1").fetchone()
    return int(number)


def oldest_bodies(tx: sqlite3.Connection, most: int) -> list[InlineRow]:
    return [InlineRow(*row) for row in tx.execute(_OLDEST, (most,))]


def bodies(tx: sqlite3.Connection, chunks: Iterable[bytes]) -> dict[bytes, tuple[bytes, int]]:
    """Chunk -> (its bytes, their checksum as it was written), of those that are still in the metadata."""
    found = {}
    for chunk in chunks:
        row = tx.execute(_BODY, (chunk,)).fetchone()
        if row is not None:
            found[chunk] = (bytes(row[0]), int(row[1]))
    return found
