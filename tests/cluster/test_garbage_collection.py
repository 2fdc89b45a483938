"""Garbage on real processes: what is needed stays, what is not goes, also when the leader dies in between.

The grace is a few seconds, and so are the time of an upload and the pause between cycles.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from quorumfs import Client
from quorumfs.errors import NotFoundError
from quorumfs.rpc.trust import TrustedChannels, read_secret
from quorumfs.testing import LocalCluster, cluster_fixture, wait_for
from quorumfs.v1 import admin_pb2, chunks_pb2, chunks_pb2_grpc, membership_pb2, types_pb2
from tests.support.commands import Dfsctl

pytestmark = pytest.mark.cluster

CHUNK_BYTES = 1 << 20
GRACE_SECONDS = 3.0
PATIENCE_SECONDS = 90.0

WRITER = """
import os, sys, time
from quorumfs import Client
with Client(sys.argv[1]).open("/never", "wb") as file:
    file.write(os.urandom(4 << 20))
    print("written", flush=True)
    time.sleep(600)
"""

cluster = cluster_fixture(
    settings={
        "data.chunk_size_bytes": CHUNK_BYTES,
        "data.inline_bytes_max": 0,
        "gc.grace_seconds": GRACE_SECONDS,
        "gc.interval_seconds": 1.0,
        "upload.ttl_seconds": 12.0,  # more than two signs of life of a client
    }
)


def files_of(cluster: LocalCluster, chunk: str) -> list[Path]:
    """The files of a chunk's replicas on all disks; what lies in quarantine does not count."""
    found = []
    for node in cluster.layout.datanodes:
        directory = cluster.layout.data_directory(node)
        found += [one for one in directory.rglob(chunk) if "quarantine" not in one.parts]
    return found


def chunk_files(cluster: LocalCluster) -> list[Path]:
    """All sealed and unfinished chunks on all disks."""
    found = []
    for node in cluster.layout.datanodes:
        found += [one for one in cluster.layout.data_directory(node).rglob("chunks/??/*") if one.is_file()]
    return found


def gone(cluster: LocalCluster, chunk: str) -> None:
    wait_for(lambda: not files_of(cluster, chunk), PATIENCE_SECONDS, f"chunk {chunk} is gone")


def condemned(fs: Client, chunk: str) -> bool:
    request = admin_pb2.ExplainChunkRequest(chunk=bytes.fromhex(chunk))
    return str(fs.coordinator.control("Control.ExplainChunk", request).state) == "condemned"


def status(fs: Client) -> admin_pb2.GcStatus:
    answer: admin_pb2.GcStatus = fs.coordinator.control("Control.GetGc", admin_pb2.GetGcRequest())
    return answer


def test_what_was_removed_for_good_goes_and_everything_else_stays(
    cluster: LocalCluster, fs: Client, dfsctl: Dfsctl
) -> None:
    kept = os.urandom(2 * CHUNK_BYTES)
    fs.write_bytes("/kept", kept)
    fs.write_bytes("/removed", os.urandom(CHUNK_BYTES))
    (location,) = fs.locate("/removed")
    assert len(files_of(cluster, location.chunk)) >= 2
    told = dfsctl("gc", "explain", location.chunk, "-o", "json").json
    assert (told["state"], told["referenced_by"]) == ("referenced", ["/removed"])
    dfsctl("rm", "--purge", "/removed")
    gone(cluster, location.chunk)
    assert fs.read_bytes("/kept") == kept
    told = dfsctl("gc", "explain", location.chunk, "-o", "json").json
    assert told["state"] == "quarantined"
    listed = dfsctl("gc", "quarantine", "ls", "-o", "json").json
    assert location.chunk in [one["chunk"] for one in listed]
    back = dfsctl("gc", "quarantine", "restore", location.chunk, "-o", "json")
    assert back.code == 0
    wait_for(lambda: len(files_of(cluster, location.chunk)) >= 2, PATIENCE_SECONDS, "it is back")
    dfsctl("gc", "release", location.chunk)
    gone(cluster, location.chunk)


