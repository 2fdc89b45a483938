"""One request, many nodes: the right ones, never unsafely, and what came of it told node by node."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from flask.testing import FlaskClient

from quorumfs.clock import ManualClock
from quorumfs.errors import (
    BusyError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    SafetyGuardError,
    TimedOutError,
    UnavailableError,
)
from quorumfs.rpc.status import to_detail
from quorumfs.v1 import admin_pb2
from sidecar import limits
from sidecar.app import create_app
from sidecar.control_plane import Meant, choose
from sidecar.targets import HttpAgents, TargetAnswer
from tests.unit.sidecar import fakes
from tests.unit.sidecar.fakes import C1, C2, FakeAgents, FakeNode, agent, well

C1_HTTP, D1, D2 = "127.0.0.1:c1", "127.0.0.1:d1", "127.0.0.1:d2"


class Steered:
    """A coordinator's agent that leads, with two datanodes' agents."""

    def __init__(self, clock: ManualClock | None = None, **answers: Any) -> None:
        self.node = well(
            GetStatus=fakes.status(node_id="c1"), GetClusterStatus=fakes.cluster_status(), **answers
        )
        self.agents = FakeAgents()
        self.nodes = {C1: self.node}
        self.served = agent(self.nodes, "coordinator", clock=clock, agents=self.agents)
        self.client: FlaskClient = create_app(self.served).test_client()

    def exec(self, action: str, status: int, **body: Any) -> Any:
        answer = self.client.post("/v1/cluster/exec", json={"action": action, **body})
        assert answer.status_code == status, answer.text
        return answer.json

    def asked_of_node(self, method: str) -> list[Any]:
        return [request for name, request in self.node.asked if name.endswith(f".{method}")]


@pytest.fixture
def steered() -> Steered:
    return Steered()


def test_the_nodes_that_match_are_asked_and_told_one_by_one(steered: Steered) -> None:
    found = steered.exec("status", 200, selector="zone=a")
    assert found["matched"] == ["c1", "d1"]
    assert [(one["node_id"], one["ok"], one["status"]) for one in found["results"]] == [
        ("c1", True, 200),
        ("d1", True, 200),
    ]
    assert found["results"][1]["result"] == {"from": D1}
    assert {(address, method, path) for address, method, path, _, _ in steered.agents.asked} == {
        (C1_HTTP, "GET", "/status"),
        (D1, "GET", "/status"),
    }


def test_what_only_some_did_is_told_as_partial(steered: Steered) -> None:
    steered.agents.answers[D1] = UnavailableError("the agent is not there")
    steered.agents.answers[D2] = TargetAnswer(403, {"error": {"code": "permission_denied", "message": "no"}})
    found = steered.exec("log_level", 207, all=True, params={"level": "debug"})
    assert [one["ok"] for one in found["results"]] == [True, False, False]
    assert [one["error"] and one["error"]["code"] for one in found["results"]] == [
        None,
        "unavailable",
        "permission_denied",
    ]
    steered.agents.answers[C1_HTTP] = TimedOutError("no answer")
    assert steered.exec("log_level", 502, all=True, params={"level": "debug"})["matched"]


def test_to_find_out_who_is_meant_and_to_ask_them_have_one_budget_of_time() -> None:
    """Else the answer comes when the connection has been cut, and what was done on a thousand nodes is not told."""
    clock = ManualClock()
    steered = Steered(clock)

    def late(_: Any) -> admin_pb2.ClusterStatus:
        clock.advance(limits.EXEC_BUDGET_SECONDS)
        return fakes.cluster_status()

    steered.node.answers["GetClusterStatus"] = late
    found = steered.exec("log_level", 502, all=True, params={"level": "debug"})
    assert {one["error"]["code"] for one in found["results"]} == {"timed_out"}
    assert steered.agents.asked == []


def test_the_callers_token_and_request_id_go_along(steered: Steered) -> None:
    headers = {"Authorization": "Bearer qfs_x", "X-Request-Id": "abc"}
    steered.client.post("/v1/cluster/exec", json={"action": "status", "nodes": ["d2"]}, headers=headers)
    (_, _, _, _, sent) = steered.agents.asked[0]
    assert (sent["Authorization"], sent["X-Request-Id"]) == ("Bearer qfs_x", "abc")


def test_a_shutdown_asks_the_leader_first_and_a_refusal_stops_it_all(steered: Steered) -> None:
    steered.exec("shutdown", 200, nodes=["d1"], params={"drain_seconds": 5})
    (reserved,) = steered.asked_of_node("ReserveAbsence")
    assert (list(reserved.node_ids), reserved.max_unavailable) == (["d1"], 1)
    assert reserved.seconds > 5
    assert [path for _, _, path, _, _ in steered.agents.asked] == ["/shutdown"]
    refusal = to_detail(SafetyGuardError("no", cause="1 chunk has no replica elsewhere"))
    steered.node.answers["ReserveAbsence"] = admin_pb2.ActionResponse(code=refusal.code, error=refusal)
    steered.agents.asked.clear()
    answer = steered.exec("shutdown", 409, nodes=["d1", "d2"], max_unavailable=2)
    assert answer["error"]["code"] == "safety_guard"
    assert steered.agents.asked == []


def test_drain_is_the_leaders_to_do(steered: Steered) -> None:
    steered.nodes[C2] = FakeNode(state="down")
    found = steered.exec("drain", 200, selector="zone=b")
    assert found["matched"] == ["d2"]
    (order,) = steered.asked_of_node("SetNode")
    assert (order.node_id, order.action) == ("d2", "drain")
    assert steered.agents.asked == []


def test_a_maintenance_can_be_ended_on_many_nodes_as_it_was_begun(steered: Steered) -> None:
    steered.exec("maintenance", 200, selector="zone=b", params={"seconds": 60})
    steered.exec("end_maintenance", 200, selector="zone=b")
    told = [(one.node_id, one.action, one.seconds) for one in steered.asked_of_node("SetNode")]
    assert told == [("d2", "maintenance", 60.0), ("d2", "end_maintenance", 0.0)]


def test_a_log_is_fetched_with_its_filter(steered: Steered) -> None:
    steered.exec("logs", 200, nodes=["d1"], params={"level": "error", "grep": "a&b=c"})
    (_, method, path, _, _) = steered.agents.asked[0]
    assert (method, path) == ("GET", "/logs/stream?level=error&grep=a%26b%3Dc&follow=0")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"action": "status"}, 400),
        ({"action": "status", "selector": ""}, 400),
        ({"action": "status", "selector": "zone=a", "all": True}, 400),
        ({"action": "status", "selector": "zone=("}, 400),
        ({"action": "status", "selector": "rack=nowhere"}, 404),
        ({"action": "status", "nodes": ["d9"]}, 404),
        ({"action": "status", "nodes": ["http://evil.example/"]}, 400),
        ({"action": "status", "nodes": "d1"}, 400),
        ({"action": "status", "all": True, "params": {"x": 1}}, 400),
        ({"action": "status", "all": True, "params": []}, 400),
        ({"action": "reboot", "all": True}, 400),
        ({"action": "shutdown", "all": True, "max_unavailable": -1}, 400),
        ({"action": "shutdown", "all": True, "max_unavailable": 0}, 400),
        ({"action": "shutdown", "all": True, "max_unavailable": True}, 400),
        ({"action": "log_level", "all": True, "params": {"level": "loud"}}, 400),
        ({"action": "labels", "all": True, "params": {"labels": {}}}, 400),
        ({"action": "maintenance", "all": True, "params": {"seconds": 1e12}}, 400),
        ({"action": "status", "all": True, "http": "10.0.0.1:80"}, 400),
        ({}, 400),
    ],
)
def test_nonsense_is_refused_before_anybody_is_asked(
    steered: Steered, body: dict[str, Any], status: int
) -> None:
    answer = steered.client.post("/v1/cluster/exec", json=body)
    assert answer.status_code == status, answer.text
    assert steered.agents.asked == []


def test_a_datanodes_agent_does_not_steer() -> None:
    leader = FakeNode({"GetClusterStatus": fakes.cluster_status()})
    tested = create_app(agent({fakes.OWN: well(), C1: leader})).test_client()
    answer = tested.post("/v1/cluster/exec", json={"action": "status", "all": True})
    assert answer.status_code == 409


def test_only_so_many_at_once(steered: Steered) -> None:
    gate = threading.Event()
    arrived = threading.Semaphore(0)

    def slow(*_: Any) -> TargetAnswer:
        arrived.release()
        gate.wait(10)
        return TargetAnswer(200, {})

    steered.agents.answers[D2] = slow
    body = {"action": "status", "nodes": ["d2"]}
    app = create_app(steered.served)
    threads = [
        threading.Thread(target=lambda: app.test_client().post("/v1/cluster/exec", json=body))
        for _ in range(limits.EXECS_AT_ONCE)
    ]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert arrived.acquire(timeout=10)
    assert steered.client.post("/v1/cluster/exec", json=body).status_code == 429
    gate.set()
    for thread in threads:
        thread.join(10)
    assert steered.client.post("/v1/cluster/exec", json=body).status_code == 200


# One node


@pytest.mark.parametrize("action", ["drain", "undrain", "maintenance", "decommission"])
def test_a_nodes_life_cycle_goes_to_the_leader(steered: Steered, action: str) -> None:
    steered.node.answers["SetNode"] = admin_pb2.ActionResponse(detail="done")
    answer = steered.client.post(f"/v1/cluster/nodes/d1/{action}", json={})
    assert answer.json == {"node_id": "d1", "action": action, "detail": "done"}
    (order,) = steered.asked_of_node("SetNode")
    assert (order.node_id, order.action) == ("d1", action)


def test_a_node_is_forgotten(steered: Steered) -> None:
    assert steered.client.post("/v1/cluster/nodes/d1/forget", json={"force": True}).status_code == 200
    assert steered.asked_of_node("ForgetNode")[0].force
    assert steered.client.post("/v1/cluster/nodes/d1/explode", json={}).status_code == 400
    assert steered.client.post("/v1/cluster/nodes/..%2f..%2fetc/drain", json={}).status_code == 404


def test_an_order_whose_answer_is_lost_is_unknown(steered: Steered) -> None:
    steered.node.loses_answers = True
    answer = steered.client.post("/v1/cluster/nodes/d1/drain", json={})
    assert answer.status_code == 504
    assert answer.json is not None
    assert answer.json["error"]["code"] == "outcome_unknown"


# Garbage


def test_a_cycle_is_begun_and_looked_after(steered: Steered) -> None:
    steered.node.answers["RunGc"] = lambda asked: admin_pb2.GcReport(
        cycle=3, outcome="done" if asked.ticket else "running", ticket=7, dry_run=asked.dry_run
    )
    begun = steered.client.post("/v1/gc/cycles", json={"dry_run": True})
    assert begun.status_code == 202
    assert begun.json is not None
    assert (begun.json["outcome"], begun.json["ticket"], begun.json["dry_run"]) == ("running", 7, True)
    over = steered.client.post("/v1/gc/cycles", json={"ticket": 7})
    assert over.status_code == 200


def test_the_collection_is_paused_and_resumed(steered: Steered) -> None:
    steered.node.answers["ControlGc"] = lambda asked: admin_pb2.GcStatus(paused=asked.pause)
    for paused in (True, False):
        answer = steered.client.post("/v1/gc", json={"paused": paused})
        assert answer.json is not None
        assert answer.json["paused"] is paused
    assert steered.client.post("/v1/gc", json={}).status_code == 400


def test_a_chunk_is_explained(steered: Steered) -> None:
    steered.node.answers["ExplainChunk"] = lambda asked: admin_pb2.ChunkStory(
        chunk=asked.chunk, state="orphan", since_wall_ms=5
    )
    found = steered.client.get("/v1/gc/explain/" + "AB" * 16).json
    assert found is not None
    assert (found["chunk"], found["state"], found["orphan_since"][:4]) == ("ab" * 16, "orphan", "1970")
    for wrong in ("zz" * 16, "ab", "%00"):
        assert steered.client.get(f"/v1/gc/explain/{wrong}").status_code == 400


def test_duties_are_shown_and_told(steered: Steered) -> None:
    steered.node.answers["ListDuties"] = admin_pb2.Duties(duties=[admin_pb2.Duty(name="gc", state="idle")])
    found = steered.client.get("/v1/duties").json
    assert found is not None
    assert [one["name"] for one in found["duties"]] == ["gc"]
    steered.node.answers["ControlDuty"] = lambda asked: admin_pb2.Duty(name=asked.name, last=asked.action)
    told = steered.client.post("/v1/duties/gc", json={"action": "run"}).json
    assert told is not None
    assert (told["name"], told["last"]) == ("gc", "run")


# Who is meant


def test_whom_a_request_means_is_said_in_one_way() -> None:
    nodes = fakes.cluster_status().view.nodes
    assert [one.info.node_id for one in choose(nodes, Meant("", ("d2", "c1"), False))] == ["c1", "d2"]
    assert len(choose(nodes, Meant("", (), True))) == 3
    assert [one.info.node_id for one in choose(nodes, Meant("zone!=a", (), False))] == ["d2"]
    for meant in (Meant("", (), False), Meant("  ", (), False), Meant("zone=a", ("d1",), False)):
        with pytest.raises(InvalidArgumentError):
            choose(nodes, meant)
    with pytest.raises(NotFoundError):
        choose(nodes, Meant("", ("d1", "x"), False))


def test_in_loopback_mode_no_other_machine_is_asked() -> None:
    with pytest.raises(PermissionDeniedError):
        HttpAgents(only_loopback=True).ask("169.254.169.254:80", "GET", "/", None, {}, 1)


def test_a_cycle_of_the_collection_is_run_once_for_all_that_are_meant(steered: Steered) -> None:
    steered.node.answers["RunGc"] = admin_pb2.GcReport(ticket=7, outcome="running", dry_run=True)
    found = steered.exec("gc", 200, all=True, params={"dry_run": True})
    assert [one.dry_run for one in steered.asked_of_node("RunGc")] == [True]
    expected = {"ticket": 7, "outcome": "running", "dry_run": True}
    assert [(one["node_id"], one["result"]) for one in found["results"]] == [
        (node_id, expected) for node_id in ("c1", "d1", "d2")
    ]
    steered.node.answers["ControlGc"] = admin_pb2.GcStatus(paused=True)
    steered.exec("gc", 200, selector="zone=a", params={"action": "pause"})
    assert [one.pause for one in steered.asked_of_node("ControlGc")] == [True]
    steered.exec("gc", 400, all=True, params={"action": "pause", "dry_run": True})


def test_a_collection_that_does_not_begin_is_told_for_each(steered: Steered) -> None:
    refusal = to_detail(BusyError("other cycles wait to be run"))
    steered.node.answers["RunGc"] = admin_pb2.GcReport(error=refusal)
    found = steered.exec("gc", 502, all=True)
    assert {one["error"]["code"] for one in found["results"]} == {"busy"}
