"""What consensus asks of others: the state machine's database, and whoever waits for an answer."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from quorumfs.errors import QuorumFSError

Answer = bytes | QuorumFSError
Done = Callable[[Answer], None]
"""Takes the answer, or why there is none. Called once, from a thread of consensus; it must not block."""

Question = Callable[[sqlite3.Connection], bytes]
"""Answers from one read transaction. May raise QuorumFSError; must not write, nor keep the connection."""

FetchSnapshot = Callable[[str, int, Path], None]
"""(leader's node id, least index, target): puts a verified snapshot at `target`; raises QuorumFSError, OSError."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One committed entry. `data` is None when it carries no commands: a leader's no-op, or a configuration, which
    is then in `configuration`, encoded."""

    index: int
    term: int
    data: bytes | None
    configuration: bytes | None = None


class DatabaseDoor(Protocol):
    """The replicated state. Only the `apply` thread may call what changes it."""

    @property
    def applied_index(self) -> int: ...

    @property
    def applied_term(self) -> int: ...

    def apply(self, entries: Sequence[LogEntry]) -> Sequence[Sequence[bytes] | None]:
        """Apply all in one transaction; per entry one answer per item, None for an entry without commands."""
        ...

    def try_next(self, entry: LogEntry) -> None:
        """Do beforehand what can be undone for an entry that is about to be committed; nobody sees anything of it."""
        ...

    def cluster_ms(self) -> int:
        """Replicated time of the last entry applied. Any thread."""
        ...

    def rolling_at(self, index: int) -> bytes | None:
        """The rolling hash after the entry `index`; None when that is not applied, or too long ago. Any thread."""
        ...

    def hash_at(self, index: int) -> bytes | None:
        """The hash of all rows after a HashAt entry; None when it is not made, or too long ago. Any thread."""
        ...

    @property
    def durable_index(self) -> int:
        """Everything up to this index survives a power cut. Any thread."""
        ...

    def make_durable(self) -> int:
        """The index that survives a power cut from now on."""
        ...

    def checkpoint_if_needed(self) -> bool:
        """Empty the database's own log when it has grown; whether there was something to do."""
        ...

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
