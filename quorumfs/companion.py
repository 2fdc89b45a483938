"""A thread that does one half of what its caller cannot do fast enough alone: copies and checksums let go of the GIL.

1. One caller at a time. Who finds it busy does everything alone, so that many readers share the cores as they would
   without it.
2. Nothing is left under way when `share` returns or raises, whatever interrupts it.
3. The thread ends after some idle seconds; it is started again when it is wanted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

_LINGER_SECONDS = 5.0

Work = Callable[[], object]


@dataclass(eq=False, slots=True)
class _Job:
    work: Work
    ended: bool = False
    error: BaseException | None = None
    done: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.done.acquire()

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:  # noqa: BLE001  raised again in the thread that shares
            self.error = error
        self.ended = True
        self.done.release()

    def wait(self) -> None:
        """Until it has ended; what interrupts the wait is raised after that."""
        interrupt: BaseException | None = None
        while not self.ended:
            try:
                self.done.acquire()
            except BaseException as error:  # noqa: BLE001  raised below
                interrupt = error
        if interrupt is not None:
            raise interrupt


class Companion:
    """Any thread may call. In a child made by fork() there is none: `share` must not be called."""

    def __init__(self, linger_seconds: float = _LINGER_SECONDS) -> None:
        self._linger_seconds = linger_seconds
        self._busy = threading.Lock()  # held by who shares, or by the thread when it ends
        self._wanted = threading.Lock()  # let go to wake the thread
        self._wanted.acquire()
        self._job: _Job | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def share(self, mine: Work, other: Work) -> bool:
        """Do `mine` here and `other` beside it; False: nothing was done, it is busy or closed.

        Raises what one of them raised, `mine` first.
        """
        if not self._busy.acquire(blocking=False):
            return False
        try:
            if self._closed or not self._started():
                return False
            job = self._job = _Job(other)
            self._wake()
            try:
                mine()
            finally:
                job.wait()
        finally:
            self._busy.release()
        if job.error is not None:
            raise job.error
        return True

    def close(self) -> None:
        """End the thread, when it has done what is under way. May be called again."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # it is awake already
            self._wanted.release()

    def _started(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="quorumfs-companion", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads, or the interpreter is about to end
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while True:
            self._wanted.acquire(timeout=self._linger_seconds)
            job, self._job = self._job, None
            if job is not None:
                job.run()
                job = None
            elif self._busy.acquire(blocking=False):
                try:
                    if self._job is None:
                        self._thread = None
                        return
                finally:
                    self._busy.release()
