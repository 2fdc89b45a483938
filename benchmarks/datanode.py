"""One datanode: how soon it serves over many chunks, and what readers that do not read cost it."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks import machine
from benchmarks.plan import Plan
from benchmarks.results import Results, percentile
from datanode.store import layout
from datanode.store.layout import Birth, Header
from quorumfs import limits
from quorumfs.checksum import block_checksums, crc32c
from quorumfs.ids import ChunkId, UploadId
from quorumfs.local.layout import NodeSpec
from quorumfs.mint import system_random
from quorumfs.rpc.channels import open_channel
from quorumfs.testing import LocalCluster
from quorumfs.v1 import chunks_pb2

READERS = 200
_READ = "/quorumfs.v1.Chunks/Read"
_BODY = b"a small body"
_FILE_BYTES = 64 * limits.MIB
_STAND_SECONDS = 3.0  # that readers stand still
_CHANNELS = 20
_ASKED = 100
_SERVING_SECONDS_MAX = 120.0
_POLL_SECONDS = 0.002
_MS = 1e3


def datanode(plan: Plan, results: Results) -> None:
    """`start`: from the start of the process until it serves, over no chunks and over many, with warm caches and cold;
    `slow readers`: memory that 200 readers of one frame each take, and how fast it answers others meanwhile."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=plan.directory)))
        plan.say("starting a datanode")
        cluster = stack.enter_context(LocalCluster(1, 1, directory=directory / "cluster"))
        (node,) = cluster.layout.datanodes
        _slow_readers(cluster, node, results)
        _starts(cluster, node, "no chunks", plan, results)
        plan.say(f"datanode: {plan.stored_chunks} chunks")
        cluster.local.stop(node.node_id)
        _plant(cluster, node, plan.stored_chunks)
        _starts(cluster, node, f"{plan.stored_chunks} chunks", plan, results)
        if not machine.can_drop_caches():
            results.skip("a start without caches", "dropping the page cache needs root")
            return
        _starts(cluster, node, f"{plan.stored_chunks} chunks, cold", plan, results, cold=True)


def _starts(
    cluster: LocalCluster, node: NodeSpec, case: str, plan: Plan, results: Results, *, cold: bool = False
) -> None:
    for _ in range(plan.rounds):
        cluster.local.stop(node.node_id)
        if cold:
            machine.drop_caches()
        began = time.monotonic()
        cluster.local.start(node.node_id)
        _wait_serving(node)
        took = time.monotonic() - began
        results.add(f"datanode/start to serving/{case}", "quorumfs", took, "s", "lower")


def _wait_serving(node: NodeSpec) -> None:
    """A channel is made when somebody listens: gRPC waits long before it connects again."""
    host, _, port = node.address("grpc").rpartition(":")
    deadline = time.monotonic() + _SERVING_SECONDS_MAX
    while True:
        try:
            socket.create_connection((host, int(port)), 1.0).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)
        else:
            break
    with open_channel(node.address("grpc")) as channel:
        while not _serves(channel):
            if time.monotonic() > deadline:
                raise TimeoutError("the datanode does not come to serve")
            time.sleep(_POLL_SECONDS)


def _serves(channel: grpc.Channel) -> bool:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    try:
        status = stub.Check(health_pb2.HealthCheckRequest(), timeout=1.0).status
    except grpc.RpcError:
        return False
    return bool(status == health_pb2.HealthCheckResponse.SERVING)


def _plant(cluster: LocalCluster, node: NodeSpec, count: int) -> None:
    """So many sealed chunks, as a datanode writes them and durable like those, in its directory."""
    chunks = _shards(cluster.directory / node.node_id)
    checksum, table = crc32c(_BODY), block_checksums(_BODY)
    for _ in range(count):
        chunk = ChunkId(system_random(16))
        header = Header(chunk, UploadId(bytes(16)), Birth(1, 1, 1), len(_BODY), checksum)
        content = layout.encode_header(header) + _BODY + layout.encode_trailer(chunk, table)
        (chunks / chunk.hex()[:2] / chunk.hex()).write_bytes(content)
    os.sync()


def _shards(directory: Path) -> Path:
    """Where a node keeps its chunks: 256 directories."""
    return next(path.parent for path in directory.rglob("00") if (path.parent / "ff").is_dir())


def _slow_readers(cluster: LocalCluster, node: NodeSpec, results: Results) -> None:
    """Each takes one frame of a chunk and no more; those that the node refuses are counted."""
    with cluster.client() as client:
        client.put(bytes(_FILE_BYTES), "/large", replication=1)
        chunk = bytes.fromhex(client.locate("/large")[0].chunk)
        pid = _pid(cluster, node)
        machine.forget_peak(pid)
        before = machine.resident_bytes(pid)
        with ExitStack() as stack:
            channels = [stack.enter_context(open_channel(node.address("grpc"))) for _ in range(_CHANNELS)]
            streams = [_read(channels[k % _CHANNELS], chunk) for k in range(READERS)]
            admitted = sum(_took_one(stream) for stream in streams)
            until = time.monotonic() + _STAND_SECONDS
            answers = _answer_times(node)
            client.put(bytes(limits.MIB), "/meanwhile", replication=1)
            time.sleep(max(0.0, until - time.monotonic()))
            added = (machine.peak_bytes(pid) - before) / 2**20
            for stream in streams:
                stream.cancel()
        client.delete("/large", purge=True)
    results.add("datanode/slow readers/admitted", "quorumfs", admitted, "of 200", "higher")
    results.add("datanode/memory added/200 slow readers", "quorumfs", added, "MiB", "lower")
    results.add(
        "datanode/health beside slow readers/p99", "quorumfs", percentile(answers, 0.99) * _MS, "ms", "lower"
    )


def _read(channel: grpc.Channel, chunk: bytes) -> Any:
    read: Any = channel.unary_stream(_READ, request_serializer=None, response_deserializer=None)
    request = chunks_pb2.ReadChunkRequest(chunk=chunk, frame_bytes=limits.FRAME_BYTES)
    return read(request.SerializeToString())


def _took_one(stream: Any) -> bool:
    try:
        next(stream)
    except grpc.RpcError:
        return False
    return True


def _answer_times(node: NodeSpec) -> Sequence[float]:
    took = []
    with open_channel(node.address("grpc")) as channel:
        for _ in range(_ASKED):
            began = time.monotonic()
            if not _serves(channel):
                raise TimeoutError("the datanode does not answer beside slow readers")
            took.append(time.monotonic() - began)
    return sorted(took)


def _pid(cluster: LocalCluster, node: NodeSpec) -> int:
    return next(
        int(one["pid"])
        for one in cluster.local.status()["processes"]
        if one["kind"] == "node" and one["node_id"] == node.node_id
    )
