"""The management agents of a whole cluster: every endpoint on every node, in health and in every kind of trouble.

An agent answers within two seconds whatever its node does, and its status codes are the truth.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from quorumfs import Client
from quorumfs.local.layout import NodeSpec
from quorumfs.testing import LocalCluster, cluster_fixture, wait_for
from tests.support.agents import Answer, ask
from tests.support.surprises import surprises

pytestmark = pytest.mark.cluster

ANSWER_SECONDS = 2.0
MUTATIONS = (
    ("POST", "/shutdown", {}),
    ("DELETE", "/shutdown", {}),
    ("PUT", "/logs/level", {"level": "debug"}),
    ("PATCH", "/v1/labels", {"labels": {"colour": "red"}}),
)

cluster = cluster_fixture(labels={"zone": ("a", "b", "c")})


@pytest.fixture(autouse=True)
def well(cluster: LocalCluster) -> Iterator[None]:
    """Every test finds all of it running, and leaves nothing hanging."""
    yield
    for process in cluster.local.status()["processes"]:
        if process["state"] == "paused":
            cluster.resume(process["node_id"], process["kind"])
    cluster.start_all()


def node(cluster: LocalCluster, node_id: str) -> NodeSpec:
    return cluster.layout.node(node_id)


def look(cluster: LocalCluster, node_id: str, path: str = "/health") -> Answer:
    """A read, which must not take long."""
    answer = ask(node(cluster, node_id), path)
    assert answer.seconds < ANSWER_SECONDS, f"{path} of {node_id} took {answer.seconds:.2f} s"
    return answer


def everywhere(cluster: LocalCluster, path: str) -> dict[str, Answer]:
    return {one.node_id: look(cluster, one.node_id, path) for one in cluster.nodes}


def until(condition: Callable[[], Any], what: str) -> None:
    wait_for(condition, 30.0, what)


@pytest.mark.parametrize(("harm", "state"), [("pause", "hung"), ("kill", "down")])
def test_the_agent_of_a_follower_that_hangs_or_is_dead_says_so(
    cluster: LocalCluster, harm: str, state: str
) -> None:
    leader = cluster.leader()
    victim = next(c for c in ("c1", "c2", "c3") if c != leader)
    (cluster.pause if harm == "pause" else cluster.kill)(victim)
    until(lambda: look(cluster, victim).json["node"]["state"] == state, f"{victim} is {state}")
    for path in ("/health", "/health/live", "/health/ready"):
        answer = look(cluster, victim, path)
        assert answer.status == 503
        assert any(word in answer.text for word in (("hang",) if state == "hung" else ("down",)))
    status = look(cluster, victim, "/status")
    assert (status.status, status.json["node"]["state"]) == (200, state)
    assert status.json["age_seconds"] > 0, "what it said last is told with its age"
    metrics = look(cluster, victim, "/metrics")
    assert metrics.status == 200
    assert re.search(r"^quorumfs_node_up\{.*\} 0\.0$", metrics.text, re.MULTILINE)
    until(
        lambda: look(cluster, victim, "/leader").status == 200,
        "its agent still names the leader",
    )
    assert ask(node(cluster, victim), "/logs/level", "PUT", {"level": "info"}).status in (503, 504)
    (cluster.resume if harm == "pause" else cluster.start_node)(victim)
    until(lambda: look(cluster, victim).status == 200, f"{victim} is well again")


def test_a_datanode_whose_coordinators_have_all_moved_away_finds_the_leader_through_its_sidecar(
    cluster: LocalCluster,
) -> None:
    """It is started with addresses at which nobody is; its agent, which runs on, knows better."""
    spec = node(cluster, "d1")
    file = cluster.layout.process(spec, "node").config
    before = file.read_text()
    known = ", ".join(f'"{address}"' for address in cluster.coordinators.split(","))
    assert known in before
    cluster.stop("d1")
    file.write_text(before.replace(known, '"127.0.0.1:9", "127.0.0.1:11"'))
    seen = cluster.log("d1").count('"node.registered"')
    try:
        cluster.start_node("d1")
        until(lambda: cluster.log("d1").count('"node.registered"') > seen, "d1 is registered")
    finally:
        file.write_text(before)


# --- in health --------------------------------------------------------------------------------------------


def test_all_agents_name_the_same_leader_with_its_addresses(cluster: LocalCluster) -> None:
    leader = node(cluster, cluster.leader())
    for answer in everywhere(cluster, "/leader").values():
        assert answer.json["leader"] == {
            "node_id": leader.node_id,
            "grpc": leader.address("grpc"),
            "http": leader.address("http"),
        }
        assert 0 <= answer.json["age_seconds"] < 5


def heard(cluster: LocalCluster, node_id: str) -> bool:
    """Whether a heartbeat was answered: one that has only just registered waits for its first answer."""
    return look(cluster, node_id, "/status").json["heartbeat_age_seconds"] is not None


def test_status_tells_role_term_indexes_disks_and_labels(cluster: LocalCluster) -> None:
    for one in cluster.layout.datanodes:
        until(partial(heard, cluster, one.node_id), f"{one.node_id} is heard")
    for node_id, answer in everywhere(cluster, "/status").items():
        status = answer.json
        spec = node(cluster, node_id)
        assert (status["node_id"], status["role"]) == (node_id, spec.role)
        assert (status["grpc"], status["http"]) == (spec.address("grpc"), spec.address("http"))
        assert status["term"] >= 1
        assert status["uptime_seconds"] > 0
        if spec.role == "coordinator":
            assert status["commit_index"] >= status["applied_index"] > 0
        else:
            assert status["labels"] == {"zone": "abc"[int(node_id[1]) - 1]}
            assert [disk["state"] for disk in status["disks"]] == ["ok"]
            assert status["heartbeat_age_seconds"] < 5


def test_the_fleet_is_the_same_from_everywhere_and_selectors_choose(cluster: LocalCluster) -> None:
    for answer in everywhere(cluster, "/v1/cluster").values():
        assert [one["node_id"] for one in answer.json["coordinators"]] == ["c1", "c2", "c3"]
        assert {one["node_id"]: one["state"] for one in answer.json["datanodes"]} == dict.fromkeys(
            ("d1", "d2", "d3"), "alive"
        )
    for selector, expected in (("zone=a", ["d1"]), ("zone%20in%20(b,c)", ["d2", "d3"]), ("rack", [])):
        answer = look(cluster, "d2", f"/v1/cluster/nodes?selector={selector}")
        assert [one["node_id"] for one in answer.json["nodes"]] == expected
    assert look(cluster, "d2", "/v1/cluster/nodes?selector=zone%20in").status == 400


def test_metrics_count_what_was_stored(cluster: LocalCluster, fs: Client) -> None:
    fs.write_bytes("/counted", b"x" * 100_000)
    for node_id in ("d1", "d2", "d3"):
        text = look(cluster, node_id, "/metrics").text
        assert 'quorumfs_disk_chunks{disk="' in text
        assert "quorumfs_received_bytes_total" in text


def test_the_log_level_can_be_changed_for_a_while(cluster: LocalCluster) -> None:
    for node_id in ("c1", "d1"):
        spec = node(cluster, node_id)
        changed = ask(spec, "/logs/level", "PUT", {"level": "debug", "ttl_seconds": 600})
        assert changed.status == 200
        told = look(cluster, node_id, "/logs/level").json
        assert told["level"].lower() == "debug"
        assert 0 < told["ttl_seconds"] <= 600
        assert ask(spec, "/logs/level", "PUT", {"level": "info"}).status == 200
        assert ask(spec, "/logs/level", "PUT", {"level": "loud"}).status == 400


def test_a_label_set_on_one_node_is_seen_from_all(cluster: LocalCluster) -> None:
    changed = ask(node(cluster, "d1"), "/v1/labels", "PATCH", {"labels": {"canary": "yes"}})
    assert changed.status == 200, changed.text
    for node_id in ("c1", "c2", "c3", "d3"):
        until(
            lambda node_id=node_id: (
                [  # type: ignore[misc]
                    one["node_id"]
                    for one in look(cluster, node_id, "/v1/cluster/nodes?selector=canary").json["nodes"]
                ]
                == ["d1"]
            ),
            f"{node_id} sees the label",
        )
    assert ask(node(cluster, "d1"), "/v1/labels", "PATCH", {"labels": {"canary": None}}).status == 200


def test_a_log_is_told_line_by_line(cluster: LocalCluster) -> None:
    for node_id in ("c1", "d1"):
        lines = look(cluster, node_id, "/logs/stream?follow=false").text.splitlines()
        records = [json.loads(line) for line in lines if line]
        assert records
        assert all({"ts", "level", "event"} <= one.keys() for one in records)


# --- who may change something -----------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path", "body"), MUTATIONS)
def test_a_web_page_changes_nothing(
    cluster: LocalCluster, method: str, path: str, body: dict[str, Any]
) -> None:
    for node_id in ("c1", "d1"):
        spec = node(cluster, node_id)
        raw = json.dumps(body).encode()
        refused = [
            ask(spec, path, method, body, {"Origin": "http://evil.example"}),
            ask(spec, path, method, body, {"Origin": f"http://{spec.address('http')}"}),
            ask(spec, path, method, body, {"Host": "evil.example"}),
            ask(spec, path, method, raw, {"Content-Type": "text/plain"}),
            ask(spec, path, method, raw, {"Content-Type": "application/x-www-form-urlencoded"}),
            ask(spec, path, method, b"{no json"),
            ask(spec, path, method, {**body, "unheard": "of"}),
        ]
        assert [answer.status for answer in refused] == [403, 403, 403, 415, 415, 400, 400]
        assert all(answer.json["error"]["next"] for answer in refused[:5])
        assert look(cluster, node_id, "/health").status == 200
        assert "colour" not in look(cluster, node_id, "/v1/labels").json["labels"]


def test_what_is_not_there_or_not_allowed_is_said_in_json(cluster: LocalCluster) -> None:
    for path, method, status in (
        ("/nothing", "GET", 404),
        ("/health", "POST", 405),
        ("/shutdown", "GET", 405),
    ):
        answer = ask(node(cluster, "c2"), path, method, {} if method == "POST" else None)
        assert answer.status == status
        assert {"code", "message", "cause", "next"} == answer.json["error"].keys()


# --- in trouble -------------------------------------------------------------------------------------------


def test_many_questions_at_once_to_a_hung_node_are_all_answered_in_time(cluster: LocalCluster) -> None:
    cluster.pause("d1")
    with ThreadPoolExecutor(24) as pool:
        answers = list(
            pool.map(lambda path: look(cluster, "d1", path), ("/health", "/status", "/leader") * 16)
        )
    assert {answer.status for answer in answers[0::3]} <= {200, 503}
    assert {answer.status for answer in answers[1::3]} == {200}
    assert {answer.status for answer in answers[2::3]} == {200}


def test_an_agent_that_was_killed_leaves_its_node_alone_and_comes_back(
    cluster: LocalCluster, fs: Client
) -> None:
    cluster.kill("d3", "sidecar")
    with pytest.raises(OSError):
        ask(node(cluster, "d3"), "/health")
    fs.write_bytes("/without-an-agent", b"x" * 50_000)
    cluster.start_node("d3", "sidecar")
    cluster.wait_ready()
    until(lambda: look(cluster, "d3").status == 200, "the agent is back")


# --- the end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["datanode", "follower", "leader"])
def test_shutdown_drains_and_exits_with_zero(cluster: LocalCluster, fs: Client, role: str) -> None:
    leader = cluster.leader()
    follower = next(c for c in ("c1", "c2", "c3") if c != leader)
    victim = {"leader": leader, "follower": follower, "datanode": "d1"}[role]
    fs.write_bytes("/before-the-end", b"1")
    told = ask(node(cluster, victim), "/shutdown", "POST", {"reason": "a test ends it"})
    assert told.status == 202, told.text
    assert told.json["node_id"] == victim
    fs.write_bytes("/during-the-end", b"2")
    until(lambda: state_of(cluster, victim) != "running", f"{victim} ends")
    log = cluster.log(victim)
    assert "a test ends it" in log
    assert log.rstrip().splitlines()[-1].count("node.stopped") == 1
    until(lambda: look(cluster, victim).json["node"]["state"] == "down", "its agent stays and says so")
    assert fs.read_bytes("/before-the-end") + fs.read_bytes("/during-the-end") == b"12"


def state_of(cluster: LocalCluster, node_id: str) -> str:
    found = {
        one["node_id"]: one["state"] for one in cluster.local.status()["processes"] if one["kind"] == "node"
    }
    return str(found[node_id])


def test_no_agent_has_thrown_up_its_hands(cluster: LocalCluster) -> None:
    assert surprises(cluster) == []
