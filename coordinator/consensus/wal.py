"""The write-ahead log of the state's SQLite file: when it is durable, and when it is emptied.

Theory of operation
1. SQLite runs with synchronous=NORMAL: a commit writes to the WAL and syncs nothing. `sync` makes all commits so far
   durable. After a power cut the database is some prefix of the commits, at least up to the last `sync`.
2. The descriptor that syncs is kept as long as the database: Linux tells a failed write-back only to descriptors
   that were open when it failed.
3. A checkpoint copies pages from the WAL to the database and empties the WAL, in the writer's thread, which can do
   nothing else meanwhile. So it comes often and in small portions. A reader that needs the WAL is never waited
   for: what it allows is copied, and the rest is tried again when the WAL has grown by another portion.
4. SQLite syncs the WAL before it copies, and the database before it empties the WAL.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from quorumfs.clock import Clock
from quorumfs.limits import MIB

CHECKPOINT_BYTES = 4 * MIB


class Wal:
    """Of one open database. The writer's thread only; the numbers may be read by any.

    `last_checkpoint_seconds`, `longest_checkpoint_seconds`: how long the writer was kept; `blocked`: checkpoints
    after which the WAL was not empty because readers needed it.
    """

    def __init__(
        self, connection: sqlite3.Connection, database: Path, portion_bytes: int, clock: Clock
    ) -> None:
        """`connection` must have read something: then the WAL is there. Raises OSError."""
        self._connection = connection
        self._portion_bytes = portion_bytes
        self._clock = clock
        self._fd = os.open(database.with_name(f"{database.name}-wal"), os.O_RDWR | os.O_CLOEXEC)
        self._checkpoint_at = portion_bytes
        self.last_checkpoint_seconds = 0.0
        self.longest_checkpoint_seconds = 0.0
        self.checkpoints = 0
        self.blocked = 0

    @property
    def size_bytes(self) -> int:
        return os.fstat(self._fd).st_size

    def sync(self) -> None:
        """Everything that was committed is durable on return. Raises OSError; then nobody knows."""
        os.fdatasync(self._fd)

    def checkpoint_if_needed(self) -> bool:
        """Empty the WAL as far as readers allow, if it has grown by a portion; whether it did something.

        Raises sqlite3.Error.
        """
        if self.size_bytes < self._checkpoint_at:
            return False
        began = self._clock.monotonic()
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self.last_checkpoint_seconds = self._clock.monotonic() - began
        self.longest_checkpoint_seconds = max(self.longest_checkpoint_seconds, self.last_checkpoint_seconds)
        self.checkpoints += 1
        left = self.size_bytes
        self.blocked += left > 0
        self._checkpoint_at = left + self._portion_bytes
        return True

    def close(self) -> None:
        os.close(self._fd)
