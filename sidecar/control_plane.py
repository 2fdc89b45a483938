"""One request, many nodes: who is meant, whether it is safe, and what came of it on each.

1. Nodes come from the membership as the leader tells it (or, of what changes no node's presence, as it was told last).
2. Whoever would be away afterwards is asked for at the leader first, all at once: it refuses what would break a quorum,
   leave a chunk without a copy, or take more than `max_unavailable`.
3. Then every node is asked with the caller's own token, so many at once, each with a deadline; one that fails does not
   stop the others, and is told as failed.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from quorumfs.clock import Clock
from quorumfs.errors import (
    BusyError,
    InvalidArgumentError,
    NotFoundError,
    OutcomeUnknownError,
    QuorumFSError,
    TimedOutError,
)
from quorumfs.selectors import parse, selectable
from quorumfs.v1 import admin_pb2, membership_pb2, types_pb2
from sidecar import limits, shapes
from sidecar.actions import Action, Step, ToAgent, ToCollection, ToLeader, set_node
from sidecar.fleet import Fleet
from sidecar.methods import CONTROL_GC, RESERVE_ABSENCE, RUN_GC, SET_NODE
from sidecar.targets import Agents

STOPPED_SECONDS = 30.0  # by then a node that was stopped is known to be away


@dataclass(frozen=True, slots=True)
class Meant:
    """Whom a request means: exactly one of the three is said."""

    selector: str
    node_ids: tuple[str, ...]
    everyone: bool


@dataclass(frozen=True, slots=True)
class Caller:
    """With whose token, and under which request id, nodes are asked."""

    token: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it on one node. `status`: of its agent's answer; None: there was none."""

    node_id: str
    ok: bool
    status: int | None
    result: Any
    error: Mapping[str, Any] | None


