"""`dfsctl node restart` on real processes: in waves, with clients at work, and stopped by what it has to be."""

from __future__ import annotations

import json
import threading
import time
from functools import partial
from typing import Any

import pytest

from quorumfs import Client
from quorumfs.errors import QuorumFSError
from quorumfs.local.layout import NodeSpec
from quorumfs.testing import LocalCluster, cluster_fixture, wait_for
from tests.support.agents import ask
from tests.support.commands import Dfsctl
from tests.support.surprises import surprises

pytestmark = pytest.mark.cluster

cluster = cluster_fixture(labels={"zone": ("a", "b", "c")})


def incarnations(cluster: LocalCluster) -> dict[str, tuple[int, float]]:
    """(process id, uptime) of every node, as its agent tells them: an agent that its node does not answer at once, as
    the machine is busy, tells no uptime, and is asked again."""

    def told(node: NodeSpec) -> tuple[int, float] | None:
        status = ask(node, "/status").json
        return None if status["uptime_seconds"] is None else (status["pid"], status["uptime_seconds"])

    return {
        node.node_id: wait_for(partial(told, node), what=f"{node.node_id} tells its uptime")
        for node in cluster.nodes
    }


class Writer:
    """A client at work: it writes small and large files, and remembers what it was told is stored."""

    def __init__(self, fs: Client) -> None:
        self._fs = fs
        self._over = threading.Event()
        self.stored: dict[str, bytes] = {}
        self.failed: list[QuorumFSError] = []
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        number = 0
        while not self._over.is_set():
            path, content = f"/work/{number}", (b"%d-" % number) * (5 if number % 2 else 20_000)
            try:
                self._fs.write_bytes(path, content)
            except QuorumFSError as error:
                self.failed.append(error)
                return
            self.stored[path] = content
            number += 1


def leaders(cluster: LocalCluster) -> list[str]:
    """Who has led, one after the other."""
    begun = []
    for node in cluster.layout.coordinator_nodes:
        for line in cluster.log(node.node_id).splitlines():
            if '"leadership.begun"' in line:
                begun.append((json.loads(line)["term"], node.node_id))
    return [node_id for _, node_id in sorted(begun)]


def test_all_nodes_are_restarted_while_a_client_works(
    cluster: LocalCluster, fs: Client, dfsctl: Dfsctl
) -> None:
    fs.mkdir("/work")
    before, began = incarnations(cluster), time.monotonic()
    with Writer(fs) as writer:
        said = dfsctl("node", "restart", "--all", "--max-unavailable", "1", "-o", "json", timeout=150)
    assert said.code == 0, said.err
    after, elapsed = incarnations(cluster), time.monotonic() - began
    course = said.json
    assert (course["state"], course["error"]) == ("done", None)
    assert {one["state"] for one in course["nodes"]} == {"back"}
    assert writer.failed == []
    assert len(writer.stored) > 3
    for path, content in writer.stored.items():
        assert fs.read_bytes(path) == content
    for node_id, (pid, uptime) in after.items():
        assert uptime < elapsed, f"{node_id} was restarted"
        assert pid == before[node_id][0], "without a supervisor it replaces itself"
    last = min(after, key=lambda node_id: after[node_id][1])
    assert last == leaders(cluster)[-2], "the one that led was last"
    assert cluster.leader() != last, "it handed over"


def test_one_that_does_not_come_back_ends_it(cluster: LocalCluster, dfsctl: Dfsctl) -> None:
    before = incarnations(cluster)
    config = cluster.layout.process(cluster.layout.node("d1"), "node").config
    text = config.read_text()
    config.write_text(text + "\n[nonsense]\nkey = 1\n")
    try:
        said = dfsctl("node", "restart", "-l", "zone", "--wait", "4s", "-o", "json", timeout=60)
    finally:
        config.write_text(text)
    assert said.code == 7, said.err
    assert said.json["state"] == "failed"
    assert "d1 did not come back" in said.json["error"]["message"]
    assert [one["state"] for one in said.json["nodes"]] == ["failed", "waiting", "waiting"]
    cluster.start_node("d1")
    cluster.wait_ready()
    after = incarnations(cluster)
    assert all(after[one][1] > before[one][1] for one in ("d2", "d3", "c1", "c2", "c3")), (
        "others were left alone"
    )


def test_what_only_one_node_has_is_not_taken_away(cluster: LocalCluster, fs: Client, dfsctl: Dfsctl) -> None:
    fs.write_bytes("/precious", bytes(200_000))
    before = incarnations(cluster)
    for dead in ("d2", "d3"):
        cluster.kill(dead)
    wait_for(
        lambda: states(dfsctl)["d3"] != "alive" and states(dfsctl)["d2"] != "alive", what="they are missed"
    )
    said = dfsctl("node", "restart", "d1", "--wait", "1s", "-o", "json", timeout=60)
    assert said.code == 10, said.err
    assert "no replica on any other node" in said.json["error"]["cause"]
    assert ask(cluster.layout.node("d1"), "/status").json["uptime_seconds"] > before["d1"][1]
    cluster.start_all()


def states(dfsctl: Dfsctl) -> dict[str, Any]:
    return {one["node_id"]: one["state"] for one in dfsctl("node", "ls", "-o", "json").json}


def test_a_datanodes_agent_steers_nobody_and_a_stranger_has_no_restart_to_show(cluster: LocalCluster) -> None:
    told = ask(cluster.layout.node("d1"), "/v1/cluster/restart", "POST", {"all": True})
    assert told.status == 409
    assert ask(cluster.layout.node("d1"), "/v1/cluster/restart").status == 404


def test_nobody_was_surprised(cluster: LocalCluster) -> None:
    assert surprises(cluster) == []
