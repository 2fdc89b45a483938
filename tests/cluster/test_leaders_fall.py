"""The leader is killed, stopped and woken again, or cut off for a while, in the middle of what it does: the next goes
on, nothing is lost, nothing is done twice. What begins with a kill of the leader during drains and decommissions is in
test_nodes_leave.py, balancing in test_balance.py."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import pytest

from quorumfs import Client
from quorumfs.testing import LocalCluster, wait_for
from tests.support.commands import Dfsctl
from tests.support.leaders import How, fallen_leader
from tests.support.networked import cluster_fixture, in_network, run_in_network
from tests.support.one_chunk_files import (
    CHUNK_BYTES,
    Mark,
    everything_is_there,
    holders,
    store_files,
)

pytestmark = pytest.mark.cluster

PATIENCE_SECONDS = 90.0
LONG = pytest.mark.long
CUT = pytest.param("cut", marks=[LONG, in_network])

cluster = cluster_fixture(
    datanodes=5,
    settings={
        "data.chunk_size_bytes": CHUNK_BYTES,
        "data.inline_bytes_max": 0,
        "repair.bytes_per_second": 4 * CHUNK_BYTES,
        "membership.suspect_seconds": 1.5,
        "membership.dead_seconds": 8.0,
    },
)


@pytest.fixture(scope="module")
def stored(cluster: LocalCluster) -> dict[str, bytes]:
    """Path -> content; each file is one chunk."""
    return store_files(cluster)


def settled(fs: Client, paths: Iterable[str]) -> bool:
    """Three replicas of each file, no more and no fewer."""
    return all(len(holders(fs, path)) == 3 for path in paths)


def registrations(cluster: LocalCluster) -> int:
    """Of datanodes, as they tell them."""
    return sum(cluster.log(one.node_id).count('"node.registered"') for one in cluster.layout.datanodes)


def alive(dfsctl: Dfsctl) -> list[str]:
    return sorted(
        one["node_id"] for one in dfsctl("status", "-o", "json").json["datanodes"] if one["state"] == "alive"
    )


@pytest.mark.parametrize("how", ["stopped", pytest.param("killed", marks=LONG), CUT])
def test_datanodes_that_are_registering_are_taken_in_by_the_next_leader(
    cluster: LocalCluster, dfsctl: Dfsctl, stored: dict[str, bytes], how: How
) -> None:
    everybody = [one.node_id for one in cluster.layout.datanodes]
    again = everybody[:3]
    with cluster.client() as fs:
        wait_for(lambda: settled(fs, stored), PATIENCE_SECONDS, "all is settled")
    before = Mark.now(cluster)
    for node_id in again:
        cluster.kill(node_id)
    seen = registrations(cluster)
    for node_id in again:
        cluster.start_node(node_id)
    wait_for(lambda: registrations(cluster) > seen, PATIENCE_SECONDS, "the first is registered")
    with fallen_leader(cluster, how):
        wait_for(lambda: alive(dfsctl) == everybody, PATIENCE_SECONDS, "all are there")
    with cluster.client() as fs:
        everything_is_there(fs, stored)
        assert settled(fs, stored)
    before.check_copies(cluster, 0)


@pytest.mark.parametrize("how", ["killed", pytest.param("stopped", marks=LONG), CUT])
def test_a_repair_goes_on_under_the_next_leader_and_no_copy_is_made_twice(
    cluster: LocalCluster, fs: Client, dfsctl: Dfsctl, stored: dict[str, bytes], how: How
) -> None:
    wait_for(lambda: settled(fs, stored), PATIENCE_SECONDS, "all is settled")
    mine = [path for path in stored if "d4" in holders(fs, path)]
    assert len(mine) >= 4
    before = Mark.now(cluster)
    cluster.kill("d4")
    wait_for(lambda: before.copies_since(cluster) >= 2, PATIENCE_SECONDS, "some are copied")
    with fallen_leader(cluster, how):
        wait_for(
            lambda: all(len(holders(fs, path) - {"d4"}) == 3 for path in stored),
            PATIENCE_SECONDS,
            "everything has its replicas again",
        )
    everything_is_there(fs, stored)
    before.check_copies(cluster, len(mine), dead=["d4"])
    cluster.start_node("d4")
    wait_for(lambda: "d4" in alive(dfsctl), PATIENCE_SECONDS, "d4 is back")
    wait_for(lambda: settled(fs, stored), PATIENCE_SECONDS, "what it brought back is too much, and goes")


@pytest.mark.long
@pytest.mark.parametrize("how", ["stopped", CUT])
def test_a_drain_outlives_a_leader_that_is_not_dead(
    cluster: LocalCluster, fs: Client, dfsctl: Dfsctl, stored: dict[str, bytes], how: How
) -> None:
    dfsctl.well("node", "drain", "d1")
    with fallen_leader(cluster, how):
        assert dfsctl("node", "show", "d1", "-o", "json").json["intent"] == "draining"
        for k in range(10):
            fs.write_bytes(f"/new{k}", os.urandom(1000))
            assert "d1" not in holders(fs, f"/new{k}")
    assert dfsctl("node", "show", "d1", "-o", "json").json["intent"] == "draining"
    fs.write_bytes("/after", os.urandom(1000))  # also with the one that woke up
    assert "d1" not in holders(fs, "/after")
    dfsctl.well("node", "undrain", "d1")


@pytest.mark.long
@pytest.mark.parametrize("how", ["stopped", CUT])
def test_a_decommission_goes_on_when_its_leader_is_not_dead(
    cluster: LocalCluster, fs: Client, dfsctl: Dfsctl, stored: dict[str, bytes], how: How
) -> None:
    def status() -> dict[str, Any]:
        found: dict[str, Any] = dfsctl("node", "decommission", "d3", "--status", "-o", "json").json
        return found

    paths = [
        one.path for one in fs.list("/")
    ]  # of other tests as well: what they left to be copied is no copy of ours
    wait_for(lambda: settled(fs, paths), PATIENCE_SECONDS, "all is settled")
    before = Mark.now(cluster)
    mine = [path for path in paths if "d3" in holders(fs, path)]
    dfsctl.well("node", "decommission", "d3")
    wait_for(lambda: before.copies_since(cluster) >= 2, PATIENCE_SECONDS, "some of it has moved")
    with fallen_leader(cluster, how):
        wait_for(lambda: status()["intent"] == "decommissioned", PATIENCE_SECONDS, "nothing is left on d3")
    everything_is_there(fs, stored)
    before.check_copies(cluster, len(mine))
    dfsctl.well("node", "decommission", "--cancel", "d3")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_all_of_it_holds_for_leaders_behind_a_broken_network() -> None:
    run_in_network(__file__, "cut", 840)
