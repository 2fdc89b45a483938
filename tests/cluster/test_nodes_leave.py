"""Nodes leave, for good or for a while, and the leader dies in the middle: the next goes on, nothing is lost, nothing
is done twice."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from quorumfs import Client
from quorumfs.testing import LocalCluster, cluster_fixture, wait_for
from tests.support.commands import Dfsctl
from tests.support.one_chunk_files import (
    CHUNK_BYTES,
    Mark,
    everything_is_there,
    holders,
    store_files,
)

pytestmark = pytest.mark.cluster

PATIENCE_SECONDS = 90.0
MAINTENANCE_SECONDS = 25

cluster = cluster_fixture(
    datanodes=5,
    settings={
        "data.chunk_size_bytes": CHUNK_BYTES,
        "data.inline_bytes_max": 0,
        "repair.bytes_per_second": 3 * CHUNK_BYTES,
        "membership.suspect_seconds": 1.5,
        "membership.dead_seconds": 3.0,
    },
)


@pytest.fixture(scope="module")
def stored(cluster: LocalCluster) -> dict[str, bytes]:
    """Path -> content; each file is one chunk."""
    return store_files(cluster)


@pytest.fixture
def control(cluster: LocalCluster, tmp_path: Path) -> Dfsctl:
    return Dfsctl(tmp_path / "home", cluster.coordinators)


def node(control: Dfsctl, node_id: str) -> dict[str, Any]:
    found: dict[str, Any] = control("node", "show", node_id, "-o", "json").json
    return found


def ordered(cluster: LocalCluster) -> Counter[tuple[str, str]]:
    """(chunk, destination) of every copy that any leader ordered: how often."""
    coordinators = [one.node_id for one in cluster.nodes if one.role == "coordinator"]
    text = "".join(map(cluster.log, coordinators))
    lines = [line for line in text.splitlines() if '"repair.ordered"' in line]
    found: Counter[tuple[str, str]] = Counter()
    for line in lines:
        chunk = re.search(r'"chunk": ?"(\w+)"', line)
        destination = re.search(r'"destination": ?"(\w+)"', line)
        assert chunk is not None, line
        assert destination is not None, line
        found[chunk[1], destination[1]] += 1
    return found


def test_a_drain_outlives_the_leader(
    cluster: LocalCluster, fs: Client, control: Dfsctl, stored: dict[str, bytes]
) -> None:
    control.well("node", "drain", "d1")
    before = {path for path in stored if "d1" in holders(fs, path)}
    dead = cluster.kill_leader()
    assert cluster.leader() != dead
    assert node(control, "d1")["intent"] == "draining"
    for k in range(10):
        fs.write_bytes(f"/new{k}", os.urandom(1000))
        assert "d1" not in holders(fs, f"/new{k}")
    assert {path for path in stored if "d1" in holders(fs, path)} == before
    cluster.start_all()
    listed = {one["node_id"]: one for one in control("status", "-o", "json").json["datanodes"]}
    assert listed["d1"]["intent"] == "draining"
    control.well("node", "undrain", "d1")
    assert node(control, "d1")["intent"] == "normal"


def test_a_maintenance_copies_nothing_and_ends_by_itself_under_the_next_leader(
    cluster: LocalCluster, fs: Client, control: Dfsctl, stored: dict[str, bytes]
) -> None:
    def whole() -> bool:
        return all(len(holders(fs, path)) >= 3 for path in stored)

    wait_for(whole, PATIENCE_SECONDS, "everything has its replicas")
    before = ordered(cluster)
    control.well("node", "maintenance", "d2", "--for", f"{MAINTENANCE_SECONDS}s")
    cluster.stop("d2")
    dead = cluster.kill_leader()
    wait_for(lambda: node(control, "d2")["state"] == "dead", PATIENCE_SECONDS, "d2 is dead")
    resting = node(control, "d2")
    assert resting["intent"] == "maintenance"
    assert 0 < resting["maintenance_seconds"] <= MAINTENANCE_SECONDS
    assert ordered(cluster) == before
    assert control("status", "-o", "json").json["chunks"]["under_replicated"] == 0
    cluster.start_node("d2")
    cluster.start_node(dead)
    wait_for(lambda: node(control, "d2")["intent"] == "normal", PATIENCE_SECONDS, "it is over")
    wait_for(lambda: node(control, "d2")["state"] == "alive", PATIENCE_SECONDS, "d2 is back")
    assert ordered(cluster) == before


def test_a_decommission_outlives_the_leader_and_loses_nothing(
    cluster: LocalCluster, fs: Client, control: Dfsctl, stored: dict[str, bytes]
) -> None:
    def status() -> dict[str, Any]:
        found: dict[str, Any] = control("node", "decommission", "d3", "--status", "-o", "json").json
        return found

    before = Mark.now(cluster)
    mine = [one.path for one in fs.list("/") if "d3" in holders(fs, one.path)]  # each is one chunk
    assert mine
    control.well("node", "decommission", "d3")
    first = status()
    assert first["intent"] == "decommissioning"
    assert (first["blockers"], first["unreadable"]) == ([], 0)
    total = first["total_chunks"]

    def half() -> bool:
        return 0 < status()["remaining_chunks"] < total

    wait_for(half, PATIENCE_SECONDS, "some of it has moved")
    assert control("node", "forget", "d3").code == 10
    dead = cluster.kill_leader()
    assert cluster.leader() != dead
    wait_for(
        lambda: node(control, "d3")["intent"] == "decommissioned", PATIENCE_SECONDS, "nothing is left on d3"
    )
    assert status()["remaining_chunks"] == 0
    for path in stored:
        assert len(holders(fs, path) - {"d3"}) >= 3
    before.check_copies(cluster, len(mine))
    cluster.stop("d3")
    wait_for(lambda: control("node", "forget", "d3").code == 0, PATIENCE_SECONDS, "d3 is forgotten")
    assert control("node", "show", "d3").code == 3
    everything_is_there(fs, stored)
    status_now = control("status", "-o", "json").json
    assert (status_now["chunks"]["under_replicated"], status_now["chunks"]["missing"]) == (0, 0)
    cluster.start_node(dead)


def test_what_cannot_move_is_named_with_its_file_and_rules(
    cluster: LocalCluster, fs: Client, control: Dfsctl
) -> None:
    """Four nodes are left; of four replicas none can go elsewhere."""
    fs.write_bytes("/four", os.urandom(1000))
    control.well("setrep", "4", "/four")
    wait_for(lambda: len(holders(fs, "/four")) == 4, PATIENCE_SECONDS, "it has four replicas")
    control.well("node", "decommission", "d1")

    def blocked() -> list[dict[str, Any]]:
        found = control("node", "decommission", "d1", "--status", "-o", "json").json
        return [one for one in found["blockers"] if one["paths"] == ["/four"]]

    (blocker,) = wait_for(blocked, PATIENCE_SECONDS, "it is named")
    assert blocker["reason"] == "no_place"
    assert len(blocker["refusals"]) == 4
    assert all("it has a good replica already" in one for one in blocker["refusals"])
    control.well("setrep", "3", "/four")
    wait_for(lambda: node(control, "d1")["intent"] == "decommissioned", PATIENCE_SECONDS, "d1 is free")
    control.well("node", "decommission", "--cancel", "d1")
    assert node(control, "d1")["intent"] == "normal"
