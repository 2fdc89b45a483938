"""Replicas come and go on real processes: a disk is lost, there are more than are wanted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from quorumfs import Client
from quorumfs.testing import LocalCluster, cluster_fixture, wait_for
from tests.support.commands import Dfsctl

pytestmark = pytest.mark.cluster

CHUNK_BYTES = 1 << 20
PATIENCE_SECONDS = 90.0

cluster = cluster_fixture(
    datanodes=4,
    settings={
        "data.chunk_size_bytes": CHUNK_BYTES,
        "data.inline_bytes_max": 0,
        "membership.dead_seconds": 6.0,
        "storage.data_dirs": '["disk0", "disk1"]',
    },
)


def disks(cluster: LocalCluster, node_id: str) -> list[Path]:
    directory = cluster.layout.data_directory(cluster.layout.node(node_id))
    return [directory.parent / name for name in ("disk0", "disk1")]


def live(fs: Client, path: str) -> dict[str, list[str]]:
    """Chunk -> the nodes with a live replica, of a whole file."""
    return {
        one.chunk: sorted(place.node_id for place in one.replicas if place.state == "live")
        for one in fs.locate(path)
    }


def files_of(cluster: LocalCluster, chunk: str) -> list[Path]:
    """Of its replicas on all disks; what lies in quarantine does not count."""
    found = []
    for node in cluster.layout.datanodes:
        for disk in disks(cluster, node.node_id):
            found += [one for one in disk.rglob(chunk) if "quarantine" not in one.parts]
    return found


def under_replicated(dfsctl: Dfsctl) -> int:
    counts = dfsctl("status", "-o", "json").json["chunks"]
    return int(counts["under_replicated"] + counts["missing"])


@contextmanager
def taken_away(disk: Path) -> Iterator[None]:
    """Its directory is not there: the next look at its room fails, and with it the disk."""
    away = disk.with_name("away")
    disk.rename(away)
    try:
        yield
    finally:
        away.rename(disk)


def test_a_disk_that_fails_while_its_node_lives_is_made_good_elsewhere(
    cluster: LocalCluster, fs: Client, dfsctl: Dfsctl
) -> None:
    content = os.urandom(8 * CHUNK_BYTES)
    fs.write_bytes("/disk", content)
    wait_for(lambda: all(len(nodes) == 3 for nodes in live(fs, "/disk").values()), 30, "three of each")
    node_id = next(iter(live(fs, "/disk").values()))[0]
    lost = max(disks(cluster, node_id), key=lambda disk: len(list(disk.rglob("chunks/??/*"))))
    chunks = {one.name for one in lost.rglob("chunks/??/*")}
    assert chunks & set(live(fs, "/disk"))
    with taken_away(lost):
        wait_for(
            lambda: any("disk_lost" in one["code"] for one in dfsctl("status", "-o", "json").json["alarms"]),
            PATIENCE_SECONDS,
            "an alarm names the disk",
        )
        wait_for(lambda: under_replicated(dfsctl) == 0, PATIENCE_SECONDS, "all have their replicas again")
        for chunk, nodes in live(fs, "/disk").items():
            assert len(nodes) >= 3
            assert len(files_of(cluster, chunk)) >= 3
        assert fs.read_bytes("/disk") == content
        cluster.stop(node_id)
    cluster.start_node(node_id)
    cluster.wait_ready()
    assert fs.read_bytes("/disk") == content


def test_fewer_replicas_are_kept_when_fewer_are_wanted_and_made_again_when_more_are(
    cluster: LocalCluster, fs: Client, dfsctl: Dfsctl
) -> None:
    content = os.urandom(4 * CHUNK_BYTES)
    fs.write_bytes("/fewer", content)
    wait_for(lambda: all(len(nodes) == 3 for nodes in live(fs, "/fewer").values()), 30, "three of each")
    for wanted in (1, 3, 2):
        assert dfsctl("setrep", str(wanted), "/fewer").code == 0
        wait_for(partial(settled, cluster, fs, "/fewer", wanted), PATIENCE_SECONDS, f"{wanted} of each")
        assert fs.read_bytes("/fewer") == content


def test_what_a_returning_node_brings_back_is_too_much_whoever_leads(
    cluster: LocalCluster, fs: Client, dfsctl: Dfsctl
) -> None:
    content = os.urandom(8 * CHUNK_BYTES)
    fs.write_bytes("/back", content)
    wait_for(lambda: settled(cluster, fs, "/back", 3), 30, "three of each")
    node_id = next(iter(live(fs, "/back").values()))[0]
    cluster.kill(node_id)
    wait_for(lambda: repaired(fs, "/back", node_id), PATIENCE_SECONDS, "others have made three again")
    cluster.start_node(node_id)
    dead = cluster.kill_leader()
    wait_for(lambda: settled(cluster, fs, "/back", 3), PATIENCE_SECONDS, "three again, no more")
    assert fs.read_bytes("/back") == content
    cluster.start_node(dead)
    wait_for(lambda: under_replicated(dfsctl) == 0, PATIENCE_SECONDS, "nothing lacks a replica")


def settled(cluster: LocalCluster, fs: Client, path: str, wanted: int) -> bool:
    """Each chunk is live on so many nodes, and on no other disk."""
    return all(
        len(nodes) == wanted and len(files_of(cluster, chunk)) == wanted
        for chunk, nodes in live(fs, path).items()
    )


def repaired(fs: Client, path: str, dead: str) -> bool:
    """Each chunk is live on three nodes besides that one."""
    return all(len(set(nodes) - {dead}) == 3 for nodes in live(fs, path).values())
