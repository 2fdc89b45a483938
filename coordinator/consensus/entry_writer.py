"""Entries of the log into one SQLite connection: transactions, order, and what is kept about the last ones.

It knows nothing of files, readers or durability; the database on a disk and the one of the simulation both stand
on it. Only the writer's thread may call `apply`; the numbers may be read by any.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from coordinator.consensus.interfaces import LogEntry
from quorumfs.errors import InternalError

ROLLING_MAX = 4096

Answers = Sequence[bytes] | None


class StateMachine(Protocol):
    """What makes a state of entries.

    It keeps nothing between two calls that the tables do not say: a transaction may be undone and made again,
    and a snapshot may change everything between two entries. The owner of `tx` begins and commits.
    """

    rolling: bytes
    """`raft_state.rolling` after the last entry."""

    def create(self, tx: sqlite3.Connection) -> None:
        """The tables and first rows of an empty cluster, at index 1."""
        ...

    def apply(self, tx: sqlite3.Connection, index: int, term: int, entry: bytes) -> Sequence[bytes]: ...

    def skip(self, tx: sqlite3.Connection, index: int, term: int) -> None: ...

    def configure(self, tx: sqlite3.Connection, index: int, term: int, configuration: bytes) -> None:
        """Note who belongs to the Raft group since the entry `index`."""
        ...

    def take_marks(self) -> Sequence[int]:
        """The indexes of HashAt entries applied since the last call."""
        ...


@dataclass(frozen=True, slots=True)
class Position:
    """What `raft_state` says; swapped as a whole, so that any thread reads what belongs together."""

    index: int
    term: int
    cluster_ms: int
    rolling: bytes


@dataclass(frozen=True, slots=True)
class _Tried:
    """The entry that the open transaction holds, and what it answers."""

    entry: LogEntry
    answers: Answers


class EntryWriter:
    """`on_mark` is called with the index of a HashAt entry while the connection's state is exactly of that index."""

    def __init__(
        self, connection: sqlite3.Connection, machine: StateMachine, on_mark: Callable[[int], None]
    ) -> None:
        """Raises sqlite3.Error, also when there is no state."""
        self._connection = connection
        self._machine = machine
        self._on_mark = on_mark
        self._withheld: dict[int, Answers] = {}
        self._tried: _Tried | None = None
        self.at = position_of(connection)
        self._rolling: list[tuple[int, bytes]] = [(0, b"")] * ROLLING_MAX
        self._rolling[self.at.index % ROLLING_MAX] = (self.at.index, self.at.rolling)

    def rolling_at(self, index: int) -> bytes | None:
        """The rolling hash after the entry `index`; None when that is not committed, or too long ago."""
        if index > self.at.index:
            return None
        found, rolling = self._rolling[index % ROLLING_MAX]
        return rolling if found == index else None

    def try_next(self, entry: LogEntry) -> None:
        """Apply an entry that is not committed yet, as far as that can be undone: `apply` of the same one ends it,
        everything else here undoes it. Nobody sees anything of it before.

        What goes wrong is no matter, also that the entry is not the next: `apply` meets it again.
        """
        self.forget_tried()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            answers = self._apply_one(entry, self.at.index + 1)
        except Exception:  # noqa: BLE001  it was only tried
            self._roll_back()
        else:
            self._tried = _Tried(entry, answers)

    def forget_tried(self) -> None:
        """Undo what `try_next` has done."""
        if self._tried is not None:
            self._tried = None
            self._roll_back()

    def apply(self, entries: Sequence[LogEntry]) -> list[Answers]:
        """Apply all in one transaction; per entry one answer per item, None for an entry without commands.

        A transaction ends early after a HashAt entry. Entries that were applied before are skipped (None). Raises
        InternalError for a gap in the indexes, sqlite3.Error and what the machine raises: then the transaction
        that failed is undone. When the same entries are given again, no answer is lost.
        """
        fresh = [entry for entry in entries if entry.index > self.at.index]
        if self._tried is not None and (not fresh or fresh[0] != self._tried.entry):
            self.forget_tried()
        done = 0
        while done < len(fresh):
            done += self._transaction(fresh[done:])
        answers, self._withheld = self._withheld, {}
        return [answers.get(entry.index) for entry in entries]

    def _transaction(self, entries: Sequence[LogEntry]) -> int:
        """Apply and commit some of `entries`; how many."""
        made: dict[int, Answers] = {}
        marks: Sequence[int] = ()
        tried, self._tried = self._tried, None
        if tried is None:
            self._connection.execute("BEGIN IMMEDIATE")
        try:
            for entry in entries:
                if tried is not None and entry is entries[0]:
                    made[entry.index] = tried.answers
                else:
                    made[entry.index] = self._apply_one(entry, self.at.index + len(made) + 1)
                if marks := self._machine.take_marks():
                    break
            at = position_of(self._connection)
            if at.index != self.at.index + len(made):
                raise InternalError(
                    f"the state is of index {at.index} after entry {self.at.index + len(made)}"
                )
            self._connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        self.at = at
        self._withheld.update(made)
        if marks:
            self._on_mark(at.index)
        return len(made)

    def _apply_one(self, entry: LogEntry, expected: int) -> Answers:
        if entry.index != expected:
            raise InternalError(f"entry {entry.index} came where {expected} is the next")
        answers: Answers = None
        if entry.configuration is not None:
            self._machine.configure(self._connection, entry.index, entry.term, entry.configuration)
        elif entry.data is None:
            self._machine.skip(self._connection, entry.index, entry.term)
        else:
            answers = self._machine.apply(self._connection, entry.index, entry.term, entry.data)
        self._rolling[entry.index % ROLLING_MAX] = (entry.index, self._machine.rolling)
        return answers

    def _roll_back(self) -> None:
        self._machine.take_marks()
        with suppress(sqlite3.Error):  # what failed before says more
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def position_of(connection: sqlite3.Connection) -> Position:
    """Of the last entry that the state has. Raises sqlite3.Error, also when there is no state."""
    row = connection.execute(
        "SELECT applied_index, applied_term, cluster_ms, rolling FROM raft_state"
    ).fetchone()
    if row is None:
        raise sqlite3.DatabaseError("raft_state has no row")
    index, term, cluster_ms, rolling = row
    return Position(index, term, cluster_ms, rolling)
