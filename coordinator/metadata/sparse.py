"""Chunks of which little is alive, for the duty that rewrites them. Reads only; the database itself adds up."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

_ALIVE = (
    "(SELECT coalesce(sum(part), 0) FROM"
    " (SELECT DISTINCT chunk_offset, extent.length AS part FROM extent WHERE extent.chunk = chunk.id)) AS alive"
    " FROM chunk WHERE id > ? AND id <= ? AND state = 1 AND home = 0 AND upload IS NULL AND want > 0"
)
_PAGE_END = "SELECT max(id), count(*) FROM (SELECT id FROM chunk WHERE id > ? ORDER BY id LIMIT ?)"
_SPARSE = (
    f"SELECT id, length, want, alive FROM (SELECT id, length, want, {_ALIVE})"
    " WHERE alive > 0 AND alive * 100 < ? * length"
    " AND NOT EXISTS (SELECT 1 FROM extent WHERE extent.chunk = id AND version IN"
    " (SELECT base_version FROM upload UNION ALL SELECT version FROM upload))"
    " ORDER BY id LIMIT ?"
)
_TOTALS = (
    "SELECT count(*), coalesce(sum(length), 0), coalesce(sum(min(alive, length)), 0)"
    f" FROM (SELECT length, {_ALIVE}) WHERE alive > 0"
)
_EXTENTS = "SELECT DISTINCT chunk_offset, length FROM extent WHERE chunk = ? ORDER BY chunk_offset, length"


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes of a chunk that files name."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class SparseChunk:
    """`ranges`: its live bytes, in order, none twice."""

    chunk: bytes
    length: int
    want: int
    ranges: tuple[Range, ...]

    @property
    def live_bytes(self) -> int:
        return sum(one.length for one in self.ranges)


@dataclass(frozen=True, slots=True)
class Page:
    """`after`: where the next one begins; empty when this was the last. `looked_at`: how many could be rewritten, with
    their bytes, and how many of these are alive."""

    chunks: list[SparseChunk]
    after: bytes
    looked_at: int = 0
    total_bytes: int = 0
    live_bytes: int = 0


def sparse(tx: sqlite3.Connection, after: bytes, look_at: int, limit: int, live_percent: int) -> Page:
    """Of the `look_at` chunks behind `after`, those with less than so much alive, up to `limit`. Those that an open
    upload may name wait for its end: their extents would stay where they are."""
    last, count = tx.execute(_PAGE_END, (after, look_at)).fetchone()
    if not count:
        return Page([], b"")
    rows = tx.execute(_SPARSE, (after, last, live_percent, limit)).fetchall()
    chunks = [SparseChunk(chunk, length, want, _ranges(tx, chunk)) for chunk, length, want, _ in rows]
    if len(rows) == limit:
        last = rows[-1][0]
    more = len(rows) == limit or count == look_at
    return Page(chunks, last if more else b"", *tx.execute(_TOTALS, (after, last)).fetchone())


def live_bytes(tx: sqlite3.Connection, chunk: bytes) -> int:
    """How many bytes of it files name."""
    return sum(one.length for one in _ranges(tx, chunk))


def _ranges(tx: sqlite3.Connection, chunk: bytes) -> tuple[Range, ...]:
    """Overlapping and touching extents as one range: an extent lies within a range as a whole."""
    merged: list[Range] = []
    for offset, length in tx.execute(_EXTENTS, (chunk,)):
        before = merged[-1] if merged else None
        if before is not None and offset <= before.offset + before.length:
            end = max(before.offset + before.length, offset + length)
            merged[-1] = Range(before.offset, end - before.offset)
        else:
            merged.append(Range(offset, length))
    return tuple(merged)
