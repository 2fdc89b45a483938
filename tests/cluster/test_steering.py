"""The whole cluster steered from one coordinator's agent: by label, node by node, and never into the ground."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quorumfs import Client
from quorumfs.testing import LocalCluster, cluster_fixture, wait_for
from tests.support.agents import Answer, ask
from tests.support.commands import Dfsctl
from tests.support.surprises import surprises

pytestmark = pytest.mark.cluster

cluster = cluster_fixture(labels={"zone": ("a", "b", "c")})


@pytest.fixture(autouse=True)
def well(cluster: LocalCluster) -> Iterator[None]:
    yield
    for process in cluster.local.status()["processes"]:
        if process["state"] == "paused":
            cluster.resume(process["node_id"], process["kind"])
    cluster.start_all()


def exec_at(cluster: LocalCluster, node_id: str, action: str, **body: Any) -> Answer:
    return ask(cluster.layout.node(node_id), "/v1/cluster/exec", "POST", {"action": action, **body})


def test_every_coordinators_agent_reaches_every_node(cluster: LocalCluster) -> None:
    for coordinator in ("c1", "c2", "c3"):
        answer = exec_at(cluster, coordinator, "status", all=True)
        assert answer.status == 200, answer.text
        assert answer.json["matched"] == ["c1", "c2", "c3", "d1", "d2", "d3"]
        assert [one["result"]["node_id"] for one in answer.json["results"]] == answer.json["matched"]
    assert exec_at(cluster, "d1", "status", all=True).status == 409


def test_nodes_are_chosen_by_label(cluster: LocalCluster) -> None:
    answer = exec_at(
        cluster, "c2", "log_level", selector="zone in (a,b)", params={"level": "debug", "ttl_seconds": 60}
    )
    assert answer.json["matched"] == ["d1", "d2"]
    for node_id, level in (("d1", "debug"), ("d2", "debug"), ("d3", "info")):
        assert ask(cluster.layout.node(node_id), "/logs/level").json["level"] == level
    assert exec_at(cluster, "c2", "log_level", selector="zone", params={"level": "info"}).status == 200
    lines = exec_at(cluster, "c1", "logs", selector="zone=c", params={"grep": "node.started"}).json
    assert lines["results"][0]["result"]["lines"][0]["event"] == "node.started"


def test_a_node_that_hangs_or_is_down_makes_it_partial(cluster: LocalCluster) -> None:
    cluster.pause("d2")
    cluster.kill("d3", "sidecar")
    wait_for(
        lambda: ask(cluster.layout.node("d2"), "/health").json["node"]["state"] == "hung",
        30.0,
        "d2's agent knows that it hangs",
    )
    answer = exec_at(cluster, "c1", "log_level", selector="zone", params={"level": "info"})
    assert answer.status == 207, answer.text
    assert [(one["node_id"], one["ok"]) for one in answer.json["results"]] == [
        ("d1", True),
        ("d2", False),
        ("d3", False),
    ]
    assert all(one["error"]["message"] for one in answer.json["results"][1:])
    assert answer.seconds < 10


def test_a_quorum_and_the_last_copies_are_not_stopped(cluster: LocalCluster, fs: Client) -> None:
    fs.write_bytes("/kept", b"x" * 200_000)
    for body, word in (
        ({"nodes": ["c1", "c2"], "max_unavailable": 9}, "quorum"),
        ({"nodes": ["d1", "d2", "d3"], "max_unavailable": 9}, "no replica"),
        ({"nodes": ["d1", "d2"]}, "max_unavailable"),
    ):
        answer = exec_at(cluster, "c3", "shutdown", **body)
        assert answer.status == 409, answer.text
        assert answer.json["error"]["code"] == "safety_guard"
        assert word in answer.json["error"]["cause"]
    assert {one["state"] for one in cluster.local.status()["processes"]} == {"running"}


def test_one_is_stopped_and_the_next_is_refused_until_it_is_back(cluster: LocalCluster, fs: Client) -> None:
    leader = cluster.leader()
    first, second = (one for one in ("c1", "c2", "c3") if one != leader)
    assert exec_at(cluster, leader, "shutdown", nodes=[first]).status == 200
    refused = exec_at(cluster, leader, "shutdown", nodes=[second])
    assert refused.status == 409, refused.text
    assert "quorum" in refused.json["error"]["cause"]
    fs.write_bytes("/still", b"works")
    wait_for(lambda: state_of(cluster, first) != "running", 30.0, f"{first} ends")


def state_of(cluster: LocalCluster, node_id: str) -> str:
    found = {
        one["node_id"]: one["state"] for one in cluster.local.status()["processes"] if one["kind"] == "node"
    }
    return str(found[node_id])


def test_a_drained_node_is_shown_as_one(cluster: LocalCluster) -> None:
    spec = cluster.layout.node("c2")
    assert ask(spec, "/v1/cluster/nodes/d3/drain", "POST", {}).status == 200
    wait_for(lambda: intents(cluster)["d3"] == "draining", 10.0, "it is shown")
    assert ask(spec, "/v1/cluster/nodes/d3/undrain", "POST", {}).status == 200
    wait_for(lambda: intents(cluster)["d3"] == "normal", 10.0, "it is shown")
    assert ask(spec, "/v1/cluster/nodes/d9/drain", "POST", {}).status == 404


def intents(cluster: LocalCluster) -> dict[str, str]:
    nodes = ask(cluster.layout.node("d1"), "/v1/cluster/nodes").json["nodes"]
    return {one["node_id"]: one["intent"] for one in nodes}


def test_the_collection_is_run_and_explained_from_any_agent(cluster: LocalCluster, fs: Client) -> None:
    fs.write_bytes("/explained", b"y" * 200_000)
    chunk = fs.locate("/explained")[0].chunk
    told = ask(cluster.layout.node("d2"), f"/v1/gc/explain/{chunk}")
    assert (told.status, told.json["state"]) == (200, "referenced"), told.text
    begun = ask(cluster.layout.node("d2"), "/v1/gc/cycles", "POST", {"dry_run": True})
    assert begun.status in (200, 202), begun.text

    def over() -> bool:
        body = {"ticket": begun.json["ticket"], "dry_run": True}
        return bool(
            ask(cluster.layout.node("d1"), "/v1/gc/cycles", "POST", body).json.get("outcome") == "done"
        )

    wait_for(over, 30.0, "the cycle is over")


@pytest.fixture
def dfsctl(cluster: LocalCluster, tmp_path: Path) -> Dfsctl:
    return Dfsctl(tmp_path / "home", cluster.coordinators)


def test_operators_steer_from_the_command_line(cluster: LocalCluster, dfsctl: Dfsctl) -> None:
    told = dfsctl.well("node", "loglevel", "-l", "zone in (a,b)", "debug", "--ttl", "1m", "-o", "json").json
    assert [(one["node_id"], one["result"]["level"]) for one in told["results"]] == [
        ("d1", "debug"),
        ("d2", "debug"),
    ]
    dfsctl.well("node", "loglevel", "--all", "info")
    shown = dfsctl.well("node", "exec", "status", "--all", "-o", "json").json
    assert [one["result"]["node_id"] for one in shown["results"]] == ["c1", "c2", "c3", "d1", "d2", "d3"]
    records = dfsctl.well("node", "logs", "--all", "--level", "info", "--since", "1h", "-o", "json").json
    assert {one["node_id"] for one in records} == {"c1", "c2", "c3", "d1", "d2", "d3"}
    assert [one["ts"] for one in records] == sorted(one["ts"] for one in records)
    refused = dfsctl("node", "shutdown", "c1", "c2", "--max-unavailable", "2", "-o", "json")
    assert (refused.code, refused.json["error"]["code"]) == (10, "safety_guard")
    dfsctl.well("node", "shutdown", "d3", "--reason", "from the command line")
    wait_for(lambda: state_of(cluster, "d3") != "running", 30.0, "d3 ends")
    assert "from the command line" in cluster.log("d3")
    partial = dfsctl("node", "loglevel", "-l", "zone", "info", "-o", "json")
    assert (partial.code, [one["ok"] for one in partial.json["results"]]) == (8, [True, True, False])


def test_a_log_is_followed_as_it_grows(cluster: LocalCluster, dfsctl: Dfsctl) -> None:
    following = dfsctl.start("node", "logs", "d1", "-f", "--grep", "log.level_set")
    try:
        assert following.stdout is not None
        wait_for(lambda: "node" in (ask(cluster.layout.node("d1"), "/status").json), 10.0, "d1 answers")
        lines: list[bytes] = []
        reader = threading.Thread(target=lambda: lines.append(following.stdout.readline()), daemon=True)  # type: ignore[union-attr]
        reader.start()

        def heard() -> bool:
            ask(cluster.layout.node("d1"), "/logs/level", "PUT", {"level": "info"})
            return bool(lines)

        wait_for(heard, 20.0, "the line comes")
        assert b"log.level_set" in lines[0]
    finally:
        following.kill()
        following.communicate()


def test_nobody_has_thrown_up_its_hands(cluster: LocalCluster) -> None:
    assert surprises(cluster) == []
