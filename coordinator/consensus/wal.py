"""The write-ahead log of the state's SQLite file: when it is durable, and when it is emptied.

Theory of operation
1. SQLite runs with synchronous=NORMAL: a commit writes to the WAL and syncs nothing. `sync` makes all commits so far
   durable. After a power cut the database is some prefix of the commits, at least up to the last `sync`.
2. The descriptor that syncs is kept as long as the database: Linux tells a failed write-back only to descriptors
   that were open when it failed.
3. A checkpoint copies pages from the WAL to the database and empties the WAL, in the writer's thread, which can do
   nothing else meanwhile. So it comes often and in small portions. A reader that needs the WAL is not waited
   for: what it allows is copied, and the rest is tried again when the WAL has grown by another portion.
   When it has grown by PRESSING_PORTIONS, short readers are made to leave a gap.
4. SQLite syncs the WAL before it copies, and the database before it empties the WAL.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from coordinator.consensus.files import Files
from quorumfs.clock import Clock
from quorumfs.limits import MIB

CHECKPOINT_BYTES = 4 * MIB
PRESSING_PORTIONS = 4
QUIET_SECONDS = 0.1

Quiet = Callable[[float], AbstractContextManager[None]]
"""Lets no reader begin inside, and waits so many seconds, at most, for those that run."""


class Wal:
    """Of one open database. The writer's thread only; the numbers may be read by any.

    `size_bytes`: as it was when `checkpoint_if_needed` last looked; `longest_checkpoint_seconds`: how long one has
    kept the writer at most.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        database: Path,
        files: Files,
        portion_bytes: int,
        clock: Clock,
        quiet: Quiet,
    ) -> None:
        """`connection` must have read something: then the WAL is there. Raises OSError."""
        self._connection = connection
        self._files = files
        self._portion_bytes = portion_bytes
        self._clock = clock
        self._quiet = quiet
        self._fd = files.open(database.with_name(f"{database.name}-wal"))
        self._checkpoint_at = portion_bytes
        self.size_bytes = 0
        self.longest_checkpoint_seconds = 0.0

    def sync(self) -> None:
        """Everything that was committed is durable on return. Raises OSError; then nobody knows."""
        self._files.sync_data(self._fd)

    def checkpoint_if_needed(self) -> bool:
        """Empty the WAL as far as readers allow, if it has grown by a portion; whether it did something.

        Raises sqlite3.Error.
        """
        self.size_bytes = self._files.size(self._fd)
        if self.size_bytes < self._checkpoint_at:
            return False
        began = self._clock.monotonic()
        pressing = self.size_bytes >= PRESSING_PORTIONS * self._portion_bytes
        with self._quiet(QUIET_SECONDS) if pressing else nullcontext():
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        took = self._clock.monotonic() - began
        self.longest_checkpoint_seconds = max(self.longest_checkpoint_seconds, took)
        self.size_bytes = self._files.size(self._fd)
        self._checkpoint_at = self.size_bytes + self._portion_bytes
        return True

    def close(self) -> None:
        self._files.close(self._fd)
