"""What the commands of one entry work with: the transaction, the entry's own facts, and rows read once.

A context lives as long as one `apply`: nothing of the database is remembered from entry to entry, so that a
rollback or an installed snapshot cannot leave anything stale behind.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from coordinator.metadata import facts
from coordinator.metadata.arrivals import Arrivals
from coordinator.metadata.facts import Facts
from coordinator.metadata.totals import Totals
from quorumfs.errors import BusyError, PreconditionFailedError, QuorumFSError
from quorumfs.mint import derived_id
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import types_pb2 as t

T = TypeVar("T")

NS_PER_MS = 1_000_000
ROWS_PER_ENTRY = 50_000
"""What the operations of an entry may touch together beyond the usual few rows: about half a second."""


class Context:
    """See the module. `item` and `op` say where in the entry we are; `principal` and `choices` are the
    item's."""

    __slots__ = (
        "_facts",
        "_history",
        "_loaded",
        "_majority",
        "_rows",
        "_settings",
        "arrivals",
        "choices",
        "directories",
        "ended",
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

    def __init__(
        self,
        tx: sqlite3.Connection,
        index: int,
        now_ms: int,
        wall_ms: int,
        seed: bytes,
        loaded: Sequence[int],
    ) -> None:
        """`loaded`: the row of `totals` as it is before the entry."""
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
        self.ended = False
        """Whether a session was ended by this entry."""
        self._loaded = loaded
        self.totals = Totals(*loaded)
        self._facts: Facts | None = None
        self._settings: Mapping[str, int] | None = None
        self._history: int | None = None
        self._majority: int | None = None
        self._rows = 0

    def settle(self) -> None:
        """From here on the tables hold all that the entry has done so far, its counters apart."""
        self.arrivals.write(self.tx)
        self.packs.clear()

    def store_totals(self) -> None:
        self._loaded = self.totals.store(self.tx, self._loaded)

    def derived_id(self, k: int) -> bytes:
        """The k-th id that the operation under way makes."""
        return derived_id(self.seed, self.item, self.op, k)

    def setting(self, key: str) -> int:
        if self._settings is None:
            self._settings = self._known().settings
        return self._settings[key]

    def forget_settings(self) -> None:
        """A command has changed them."""
        self._settings = None
        self._majority = None
        self._facts = None

    def forget_facts(self) -> None:
        """A command may have changed what the entry has not gone by yet. The history that it has gone by stays to its
        end: members of every version of the software must come to the same."""
        self._facts = None

    def _known(self) -> Facts:
        if self._facts is None:
            self._facts = facts.load(self.tx)
        return self._facts

    @property
    def history(self) -> int:
        """Of this cluster. Raises PreconditionFailedError before it is initialised."""
        if self._history is None:
            history = self._known().history
            if history is None:
                raise PreconditionFailedError("this cluster is not initialised")
            self._history = history
        return self._history

    @property
    def majority(self) -> int:
        """How many coordinators have what is committed, at least."""
        if self._majority is None:
            self._majority = self._known().majority
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
