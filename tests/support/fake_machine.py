"""A state machine small enough to check a database against: keys and numbers, and a model of the same in Python."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence

from coordinator.consensus.interfaces import LogEntry

SCHEMA = """
CREATE TABLE raft_state (id INTEGER PRIMARY KEY, applied_index INTEGER NOT NULL, applied_term INTEGER NOT NULL,
    cluster_ms INTEGER NOT NULL, wall_ms INTEGER NOT NULL, rolling BLOB NOT NULL);
CREATE TABLE pair (key INTEGER PRIMARY KEY, value BLOB NOT NULL);
"""


class MachineBrokenError(Exception):
    """What a state machine raises that cannot go on."""


class FakeMachine:
    """Entries: `put KEY TEXT`, `mark`, `fill COUNT BYTES`, `broken`. An answer is the index and the entry."""

    def __init__(self) -> None:
        self.rolling = b""
        self._marks: list[int] = []

    def create(self, tx: sqlite3.Connection) -> None:
        for statement in SCHEMA.split(";"):
            tx.execute(statement)
        tx.execute("INSERT INTO raft_state VALUES (1, 1, 0, 0, 0, ?)", (bytes(32),))

    def apply(self, tx: sqlite3.Connection, index: int, term: int, entry: bytes) -> list[bytes]:
        verb, *arguments = entry.split(b" ")
        match verb:
            case b"put":
                tx.execute("INSERT OR REPLACE INTO pair VALUES (?, ?)", (int(arguments[0]), arguments[1]))
            case b"fill":
                count, length = map(int, arguments)
                rows = ((index << 20 | key, bytes(length)) for key in range(count))
                tx.executemany("INSERT OR REPLACE INTO pair VALUES (?, ?)", rows)
            case b"mark":
                self._marks.append(index)
            case _:
                raise MachineBrokenError(entry)
        answer = b"%d %s" % (index, entry)
        (before,) = tx.execute("SELECT rolling FROM raft_state").fetchone()
        self.rolling = rolled(before, answer)
        tx.execute(
            "UPDATE raft_state SET applied_index = ?, applied_term = ?, cluster_ms = ?, rolling = ?",
            (index, term, index * 10, self.rolling),
        )
        return [answer]

    def skip(self, tx: sqlite3.Connection, index: int, term: int) -> None:
        (self.rolling,) = tx.execute("SELECT rolling FROM raft_state").fetchone()
        tx.execute("UPDATE raft_state SET applied_index = ?, applied_term = ?", (index, term))

    def configure(self, tx: sqlite3.Connection, index: int, term: int, configuration: bytes) -> None:
        self.skip(tx, index, term)

    def take_marks(self) -> Sequence[int]:
        taken, self._marks = self._marks, []
        return taken


def rolled(before: bytes, answer: bytes) -> bytes:
    return hashlib.sha256(before + answer).digest()


def hash_of_pairs(tx: sqlite3.Connection) -> bytes:
    return hashlib.sha256(repr(pairs(tx)).encode()).digest()


def pairs(tx: sqlite3.Connection) -> dict[int, bytes]:
    return dict(tx.execute("SELECT key, value FROM pair ORDER BY key"))


def put(index: int, key: int | None = None, value: str = "x", term: int = 1) -> LogEntry:
    return LogEntry(index, term, f"put {index if key is None else key} {value}".encode())


def puts(first: int, last: int) -> list[LogEntry]:
    """Entries of `first` to `last`, each with a value of its own, over a few keys."""
    return [put(index, index % 7, f"v{index}") for index in range(first, last + 1)]


def pairs_after(index: int) -> dict[int, bytes]:
    """What `puts(2, index)` leave."""
    return {at % 7: b"v%d" % at for at in range(2, index + 1)}
