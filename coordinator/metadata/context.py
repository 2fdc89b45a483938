"""What the commands of one entry work with: the transaction, the entry's own facts, and rows read once.

A context lives as long as one `apply`: nothing of the database is remembered from entry to entry, so that a
rollback or an installed snapshot cannot leave anything stale behind.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from coordinator.metadata import settings
from coordinator.metadata.arrivals import Arrivals
from coordinator.metadata.totals import Totals
from quorumfs.errors import BusyError, PreconditionFailedError, QuorumFSError
from quorumfs.mint import derived_id
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

T = TypeVar("T")

NS_PER_MS = 1_000_000
ROWS_PER_ENTRY = 50_000
"""What the operations of an entry may touch together beyond the usual few rows: about half a second."""


class Context:
    """See the module. `item` and `op` say where in the entry we are; `principal` and `choices` are the
    item's."""

    __slots__ = (
        "_history",
        "_loaded",
        "_majority",
        "_rows",
        "_settings",
        "arrivals",
        "choices",
        "directories",
        "execute",
        "index",
        "item",
        "marks",
        "now_ms",
        "op",
        "packs",
        "principal",
        "seed",
        "totals",
        "tx",
        "wall_ms",
        "worded",
    )

    def __init__(self, tx: sqlite3.Connection, index: int, now_ms: int, wall_ms: int, seed: bytes) -> None:
        self.tx = tx
        self.execute: Callable[..., sqlite3.Cursor] = tx.execute
        self.index = index
        self.now_ms = now_ms
        self.wall_ms = wall_ms
        self.seed = seed
        self.item = 0
        self.op = 0
        self.principal = ""
        self.choices: Mapping[int, e.Choice] = {}
        self.marks: list[int] = []
        self.directories: dict[bytes, tuple[int, bytes]] = {}
        """What the entry has looked up: directory as a path spells it -> its inode and own path. Who takes
        anything out of its place clears it."""
        self.packs: dict[tuple[bytes, bytes], tuple[int, int, int, int]] = {}
        """Sealed chunks of open uploads in which files were put since anything else was done, by (upload, chunk):
        length, live replicas, how many are wanted, and how many the upload asks for at least."""
        self.arrivals = Arrivals()
        self.worded = False
        """Whether the result of the item at hand may have sentences in it."""
        self._loaded = Totals.load(tx)
        self.totals = self._loaded.copy()
        self._settings: dict[str, int] | None = None
        self._history: int | None = None
        self._majority: int | None = None
        self._rows = 0

    def settle(self) -> None:
        """From here on the tables hold all that the entry has done so far, its counters apart."""
        self.arrivals.write(self.tx)
        self.packs.clear()

    def store_totals(self) -> None:
        self.totals.store(self.tx, self._loaded)
        self._loaded = self.totals.copy()

    def derived_id(self, k: int) -> bytes:
        """The k-th id that the operation under way makes."""
        return derived_id(self.seed, self.item, self.op, k)

    def setting(self, key: str) -> int:
        if self._settings is None:
            self._settings = settings.load(self.tx)
        return self._settings[key]

    def forget_settings(self) -> None:
        """A command has changed them."""
        self._settings = None
        self._majority = None

    @property
    def history(self) -> int:
        """Of this cluster. Raises PreconditionFailedError before it is initialised."""
        if self._history is None:
            row = self.execute("SELECT history FROM cluster WHERE id = 1").fetchone()
            if row is None:
                raise PreconditionFailedError("this cluster is not initialised")
            self._history = int(row[0])
        return self._history

    @property
    def majority(self) -> int:
        """How many coordinators have what is committed, at least."""
        if self._majority is None:
            rows = self.execute("SELECT member FROM member ORDER BY node_id").fetchall()
            voters = [row for row in rows if not m.Member.FromString(row[0]).learner]
            self._majority = len(voters) // 2 + 1
        return self._majority

    def spend(self, rows: int) -> None:
        """The operation at hand is about to touch so many rows. Raises BusyError when those before it in the entry have
        left no room: no entry takes long, whatever is put together in it. The first always has room."""
        if self._rows and self._rows + rows > ROWS_PER_ENTRY:
            raise BusyError(
                "the log entry has no room for another operation on very many chunks",
                cause=f"{self._rows} rows are touched before it, {rows} are more than are left",
                next="do it again",
            )
        self._rows += rows

    def guarded(self, command: Callable[[Context, Any], T], request: Any) -> T:
        """Run a command that writes before it has checked everything: its refusal undoes what it wrote."""
        totals = self.totals.copy()
        self.execute("SAVEPOINT command")
        try:
            made = command(self, request)
        except QuorumFSError:
            self.execute("ROLLBACK TO command")
            self.execute("RELEASE command")
            self.totals = totals
            raise
        self.execute("RELEASE command")
        return made

    def detail_of(self, error: QuorumFSError) -> t.ErrorDetail:
        """A refusal as results carry it."""
        self.worded = True
        return detail_of(error)


def detail_of(error: QuorumFSError) -> t.ErrorDetail:
    """A refusal as answers carry it."""
    return t.ErrorDetail(
        code=t.ErrorCode.ValueType(error.code), message=error.message, cause=error.cause, next=error.next
    )
