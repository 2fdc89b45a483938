"""Connections that read the state, each in a transaction of its own, and never write.

Theory of operation
1. A pool belongs to one SQLite file. When another file becomes the state the pool is retired: idle connections are
   closed, the others when they come back; then the file may go.
2. A transaction must see all that was applied before it began. A cursor that somebody has kept open would hold
   the connection to the past beyond its COMMIT, and SQLite says nothing: so the first row that a transaction
   reads is the applied index, and a connection that is behind is thrown away.
3. Readers are opened read-only, so that commits and checkpoints are done by one connection of one thread. SQLite
   before 3.51.3 can corrupt a database whose WAL is reset by one connection while another one commits or checkpoints.
4. A long transaction keeps the WAL from being emptied, nothing else. It is counted, not ended. So do short ones when
   there is always one: `quiet` lets none begin for a moment, until those that run have ended.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quorumfs.clock import Clock

IDLE_MAX = 8
SLOW_SECONDS = 10.0
STATEMENTS_MAX = 256
CACHE_KIB = 8 * 1024
BUSY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ReaderStats:
    """`slow`: transactions longer than SLOW_SECONDS, those that still run too. `stale`: see rule 2."""

    active: int
    slow: int
    stale: int


class Readers:
    """The connections to one file. Any thread; `applied_index` gives what a new transaction must see."""

    def __init__(self, path: Path, applied_index: Callable[[], int], clock: Clock) -> None:
        self.path = path
        self._applied_index = applied_index
        self._clock = clock
        self._changed = threading.Condition()
        self._open = 0
        self._idle: list[sqlite3.Connection] = []
        self._active: dict[object, float] = {}
        self._slow = 0
        self._stale = 0
        self._paused = False
        self._retired = False
        self._on_empty: Callable[[], None] | None = None

    def begin(self) -> sqlite3.Connection | None:
        """A connection inside a read transaction, for `end`; None when the pool is retired.

        Raises sqlite3.Error.
        """
        while True:
            token = object()
            with self._changed:
                while self._paused:
                    self._changed.wait()
                if self._retired:
                    return None
                idle = self._idle.pop() if self._idle else None
                self._open += idle is None
                self._active[token] = self._clock.monotonic()
            connection = idle
            try:
                connection = connection or open_reader(self.path)
                if self._sees_the_present(connection):
                    with self._changed:
                        self._active[connection] = self._active.pop(token)
                    return connection
            except BaseException:
                self._close(connection, token)
                raise
            self._stale += 1
            self._close(connection, token)

    def _sees_the_present(self, connection: sqlite3.Connection) -> bool:
        least = self._applied_index()
        connection.execute("BEGIN")
        (seen,) = connection.execute("SELECT applied_index FROM raft_state").fetchone()
        return bool(seen >= least)

    def end(self, connection: sqlite3.Connection) -> None:
        """End the transaction of `begin`; the connection may serve again."""
        whole = _commit(connection)
        with self._changed:
            self._slow += self._clock.monotonic() - self._active[connection] > SLOW_SECONDS
            keep = whole and not self._retired and len(self._idle) < IDLE_MAX
            if keep:
                del self._active[connection]
                self._idle.append(connection)
                self._changed.notify_all()
        if not keep:
            self._close(connection, connection)

    @contextmanager
    def quiet(self, seconds: float) -> Iterator[None]:
        """Inside, no transaction begins, and none runs any more if all that do end within `seconds`.

        It waits for none that has run for so long already: who is that slow would keep the writer in vain.
        """
        with self._changed:
            self._paused = True
            deadline = self._clock.monotonic() + seconds
            while (left := self._patience(deadline, seconds)) > 0 and self._changed.wait(left):
                pass
        try:
            yield
        finally:
            with self._changed:
                self._paused = False
                self._changed.notify_all()

    def _patience(self, deadline: float, seconds: float) -> float:
        """How long it is worth to wait for the transactions that run."""
        if not self._active:
            return 0.0
        return min(deadline, min(self._active.values()) + seconds) - self._clock.monotonic()

    def retire(self, on_empty: Callable[[], None]) -> None:
        """Begin no more; `on_empty` is called once, as soon as every connection is closed."""
        with self._changed:
            self._retired = True
            self._on_empty = on_empty
            self._open += 1
            idle, self._idle = self._idle, []
        for connection in (*idle, None):
            self._close(connection, None)

    def _close(self, connection: sqlite3.Connection | None, active: object) -> None:
        """One open connection less; None: it could not be opened."""
        if connection is not None:
            connection.close()
        with self._changed:
            self._open -= 1
            self._active.pop(active, None)
            self._changed.notify_all()
            on_empty = None if self._open else self._on_empty
        if on_empty is not None:
            on_empty()

    def stats(self) -> ReaderStats:
        with self._changed:
            now = self._clock.monotonic()
            running = sum(now - began > SLOW_SECONDS for began in self._active.values())
            return ReaderStats(len(self._active), self._slow + running, self._stale)


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, to a database that somebody has open in WAL mode. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=STATEMENTS_MAX,
        timeout=BUSY_SECONDS,
    )
    for pragma in ("query_only = 1", f"cache_size = -{CACHE_KIB}", "temp_store = MEMORY"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _commit(connection: sqlite3.Connection) -> bool:
    try:
        if connection.in_transaction:
            connection.execute("COMMIT")
    except sqlite3.Error:
        return False
    return True
