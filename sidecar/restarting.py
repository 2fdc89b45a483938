"""A rolling restart: nodes restarted in waves, each waited for, until all are through or one does not come back.

1. Before each wave the leader is asked for leave (`ReserveAbsence`): it refuses what would end the quorum, leave a
   chunk without a replica, or take more than `max_unavailable` away. A refusal is waited out (repair may be at work)
   up to `wait_seconds`, then the restart stops with that reason.
2. A node is back when its process is younger than the order, and says that it is ready.
3. The first that does not come back within `wait_seconds` ends it: those after it are not touched.
4. One at a time per agent, in one thread. An agent that dies forgets it: no node goes down for that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from common import log
from quorumfs.clock import Clock
from quorumfs.errors import (
    Code,
    InternalError,
    PreconditionFailedError,
    QuorumFSError,
    SafetyGuardError,
    TimedOutError,
    UnavailableError,
)
from quorumfs.v1 import membership_pb2, types_pb2
from sidecar import limits
from sidecar.actions import ToAgent, restart
from sidecar.control_plane import Caller, ControlPlane
from sidecar.fleet import Fleet
from sidecar.waves import Waiting, next_wave, still

_log = log.get("sidecar")

State = Literal["running", "done", "stopped", "failed"]
STATUS = ToAgent("GET", "/status", None)
READY = ToAgent("GET", "/health/ready", None)
TRANSIENT = (Code.SAFETY_GUARD, Code.NO_LEADER, Code.NOT_LEADER, Code.UNAVAILABLE, Code.TIMED_OUT)


@dataclass(frozen=True, slots=True)
class Wish:
    """How a rolling restart shall be done."""

    max_unavailable: int
    drain_seconds: float
    wait_seconds: float
    reason: str


@dataclass(slots=True)
class Course:
    """One rolling restart. `nodes`: waiting, restarting, back or failed, in the order in which they were matched."""

    number: int
    nodes: dict[str, str]
    wish: Wish
    started_wall_ms: int
    state: State = "running"
    phase: str = ""
    error: QuorumFSError | None = None
    ended_wall_ms: int = 0
    seconds: dict[str, float] = field(default_factory=dict)  # that each took


class Restarts:
    """Any thread may call. `pause(seconds)`: waits, and says whether to give up."""

    def __init__(
        self,
        control: ControlPlane,
        fleet: Fleet,
        clock: Clock,
        pause: Callable[[float], bool] | None = None,
        begin: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        self._control = control
        self._fleet = fleet
        self._clock = clock
        self._cancelled = threading.Event()
        self._pause = pause or self._cancelled.wait
        self._begin = begin or _in_a_thread
        self._lock = threading.Lock()
        self._course: Course | None = None

    def current(self) -> Course | None:
        """The one that runs, or the last one."""
        return self._course

    def start(self, nodes: Sequence[membership_pb2.NodeView], wish: Wish, caller: Caller) -> Course:
        """Raises PreconditionFailedError while another one runs."""
        with self._lock:
            if self._course is not None and self._course.state == "running":
                raise PreconditionFailedError(
                    "a rolling restart is under way",
                    cause=f"of {', '.join(self._course.nodes)}",
                    next="wait for it, or stop it (DELETE /v1/cluster/restart)",
                )
            number = 1 if self._course is None else self._course.number + 1
            names = {one.info.node_id: "waiting" for one in nodes}
            course = self._course = Course(number, names, wish, self._clock.wall_ms())
            self._cancelled.clear()
        waiting = [
            Waiting(
                one.info.node_id,
                one.info.role == types_pb2.NODE_ROLE_COORDINATOR,
                dict(one.info.labels),
            )
            for one in nodes
        ]
        by_id = {one.info.node_id: one for one in nodes}
        self._begin(lambda: self._run(course, waiting, by_id, caller))
        return course

    def stop(self) -> Course | None:
        """No further wave; who is being restarted comes back by itself. The course, if there was one."""
        self._cancelled.set()
        return self._course

    def _run(
        self,
        course: Course,
        waiting: list[Waiting],
        nodes: dict[str, membership_pb2.NodeView],
        caller: Caller,
    ) -> None:
        try:
            self._waves(course, waiting, nodes, caller)
            course.state = "stopped" if self._cancelled.is_set() else "done"
        except QuorumFSError as error:
            course.error = error
            course.state = "failed"
        except Exception as error:  # whoever waits for it must hear of its end
            course.error = InternalError("the rolling restart failed", cause=type(error).__name__)
            course.state = "failed"
            raise
        finally:
            course.phase = ""
            course.ended_wall_ms = self._clock.wall_ms()
            _log.info("restart.ended", state=course.state, nodes=course.nodes, reason=str(course.error or ""))

    def _waves(
        self,
        course: Course,
        waiting: list[Waiting],
        nodes: dict[str, membership_pb2.NodeView],
        caller: Caller,
    ) -> None:
        back: list[str] = []
        while waiting and not self._cancelled.is_set():
            wave = self._granted(course, waiting, back, caller)
            if wave is None:
                return
            asked_at = self._clock.monotonic()
            for node_id in wave:
                self._order(course, nodes[node_id], caller)
            for node_id in wave:
                self._await(course, nodes[node_id], asked_at, caller)
            back = wave
            waiting = still(waiting, wave)
        with suppress(QuorumFSError):  # else the leave for the last of them runs out by itself
            self._control.give_back([one for one in back if course.nodes[one] == "back"], caller)

    def _granted(
        self, course: Course, waiting: Sequence[Waiting], back: Sequence[str], caller: Caller
    ) -> list[str] | None:
        """The next wave, once the leader lets it go; None: the restart was stopped. Raises the leader's refusal."""
        until = self._clock.monotonic() + course.wish.wait_seconds
        step = restart(course.wish.drain_seconds, course.wish.reason)
        while True:
            try:
                wave = next_wave(waiting, self._leader(), course.wish.max_unavailable)
                course.phase = f"asks for leave to restart {', '.join(wave)}"
                among = list(course.nodes)
                self._control.reserve(wave, step, course.wish.max_unavailable, caller, among=among, back=back)
                return wave
            except QuorumFSError as error:
                if error.code not in TRANSIENT or self._clock.monotonic() >= until:
                    raise
                course.phase = f"waits: {error}"
            if self._pause(limits.RESTART_POLL_SECONDS):
                return None

    def _leader(self) -> str:
        """Raises SafetyGuardError when it is not known: then nobody is restarted."""
        told, error = self._fleet.cluster.answer()
        if error is not None or not told.value.view.leader.node_id:
            raise SafetyGuardError("nobody is restarted now", cause=str(error or "no coordinator leads"))
        return str(told.value.view.leader.node_id)

    def _order(self, course: Course, node: membership_pb2.NodeView, caller: Caller) -> None:
        node_id = node.info.node_id
        course.nodes[node_id] = "restarting"
        course.phase = f"restarts {node_id}"
        outcome = self._control.act(restart(course.wish.drain_seconds, course.wish.reason), node, caller)
        if not outcome.ok:
            course.nodes[node_id] = "failed"
            told = dict(outcome.error or {})
            raise UnavailableError(
                f"{node_id} was not restarted", cause=f"{told.get('message', '')}: {told.get('cause', '')}"
            )
        _log.info("restart.ordered", target=node_id)

    def _await(self, course: Course, node: membership_pb2.NodeView, asked_at: float, caller: Caller) -> None:
        """Until it is back. Raises TimedOutError."""
        node_id = node.info.node_id
        until = asked_at + course.wish.drain_seconds + course.wish.wait_seconds
        while not self._is_back(node, asked_at, caller):
            if self._clock.monotonic() >= until:
                course.nodes[node_id] = "failed"
                raise TimedOutError(
                    f"{node_id} did not come back",
                    cause=f"it is not ready {course.wish.wait_seconds:g} s after it was told to restart",
                    next=f"look at its log (dfsctl node logs {node_id}); the others were left alone",
                )
            if self._pause(limits.RESTART_POLL_SECONDS):
                return  # stopped: it comes back unobserved
        course.nodes[node_id] = "back"
        course.seconds[node_id] = self._clock.monotonic() - asked_at

    def _is_back(self, node: membership_pb2.NodeView, asked_at: float, caller: Caller) -> bool:
        told = self._control.act(STATUS, node, caller)
        uptime = told.result.get("uptime_seconds") if told.ok and isinstance(told.result, dict) else None
        if not isinstance(uptime, int | float) or uptime >= self._clock.monotonic() - asked_at:
            return False
        return self._control.act(READY, node, caller).ok


def _in_a_thread(run: Callable[[], None]) -> None:
    threading.Thread(target=run, name="rolling-restart", daemon=True).start()
