"""Hashes of the whole state at the indexes that HashAt entries marked, made by a thread of their own.

The writer pins a read transaction right after such an entry and hands it over; it waits for nothing. A pinned
transaction keeps the WAL from being emptied, so only a few may wait: further marks get no hash, and whoever wants
one marks another index. The same goes for a hash that fails: every member meets the same mark, and must not end
for a question. Only a damaged database is told to the writer.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable
from queue import SimpleQueue

from common import log
from coordinator.consensus.faults import CorruptDatabase, fault_of
from coordinator.consensus.readers import Readers

WAITING_MAX = 4
KEPT_MAX = 16
STOP_SECONDS = 5.0

StateHash = Callable[[sqlite3.Connection], bytes]

_log = log.get(__name__)


class StateHashes:
    """`pin` and `close` from the writer's thread, `at` from any."""

    def __init__(self, state_hash: StateHash) -> None:
        self._state_hash = state_hash
        self._queue: SimpleQueue[tuple[int, Readers, sqlite3.Connection] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._found: OrderedDict[int, bytes] = OrderedDict()
        self._running: sqlite3.Connection | None = None
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.failure: Exception | None = None

    def pin(self, index: int, readers: Readers) -> None:
        """Have the state hashed as it is now, at `index`, if that can be done."""
        if self._queue.qsize() >= WAITING_MAX:
            _log.warning("state_hash.skipped", index=index, cause="too many wait")
            return
        try:
            connection = readers.begin()
        except sqlite3.Error as error:
            self._report(index, readers, error)
            return
        if connection is None:
            return
        self._queue.put((index, readers, connection))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="state-hash", daemon=True)
            self._thread.start()

    def at(self, index: int) -> bytes | None:
        with self._lock:
            return self._found.get(index)

    def last(self) -> tuple[int, bytes] | None:
        """The hash that was made last, and its index."""
        with self._lock:
            return next(reversed(self._found.items()), None)

    def close(self) -> None:
        """End the thread; what is not finished is given up."""
        with self._lock:
            self._stopping = True
            if self._running is not None:
                self._running.interrupt()
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while (pinned := self._queue.get()) is not None:
            index, readers, connection = pinned
            try:
                self._keep(index, self._hash(connection))
            except Exception as error:  # noqa: BLE001  the thread lives on for the next mark
                self._report(index, readers, error)
            finally:
                readers.end(connection)

    def _report(self, index: int, readers: Readers, error: Exception) -> None:
        if self._stopping:
            return
        _log.error("state_hash.failed", index=index, error=repr(error))
        fault = fault_of(error, readers.path, "") if isinstance(error, sqlite3.Error) else error
        if isinstance(fault, CorruptDatabase):
            self.failure = fault

    def _hash(self, connection: sqlite3.Connection) -> bytes | None:
        with self._lock:
            if self._stopping:
                return None
            self._running = connection
        try:
            return self._state_hash(connection)
        finally:
            with self._lock:
                self._running = None

    def _keep(self, index: int, found: bytes | None) -> None:
        if found is None:
            return
        with self._lock:
            self._found[index] = found
            while len(self._found) > KEPT_MAX:
                self._found.popitem(last=False)
