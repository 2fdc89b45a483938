"""Hashes over the log and over the state."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence

ROWS_AT_ONCE = 1000


def roll(previous: bytes, index: int, entry: bytes, results: Sequence[bytes]) -> bytes:
    """SHA-256 over (previous, index, entry, results): one value for the whole log up to `index`."""
    found = hashlib.sha256(previous)
    found.update(index.to_bytes(8, "big"))
    for part in (entry, *results):
        found.update(len(part).to_bytes(8, "big"))
        found.update(part)
    return found.digest()


def state_hash(tx: sqlite3.Connection) -> bytes:
    """SHA-256 over every row of every table, tables by name, rows by primary key. Streams; seconds per million rows.

    The tables are those that the database has, not those that this software expects: members of different versions
    hash the same state alike.
    """
    found = hashlib.sha256()
    for (table,) in tx.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    ).fetchall():
        columns = tx.execute("SELECT name, pk FROM pragma_table_info(?) ORDER BY cid", (table,)).fetchall()
        key = ", ".join(f'"{name}"' for name, pk in sorted(columns, key=lambda row: row[1]) if pk)
        row = " || ',' || ".join(f'quote("{name}")' for name, _ in columns)
        found.update(f"{table}({','.join(name for name, _ in columns)})\n".encode())
        rows = tx.execute(f'SELECT {row} FROM "{table}" ORDER BY {key or row}')
        while page := rows.fetchmany(ROWS_AT_ONCE):
            found.update("\n".join(text for (text,) in page).encode())
            found.update(b"\n")
    return found.digest()
