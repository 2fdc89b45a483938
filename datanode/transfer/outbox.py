"""Messages on their way to the next node: in order, bounded in bytes, between two threads.

However large the messages are, what waits here is bounded: one message, or `bytes_max`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator


class Outbox:
    """One thread puts, one takes; any may `discard`."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._ended = False

    def put(self, message: bytes, seconds: float) -> bool:
        """Wait up to `seconds` for room; whether `message` was taken in."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._has_room(len(message)), seconds):
                return False
            self._waiting.append(message)
            self._bytes += len(message)
            self._changed.notify_all()
            return True

    def end(self) -> None:
        """Nothing follows; what waits still goes out."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def discard(self) -> None:
        """Let go of what waits, and end."""
        with self._changed:
            self._waiting.clear()
            self._bytes = 0
            self._ended = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[bytes]:
        """Messages until the end; waits for each."""
        while (message := self._take()) is not None:
            yield message

    def _has_room(self, size_bytes: int) -> bool:
        return self._ended or not self._waiting or self._bytes + size_bytes <= self._bytes_max

    def _take(self) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if not self._waiting:
                return None
            message = self._waiting.popleft()
            self._bytes -= len(message)
            self._changed.notify_all()
            return message
