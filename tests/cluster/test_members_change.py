"""Coordinators are added, removed and replaced while clients go on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quorumfs import Client
from quorumfs.testing import LocalCluster, cluster_fixture, wait_for

pytestmark = pytest.mark.cluster

DFSCTL = str(Path(sys.executable).parent / "dfsctl")


cluster = cluster_fixture(coordinators=3, datanodes=3)


@pytest.fixture(scope="module")
def fs(cluster: LocalCluster) -> Iterator[Client]:
    with cluster.client() as client:
        yield client


def dfsctl(cluster: LocalCluster, *words: str) -> tuple[int, Any]:
    done = subprocess.run(
        [DFSCTL, "--coordinators", cluster.coordinators, *words, "-o", "json"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def members(cluster: LocalCluster) -> dict[str, bool]:
    """node id -> learner."""
    code, found = dfsctl(cluster, "raft", "members")
    assert code == 0, found
    return {row["node_id"]: row["learner"] for row in found}


def follower(cluster: LocalCluster) -> str:
    leader = cluster.leader()
    return next(node.node_id for node in cluster.layout.coordinator_nodes if node.node_id != leader)


def test_a_member_that_lost_its_disk_rejoins_as_a_new_one(cluster: LocalCluster, fs: Client) -> None:
    fs.write_bytes("/before", b"kept")
    victim = follower(cluster)
    data = cluster.layout.data_directory(cluster.layout.node(victim))
    cluster.kill(victim)
    shutil.rmtree(data)
    fs.write_bytes("/while-it-was-away", b"kept too")
    cluster.start_node(victim)
    code, answer = wait_for(lambda: rejoined(cluster, victim), 60, "the member rejoins")
    assert code == 0, answer
    assert members(cluster) == {"c1": False, "c2": False, "c3": False}
    # It counts: with another member gone, the group goes on with it.
    other = next(one for one in ("c1", "c2", "c3") if one not in (victim, cluster.leader()))
    cluster.kill(other)
    fs.write_bytes("/after", b"with the new one")
    assert fs.read_bytes("/before") == b"kept"
    cluster.start_node(other)
    cluster.wait_ready()
    code, rows = dfsctl(cluster, "raft", "hash")
    assert code == 0
    assert len({row["hash"] for row in rows}) == 1


def rejoined(cluster: LocalCluster, node_id: str) -> tuple[int, Any] | None:
    """None while the node is only starting."""
    return unless_it_starts(*dfsctl(cluster, "raft", "rejoin", node_id))


def unless_it_starts(code: int, answer: Any) -> tuple[int, Any] | None:
    """A node that does not listen yet is refused at once; the leader may not reach one that has only just begun."""
    silent = code == 4 and "no coordinator answers" in answer["error"]["message"]
    return None if code == 5 or silent else (code, answer)


def test_a_wiped_member_takes_no_part_before_it_is_told_to(cluster: LocalCluster, fs: Client) -> None:
    victim = follower(cluster)
    data = cluster.layout.data_directory(cluster.layout.node(victim))
    cluster.kill(victim)
    shutil.rmtree(data)
    cluster.start_node(victim)
    wait_for(lambda: "genesis.awaited" in cluster.log(victim), 30, "it waits")
    other = next(one for one in ("c1", "c2", "c3") if one not in (victim, cluster.leader()))
    cluster.kill(other)
    with (
        cluster.client(timeout=3) as impatient,
        pytest.raises(Exception, match=r"leader|unknown|answer|time"),
    ):
        impatient.write_bytes("/without-quorum", b"must not be acknowledged")
    cluster.start_node(other)
    fs.write_bytes("/with-quorum", b"x")
    code, answer = wait_for(lambda: rejoined(cluster, victim), 60, "the member rejoins")
    assert code == 0, answer
    cluster.wait_ready()


def test_a_member_is_not_removed_when_the_rest_would_be_no_quorum(cluster: LocalCluster, fs: Client) -> None:
    leader = cluster.leader()
    away, other = [one for one in ("c1", "c2", "c3") if one != leader]
    cluster.kill(away)
    wait_for(lambda: not connected(cluster, away), 30, "its absence is noticed")
    code, answer = dfsctl(cluster, "raft", "remove", other)
    assert code == 10, answer
    assert "no quorum" in answer["error"]["message"]
    cluster.start_node(away)
    cluster.wait_ready()


def connected(cluster: LocalCluster, node_id: str) -> bool:
    _, rows = dfsctl(cluster, "raft", "members")
    return any(row["node_id"] == node_id and row["connected"] for row in rows)


def test_a_removed_member_is_heard_no_more_and_can_come_back_empty(cluster: LocalCluster, fs: Client) -> None:
    victim = follower(cluster)
    code, answer = dfsctl(cluster, "raft", "remove", victim)
    assert code == 0, answer
    assert victim not in members(cluster)
    fs.write_bytes("/with-two", b"x")
    node = cluster.layout.node(victim)
    data = cluster.layout.data_directory(node)
    cluster.kill(victim)
    shutil.rmtree(data)
    cluster.start_node(victim)
    code, answer = wait_for(lambda: added(cluster, node.address("grpc")), 60, "it is added")
    assert code == 0, answer
    assert members(cluster) == {"c1": False, "c2": False, "c3": False}
    cluster.wait_ready()


def added(cluster: LocalCluster, address: str) -> tuple[int, Any] | None:
    return unless_it_starts(*dfsctl(cluster, "raft", "add", address))


def test_a_member_that_votes_is_not_added_again_and_a_stranger_is_not_removed(cluster: LocalCluster) -> None:
    address = cluster.layout.node(follower(cluster)).address("grpc")
    code, answer = dfsctl(cluster, "raft", "add", address)
    assert (code, "votes" in answer["detail"]) == (0, True)
    code, answer = dfsctl(cluster, "raft", "remove", "c9")
    assert code == 3, answer
