"""Balancing on real processes: a new datanode gets its share, whoever leads, and nothing is lost on the way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from quorumfs import Client
from quorumfs.testing import LocalCluster, wait_for
from tests.support.commands import Dfsctl
from tests.support.leaders import How, fell, raise_again
from tests.support.networked import cluster_fixture, in_network, run_in_network
from tests.support.small_disk import small_disk

pytestmark = pytest.mark.cluster

CHUNK_BYTES = 1 << 20
FILES, CHUNKS = 4, 8
ROOM_BYTES = 600 * CHUNK_BYTES
PATIENCE_SECONDS = 120.0

SETTINGS = {"data.chunk_size_bytes": CHUNK_BYTES, "data.inline_bytes_max": 0}

cluster = cluster_fixture(datanodes=4, settings=SETTINGS)


def files_on(cluster: LocalCluster, node_id: str) -> set[str]:
    """The chunks whose files lie on a node."""
    directory = cluster.layout.data_directory(cluster.layout.node(node_id))
    return {one.name for one in directory.rglob("chunks/??/*") if "." not in one.name}


def counts(cluster: LocalCluster) -> dict[str, int]:
    return {node.node_id: len(files_on(cluster, node.node_id)) for node in cluster.layout.datanodes}


@contextmanager
def small_disks(cluster: LocalCluster, dfsctl: Dfsctl) -> Iterator[None]:
    """File systems of their own: on a large one that others use as well, nobody can say which node is fuller."""
    nodes = {node.node_id for node in cluster.layout.datanodes}

    def alive() -> set[str]:
        told = dfsctl("status", "-o", "json").json["datanodes"]
        return {one["node_id"] for one in told if one["state"] == "alive"}

    with ExitStack() as stack:
        for node in cluster.layout.datanodes:
            path = Path(cluster.layout.process(node, "node").config)
            path.write_text(f"{path.read_text()}\n[storage]\nreserve_bytes = {CHUNK_BYTES}\n")
            stack.enter_context(small_disk(cluster, node.node_id, ROOM_BYTES))
            cluster.start_node(node.node_id)
        wait_for(lambda: alive() == nodes, PATIENCE_SECONDS, "all datanodes are back")
        yield


def settled(cluster: LocalCluster, fs: Client, path: str) -> bool:
    """Three live replicas of each chunk, and each has its file. AssertionError says what is otherwise."""
    for one in fs.locate(path):
        told = {place.node_id: place.state for place in one.replicas}
        files = {
            node.node_id for node in cluster.layout.datanodes if one.chunk in files_on(cluster, node.node_id)
        }
        assert list(told.values()) == ["live"] * 3, f"{one.chunk} of {path}: {told}, files on {sorted(files)}"
        assert told.keys() <= files, f"{one.chunk} of {path}: {told}, files on {sorted(files)}"
    return True


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system wants root")
def test_a_node_without_data_gets_its_share_though_leaders_die(
    cluster: LocalCluster, fs: Client, dfsctl: Dfsctl
) -> None:
    with small_disks(cluster, dfsctl):
        gets_its_share(cluster, fs, dfsctl)


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system wants root")
def test_a_node_without_data_gets_its_share_though_a_leader_is_stopped(tmp_path: Path) -> None:
    with LocalCluster(datanodes=4, settings=SETTINGS) as one, one.client() as fs:
        dfsctl = Dfsctl(tmp_path, one.coordinators)
        with small_disks(one, dfsctl):
            gets_its_share(one, fs, dfsctl, "stopped")


@pytest.mark.long
@in_network
def test_a_node_without_data_gets_its_share_though_a_leader_is_cut_off(
    cluster: LocalCluster, fs: Client, dfsctl: Dfsctl
) -> None:
    with small_disks(cluster, dfsctl):
        gets_its_share(cluster, fs, dfsctl, "cut")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_it_holds_for_a_leader_behind_a_broken_network() -> None:
    run_in_network(__file__, "cut", 540)


def gets_its_share(cluster: LocalCluster, fs: Client, dfsctl: Dfsctl, how: How = "killed") -> None:
    spare = cluster.layout.datanodes[-1].node_id
    assert dfsctl("node", "drain", spare).code == 0
    content = {f"/f{k}": os.urandom(CHUNKS * CHUNK_BYTES) for k in range(FILES)}
    for path, body in content.items():
        fs.write_bytes(path, body)
    assert counts(cluster)[spare] == 0
    assert dfsctl("node", "undrain", spare).code == 0
    before = counts(cluster)

    def begun() -> bool:
        """Whether some have arrived; it ends by itself when heartbeats have not told of all the files yet."""
        told = dfsctl(
            "balance", "start", "--threshold", "1", "--throttle", str(3 * CHUNK_BYTES), "-o", "json"
        ).json
        assert (told["state"], told["bytes_per_second"]) == ("running", 3 * CHUNK_BYTES)
        return counts(cluster)[spare] >= 2

    wait_for(begun, PATIENCE_SECONDS, "some have arrived")
    fallen = fell(cluster, how)
    wait_for(lambda: dfsctl("balance", "pause", "-o", "json").code == 0, PATIENCE_SECONDS, "it pauses")
    assert dfsctl("balance", "status", "-o", "json").json["state"] == "paused"
    assert dfsctl("balance", "resume", "--throttle", str(64 * CHUNK_BYTES)).code == 0
    wait_for(
        lambda: dfsctl("balance", "status", "-o", "json").json["state"] == "off", PATIENCE_SECONDS, "it ends"
    )
    wait_for(lambda: all(settled(cluster, fs, path) for path in content), PATIENCE_SECONDS, "all is settled")
    after = counts(cluster)
    assert sum(after.values()) == sum(before.values()) == 3 * FILES * CHUNKS
    assert max(after.values()) - min(after.values()) < max(before.values()) - min(before.values())
    assert after[spare] >= FILES
    with Client(
        cluster.coordinators, short_circuit=False
    ) as remote:  # no descriptor of ours keeps a disk mounted
        for path, body in content.items():
            assert remote.read_bytes(path) == body
    assert dfsctl("balance", "plan", "-o", "json").json["moves"] == []
    assert dfsctl("balance", "pause").code == 4
    raise_again(cluster, fallen, how)
