"""The node's log for many readers, at the price of one.

1. While anybody follows, one thread (`log-tail`) follows the node's `StreamLogs` and fills a bounded ring.
2. Each reader has its own cursor and filter on the ring. One that is too slow loses the oldest records and is
   told how many; it never holds up the tail, the node, or another reader.
3. The number of readers is bounded below the number of threads, so that health always finds one.
4. A record's id is `<life>:<id>`: the life of the node's process, and the node's own number in it. A reader
   that comes back with one goes on behind it, also when the ring is another agent's or has pushed it out, and is told
   how many it lost; after the node's restart, from the new life's first record.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from quorumfs.clock import Clock
from quorumfs.errors import BusyError, QuorumFSError
from quorumfs.v1 import admin_pb2
from sidecar import limits
from sidecar.methods import STREAM_LOGS
from sidecar.node_link import NodeLink
from sidecar.transport import Tail, Transport

LEVELS = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True, slots=True)
class Entry:
    """One record in the ring. `sequence` is the ring's own count; it never goes back."""

    sequence: int
    life: str
    record: admin_pb2.LogRecord

    @property
    def event_id(self) -> str:
        return f"{self.life}:{self.record.id}"


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records a reader wants."""

    level: str = "debug"
    since_wall_ms: int = 0
    grep: str = ""

    def admits(self, record: admin_pb2.LogRecord) -> bool:
        return (
            rank(record.level) >= rank(self.level)
            and record.wall_ms >= self.since_wall_ms
            and (not self.grep or self.grep.lower() in (record.json or record.event).lower())
        )


def rank(level: str) -> int:
    """Severity as a number; an unknown word counts as info."""
    name = level.lower()
    return LEVELS.index(name) if name in LEVELS else 1


@dataclass(frozen=True, slots=True)
class Batch:
    """What a reader gets: records that pass its filter, how many it lost, and how the tail is."""

    entries: tuple[Entry, ...]
    dropped: int
    tail: Literal["starting", "ok", "broken"]
    detail: str
    closed: bool


class Left:
    """Where a reader left off, while the ring does not have that record: a node numbers its records without gaps."""

    def __init__(self, event_id: str) -> None:
        self._life, _, number = event_id.rpartition(":")
        self._open = bool(self._life) and number.isascii() and number.isdigit() and len(number) < 19
        self._number = int(number) if self._open else 0

    def behind(self, entries: Sequence[Entry]) -> tuple[list[Entry], int]:
        """(those that the reader has not had, how many it lost before them); of later entries all, and none."""
        if not self._open:
            return list(entries), 0
        news = [one for one in entries if one.life != self._life or one.record.id > self._number]
        if not news:
            return [], 0
        self._open = False
        first = news[0]
        if first.life != self._life:
            return news, 0
        return news, max(0, first.record.id - self._number - 1 - first.record.dropped)


class LogHub:
    """Any thread may call."""

    def __init__(self, link: NodeLink, transport: Transport, clock: Clock, readers_max: int) -> None:
        self._link = link
        self._transport = transport
        self._clock = clock
        self._slots = threading.BoundedSemaphore(readers_max)
        self.readers_max = readers_max
        self.dropped_total = 0
        self.readers = 0  # streams of all kinds that are open now
        self._changed = threading.Condition()
        self._ring: deque[Entry] = deque()
        self._ring_bytes = 0
        self._next_sequence = 1
        self._life = ""
        self._last_id = 0
        self._followers = 0
        self._state: Literal["starting", "ok", "broken"] = "starting"
        self._detail = ""
        self._closed = False
        self._thread: threading.Thread | None = None
        self._tail: Tail[admin_pb2.LogRecord] | None = None

    def stop(self) -> None:
        """Ends every reader and the tail; returns without waiting for them."""
        with self._changed:
            self._closed = True
            tail = self._tail
            self._changed.notify_all()
        if tail is not None:
            tail.cancel()

    @contextmanager
    def slot(self) -> Iterator[None]:
        """One of the bounded places for a stream. Raises BusyError when all are taken."""
        if not self._slots.acquire(blocking=False):
            raise BusyError(
                "too many log streams are open",
                cause=f"at most {self.readers_max} at once, so that health is never kept waiting",
                next="close one, or try again later",
            )
        with self._changed:
            self.readers += 1
        try:
            yield
        finally:
            with self._changed:
                self.readers -= 1
            self._slots.release()

    def once(self, wanted: Filter, after: str) -> Iterator[Entry]:
        """What the node holds now, then the end. Raises QuorumFSError when the node does not answer."""
        life, after_id = self._resume(after)
        request = admin_pb2.StreamLogsRequest(
            level=wanted.level, grep=wanted.grep, after_id=after_id, since_seconds=self._since_seconds(wanted)
        )
        tail = self._transport.tail(
            self._link.address, STREAM_LOGS, request, limits.LOG_ONCE_DEADLINE_SECONDS
        )
        try:
            for record in tail:
                if wanted.admits(record):
                    yield Entry(0, life, record)
        finally:
            tail.cancel()

    def follow(self, wanted: Filter, after: str) -> Follower:
        """A reader from now on; it must be closed. What the ring and the node still hold comes first."""
        with self._changed:
            self._followers += 1
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run_tail, name="log-tail", daemon=True)
                self._thread.start()
        return Follower(self, wanted, after)

    # -- for Follower

    def read(
        self, cursor: int, wanted: Filter, wait_seconds: float, known: str, left: Left
    ) -> tuple[int, Batch]:
        """(new cursor, what came behind `cursor`, and behind where the reader left off).

        Waits until something came, the tail's state is not `known` any more, the hub closes, or
        `wait_seconds` are over.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._newest() > cursor or self._state != known, wait_seconds
            )
            taken, dropped = self._behind(cursor)
            news, missed = left.behind(taken)
            dropped += missed
            self.dropped_total += dropped
            state, detail, closed = self._state, self._detail, self._closed
        admitted = tuple(entry for entry in news if wanted.admits(entry.record))
        upstream = sum(entry.record.dropped for entry in news)
        new_cursor = taken[-1].sequence if taken else cursor
        return new_cursor, Batch(admitted, dropped + upstream, state, detail, closed)

    def cursor_behind(self, event_id: str) -> int:
        """Where a reader that had `event_id` last goes on; 0, the ring's beginning, when it is unknown."""
        with self._changed:
            found = [entry.sequence for entry in self._ring if entry.event_id == event_id]
        return found[0] if found else 0

    def leave(self) -> None:
        with self._changed:
            self._followers -= 1
            self._changed.notify_all()

    def _newest(self) -> int:
        return self._next_sequence - 1

    def _behind(self, cursor: int) -> tuple[list[Entry], int]:
        """(at most a batch of entries with a sequence above `cursor`, how many were pushed out before)."""
        if not self._ring:
            return [], 0
        first = self._ring[0].sequence
        start = max(cursor + 1, first)
        lost = start - (cursor + 1) if cursor else 0
        offset = start - first
        return list(islice(self._ring, offset, offset + limits.LOG_BATCH_RECORDS_MAX)), lost

    # -- the tail

    def _run_tail(self) -> None:
        while self._is_wanted():
            try:
                self._follow_node()
                self._say("broken", "the node ended the stream")
            except QuorumFSError as error:
                self._say("broken", str(error))
            with self._changed:
                self._changed.wait_for(lambda: self._closed, limits.LOG_RETRY_SECONDS)

    def _is_wanted(self) -> bool:
        """Whether anybody follows, or may come back soon. Ends the tail's life in the same breath if not."""
        with self._changed:
            if not self._followers and not self._closed:
                self._changed.wait_for(lambda: self._closed or self._followers > 0, limits.LOG_LINGER_SECONDS)
            if self._closed or not self._followers:
                self._thread = None
                return False
            return True

    def _follow_node(self) -> None:
        life = self._life_now()
        with self._changed:
            after_id = self._last_id if life == self._life else 0
            self._life = life
        tail = self._transport.tail(
            self._link.address,
            STREAM_LOGS,
            admin_pb2.StreamLogsRequest(level="debug", follow=True, after_id=after_id),
            None,
        )
        with self._changed:
            self._tail = tail
        self._say("ok", "")
        try:
            for record in tail:
                self._keep(life, record)
                if self._closed or not self._followers:
                    return
        finally:
            tail.cancel()

    def _life_now(self) -> str:
        """Asks the node who it is before its log is followed, so that ids of two lives are never mixed.

        Raises QuorumFSError when it does not answer.
        """
        self._link.refuse_unless_answering(str(STREAM_LOGS), 0.0)
        return self._link.incarnation()

    def _keep(self, life: str, record: admin_pb2.LogRecord) -> None:
        with self._changed:
            self._ring.append(Entry(self._next_sequence, life, record))
            self._next_sequence += 1
            self._last_id = record.id
            self._ring_bytes += record.ByteSize()
            while (
                len(self._ring) > limits.LOG_RING_RECORDS_MAX or self._ring_bytes > limits.LOG_RING_BYTES_MAX
            ):
                self._ring_bytes -= self._ring.popleft().record.ByteSize()
            self._changed.notify_all()

    def _say(self, state: Literal["ok", "broken"], detail: str) -> None:
        with self._changed:
            self._state, self._detail = state, detail
            self._changed.notify_all()

    def _resume(self, after: str) -> tuple[str, int]:
        life = self._life_now()
        before, _, number = after.rpartition(":")
        return life, int(number) if before == life and number.isdecimal() else 0

    def _since_seconds(self, wanted: Filter) -> float:
        if not wanted.since_wall_ms:
            return 0.0
        return max(0.001, (self._clock.wall_ms() - wanted.since_wall_ms) / 1000)


class Follower:
    """One reader's place in the log. One thread uses it; `close` gives the place back."""

    def __init__(self, hub: LogHub, wanted: Filter, after: str) -> None:
        self._hub = hub
        self._wanted = wanted
        self._known = ""
        self._closed = False
        self._cursor = hub.cursor_behind(after)
        self._left = Left("" if self._cursor else after)

    def next(self, wait_seconds: float) -> Batch:
        """The next records; none when the time is over. A sick node is said in the batch, never raised."""
        self._cursor, batch = self._hub.read(
            self._cursor, self._wanted, wait_seconds, self._known, self._left
        )
        self._known = batch.tail
        return batch

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._hub.leave()
