"""A thread that does a part of what its caller cannot do fast enough alone: copies and checksums let go of the GIL.

1. One caller at a time. Who finds it busy does everything alone, so that many readers share the cores as they would
   without it.
2. How much the thread is given is learned (`Portion`). What it has not begun when the caller is ready with its own part
   is taken back: a thread that gets no core, because others need them, or never will again, because the interpreter
   ends, holds nobody up.
3. Nothing is left under way when `share` returns or raises, also by an interrupt, and nothing of the work is kept: its
   memory may go to another use, and the file that it reads may be closed.
4. The thread ends after some idle seconds; it is started again when it is wanted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

_LINGER_SECONDS = 5.0
_PART_MOST = 1 / 2
_PART_LEAST = 1 / 8  # less is not worth waking a thread
_PART_AT_FIRST = 3 / 8
_PART_MORE = 1 / 128
_PART_LESS = 1 / 32  # more: who is ready first costs nothing, who is waited for two wake-ups
_REST_MOST = 512

Work = Callable[[int, int], object]
"""Does what lies from the first number to the second; lets go of the GIL while it does."""


@dataclass(slots=True)
class Portion:
    """How much of its caller's work a companion is given, by how it went before. Pure.

    A little more when it was ready first, less when it was waited for. When it had not even begun, or was given the
    least there is and still was waited for, there is no core for it: it rests, each time twice as many calls.
    """

    part: float = _PART_AT_FIRST
    resting: int = 0  # so many calls more
    rest_next: int = 1

    def cut(self, size: int, grain: int) -> int:
        """Where its part of `size` begins, at a multiple of `grain`; `size` while it rests."""
        if self.resting:
            self.resting -= 1
            return size
        return int(size * (1 - self.part)) // grain * grain

    def was_ready(self) -> None:
        self.part = min(_PART_MOST, self.part + _PART_MORE)
        self.rest_next = max(1, self.rest_next // 2)

    def was_waited_for(self) -> None:
        self.part -= _PART_LESS
        if self.part < _PART_LEAST:
            self.part = _PART_LEAST
            self.had_not_begun()

    def had_not_begun(self) -> None:
        self.resting = self.rest_next
        self.rest_next = min(_REST_MOST, 2 * self.rest_next)


class _Job:
    """Lets go of `work`, and of the memory that it fills, before it says that it has ended."""

    __slots__ = ("_error", "_start", "_stop", "_taker", "_work", "done", "ended")

    def __init__(self, work: Work, start: int, stop: int) -> None:
        self.ended = False
        self.done = threading.Lock()  # let go at the end
        self.done.acquire()
        self._work: Work | None = work
        self._start = start
        self._stop = stop
        self._taker: dict[None, object] = {}
        self._error: BaseException | None = None

    def take(self, who: object) -> bool:
        """Whether it is for `who` to do, or to leave: one is told so of all that ask, however often it asks."""
        return self._taker.setdefault(None, who) is who

    def leave(self) -> None:
        """It is not done here."""
        self._work = None

    def run(self) -> None:
        work, self._work = self._work, None
        assert work is not None
        try:
            work(self._start, self._stop)
        except BaseException as error:  # noqa: BLE001  raised again in the thread that shares
            self._error = error
        del work
        self.ended = True
        self.done.release()

    def raise_error(self) -> None:
        """Raise what the work raised; once, so that nothing keeps the frames that it names."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error


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
        self._portion = Portion()

    def share(self, work: Work, size: int, grain: int) -> bool:
        """`work` from 0 to `size`, the beginning here and the rest beside it, cut at a multiple of `grain`.

        False: nothing was done, it is busy, at rest or closed. Raises what a part raised, of both the first one's.
        """
        if not self._busy.acquire(blocking=False):  # interrupted just here, it shares nothing any more
            return False
        try:
            cut = self._portion.cut(size, grain)
            if cut == size or self._closed or not self._started():
                return False
            job = _Job(work, cut, size)
            begun = False
            try:
                self._job = job
                self._wake()
                work(0, cut)
            finally:
                interrupt: BaseException | None = None
                while True:  # another interrupt may come meanwhile
                    try:
                        begun = self._end(job)
                        break
                    except BaseException as error:  # noqa: BLE001  raised below
                        interrupt = error
                try:
                    if interrupt is not None:
                        raise interrupt
                finally:
                    del interrupt
        finally:
            self._busy.release()
        if not begun:
            work(cut, size)
        else:
            job.raise_error()
        return True

    def close(self) -> None:
        """End the thread when it has done what is under way, its idle seconds later at most. May be called again."""
        self._closed = True
        self._wake()

    def _end(self, job: _Job) -> bool:
        """Nobody is at `job` any more, or ever will be; whether it was done. Can be called again when interrupted."""
        if job.take(self):
            job.leave()
            self._portion.had_not_begun()
            return False
        ready = job.ended
        while not job.ended:
            job.done.acquire()
        if ready:
            self._portion.was_ready()
        else:
            self._portion.was_waited_for()
        return True

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
            woken = self._wanted.acquire(timeout=self._linger_seconds)
            job, self._job = self._job, None
            if job is not None and job.take(job):
                job.run()
            job = None  # nothing of it is kept while there is nothing to do
            if (self._closed or not woken) and self._ended():
                return

    def _ended(self) -> bool:
        """Whether the thread may end: nobody is about to give it something."""
        if not self._busy.acquire(blocking=False):
            return False
        try:
            self._thread = None
        finally:
            self._busy.release()
        return True
