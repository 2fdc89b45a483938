"""What consensus asks of others: the state machine's database, and whoever waits for an answer."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from quorumfs.errors import QuorumFSError

Done = Callable[[bytes | None, QuorumFSError | None], None]
"""Takes the answer or the reason. Called exactly once, from a thread of consensus; it must not block."""

Question = Callable[[sqlite3.Connection], bytes]
"""Answers from one read transaction. May raise QuorumFSError; must not write, nor keep the connection."""

FetchSnapshot = Callable[[str, int, Path], None]
"""(leader's node id, least index, target): puts a verified snapshot at `target`; raises QuorumFSError, OSError."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One committed entry. `data` is None when it carries no commands (a leader's no-op, a configuration)."""

    index: int
    term: int
    data: bytes | None


class DatabaseDoor(Protocol):
    """The replicated state. Only the `apply` thread may call what changes it."""

    @property
    def applied_index(self) -> int: ...

    @property
    def applied_term(self) -> int: ...

    def apply(self, entries: Sequence[LogEntry]) -> Sequence[Sequence[bytes] | None]:
        """Apply all in one transaction; per entry one answer per item, None for an entry without commands."""
        ...

    def cluster_ms(self) -> int:
        """Replicated time of the last entry applied. Any thread."""
        ...

    def make_durable(self) -> int:
        """The index that survives a power cut from now on."""
        ...

    def checkpoint_if_needed(self) -> object: ...

    def reader(self) -> AbstractContextManager[sqlite3.Connection]:
        """A read transaction of its own; any thread."""
        ...

    def snapshot(self, target: Path) -> tuple[int, int]:
        """Copy the state to a new file while serving; (index, term) of the copy. Any thread."""
        ...

    def install(self, file: Path, index: int, term: int) -> None:
        """Become the state of a verified snapshot, atomically and durably; `file` is consumed."""
        ...

    def close(self) -> None: ...
