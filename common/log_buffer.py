"""A bounded ring of a node's latest log records, with ids, for readers that may come, stall and come back.

Writers never wait: a reader that is too slow finds its place overwritten, goes on at the oldest record that
is left, and is told how many it missed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}

RECORDS_MAX = 10_000
BYTES_MAX = 8 << 20
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Record:
    """One event. `id` grows by one per record of this process; `json` is its line."""

    id: int
    wall_ms: int
    monotonic: float
    level: str
    event: str
    json: str


@dataclass(frozen=True, slots=True)
class Filter:
    """What a reader wants: at least this level, containing `grep` (any case), at most so many seconds old."""

    level: str = ""
    grep: str = ""
    since_seconds: float = 0

    def wants(self, record: Record, now: float) -> bool:
        return (
            LEVELS.get(record.level, logging.ERROR) >= LEVELS.get(self.level, 0)
            and (not self.since_seconds or now - record.monotonic <= self.since_seconds)
            and (not self.grep or self.grep.lower() in record.json.lower())
        )


class LogBuffer:
    """The ring: at most RECORDS_MAX records and about BYTES_MAX bytes. Any thread may write and read."""

    def __init__(
        self,
        records_max: int = RECORDS_MAX,
        bytes_max: int = BYTES_MAX,
        monotonic: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._records: deque[Record] = deque()
        self._records_max = records_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._last_id = 0
        self._monotonic = monotonic
        self._wall_ms = wall_ms
        self._changed = threading.Condition()

    def append(self, level: str, event: str, line: str) -> None:
        """Keep one record; the oldest go when there are too many. Never waits for a reader."""
        with self._changed:
            self._last_id += 1
            self._records.append(
                Record(self._last_id, self._wall_ms(), self._monotonic(), level, event, line)
            )
            self._bytes += len(line)
            while len(self._records) > self._records_max or self._bytes > self._bytes_max:
                self._bytes -= len(self._records.popleft().json)
            self._changed.notify_all()

    @property
    def last_id(self) -> int:
        """The id of the newest record; 0 before the first."""
        with self._changed:
            return self._last_id

    def read(self, after_id: int, limit: int = _BATCH) -> tuple[list[Record], int]:
        """Up to `limit` records after `after_id`, oldest first, and how many between were overwritten.

        An `after_id` of an earlier process (above the newest) starts over at the oldest.
        """
        with self._changed:
            return self._read(after_id, limit)

    def wait(self, after_id: int, seconds: float) -> bool:
        """Whether a record after `after_id` came within `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._last_id > after_id, seconds)

    def _read(self, after_id: int, limit: int) -> tuple[list[Record], int]:
        if after_id > self._last_id:
            after_id = 0
        if not self._records:
            return [], 0
        oldest = self._records[0].id
        skip = max(0, after_id + 1 - oldest)
        dropped = max(0, oldest - after_id - 1) if after_id else 0
        end = min(len(self._records), skip + limit)
        return [self._records[at] for at in range(skip, end)], dropped


class Reader:
    """One reader's place in the ring. Not shared between threads.

    `batch()` never waits; whoever follows calls it again after `LogBuffer.wait`, or after a pause.
    """

    def __init__(
        self,
        buffer: LogBuffer,
        wanted: Filter,
        after_id: int = 0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._buffer = buffer
        self._wanted = wanted
        self._monotonic = monotonic
        self.after_id = after_id
        self.last_id = buffer.last_id  # when the reader came
        self._dropped = 0

    def batch(self) -> list[tuple[Record, int]]:
        """(record, how many were lost before it) of the next wanted records; empty when it has seen all."""
        while True:
            records, dropped = self._buffer.read(self.after_id)
            self._dropped += dropped
            if not records:
                return []
            self.after_id = records[-1].id
            now = self._monotonic()
            found = [record for record in records if self._wanted.wants(record, now)]
            if found:
                lost, self._dropped = self._dropped, 0
                return [(record, lost if at == 0 else 0) for at, record in enumerate(found)]

    def follow(self, stopped: Callable[[], bool]) -> Iterator[tuple[Record, int]]:
        """Everything wanted, waiting for more, until `stopped()`; looks at it at least every half second."""
        while not stopped():
            yield from self.batch()
            self._buffer.wait(self.after_id, 0.5)
