"""Two of three coordinators are gone for good: the survivor begins a new history, by an operator's word only."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from quorumfs.testing import LocalCluster, cluster_fixture, wait_for

pytestmark = pytest.mark.cluster

DFSCTL = str(Path(sys.executable).parent / "dfsctl")


cluster = cluster_fixture(coordinators=3, datanodes=3)


def dfsctl(*words: str) -> tuple[int, str]:
    done = subprocess.run([DFSCTL, *words], capture_output=True, text=True, timeout=200, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_survivor_goes_on_alone_and_takes_in_new_ones(cluster: LocalCluster) -> None:
    body = bytes(range(256)) * 4096
    with cluster.client() as fs:
        fs.write_bytes("/inline", b"small")
        fs.write_bytes("/chunked", body)
    survivor, *lost = cluster.layout.coordinator_nodes
    file = str(cluster.layout.node_directory(survivor) / "node.toml")

    code, said = dfsctl("raft", "recover", file)
    assert code != 0
    assert "another process" in said or "in use" in said or "runs" in said  # not while it runs

    for node in cluster.layout.coordinator_nodes:
        cluster.kill(node.node_id)
    code, said = dfsctl("raft", "recover", file)
    assert (code, "Nothing was changed" in said) == (10, True)
    code, said = dfsctl("raft", "recover", file, "--yes")
    assert code == 0, said
    for node in lost:
        shutil.rmtree(cluster.layout.data_directory(node))

    cluster.start_node(survivor.node_id)
    with cluster.client() as fs:
        assert wait_for(lambda: fs.read_bytes("/inline"), 30, "the survivor leads") == b"small"
        assert fs.read_bytes("/chunked") == body
        wait_for(lambda: fs.write_bytes("/new", body) or True, 30, "datanodes obey the new history")
        for node in lost:
            cluster.start_node(node.node_id)
            wait_for(lambda node=node: added(cluster, node.address("grpc")), 60, "a new one is taken in")
        cluster.wait_ready()
        cluster.kill(survivor.node_id)
        assert fs.read_bytes("/new") == body
        fs.write_bytes("/after", b"the new ones are a majority")
    code, said = dfsctl("--coordinators", cluster.coordinators, "raft", "status", "-o", "json")
    assert json.loads(said)["history"] > 1


def added(cluster: LocalCluster, address: str) -> bool:
    return dfsctl("--coordinators", cluster.coordinators, "raft", "add", address)[0] == 0