def test_an_operator_runs_pauses_and_looks_at_the_collection(
    cluster: LocalCluster, fs: Client, dfsctl: Dfsctl
) -> None:
    fs.write_bytes("/accounted", os.urandom(CHUNK_BYTES))
    dry = dfsctl("gc", "run", "--dry-run", "-o", "json").json
    assert (dry["outcome"], dry["dry_run"], dry["void_nodes"]) == ("done", True, [])
    done = dfsctl("gc", "run", "--wait", "-o", "json").json
    assert done["outcome"] == "done"
    told = dfsctl("gc", "pause", "-o", "json").json
    assert told["paused"] is True
    assert len(told["accounting"]) == len(cluster.layout.datanodes)
    for one in told["accounting"]:
        classes = [value for name, value in one.items() if name not in ("node_id", "total_bytes")]
        assert sum(classes) == one["total_bytes"]
    assert sum(one["referenced_bytes"] for one in told["accounting"]) >= 2 * CHUNK_BYTES
    refused = dfsctl("gc", "run", "--wait")
    assert refused.code != 0
    assert "the collection is paused" in refused.err
    assert dfsctl("gc", "resume", "-o", "json").json["paused"] is False


def test_an_upload_that_takes_longer_than_the_grace_succeeds(cluster: LocalCluster, fs: Client) -> None:
    cycle = status(fs).cycle
    content = os.urandom(3 * CHUNK_BYTES)
    with fs.open("/slow", "wb") as file:
        file.write(content[: 2 * CHUNK_BYTES])
        wait_for(
            lambda: status(fs).cycle >= cycle + 5, PATIENCE_SECONDS, "cycles go by, and with them the grace"
        )
        file.write(content[2 * CHUNK_BYTES :])
    assert fs.read_bytes("/slow") == content


def test_what_a_client_leaves_that_was_killed_goes(cluster: LocalCluster, fs: Client) -> None:
    before = {file.name for file in chunk_files(cluster)}

    def new() -> set[str]:
        return {file.name for file in chunk_files(cluster) if "." not in file.name} - before

    program = [sys.executable, "-c", WRITER, cluster.coordinators]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as client:
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == b"written\n"
            wait_for(lambda: bool(new()), PATIENCE_SECONDS, "bytes of it are there")
        finally:
            client.kill()
    left = new()
    wait_for(lambda: not left & new(), PATIENCE_SECONDS, "they are gone")
    with pytest.raises(NotFoundError):
        fs.stat("/never")


def test_a_leader_that_dies_after_condemning_is_followed_by_one_that_deletes(
    cluster: LocalCluster, fs: Client
) -> None:
    """A datanode that hangs keeps the chunk condemned until it is back."""
    fs.write_bytes("/x", os.urandom(CHUNK_BYTES))
    (location,) = fs.locate("/x")
    holder = location.replicas[0].node_id
    cluster.pause(holder)
    try:
        fs.delete("/x", purge=True)
        wait_for(lambda: condemned(fs, location.chunk), PATIENCE_SECONDS, "it is condemned")
        dead = cluster.kill_leader()
    finally:
        cluster.resume(holder)
    gone(cluster, location.chunk)
    cluster.start_node(dead)


def test_no_datanode_deletes_for_a_leader_that_was_deposed(cluster: LocalCluster, fs: Client) -> None:
    fs.write_bytes("/y", os.urandom(CHUNK_BYTES))
    (location,) = fs.locate("/y")
    chunk = bytes.fromhex(location.chunk)
    view: membership_pb2.ClusterView = fs.coordinator.cluster_view()
    old = types_pb2.Epoch(history=1, term=view.term - 1)
    request = chunks_pb2.DeleteChunksRequest(
        epoch=old, chunks=[chunks_pb2.DeleteChunk(chunk=chunk, condemn_index=10**9)]
    )
    channels = TrustedChannels(read_secret(cluster.layout.secret_file), "c1")
    try:
        for place in location.replicas:
            stub = chunks_pb2_grpc.ChunksStub(channels.get(place.grpc))
            with pytest.raises(grpc.RpcError) as refused:
                stub.Delete(request, timeout=10)
            assert "is refused" in str(refused.value)
    finally:
        channels.close()
    assert len(files_of(cluster, location.chunk)) >= 2
