"""Each endpoint over a node that is well, hangs, is down, or knows no leader."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from quorumfs.clock import ManualClock
from quorumfs.errors import NoLeaderError, NotLeaderError
from quorumfs.rpc.status import to_detail
from quorumfs.v1 import admin_pb2, types_pb2
from sidecar.app import create_app
from tests.unit.sidecar import fakes
from tests.unit.sidecar.fakes import C1, C2, C3, OWN, FakeNode, agent, leaderless, view, well


def client(nodes: dict[str, FakeNode], **kwargs: Any) -> FlaskClient:
    return create_app(agent(nodes, **kwargs)).test_client()


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
def test_a_node_that_is_well_is_healthy(path: str) -> None:
    answer = client({OWN: well()}).get(path)
    assert answer.status_code == 200
    assert answer.json is not None
    assert answer.json["reasons"] == []
    assert answer.json["node"]["state"] == "ok"


@pytest.mark.parametrize(("state", "word"), [("hung", "hangs"), ("down", "is down")])
@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
def test_a_node_that_does_not_answer_is_unhealthy_and_it_is_said_how(
    path: str, state: str, word: str
) -> None:
    answer = client({OWN: FakeNode(state=state)}).get(path)
    assert answer.status_code == 503
    assert answer.json is not None
    assert answer.json["node"]["state"] == state
    assert word in answer.json["reasons"][0]


def test_another_node_on_this_nodes_port_is_not_taken_for_it() -> None:
    stranger = well(Shutdown=admin_pb2.ShutdownResponse(state="draining"))
    tested = client({OWN: stranger}, node_id="d9")
    answer = tested.get("/health")
    assert answer.status_code == 503
    assert answer.json is not None
    assert answer.json["node"]["state"] == "down"
    assert "another node, d1, listens there" in answer.json["reasons"][0]
    assert tested.post("/shutdown", data="{}", headers=JSON).status_code == 503
    assert "Shutdown" not in [name.rpartition(".")[2] for name, _ in stranger.asked]


def test_a_node_without_a_leader_lives_and_is_not_ready() -> None:
    tested = client({OWN: leaderless()})
    assert tested.get("/health/live").status_code == 200
    ready = tested.get("/health/ready")
    assert ready.status_code == 503
    assert ready.json is not None
    assert ready.json["reasons"] == ["leader: no leader is known"]


def test_insecure_mode_is_warned_of_in_health() -> None:
    answer = client({OWN: well()}, insecure=True).get("/health")
    assert answer.json is not None
    assert "insecure" in answer.json["warnings"][0]


def test_the_leader_is_told_with_its_age_and_source() -> None:
    answer = client({OWN: well()}).get("/leader")
    assert answer.status_code == 200
    assert answer.json is not None
    assert answer.json["leader"] == {"node_id": "c1", "grpc": C1, "http": "127.0.0.1:7402"}
    assert answer.json["term"] == 7
    assert answer.json["source"] == "heartbeat"
    assert answer.json["age_seconds"] == pytest.approx(0.2)
    assert answer.json["observed_at"].endswith("Z")


@pytest.mark.parametrize("state", ["hung", "down"])
def test_the_leader_is_found_although_the_own_node_does_not_answer(state: str) -> None:
    nodes = {
        OWN: FakeNode(state=state),
        C2: view("c2", "c2", C2, term=8, is_leader=True),
        C3: view("c3", "c2", C2),
    }
    answer = client(nodes).get("/leader")
    assert answer.status_code == 200
    assert answer.json is not None
    assert answer.json["leader"]["node_id"] == "c2"
    assert answer.json["term"] == 8
    assert answer.json["source"] == "leader"


def test_without_a_leader_the_answer_is_503_with_the_last_one_known() -> None:
    clock = ManualClock()
    nodes = {OWN: well()}
    tested = client(nodes, clock=clock)
    assert tested.get("/leader").status_code == 200
    nodes[OWN].state = "down"
    clock.advance(10)
    answer = tested.get("/leader")
    assert answer.status_code == 503
    assert answer.json is not None
    assert answer.json["leader"] is None
    assert answer.json["error"]["code"] == "no_leader"
    assert answer.json["last_known"]["leader"]["node_id"] == "c1"
    assert answer.json["last_known"]["age_seconds"] == pytest.approx(10.2)


def test_a_view_of_the_leader_that_is_too_old_is_not_told_as_current() -> None:
    old = FakeNode(
        {"GetStatus": fakes.status(fakes.leader_view(age_seconds=30.0)), "GetHealth": fakes.health()}
    )
    assert client({OWN: old}).get("/leader").status_code == 503


def test_status_keeps_what_a_dead_node_said_last_and_says_how_old_that_is() -> None:
    clock = ManualClock()
    nodes = {OWN: well()}
    tested = client(nodes, clock=clock)
    before = tested.get("/status").json
    assert before is not None
    assert (before["state"], before["uptime_seconds"], before["term"]) == ("running", 90.0, 7)
    nodes[OWN].state = "down"
    clock.advance(5)
    after = tested.get("/status").json
    assert after is not None
    assert after["state"] == "down"
    assert after["labels"] == {"zone": "a"}
    assert after["disks"][0]["free_bytes"] == 60
    assert after["age_seconds"] == pytest.approx(5.0)
    assert after["uptime_seconds"] is None


def test_status_of_a_node_that_never_answered_has_its_shape_and_no_facts() -> None:
    found = client({}).get("/status").json
    assert found is not None
    assert found["state"] == "down"
    assert found["labels"] == {"zone": "a"}
    assert found["observed_at"] is None


def test_metrics_are_the_nodes_and_the_agents_own() -> None:
    text = b"# TYPE quorumfs_chunks gauge\nquorumfs_chunks 3\n# EOF\n"
    answer = client({OWN: well(GetMetrics=admin_pb2.MetricsText(text=text))}).get("/metrics")
    assert answer.status_code == 200
    assert answer.mimetype == "text/plain"
    assert "quorumfs_chunks 3\n" in answer.text
    assert "# EOF" not in answer.text
    assert 'quorumfs_node_up{node_id="d1",role="datanode"} 1.0' in answer.text


@pytest.mark.parametrize("state", ["hung", "down"])
def test_metrics_answer_while_the_node_does_not(state: str) -> None:
    answer = client({OWN: FakeNode(state=state)}).get("/metrics")
    assert answer.status_code == 200
    assert 'quorumfs_node_up{node_id="d1",role="datanode"} 0.0' in answer.text
    assert f'quorumfs_sidecar_node_state{{state="{state}"}} 1.0' in answer.text


def test_the_cluster_is_told_by_the_leader_to_a_datanodes_agent() -> None:
    leader = FakeNode({"GetClusterStatus": fakes.cluster_status()})
    answer = client({OWN: well(), C1: leader}).get("/v1/cluster")
    assert answer.status_code == 200
    found = answer.json
    assert found is not None
    assert [node["node_id"] for node in found["datanodes"]] == ["d1", "d2"]
    assert found["capacity"] == {"total_bytes": 1000, "used_bytes": 600, "free_bytes": 400}
    assert (found["observed_by"], found["current"]) == (C1, True)


def test_the_cluster_is_still_told_when_nobody_answers_any_more() -> None:
    clock = ManualClock()
    nodes = {OWN: well(), C1: FakeNode({"GetClusterStatus": fakes.cluster_status()})}
    tested = client(nodes, clock=clock)
    assert tested.get("/v1/cluster").status_code == 200
    nodes[C1].state = "down"
    clock.advance(20)
    found = tested.get("/v1/cluster").json
    assert found is not None
    assert found["cluster_id"] == "6f96"
    assert found["current"] is False
    assert found["age_seconds"] == pytest.approx(20.0)
    assert C1 in found["reason"]


def test_a_follower_that_refuses_leads_on_to_the_leader() -> None:
    own = well(GetGc=NotLeaderError("not the leader"))
    leader = FakeNode({"GetGc": admin_pb2.GcStatus(state="idle", cycle=4)})
    nodes = {C1: own, C2: leader, C3: FakeNode(state="hung")}
    own.answers["GetStatus"] = fakes.status(fakes.leader_view("c2", C2))
    found = client(nodes, role="coordinator").get("/v1/gc").json
    assert found is not None
    assert (found["cycle"], found["observed_by"], found["authoritative"]) == (4, C2, False)
    leader.answers["GetGc"] = admin_pb2.GcStatus(state="idle", cycle=4, authoritative=True)
    found = client(nodes, role="coordinator").get("/v1/gc").json
    assert found is not None
    assert found["authoritative"]


def test_how_well_chunks_are_kept_is_told_by_every_agent() -> None:
    kept = [admin_pb2.KeptChunks(want=3, number=2, chunks=4, bytes=9)]
    told = admin_pb2.Durability(copies=kept, zones=kept, chunks=4, lacking_total=4, age_seconds=1.5)
    found = client({OWN: well(), C1: FakeNode({"GetDurability": told})}).get("/v1/cluster/durability").json
    assert found is not None
    assert found["copies"] == [{"want": 3, "live": 2, "chunks": 4, "size_bytes": 9}]
    assert found["zones"] == [{"want": 3, "number": 2, "chunks": 4, "size_bytes": 9}]
    assert (found["under_replicated"], found["missing"], found["counted_age_seconds"]) == (4, 0, 1.5)


def test_the_nodes_health_is_told_by_the_leader_to_a_followers_agent() -> None:
    followed, led = fakes.cluster_status(), fakes.cluster_status()
    for one in (followed.view, led.view):
        one.leader.node_id, one.leader.grpc = "c2", C2
    for node in followed.view.nodes:
        node.state = types_pb2.NODE_STATE_UNSPECIFIED
    led.view.authoritative = True
    own = well(GetStatus=fakes.status(node_id="c1"), GetClusterStatus=followed)
    nodes = {C1: own, C2: FakeNode({"GetClusterStatus": led})}
    clock = ManualClock()
    tested = client(nodes, role="coordinator", clock=clock)
    found = tested.get("/v1/cluster").json
    assert found is not None
    assert {node["state"] for node in found["datanodes"]} == {"alive"}
    assert (found["authoritative"], found["observed_by"]) == (True, C2)
    nodes[C2].state = "hung"
    clock.advance(20)
    found = tested.get("/v1/cluster").json
    assert found is not None
    assert {node["state"] for node in found["datanodes"]} == {"unspecified"}
    assert (found["authoritative"], found["observed_by"]) == (False, "c1")


def test_a_selector_chooses_nodes_and_a_bad_one_is_refused() -> None:
    leader = FakeNode({"GetClusterStatus": fakes.cluster_status()})
    tested = client({OWN: well(), C1: leader})
    found = tested.get("/v1/cluster/nodes?selector=zone=a,role!=x").json
    assert found is not None
    assert [node["node_id"] for node in found["nodes"]] == ["c1", "d1"]
    found = tested.get("/v1/cluster/nodes?selector=role=datanode").json
    assert found is not None
    assert [node["node_id"] for node in found["nodes"]] == ["d1", "d2"]
    assert tested.get("/v1/cluster/nodes?selector=zone=(").status_code == 400
    every = tested.get("/v1/cluster/nodes").json
    assert every is not None
    assert len(every["nodes"]) == 3


def test_raft_of_a_coordinator_is_its_own_members_view() -> None:
    told = admin_pb2.RaftStatus(node_id="c1", state="follower", term=7, commit_index=12, applied_index=11)
    own = well(GetStatus=fakes.status(node_id="c1"), GetRaft=told)
    found = client({C1: own}, role="coordinator").get("/v1/raft").json
    assert found is not None
    assert (found["node_id"], found["state"], found["applied_index"]) == ("c1", "follower", 11)
    assert found["observed_by"] == "c1"


JSON = {"Content-Type": "application/json"}


def test_labels_are_changed_on_the_node_and_told_back() -> None:
    node = well(SetLabels=admin_pb2.Labels(labels={"zone": "b"}))
    answer = client({OWN: node}).patch(
        "/v1/labels", data='{"labels": {"zone": "b", "canary": null}}', headers=JSON
    )
    assert answer.status_code == 200
    assert answer.json is not None
    assert answer.json["labels"] == {"zone": "b"}
    request = next(request for name, request in node.asked if name == "Admin.SetLabels")
    assert (dict(request.set), list(request.remove)) == ({"zone": "b"}, ["canary"])


def test_what_the_node_refuses_keeps_its_code_and_words() -> None:
    node = well(SetLabels=NoLeaderError("the labels were not changed", cause="no leader is known"))
    answer = client({OWN: node}).patch("/v1/labels", data='{"labels": {"zone": "b"}}', headers=JSON)
    assert answer.status_code == 503
    assert answer.json is not None
    assert answer.json["error"]["code"] == "no_leader"
    assert answer.json["error"]["cause"] == "no leader is known"
    assert answer.headers["Retry-After"] == "1"


def test_a_change_whose_answer_is_lost_is_unknown_and_not_failed() -> None:
    node = well()
    node.loses_answers = True
    answer = client({OWN: node}).post("/shutdown", headers=JSON)
    assert answer.status_code == 504
    assert answer.json is not None
    assert answer.json["error"]["code"] == "outcome_unknown"


def test_a_change_is_not_sent_to_a_node_that_hangs() -> None:
    answer = client({OWN: FakeNode(state="hung")}).post("/shutdown", headers=JSON)
    assert answer.status_code == 504
    assert answer.json is not None
    assert answer.json["error"]["code"] == "timed_out"
    assert "was not sent" in answer.json["error"]["cause"]


def test_a_shutdown_is_passed_on_and_can_be_called_off() -> None:
    node = well(Shutdown=admin_pb2.ShutdownResponse(state="draining", detail="2 streams"))
    tested = client({OWN: node})
    body = '{"mode": "graceful", "drain_seconds": 30, "reason": "new disk"}'
    begun = tested.post("/shutdown", data=body, headers=JSON)
    assert begun.status_code == 202
    assert begun.json == {"node_id": "d1", "state": "draining", "detail": "2 streams"}
    assert tested.delete("/shutdown", headers=JSON).status_code == 200
    asked = [request for name, request in node.asked if name == "Admin.Shutdown"]
    assert (asked[0].drain_seconds, asked[0].reason, asked[0].cancel) == (30.0, "new disk", False)
    assert asked[1].cancel


def test_the_log_level_is_set_for_a_time() -> None:
    node = well(SetLogLevel=lambda request: request, GetLogLevel=admin_pb2.LogLevel(level="info"))
    tested = client({OWN: node})
    assert tested.get("/logs/level").json == {
        "node_id": "d1",
        "level": "info",
        "ttl_seconds": 0.0,
        "logger": "",
    }
    answer = tested.put("/logs/level", data='{"level": "debug", "ttl_seconds": 600}', headers=JSON)
    assert answer.json is not None
    assert (answer.json["level"], answer.json["ttl_seconds"]) == ("debug", 600.0)


def test_the_level_of_one_logger_is_asked_for_as_such() -> None:
    node = well(GetLogLevel=lambda request: admin_pb2.LogLevel(level="debug", logger=request.logger))
    answer = client({OWN: node}).get("/logs/level?logger=coordinator.duties")
    assert (answer.status_code, answer.json["logger"]) == (200, "coordinator.duties")


def test_the_log_is_told_as_lines_of_json() -> None:
    node = well()
    node.records = [
        admin_pb2.LogRecord(id=1, wall_ms=1, level="info", event="a", json='{"event": "a", "n": 1}'),
        admin_pb2.LogRecord(id=2, wall_ms=2, level="error", event="b", json="not JSON \x1b[2J"),
        admin_pb2.LogRecord(id=3, wall_ms=3, level="error", event="c", json='{"event": "c", "N": "Needle"}'),
    ]
    tested = client({OWN: node})
    lines = [json.loads(line) for line in tested.get("/logs/stream").text.splitlines()]
    assert [line["id"] for line in lines] == [1, 2, 3]
    assert lines[1]["text"] == "not JSON \x1b[2J"
    assert "\x1b" not in tested.get("/logs/stream").text
    assert len(tested.get("/logs/stream?level=error").text.splitlines()) == 2
    assert len(tested.get("/logs/stream?grep=needle").text.splitlines()) == 1
    events = tested.get("/logs/stream?follow=0", headers={"Accept": "text/event-stream"})
    assert events.mimetype == "text/event-stream"
    assert events.text.startswith("id: 3-4711:1\ndata: {")
    resumed = tested.get("/logs/stream", headers={"Last-Event-ID": "3-4711:2"})
    assert [json.loads(line)["id"] for line in resumed.text.splitlines()] == [3]
    other_life = tested.get("/logs/stream", headers={"Last-Event-ID": "2-99:2"})
    assert len(other_life.text.splitlines()) == 3


def test_a_log_of_a_node_that_is_down_is_an_error_and_gives_its_place_back() -> None:
    served = agent({OWN: FakeNode(state="down")})
    tested = create_app(served).test_client()
    for _ in range(100):
        assert tested.get("/logs/stream").status_code == 503
    assert served.logs.readers == 0


CHUNK = "01" * 16


@pytest.mark.parametrize(
    ("path", "method", "told"),
    [
        (
            f"/v1/gc/explain/{CHUNK}",
            "ExplainChunk",
            admin_pb2.ChunkStory(chunk=b"\1" * 16, state="orphan", age_ms=9_000),
        ),
        (
            "/v1/gc/candidates",
            "ListCandidates",
            admin_pb2.Candidates(chunks=[admin_pb2.ChunkStory(chunk=b"\1" * 16)], age_ms=9_000),
        ),
        ("/v1/repair", "GetRepair", admin_pb2.RepairStatus(pending=4, age_ms=9_000)),
    ],
)
def test_without_a_leader_the_tables_of_any_coordinator_are_told_as_old_as_they_are(
    path: str, method: str, told: Any
) -> None:
    def answer(request: Any) -> Any:
        return told if request.stale else type(told)(error=to_detail(NotLeaderError("c2 does not lead")))

    nodes = {OWN: leaderless(), C2: FakeNode({method: answer}), C1: FakeNode(state="down")}
    found = client(nodes).get(path)
    assert (found.status_code, found.is_json) == (200, True)
    assert found.json is not None
    assert (found.json["authoritative"], found.json["current"]) == (False, False)
    assert (found.json["age_seconds"], found.json["observed_by"]) == (9.0, C2)
    assert found.json["reason"]


def test_who_asks_for_what_is_not_there_is_shown_the_list_of_what_is() -> None:
    found = client({OWN: well()}).get("/v1/nothing")
    assert (found.status_code, found.is_json) == (404, True)
    assert found.json is not None
    assert "/openapi.json" in found.json["error"]["next"]


def test_datanodes_that_did_not_tell_of_their_quarantine_are_named() -> None:
    told = admin_pb2.Candidates(authoritative=True, silent_nodes=["d2"])
    found = client({OWN: well(), C1: FakeNode({"ListCandidates": told})}).get(
        "/v1/gc/candidates?state=quarantined"
    )
    assert found.json is not None
    assert (found.status_code, found.json["chunks"], found.json["silent_nodes"]) == (200, [], ["d2"])


def test_a_chunk_that_the_leader_explains_is_told_as_its_word() -> None:
    story = admin_pb2.ChunkStory(chunk=b"\1" * 16, state="orphan", authoritative=True)
    asked = FakeNode({"ExplainChunk": story})
    found = client({OWN: well(), C1: asked}).get(f"/v1/gc/explain/{CHUNK}").json
    assert found is not None
    assert (found["authoritative"], found["current"], found["observed_by"]) == (True, True, C1)
    assert [request.stale for _, request in asked.asked if hasattr(request, "stale")] == [False]


def test_what_is_shared_among_callers_is_asked_with_the_proof_of_the_secret() -> None:
    served = agent({OWN: well(), C1: FakeNode({"GetClusterStatus": fakes.cluster_status()})})
    assert create_app(served).test_client().get("/v1/cluster").status_code == 200
    proven: Any = served.trusted
    assert "Control.GetClusterStatus" in proven.asked