class ControlPlane:
    """Any thread may call."""

    def __init__(self, fleet: Fleet, agents: Agents, clock: Clock) -> None:
        self._fleet = fleet
        self._agents = agents
        self._clock = clock
        self._slots = threading.BoundedSemaphore(limits.EXECS_AT_ONCE)

    def match(self, meant: Meant) -> list[membership_pb2.NodeView]:
        """The nodes that are meant. Raises InvalidArgumentError, NotFoundError, NoLeaderError."""
        told, _ = self._fleet.cluster.answer()
        return choose(told.value.view.nodes, meant)

    def run(
        self,
        action: Action,
        step: Step,
        nodes: Sequence[membership_pb2.NodeView],
        max_unavailable: int,
        caller: Caller,
        deadline: float,
    ) -> list[Outcome]:
        """Have every node do it until `deadline` (monotonic seconds); one outcome each, in order.

        Raises SafetyGuardError before anybody was asked.
        """
        if not self._slots.acquire(blocking=False):
            raise BusyError(
                "too many requests to the whole cluster at once",
                cause=f"{limits.EXECS_AT_ONCE} are under way",
            )
        try:
            if action.stops:
                self.reserve([one.info.node_id for one in nodes], step, max_unavailable, caller)
            if isinstance(step, ToCollection):
                return self._collect(step, [one.info.node_id for one in nodes], caller)
            return self._fan_out(step, nodes, caller, deadline)
        finally:
            self._slots.release()

    def reserve(
        self,
        node_ids: Sequence[str],
        step: Step,
        max_unavailable: int,
        caller: Caller,
        *,
        among: Sequence[str] = (),
        back: Sequence[str] = (),
    ) -> None:
        """The leader's leave for these nodes to be stopped. Raises SafetyGuardError with the reason.

        `among`: of whom so many may be away (those themselves, when it is empty); `back`: who was let go and is
        there again.
        """
        drain = float((step.body or {}).get("drain_seconds", 0.0)) if isinstance(step, ToAgent) else 0.0
        request = admin_pb2.ReserveAbsenceRequest(
            node_ids=node_ids,
            seconds=drain + STOPPED_SECONDS,
            among=among or node_ids,
            max_unavailable=max_unavailable,
            back=back,
        )
        self._fleet.order(RESERVE_ABSENCE, request, lambda found: found.error, caller.token, changes=False)

    def give_back(self, node_ids: Sequence[str], caller: Caller) -> None:
        """These were let go and are there again. Raises QuorumFSError."""
        if node_ids:
            request = admin_pb2.ReserveAbsenceRequest(back=node_ids)
            self._fleet.order(
                RESERVE_ABSENCE, request, lambda found: found.error, caller.token, changes=False
            )

    def act(self, step: ToAgent, node: membership_pb2.NodeView, caller: Caller) -> Outcome:
        """What comes of `step` on one node; never raises QuorumFSError."""
        return self._one(step, node, caller, self._clock.monotonic() + limits.EXEC_BUDGET_SECONDS)

    def _fan_out(
        self,
        step: ToAgent | ToLeader,
        nodes: Sequence[membership_pb2.NodeView],
        caller: Caller,
        deadline: float,
    ) -> list[Outcome]:
        pool = ThreadPoolExecutor(min(limits.TARGETS_AT_ONCE, len(nodes) or 1), thread_name_prefix="fan-out")
        try:
            pending = [
                (one, pool.submit(copy_context().run, self._one, step, one, caller, deadline))
                for one in nodes
            ]
            return [self._outcome(one.info.node_id, step, future, deadline) for one, future in pending]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _outcome(
        self, node_id: str, step: ToAgent | ToLeader, future: Future[Outcome], deadline: float
    ) -> Outcome:
        try:
            return future.result(max(0.0, deadline - self._clock.monotonic()))
        except TimeoutError:
            never = future.cancel() or (isinstance(step, ToAgent) and step.method == "GET")
            kind = TimedOutError if never else OutcomeUnknownError
            error = kind(
                f"{node_id} did not answer in time",
                cause=f"all nodes together had {limits.EXEC_BUDGET_SECONDS:g} s",
            )
            return Outcome(node_id, False, None, None, error.to_json())

    def _one(
        self, step: ToAgent | ToLeader, node: membership_pb2.NodeView, caller: Caller, deadline: float
    ) -> Outcome:
        node_id = node.info.node_id
        try:
            if self._clock.monotonic() >= deadline:
                raise TimedOutError(f"{node_id} was not asked", cause="the time for all nodes is over")
            if isinstance(step, ToLeader):
                return self._order(step, node_id, caller)
            return self._ask(step, node, caller)
        except QuorumFSError as error:
            return Outcome(node_id, False, None, None, error.to_json())

    def _collect(self, step: ToCollection, node_ids: Sequence[str], caller: Caller) -> list[Outcome]:
        """One order for all of them, and its end told of each."""
        try:
            if step.action == "run":
                run = admin_pb2.RunGcRequest(dry_run=step.dry_run)
                begun = self._fleet.order(RUN_GC, run, lambda found: found.error, caller.token)
                result = {"ticket": begun.ticket, "outcome": begun.outcome, "dry_run": step.dry_run}
            else:
                control = admin_pb2.ControlGcRequest(
                    pause=step.action == "pause", resume=step.action == "resume"
                )
                told = self._fleet.order(CONTROL_GC, control, lambda found: found.error, caller.token)
                result = {"paused": told.paused}
        except QuorumFSError as error:
            return [Outcome(one, False, None, None, error.to_json()) for one in node_ids]
        return [Outcome(one, True, 200, result, None) for one in node_ids]

    def _order(self, step: ToLeader, node_id: str, caller: Caller) -> Outcome:
        answer = self._fleet.order(SET_NODE, set_node(step, node_id), lambda found: found.error, caller.token)
        return Outcome(node_id, True, 200, {"node_id": node_id, "detail": answer.detail}, None)

    def _ask(self, step: ToAgent, node: membership_pb2.NodeView, caller: Caller) -> Outcome:
        headers = {"Accept": "application/json", "X-Request-Id": caller.request_id}
        if step.body is not None:
            headers["Content-Type"] = "application/json"
        if caller.token:
            headers["Authorization"] = f"Bearer {caller.token}"
        seconds = limits.TARGET_READ_SECONDS if step.method == "GET" else limits.TARGET_DEADLINE_SECONDS
        answer = self._agents.ask(node.info.http, step.method, step.path, step.body, headers, seconds)
        told = answer.body.get("error") if isinstance(answer.body, dict) else None
        ok = 200 <= answer.status < 300
        error = told if isinstance(told, dict) else None
        if not ok and error is None:
            reasons = answer.body.get("reasons", ()) if isinstance(answer.body, dict) else ()
            words = "; ".join(map(str, reasons)) or f"HTTP {answer.status}"
            error = {"code": "unavailable", "message": words[:500], "cause": "", "next": ""}
        return Outcome(node.info.node_id, ok, answer.status, answer.body, None if ok else error)


def choose(nodes: Sequence[membership_pb2.NodeView], meant: Meant) -> list[membership_pb2.NodeView]:
    """Whom `meant` names among `nodes`, by id. Pure. Raises InvalidArgumentError, NotFoundError."""
    said = [bool(meant.selector.strip()), bool(meant.node_ids), meant.everyone]
    if sum(said) != 1:
        raise InvalidArgumentError(
            "say whom you mean, in one way",
            cause="an empty selector would be everybody" if not any(said) else "",
            next='send one of "selector", "nodes", and "all": true',
        )
    by_id = {one.info.node_id: one for one in nodes}
    if meant.node_ids:
        unknown = sorted(set(meant.node_ids) - by_id.keys())
        if unknown:
            raise NotFoundError(
                f"there is no node {unknown[0][:63]!a}", cause=f"there are {', '.join(sorted(by_id))}"
            )
        found = {node_id: by_id[node_id] for node_id in meant.node_ids}
    elif meant.everyone:
        found = by_id
    else:
        selector = parse(meant.selector)
        found = {
            key: one
            for key, one in by_id.items()
            if selector.matches(selectable(one.info.labels, shapes.word(types_pb2.NodeRole, one.info.role)))
        }
    if not found:
        raise NotFoundError(f"no node matches {meant.selector[:200]!a}", next="dfsctl node ls shows labels")
    return [found[node_id] for node_id in sorted(found)]
