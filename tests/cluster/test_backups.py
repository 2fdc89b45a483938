"""An older backup of the metadata is restored over newer data: what the backup knows is there, and nothing newer is
garbage before an operator says so."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from quorumfs import Client
from quorumfs.errors import NotFoundError
from quorumfs.testing import LocalCluster, cluster_fixture, wait_for
from quorumfs.v1 import admin_pb2
from tests.support.commands import Dfsctl

pytestmark = pytest.mark.cluster

CHUNK_BYTES = 256 * 1024
GRACE_SECONDS = 2.0
NEWER = 130  # more than the shrink guard lets pass unexplained
PATIENCE_SECONDS = 120.0

cluster = cluster_fixture(
    settings={
        "data.chunk_size_bytes": CHUNK_BYTES,
        "data.inline_bytes_max": 0,
        "gc.grace_seconds": GRACE_SECONDS,
        "gc.interval_seconds": 1.0,
        "upload.ttl_seconds": 12.0,
    }
)


def lying(cluster: LocalCluster, chunk: str) -> int:
    """Replicas of a chunk on all disks, without quarantine."""
    return sum(
        "quarantine" not in one.parts
        for node in cluster.layout.datanodes
        for one in cluster.layout.data_directory(node).rglob(chunk)
    )


def status(fs: Client) -> admin_pb2.GcStatus:
    answer: admin_pb2.GcStatus = fs.coordinator.control("Control.GetGc", admin_pb2.GetGcRequest())
    return answer


def test_an_older_backup_is_restored_and_newer_chunks_wait_for_an_operator(
    cluster: LocalCluster, dfsctl: Dfsctl, tmp_path: Path
) -> None:
    old = {f"/old-{k}": os.urandom(2 * CHUNK_BYTES + k) for k in range(3)}
    backup, newest = tmp_path / "backup", tmp_path / "newest"
    with cluster.client() as fs:
        for path, body in old.items():
            fs.write_bytes(path, body)
        unfinished = fs.open("/unfinished", "wb")
        unfinished.write(os.urandom(3 * CHUNK_BYTES))
        unfinished.flush()
        made = dfsctl("backup", "create", backup, "-o", "json").json
        assert dfsctl("backup", "create", backup).code == 4
        assert dfsctl("backup", "verify", backup, "-o", "json").json["whole"] is True
        unfinished.close()  # a file of which the backup knows the upload only
        for k in range(NEWER):
            fs.write_bytes(f"/new-{k}", os.urandom(1024))
        chunks = [one.chunk for k in range(NEWER) for one in fs.locate(f"/new-{k}")]
        committed = [one.chunk for one in fs.locate("/unfinished")]
        assert dfsctl("backup", "create", newest, "-o", "json").json["index"] > made["index"]

    first, *others = cluster.layout.coordinator_nodes
    file = cluster.layout.node_directory(first) / "node.toml"
    assert dfsctl("backup", "restore", backup, file, "--replace", "--yes").code == 4  # it runs
    for node in cluster.layout.coordinator_nodes:
        cluster.kill(node.node_id)
    assert dfsctl("backup", "restore", backup, file).code == 10
    assert dfsctl("backup", "restore", backup, file, "--yes").code == 4
    said = dfsctl("backup", "restore", backup, file, "--replace", "--yes", "-o", "json")
    assert said.code == 0, said.err
    assert (said.json["restored"], said.json["fork_index"]) == (True, made["index"])
    assert said.json["history"] > made["history"]
    for node in others:
        shutil.rmtree(cluster.layout.data_directory(node))

    cluster.start_node(first.node_id)
    with cluster.client() as fs:
        wait_for(lambda: fs.exists("/old-0"), PATIENCE_SECONDS, "the restored coordinator leads")
        for path, body in old.items():
            assert fs.read_bytes(path) == body
        with pytest.raises(NotFoundError):
            fs.stat("/new-0")
        for node in others:
            cluster.start_node(node.node_id)
            add = ("raft", "add", node.address("grpc"))
            wait_for(lambda add=add: dfsctl(*add).code == 0, PATIENCE_SECONDS, "a new member is taken in")
        wait_for(lambda: fs.write_bytes("/after", b"x" * 1024) or True, 30, "datanodes obey the new history")

        def listed() -> bool:
            found = dfsctl("gc", "candidates", "--held", "--limit", "1000", "-o", "json").json
            return {one["chunk"] for one in found} >= {*chunks, *committed}

        wait_for(listed, PATIENCE_SECONDS, "the newer chunks are listed")
        cycle = status(fs).cycle
        wait_for(lambda: status(fs).cycle >= cycle + 5, PATIENCE_SECONDS, "cycles, and the grace, go by")
        assert [lying(cluster, one) for one in (*chunks, *committed)] == [3] * (NEWER + len(committed))
        alarms = {one["code"] for one in dfsctl("status", "-o", "json").json["alarms"]}
        assert "gc_chunks_of_another_log" in alarms
        assert "gc_shrink_guard" not in alarms

        assert dfsctl("gc", "release", "--all").code == 0
        wait_for(
            lambda: not any(lying(cluster, one) for one in (*chunks, *committed)),
            PATIENCE_SECONDS,
            "the operator's word lets them go",
        )
        for path, body in old.items():
            assert fs.read_bytes(path) == body
        assert fs.read_bytes("/after") == b"x" * 1024
