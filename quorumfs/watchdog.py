"""Ends calls that wait for a message that does not come: a stopped node closes no connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from quorumfs.clock import Clock, SystemClock

_LINGER_SECONDS = 5.0


@dataclass(eq=False, slots=True)
class Watch:
    """One wait: until when it may take, and how to end it."""

    until: float
    cancel: Callable[[], object]
    expired: bool = False


class Watchdog:
    """One thread for all waits of a client, only while there are some. Any thread may call."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._watches: set[Watch] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._wakes_at = float("inf")

    @contextmanager
    def limit(self, seconds: float, cancel: Callable[[], object]) -> Iterator[Watch]:
        """Call `cancel` when the with-block takes longer than `seconds`; `expired` tells it afterwards."""
        watch = Watch(self._clock.monotonic() + seconds, cancel)
        with self._changed:
            if self._thread is None and not self._closed:
                thread = threading.Thread(target=self._run, name="quorumfs-watchdog", daemon=True)
                thread.start()  # where that fails the next wait tries again
                self._thread = thread
            elif watch.until < self._wakes_at:
                self._changed.notify_all()
            self._watches.add(watch)
        try:
            yield watch
        finally:
            with self._changed:
                self._watches.discard(watch)

    def close(self) -> None:
        """Stop the thread and wait for it. Waits under way lose their limit."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        idle_since: float | None = None
        while True:
            with self._changed:
                now = self._clock.monotonic()
                idle_since = None if self._watches else (idle_since or now)
                if self._closed or (idle_since is not None and now - idle_since >= _LINGER_SECONDS):
                    self._thread = None
                    self._wakes_at = float("inf")
                    return
                late = [watch for watch in self._watches if watch.until <= now]
                for watch in late:
                    watch.expired = True
                    self._watches.discard(watch)
                if not late:
                    due = [watch.until for watch in self._watches]
                    self._wakes_at = min(due, default=now + _LINGER_SECONDS)
                    self._changed.wait(self._wakes_at - now)
            for watch in late:
                watch.cancel()
