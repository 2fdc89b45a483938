"""Hashes over the log and over the state.

Both leave out the sentences of refusals: members of different versions may word them differently, and still be the
same state machine. A refusal's code is hashed.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence

from google.protobuf.message import DecodeError

from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n

ROWS_AT_ONCE = 1000

_WHOLE_NUMBERS_AND_BYTES = ("INTEGER", "BIGINT", "BLOB")


def roll(previous: bytes, index: int, entry: bytes, outcomes: Sequence[bytes]) -> bytes:
    """SHA-256 over (previous, index, entry, outcomes): one value for the whole log up to `index`."""
    parts = [previous, index.to_bytes(8, "big")]
    for part in (entry, *outcomes):
        parts += (len(part).to_bytes(8, "big"), part)
    return hashlib.sha256(b"".join(parts)).digest()


def outcome(result: bytes) -> bytes:
    """A BatchResult without its sentences; bytes that are none as they are."""
    try:
        answer = n.BatchResult.FromString(result)
    except DecodeError:
        return result
    for said in (answer, *answer.results):
        said.ClearField("error")
    return answer.SerializeToString(deterministic=True)


def system_outcome(result: bytes) -> bytes:
    """A SystemResult without its sentences."""
    answer = e.SystemResult.FromString(result)
    for said in answer.results:
        said.ClearField("error")
    return answer.SerializeToString(deterministic=True)


def state_hash(tx: sqlite3.Connection) -> bytes:
    """SHA-256 over every row of every table, tables by name, rows by primary key. Streams; seconds per million rows.

    The tables are those that the database has, not those that this software expects: members of different versions
    hash the same state alike.
    """
    found = hashlib.sha256()
    tx.create_function("outcome", 1, outcome, deterministic=True)
    for (table,) in tx.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    ).fetchall():
        columns = tx.execute(
            "SELECT name, type, pk FROM pragma_table_info(?) ORDER BY cid", (table,)
        ).fetchall()
        key = ", ".join(f'"{name}"' for name, _, pk in sorted(columns, key=lambda row: row[2]) if pk)
        row = " || ',' || ".join(_quoted(table, name, kind) for name, kind, _ in columns)
        found.update(f"{table}({','.join(name for name, _, _ in columns)})\n".encode())
        rows = tx.execute(f'SELECT {row} FROM "{table}" ORDER BY {key or row}')
        while page := rows.fetchmany(ROWS_AT_ONCE):
            found.update("\n".join(text for (text,) in page).encode())
            found.update(b"\n")
    return found.digest()


def _quoted(table: str, column: str, kind: str) -> str:
    """The SQL of a value's spelling. Text goes as bytes, for `quote` ends at a NUL in it."""
    if (table, column) == ("slot", "result"):
        return f'quote(outcome("{column}"))'
    return f'quote("{column}")' if kind in _WHOLE_NUMBERS_AND_BYTES else f'quote(CAST("{column}" AS BLOB))'
