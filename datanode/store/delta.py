"""What has changed on this node since a leader last acknowledged: sealed, corrupt and missing replicas.

1. One entry per chunk, the newest state. An entry stays until a heartbeat that carried it is acknowledged;
   if the chunk changed again in between, the newer entry stays.
2. Bounded: when there are too many, the oldest sealed ones go, as commits name those; a loss only when there
   is nothing else. A leader that was away for so long asks for the full inventory anyway.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from datanode.store.layout import Birth
from quorumfs.ids import ChunkId

ENTRIES_MAX = 100_000


class ReplicaChange(Enum):
    SEALED = "sealed"
    CORRUPT = "corrupt"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Change:
    """One replica's newest state. `length` and `checksum` are those of a sealed chunk."""

    chunk: ChunkId
    state: ReplicaChange
    disk_id: str
    length: int = 0
    checksum: int = 0
    birth: Birth | None = None


class Delta:
    """The feed. Thread-safe."""

    def __init__(self, entries_max: int = ENTRIES_MAX) -> None:
        self._lock = threading.Lock()
        self._entries: dict[ChunkId, tuple[int, Change]] = {}  # in order of change
        self._sequence = 0
        self._entries_max = entries_max

    def add(self, change: Change) -> None:
        with self._lock:
            self._sequence += 1
            self._entries.pop(change.chunk, None)
            if len(self._entries) >= self._entries_max:
                del self._entries[self._least_news()]
            self._entries[change.chunk] = (self._sequence, change)

    def pending(self, limit: int) -> tuple[list[Change], int]:
        """Up to `limit` changes, oldest first, and the mark to acknowledge them with."""
        with self._lock:
            chosen = list(islice(self._entries.values(), limit))
        return [change for _, change in chosen], chosen[-1][0] if chosen else 0

    def acknowledge(self, mark: int) -> None:
        """The leader has what `pending` gave with this mark."""
        with self._lock:
            told = []
            for chunk, (sequence, _) in self._entries.items():
                if sequence > mark:
                    break
                told.append(chunk)
            for chunk in told:
                del self._entries[chunk]

    def _least_news(self) -> ChunkId:
        oldest = next(iter(self._entries))
        sealed = (one for one, (_, kept) in self._entries.items() if kept.state is ReplicaChange.SEALED)
        return next(sealed, oldest)

    def __len__(self) -> int:
        return len(self._entries)
