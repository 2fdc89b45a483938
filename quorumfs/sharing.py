"""One job in two threads: the caller's, and one more if it has the time.

1. The parts of a job are taken one by one by whoever is free. When the other thread is late, or there is no core
   for it, the caller does them all: it waits for no part that nobody has begun.
2. The thread is started at the first job and ends when there has been none for a while.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

LINGER_SECONDS = 5.0

Work = Callable[[int], object]


class _Job:
    def __init__(self, work: Work, parts: Sequence[int]) -> None:
        self.work = work
        self.left = list(reversed(parts))
        self.ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()  # of the other thread

    def take(self) -> int | None:
        """A part that is nobody's yet."""
        try:
            return self.left.pop()
        except IndexError:
            return None


class SecondThread:
    """Any thread may call `share`; each has its job to itself, and all have the one thread."""

    def __init__(self, linger_seconds: float = LINGER_SECONDS) -> None:
        self._linger_seconds = linger_seconds
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._lock = threading.Lock()

    def share(self, work: Work, parts: Sequence[int]) -> None:
        """`work(part)` for all parts, in any order, some at the same time. All have ended on return.

        Raises what one of them raised; no further one is then begun.
        """
        job = _Job(work, parts)
        self._offer(job)
        own = 0
        try:
            while (part := job.take()) is not None:
                own += 1
                work(part)
        finally:
            left = len(job.left)
            job.left.clear()
            errors = [job.ended.get() for _ in range(len(parts) - own - left)]
        for error in errors:
            if error is not None:
                raise error

    def close(self) -> None:
        """End the thread and wait for it; jobs to come are done by their callers. May be called again."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            self._jobs.put(None)
            thread.join(self._linger_seconds)

    def _offer(self, job: _Job) -> None:
        if self._thread is None:
            with self._lock:
                if self._closed:
                    return
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="quorumfs-second", daemon=True)
                    self._thread.start()
        self._jobs.put(job)

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=self._linger_seconds)
            except queue.Empty:
                job = None
            if job is None:
                with self._lock:
                    self._thread = None
                return
            while (part := job.take()) is not None:
                job.ended.put(_outcome(job.work, part))


def _outcome(work: Work, part: int) -> BaseException | None:
    try:
        work(part)
    except BaseException as error:  # noqa: BLE001  raised again in the thread whose job it is
        return error
    return None
