"""The garbage collection as a duty of the leader: a cycle now and then, or when an operator asks for one.

A unit of work is one step of a cycle. A cycle that fails is told of and over; it is not tried again before its time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from common import log
from coordinator.duties.cycle import Cycle, Memory, Policy
from coordinator.duties.desk import Desk
from coordinator.duties.holders import Holders
from coordinator.soft.cycles import Report
from coordinator.soft_state import SoftState
from quorumfs.clock import Clock
from quorumfs.errors import BusyError, NotFoundError, QuorumFSError
from quorumfs.v1 import types_pb2 as t

FIRST_SECONDS = 10.0  # of a leadership: heartbeats come in, the settings are written
LOOK_SECONDS = 0.5
RUNS_KEPT = 32
WAITING_MAX = 8

_log = log.get(__name__)


class Collect:
    """Of one leadership. `request` and what reads from any thread; `work` from its own."""

    name = "gc"

    def __init__(
        self,
        desk: Desk,
        soft: SoftState,
        holders: Holders,
        clock: Clock,
        policy: Policy,
        epoch: t.Epoch,
        interval_seconds: float,
        count: Callable[[str, int], None] = lambda what, number: None,
        ended: Callable[[str, float], None] = lambda outcome, seconds: None,
    ) -> None:
        """`count` is told what a cycle did, `ended` how it ended and after how many seconds."""
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._count = count
        self._tell_end = ended
        self._memory = Memory()
        self._make: Callable[..., Cycle] = partial(
            Cycle, desk, soft, holders, clock, policy, epoch, self._memory
        )
        self._lock = threading.Lock()
        self._tickets = 0
        self._asked: OrderedDict[int, bool] = OrderedDict()  # ticket -> dry run
        self._reports: OrderedDict[int, Report] = OrderedDict()
        self._running: tuple[int, Cycle, Iterator[float], float] | None = None
        self._pause = 0.0
        self._due = clock.monotonic() + min(interval_seconds, FIRST_SECONDS)
        self.last: Report | None = None  # the last that was no dry run
        self._ended: deque[tuple[float, Report]] = deque(maxlen=RUNS_KEPT)

    # Asking

    def request(self, *, dry_run: bool) -> int:
        """Have a cycle begun as soon as none runs; its ticket. Raises BusyError."""
        with self._lock:
            if len(self._asked) >= WAITING_MAX:
                raise BusyError("other cycles wait to be run", cause=f"there are {WAITING_MAX}")
            self._tickets += 1
            self._asked[self._tickets] = dry_run
            return self._tickets

    def report(self, ticket: int) -> Report | None:
        """Of a cycle that was asked for; None: it waits. Raises NotFoundError."""
        with self._lock:
            if ticket in self._reports:
                return self._reports[ticket]
            if ticket in self._asked:
                return None
        raise NotFoundError(
            f"no cycle has ticket {ticket} here",
            cause="its leadership is over, or it was long ago",
            next="dfsctl gc status",
        )

    def ended(self) -> list[tuple[float, Report]]:
        """The last cycles that are over, newest first, with the seconds since."""
        now = self._clock.monotonic()
        return [(now - at, report) for at, report in reversed(tuple(self._ended))]

    def phase(self) -> str:
        """Of the cycle that runs; empty: none does."""
        running = self._running
        return "" if running is None else running[1].report.phase

    def seen(self, chunk: bytes) -> dict[str, int]:
        """The nodes whose last inventory listed the chunk, with when that came, in wall milliseconds."""
        listed = dict(self._memory.seen)
        return {node_id: one.wall_ms for node_id, one in listed.items() if chunk in one.live}

    # Working

    def work(self) -> str:
        if self._running is None and not self._begin():
            self._pause = LOOK_SECONDS
            return "no cycle is due"
        assert self._running is not None
        _, cycle, steps, began = self._running
        report = cycle.report
        try:
            self._pause = next(steps)
            return f"cycle {report.cycle}: {report.phase}"
        except StopIteration:
            pass
        except QuorumFSError as error:
            report.outcome = "failed" if report.outcome == "running" else report.outcome
            report.reason = str(error)
        except Exception as error:
            report.outcome, report.reason = "failed", repr(error)
            raise
        finally:
            if report.outcome != "running":
                self._end(report, began)
        return (
            f"cycle {report.cycle} {report.outcome}: condemned {report.condemned}, deleted {report.deleted}"
        )

    def wait(self) -> float:
        return self._pause

    def _begin(self) -> bool:
        now = self._clock.monotonic()
        with self._lock:
            ticket, dry_run = self._asked.popitem(last=False) if self._asked else (0, False)
            if not ticket and now < self._due:
                return False
            if not ticket:
                self._tickets += 1
                ticket = self._tickets
            cycle = self._make(dry_run=dry_run)
            self._reports[ticket] = cycle.report
            while len(self._reports) > RUNS_KEPT:
                self._reports.popitem(last=False)
        if not dry_run:
            self._due = now + self._interval_seconds
        self._running = (ticket, cycle, cycle.steps(), now)
        return True

    def _end(self, report: Report, began: float) -> None:
        now = self._clock.monotonic()
        report.phase, report.seconds = "none", now - began
        self._running = None
        self._ended.append((now, replace(report, would_condemn=[], accounting={})))
        if report.dry_run:
            return
        self._due = now + self._interval_seconds
        self._tell_end(report.outcome, report.seconds)
        if report.outcome == "paused":
            return
        self.last = report
        for what in ("adopted", "condemned", "deleted"):
            self._count(what, getattr(report, what))
        tell = _log.info if report.outcome == "done" else _log.warning
        tell(
            "gc.ended",
            cycle=report.cycle,
            outcome=report.outcome,
            reason=report.reason,
            marked=report.marked,
            gathered=report.gathered,
            adopted=report.adopted,
            condemned=report.condemned,
            deleted=report.deleted,
            void=sorted(report.void),
            took_ms=int(report.seconds * 1000),
        )
