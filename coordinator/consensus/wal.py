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
5. An emptied WAL keeps its file, and is written again from the beginning: to find room for it anew would make every
   commit dearer, and a checkpoint half as long again. Only one that readers have made larger is cut off. How far the
   file is in use is told by the salts in its header, which every frame since the last emptying bears.
6. An emptied WAL begins anew with the next commit, and not before: a reader that was about to begin when it was emptied
   may still take hold of its end. Then the next frame comes behind the others, which stay in use.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from coordinator.consensus.files import Files
from quorumfs.clock import Clock
from quorumfs.limits import MIB

CHECKPOINT_BYTES = 4 * MIB
PRESSING_PORTIONS = 4
CUT_PORTIONS = 2
QUIET_SECONDS = 0.1

Quiet = Callable[[float], AbstractContextManager[None]]
"""Lets no reader begin inside, and waits so many seconds, at most, for those that run."""


_HEADER = struct.Struct(">8xI4x8s")  # of the file: page size, salts
_HEADER_BYTES = 32
_FRAME_HEADER = struct.Struct(">8x8s")  # of a frame: salts
_FRAME_HEADER_BYTES = 24
_LOOK_FRAMES = 16


class WalExtent:
    """How far the file of a WAL is in use: to whole `_LOOK_FRAMES` frames, and to none that is not.

    See "WAL-mode File Format" in SQLite's documentation.
    """

    def __init__(self, files: Files, fd: int) -> None:
        self._files = files
        self._fd = fd
        self._salts = b""
        self._frame_bytes = 0
        self._frames = 0
        self._emptied_at: int | None = None

    def look(self) -> int:
        """Bytes of frames. Raises OSError."""
        header = self._files.read(self._fd, _HEADER.size, 0)
        if len(header) < _HEADER.size:  # cut off, and nothing written since
            return 0
        page_bytes, salts = _HEADER.unpack(header)
        if salts != self._salts:
            self._salts, self._frame_bytes = salts, page_bytes + _FRAME_HEADER_BYTES
            self._frames, self._emptied_at = 0, None
        if self._emptied_at is not None:
            if not self._is_written(self._emptied_at):
                return 0
            self._emptied_at = None
        while self._is_written(self._frames + _LOOK_FRAMES - 1):
            self._frames += _LOOK_FRAMES
        return self._frames * self._frame_bytes

    def emptied(self, frames: int) -> None:
        """All its `frames` are in the database: the next comes to the beginning, with a new header, unless it comes
        behind them."""
        self._emptied_at = frames

    def _is_written(self, frame: int) -> bool:
        offset = _HEADER_BYTES + frame * self._frame_bytes
        header = self._files.read(self._fd, _FRAME_HEADER.size, offset)
        return len(header) == _FRAME_HEADER.size and _FRAME_HEADER.unpack(header)[0] == self._salts


class Wal:
    """Of one open database. The writer's thread only; the numbers may be read by any.

    `size_bytes`: what is in use of it, as it was when `checkpoint_if_needed` last looked;
    `longest_checkpoint_seconds`: how long one has kept the writer at most.
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
        self._extent = WalExtent(files, self._fd)
        self._checkpoint_at = portion_bytes
        self.size_bytes = 0
        self.longest_checkpoint_seconds = 0.0

    def sync(self) -> None:
        """Everything that was committed is durable on return. Raises OSError; then nobody knows."""
        self._files.sync_data(self._fd)

    def may_have_grown(self) -> bool:
        """Whether `checkpoint_if_needed` has anything to do, or to say."""
        try:
            self.size_bytes = self._extent.look()
        except OSError:
            return True
        return self.size_bytes >= self._checkpoint_at

    def checkpoint_if_needed(self) -> bool:
        """Empty the WAL as far as readers allow, if it has grown by a portion; whether it did something.

        Raises sqlite3.Error.
        """
        self.size_bytes = self._extent.look()
        if self.size_bytes < self._checkpoint_at:
            return False
        began = self._clock.monotonic()
        pressing = self.size_bytes >= PRESSING_PORTIONS * self._portion_bytes
        mode = "TRUNCATE" if self.size_bytes >= CUT_PORTIONS * self._portion_bytes else "RESTART"
        with self._quiet(QUIET_SECONDS) if pressing else nullcontext():
            kept_by_readers, frames = self._checkpoint(mode)
        if not kept_by_readers:
            self._extent.emptied(frames)
        took = self._clock.monotonic() - began
        self.longest_checkpoint_seconds = max(self.longest_checkpoint_seconds, took)
        self.size_bytes = self._extent.look()
        self._checkpoint_at = self.size_bytes + self._portion_bytes
        return True

    def _checkpoint(self, mode: str) -> tuple[bool, int]:
        """Whether readers kept it from being whole, without waiting for them, and the frames of the WAL."""
        ((patience,),) = self._connection.execute("PRAGMA busy_timeout")
        self._connection.execute("PRAGMA busy_timeout = 0").fetchone()
        try:
            kept, frames, _ = self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {patience}").fetchone()
        return bool(kept), frames

    def close(self) -> None:
        self._files.close(self._fd)
