"""A coordinator's disk that is full, or fails: the others go on, nothing is lost, and it says what it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quorumfs import Client
from quorumfs.testing import LocalCluster, cluster_fixture, wait_for
from tests.support.small_disk import fill, small_disk

pytestmark = pytest.mark.cluster

DFSCTL = str(Path(sys.executable).parent / "dfsctl")


cluster = cluster_fixture(coordinators=3, datanodes=3)


@pytest.fixture(scope="module")
def fs(cluster: LocalCluster) -> Iterator[Client]:
    with cluster.client() as client:
        yield client


def raft(cluster: LocalCluster, *words: str) -> Any:
    done = subprocess.run(
        [DFSCTL, "--coordinators", cluster.coordinators, "raft", *words, "-o", "json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return json.loads(done.stdout)


def hashes(cluster: LocalCluster) -> set[str]:
    return {row["hash"] for row in raft(cluster, "hash")}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system wants root")
@pytest.mark.parametrize("who", ["a follower", "the leader"])
def test_a_coordinator_with_a_full_disk_takes_no_part_and_comes_back_by_itself(
    cluster: LocalCluster, fs: Client, who: str
) -> None:
    leader = cluster.leader()
    node_id = next(node.node_id for node in cluster.layout.coordinator_nodes if node.node_id != leader)
    with small_disk(cluster, node_id) as data:
        cluster.start_node(node_id)
        cluster.wait_ready()
        if who == "the leader":
            wait_for(
                lambda: raft(cluster, "transfer", node_id) and cluster.leader() == node_id, 30, "it leads"
            )
        ballast = fill(data)
        body = b"x" * 16_000
        written = []
        for number in range(6000):  # more than its log has room for: segments of 16 MiB, one of them spare
            path = f"/full-{who[:3]}-{number}"
            if number % 50 == 0:
                fs.write_bytes(path, body)
                written.append(path)
            else:
                fs.put_many({path: b""})
            if number % 50 == 0 and says_full(cluster, node_id):
                break
        assert says_full(cluster, node_id)
        assert cluster.leader() != node_id
        fs.write_bytes("/while-full", b"the others go on")
        if who == "a follower":
            cluster.kill(node_id)
            cluster.start_node(node_id)
            wait_for(lambda: '"node.no_room"' in cluster.log(node_id), 30, "it says that it cannot start")
            wait_for(lambda: says_full(cluster, node_id), 30, "it waits, and says why it is not ready")
        ballast.unlink()
        wait_for(lambda: not says_full(cluster, node_id), 30, "it goes on by itself")
        wait_for(lambda: len(hashes(cluster)) == 1, 60, "it has caught up")
        assert all(fs.read_bytes(path) == body for path in written)
    cluster.start_node(node_id)
    cluster.wait_ready()


def says_full(cluster: LocalCluster, node_id: str) -> bool:
    port = cluster.layout.node(node_id).ports["http"]
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/health")
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status == 503 and "disk" in text and "full" in text


@pytest.mark.skipif(shutil.which("strace") is None, reason="injecting a failing fsync wants strace")
@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
def test_a_coordinator_whose_log_cannot_be_written_ends_with_74_and_the_remedy(
    cluster: LocalCluster, fs: Client, call: str
) -> None:
    victim = cluster.leader()
    process = cluster.layout.process(cluster.layout.node(victim), "node")
    pid = cluster.local.processes.running(process)
    assert pid is not None
    tracer = subprocess.Popen(
        [
            *("strace", "-qq", "-f", "-p", str(pid_of(pid)), "-o", "/dev/null"),
            *("-e", f"trace={call}", "-e", f"inject={call}:error=EIO"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        fs.write_bytes(f"/after-eio-{call}", b"acknowledged by the others")
        wait_for(lambda: '"exit_code": 74' in cluster.log(victim), 30, "it says that it ends")
        wait_for(lambda: cluster.local.processes.running(process) is None, 30, "it ends")
    finally:
        tracer.kill()
        tracer.wait()
    assert "raft rejoin" in cluster.log(victim)
    cluster.start_node(victim)
    cluster.wait_ready()
    assert fs.read_bytes(f"/after-eio-{call}") == b"acknowledged by the others"
    wait_for(lambda: len(hashes(cluster)) == 1, 60, "all members agree")


def pid_of(found: Any) -> int:
    return int(getattr(found, "pid", found))
