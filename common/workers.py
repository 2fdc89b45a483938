"""Duties in the background: one named thread each, which does one unit of work, pauses, and does the next.

A duty that fails is logged, counted, and tried again after a growing pause: it never ends its thread, and one
duty's trouble is not another's. A unit is short, or looks at `stopping` between its steps.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from common import log
from quorumfs.backoff import Backoff
from quorumfs.errors import InvalidArgumentError, NotFoundError, QuorumFSError
from quorumfs.v1 import admin_pb2

STOP_SECONDS_MAX = 5.0
_BACKOFF = Backoff(first_seconds=0.5, most_seconds=60.0)
_log = log.get(__name__)


class Worker(Protocol):
    """One duty."""

    @property
    def name(self) -> str:
        """Names the thread and the duty, on every face."""
        ...

    def work(self) -> str:
        """Do one unit of work; returns a sentence that says what was done. May raise anything."""
        ...

    def wait(self) -> float:
        """Seconds to pause after a unit that went well. 0: go on at once."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """How a duty is. `state`: running, idle, paused, stopped, failed (its last unit raised)."""

    name: str
    state: str
    last: str
    last_age_seconds: float
    runs: int
    failures: int

    def to_duty(self) -> admin_pb2.Duty:
        return admin_pb2.Duty(
            name=self.name,
            state=self.state,
            last=self.last,
            last_age_seconds=self.last_age_seconds,
            runs=self.runs,
            failures=self.failures,
        )


class WorkerThread:
    """Runs one worker. `start` and `stop` once each; the rest from any thread."""

    def __init__(
        self,
        worker: Worker,
        *,
        backoff: Backoff = _BACKOFF,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.worker = worker
        self.stopping = threading.Event()
        self._backoff = backoff
        self._monotonic = monotonic
        self._chance = chance
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._woken = False
        self._paused = False
        self._working = False
        self._last = "not yet"
        self._last_at = monotonic()
        self._runs = 0
        self._failures = 0
        self._failed_in_a_row = 0
        self._thread = threading.Thread(target=self._run, name=worker.name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Take up no further unit; returns at once."""
        self.stopping.set()
        with self._wake:
            self._wake.notify_all()

    def join(self, seconds: float) -> bool:
        """Whether the thread has ended, within `seconds`."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def wake(self) -> None:
        """Do a unit now instead of after the pause."""
        with self._wake:
            self._woken = True
            self._wake.notify_all()

    def pause(self, yes: bool) -> None:
        """Take up no unit until called with False. One under way finishes."""
        with self._wake:
            self._paused = yes
            self._woken = self._woken or not yes
            self._wake.notify_all()

    def status(self) -> WorkerStatus:
        with self._lock:
            return WorkerStatus(
                name=self.worker.name,
                state=self._state(),
                last=self._last,
                last_age_seconds=max(0.0, self._monotonic() - self._last_at),
                runs=self._runs,
                failures=self._failures,
            )

    def _state(self) -> str:
        if self._working:
            return "running"
        if self.stopping.is_set() or not self._thread.is_alive():
            return "stopped"
        if self._paused:
            return "paused"
        return "failed" if self._failed_in_a_row else "idle"

    def _run(self) -> None:
        while self._may_work():
            self._rest(self.once())
        _log.debug("duty.stopped", duty=self.worker.name)

    def _may_work(self) -> bool:
        with self._wake:
            self._wake.wait_for(lambda: self.stopping.is_set() or not self._paused)
            return not self.stopping.is_set()

    def once(self) -> float:
        """Do one unit and count it. Returns the pause, in seconds, before the next."""
        with self._lock:
            self._working, self._woken = True, False
        try:
            said = self.worker.work()
            pause = self.worker.wait()
            failed = False
        except Exception as error:  # noqa: BLE001  the thread's outermost frame: counted, told, tried again
            trace = None if isinstance(error, QuorumFSError) else error  # ours say it all in a sentence
            _log.warning("duty.failed", duty=self.worker.name, cause=str(error), exc_info=trace)
            said, failed = f"failed: {error or type(error).__name__}", True
            pause = self._backoff.delay(self._failed_in_a_row, self._chance())
        with self._lock:
            self._working = False
            self._last, self._last_at = said, self._monotonic()
            self._runs += 1
            self._failures += failed
            self._failed_in_a_row = self._failed_in_a_row + 1 if failed else 0
        return pause

    def _rest(self, seconds: float) -> None:
        with self._wake:
            if seconds > 0:
                self._wake.wait_for(lambda: self._woken or self.stopping.is_set(), seconds)


class Workers:
    """A process's duties. `start` and `stop` from one thread, the rest from any."""

    def __init__(self, workers: Sequence[Worker] = ()) -> None:
        self._threads: dict[str, WorkerThread] = {}
        self._started = False
        for worker in workers:
            self.add(worker)

    def add(self, worker: Worker) -> WorkerThread:
        """Take a duty on; it starts at once if the others have."""
        if worker.name in self._threads:
            raise InvalidArgumentError(f"there is a duty {worker.name!r} already")
        thread = self._threads[worker.name] = WorkerThread(worker)
        if self._started:
            thread.start()
        return thread

    def start(self) -> None:
        self._started = True
        for thread in self._threads.values():
            thread.start()

    def stop(self, seconds: float = STOP_SECONDS_MAX) -> list[str]:
        """Ask all to stop and wait up to `seconds` in all. Returns the names of those still at work."""
        for thread in self._threads.values():
            thread.ask_to_stop()
        until = time.monotonic() + seconds
        left = [name for name, thread in self._threads.items() if not thread.join(until - time.monotonic())]
        if left:
            _log.warning("duty.still_at_work", duties=left, waited_seconds=seconds)
        return left

    def statuses(self) -> list[WorkerStatus]:
        return [thread.status() for thread in list(self._threads.values())]

    def duties(self) -> list[admin_pb2.Duty]:
        """`statuses` as ListDuties answers them."""
        return [status.to_duty() for status in self.statuses()]

    def wake(self, name: str) -> None:
        """Do a unit of that duty now. Raises NotFoundError."""
        self._get(name).wake()

    def control(self, name: str, action: str) -> admin_pb2.Duty:
        """`pause`, `resume` or `run` (now) one duty. Raises NotFoundError, InvalidArgumentError."""
        thread = self._get(name)
        match action:
            case "pause":
                thread.pause(True)
            case "resume":
                thread.pause(False)
            case "run":
                thread.wake()
            case _:
                raise InvalidArgumentError(f"a duty cannot {action!r}", next="use one of pause, resume, run")
        return thread.status().to_duty()

    def _get(self, name: str) -> WorkerThread:
        try:
            return self._threads[name]
        except KeyError:
            known = ", ".join(self._threads) or "none"
            raise NotFoundError(f"there is no duty {name!r} here", cause=f"there are: {known}") from None
