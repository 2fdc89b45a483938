"""A rolling restart over agents that are not there: who is asked when, what stops it, and how it is told."""

from __future__ import annotations

from typing import Any

import pytest

from quorumfs.clock import ManualClock
from quorumfs.errors import (
    Code,
    InvalidArgumentError,
    PreconditionFailedError,
    SafetyGuardError,
    TimedOutError,
)
from quorumfs.rpc.status import to_detail
from quorumfs.v1 import admin_pb2
from sidecar.control_plane import Caller, Meant
from sidecar.restarting import Course, Restarts, Wish
from sidecar.targets import TargetAnswer
from tests.unit.sidecar import fakes
from tests.unit.sidecar.fakes import C1, FakeAgents, FakeNode, agent, well


class Fleet:
    """c1 leads, d1 and d2 hold chunks. Each restarts in `seconds`, unless it is in `dead`."""

    def __init__(self, seconds: float = 3.0) -> None:
        self.clock = ManualClock()
        self.seconds = seconds
        self.dead: set[str] = set()
        self.deaf: set[str] = set()
        self.told_at: dict[str, float] = {}
        self.order: list[str] = []
        self.node: FakeNode = well(
            GetStatus=fakes.status(node_id="c1"),
            GetClusterStatus=fakes.cluster_status(),
            ReserveAbsence=self._reserve,
        )
        self.refusals: list[Any] = []
        self.reserved: list[admin_pb2.ReserveAbsenceRequest] = []
        agents = FakeAgents({f"127.0.0.1:{one}": self._agent(one) for one in ("c1", "d1", "d2")})
        self.served = agent({C1: self.node}, "coordinator", clock=self.clock, agents=agents)
        self.restarts = Restarts(
            self.served.control, self.served.fleet, self.clock, self._pause, lambda run: run()
        )

    def run(self, *node_ids: str, **wish: Any) -> Course:
        nodes = self.served.control.match(Meant("", node_ids, not node_ids))
        asked = Wish(
            **{"max_unavailable": 1, "drain_seconds": 0.0, "wait_seconds": 20.0, "reason": "x", **wish}
        )
        return self.restarts.start(nodes, asked, Caller("", "r1"))

    def _pause(self, seconds: float) -> bool:
        self.clock.advance(seconds)
        return False

    def _reserve(self, request: admin_pb2.ReserveAbsenceRequest) -> admin_pb2.ActionResponse:
        if self.refusals:
            refusal = to_detail(self.refusals.pop(0))
            return admin_pb2.ActionResponse(code=refusal.code, error=refusal)
        self.reserved.append(request)
        return admin_pb2.ActionResponse()

    def _agent(self, node_id: str) -> Any:
        def answer(method: str, path: str, body: Any) -> TargetAnswer:
            now = self.clock.monotonic()
            if path == "/shutdown":
                if node_id in self.deaf:
                    return TargetAnswer(403, {"error": {"code": "permission_denied", "message": "no"}})
                assert body["mode"] == "restart"
                self.told_at[node_id] = now
                self.order.append(node_id)
                return TargetAnswer(202, {})
            began = self.told_at.get(node_id)
            if began is None:
                return TargetAnswer(200, {"uptime_seconds": 5000.0})
            if now - began < self.seconds or node_id in self.dead:
                return TargetAnswer(503, {"error": {"code": "unavailable", "message": "down"}})
            return TargetAnswer(200, {"uptime_seconds": now - began - self.seconds})

        return answer


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def test_all_are_restarted_one_after_the_other_and_each_is_waited_for(fleet: Fleet) -> None:
    course = fleet.run()
    assert (course.state, course.error) == ("done", None)
    assert fleet.order == ["d1", "d2", "c1"]
    assert course.nodes == {"c1": "back", "d1": "back", "d2": "back"}
    assert all(seconds >= 3.0 for seconds in course.seconds.values())
    assert [list(one.back) for one in fleet.reserved] == [[], ["d1"], ["d2"], ["c1"]]
    *asked, last = fleet.reserved
    assert all(set(one.among) == {"c1", "d1", "d2"} and one.max_unavailable == 1 for one in asked)
    assert not last.node_ids


def test_the_first_that_does_not_come_back_ends_it(fleet: Fleet) -> None:
    fleet.dead.add("d1")
    course = fleet.run()
    assert course.state == "failed"
    assert isinstance(course.error, TimedOutError)
    assert "d1 did not come back" in str(course.error)
    assert fleet.order == ["d1"]
    assert course.nodes == {"c1": "waiting", "d1": "failed", "d2": "waiting"}


def test_a_node_whose_old_process_still_answers_is_not_taken_for_back(fleet: Fleet) -> None:
    fleet.seconds = -100.0  # it answers at once, and its process is older than the order
    course = fleet.run("d1")
    assert course.state == "failed"


def test_a_refusal_that_passes_is_waited_out(fleet: Fleet) -> None:
    fleet.refusals = [SafetyGuardError("repair is at work")] * 3
    assert fleet.run("d1").state == "done"


def test_a_refusal_that_lasts_ends_it_before_anybody_is_touched(fleet: Fleet) -> None:
    fleet.refusals = [SafetyGuardError("no", cause="1 chunk has no replica on any other node")] * 1000
    course = fleet.run()
    assert course.state == "failed"
    assert course.error is not None
    assert course.error.code is Code.SAFETY_GUARD
    assert fleet.order == []


def test_a_refusal_of_another_kind_is_not_waited_for(fleet: Fleet) -> None:
    fleet.refusals = [InvalidArgumentError("nonsense")]
    began = fleet.clock.monotonic()
    assert fleet.run("d1").state == "failed"
    assert fleet.clock.monotonic() == began


def test_a_node_that_refuses_ends_it(fleet: Fleet) -> None:
    fleet.deaf.add("d1")
    course = fleet.run("d1", "d2")
    assert (course.state, course.nodes) == ("failed", {"d1": "failed", "d2": "waiting"})
    assert "d1 was not restarted" in str(course.error)


def test_without_a_leader_nobody_is_restarted(fleet: Fleet) -> None:
    nodes = fleet.served.control.match(Meant("", ("d1",), False))
    told = fakes.cluster_status()
    told.view.ClearField("leader")
    fleet.node.answers["GetClusterStatus"] = told
    fleet.clock.advance(5.0)
    course = fleet.restarts.start(nodes, Wish(1, 0.0, 5.0, "x"), Caller("", ""))
    assert course.state == "failed"
    assert fleet.order == []


def test_one_at_a_time(fleet: Fleet) -> None:
    waiting: list[Any] = []
    fleet.restarts = Restarts(
        fleet.served.control, fleet.served.fleet, fleet.clock, fleet._pause, waiting.append
    )
    fleet.run("d1")
    with pytest.raises(PreconditionFailedError):
        fleet.run("d2")
    fleet.restarts.stop()
    waiting.pop()()
    stopped = fleet.restarts.current()
    assert stopped is not None
    assert (stopped.state, stopped.nodes) == ("stopped", {"d1": "waiting"})
    assert fleet.run("d2").number == 2
