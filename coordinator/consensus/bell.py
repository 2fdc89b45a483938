"""Wakes the one thread that waits for it."""

from __future__ import annotations

import threading
from contextlib import suppress


class Bell:
    """Rung once or often before it is waited for, it lets one `wait` through. Any thread may ring.

    An event of `threading` that is waited for and cleared does the same, but in Python, and part of that between the
    ringing and the work.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        with suppress(RuntimeError):  # it is open: rung already
            self._lock.release()

    @property
    def rung(self) -> bool:
        """Whether the next `wait` returns at once."""
        return not self._lock.locked()

    def wait(self) -> None:
        """Until it was rung since the last `wait` returned."""
        self._lock.acquire()
