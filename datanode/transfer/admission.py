"""How many streams a node takes at once; what is beyond is refused at once, so that nothing ever queues.

1. The pool of threads is larger than both limits together: a refused stream, a short call on the same pool,
   a cancelled one always find a thread.
2. A write that waits for the next node holds its place here. Were writes queued instead of refused, crossing
   pipelines could wait for each other for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from quorumfs.errors import BusyError

DATA_THREADS = 64
WRITES_MAX = 24
READS_MAX = 32

assert WRITES_MAX + READS_MAX < DATA_THREADS


class Gate:
    """At most `most` at a time. Thread-safe."""

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = most
        self._open = True
        self._lock = threading.Lock()
        self._inside = 0

    @property
    def inside(self) -> int:
        return self._inside

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Raises BusyError at once when the limit is reached, or once closed."""
        with self._lock:
            if self._inside >= self._most or not self._open:
                raise BusyError(
                    f"the node takes no more {self._what}",
                    cause=f"{self._inside} are under way" if self._open else "it is about to end",
                    next="ask another node, or try again in a moment",
                )
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1

    def close(self) -> None:
        """Take nobody in any more; those inside go on."""
        self._open = False

    def reopen(self) -> None:
        self._open = True
