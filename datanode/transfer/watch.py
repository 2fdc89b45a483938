"""Ends streams that make no progress: a sender that fell silent, a reader that does not read.

gRPC's threads wait without a limit for the next message; one thread here looks at all streams once a second
and cancels those that have stood still for too long, or that drip along for ever and hold a place meanwhile,
which wakes their handlers with an error.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from quorumfs.clock import Clock, SystemClock

SCAN_SECONDS = 1.0
STREAM_SECONDS_MAX = 900.0  # the largest chunk at 1.2 MB/s; a slower one has no patient peer


class Watched:
    """One stream; its handler calls `progress` whenever a message came or went."""

    __slots__ = ("_clock", "allowed_seconds", "cancel", "moved_at", "until")

    def __init__(self, clock: Clock, allowed_seconds: float, cancel: Callable[[], object]) -> None:
        self._clock = clock
        self.allowed_seconds = allowed_seconds
        self.cancel = cancel
        self.moved_at = clock.monotonic()
        self.until = self.moved_at + STREAM_SECONDS_MAX

    def progress(self) -> None:
        self.moved_at = self._clock.monotonic()

    def is_stale(self, now: float) -> bool:
        return now - self.moved_at > self.allowed_seconds or now > self.until


class StreamWatch:
    """The streams under way and the thread that looks after them."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._streams: set[Watched] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream-watch", daemon=True)

    @contextmanager
    def track(self, cancel: Callable[[], object], allowed_seconds: float) -> Iterator[Watched]:
        """Within the block, `cancel` is called once if the stream stands still for `allowed_seconds`, or takes
        longer than STREAM_SECONDS_MAX in all."""
        stream = Watched(self._clock, allowed_seconds, cancel)
        with self._lock:
            self._streams.add(stream)
        try:
            yield stream
        finally:
            with self._lock:
                self._streams.discard(stream)

    def scan(self) -> int:
        """Cancel what stands still or takes too long; how many that were."""
        now = self._clock.monotonic()
        with self._lock:
            stale = [one for one in self._streams if one.is_stale(now)]
            self._streams.difference_update(stale)
        for one in stale:
            one.cancel()
        return len(stale)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(SCAN_SECONDS * 2)

    def _run(self) -> None:
        while not self._stopping.wait(SCAN_SECONDS):
            self.scan()
