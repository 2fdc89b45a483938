"""Reads of a client on the datanodes' host, with real faults under it; and hedged reads over gRPC.

Files have several chunks; what is read by and by is read through a file object that has read one byte.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from io import RawIOBase
from pathlib import Path

import pytest

from quorumfs import Client, limits
from quorumfs.testing import LocalCluster, cluster_fixture
from tests.cluster.test_damaged_chunks import flip_in, given, replica_files
from tests.support.commands import Dfsctl
from tests.support.surprises import surprises

pytestmark = pytest.mark.cluster

CHUNK_BYTES = 4 << 20
LENGTH = 3 * CHUNK_BYTES + 300_000
HEADER_BYTES = 4096
STOPPED_SECONDS = 15.0  # for a read with a stopped node: stalls of it are 2 s each
ROUNDS = 3

cluster = cluster_fixture(settings={"data.chunk_size_bytes": CHUNK_BYTES})


@pytest.fixture
def stored(request: pytest.FixtureRequest, fs: Client) -> tuple[str, bytes]:
    path, content = f"/{request.node.name}", os.urandom(LENGTH)
    fs.write_bytes(path, content)
    return path, content


@pytest.fixture
def over_grpc(cluster: LocalCluster) -> Iterator[Client]:
    with cluster.client(short_circuit=False) as client:
        yield client


def counts(cluster: LocalCluster, fs: Client) -> tuple[float, float]:
    """(open chunks, bytes) that all nodes gave so far."""
    passed, sent = zip(*(given(cluster, fs, node.node_id) for node in cluster.layout.datanodes), strict=True)
    return sum(passed), sum(sent)


def source(fs: Client, path: str, extent: int) -> str:
    """The node that `fs` reads an extent of a file from."""
    opened = fs._open(path.encode())
    part = opened._part_at(extent * CHUNK_BYTES)
    (first, *_) = fs._reader._nearness.order(part.chunk, (), ())
    return first.node_id


def begun(fs: Client, path: str, content: bytes) -> RawIOBase:
    """A reader that has the first chunk open."""
    file: RawIOBase = fs.open(path, "rb", buffering=0)
    assert file.read(limits.BLOCK_BYTES) == content[: limits.BLOCK_BYTES]
    return file


def rest(file: RawIOBase) -> bytes:
    buffer, parts = bytearray(1 << 20), []
    while count := file.readinto(buffer):
        parts.append(bytes(buffer[:count]))
    return b"".join(parts)


def test_reads_on_the_datanodes_host_move_no_byte_over_grpc(
    cluster: LocalCluster, fs: Client, stored: tuple[str, bytes], tmp_path: Path
) -> None:
    path, content = stored
    passed, sent = counts(cluster, fs)
    assert fs.read_bytes(path) == content
    fs.get(path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    with fs.open(path, "rb") as file:
        file.seek(CHUNK_BYTES - 10)
        assert file.read(20) == content[CHUNK_BYTES - 10 : CHUNK_BYTES + 10]
    cluster.wait_for(lambda: counts(cluster, fs)[0] >= passed + 4, 10, "what was handed over is counted")
    assert counts(cluster, fs) == (passed + 4, sent)


def test_the_command_line_does_so_unless_it_is_switched_off(
    cluster: LocalCluster,
    dfsctl: Dfsctl,
    fs: Client,
    stored: tuple[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, content = stored
    passed, sent = counts(cluster, fs)
    assert dfsctl.well("cat", path).out == content
    cluster.wait_for(lambda: counts(cluster, fs)[0] >= passed + 4, 10, "what was handed over is counted")
    assert counts(cluster, fs) == (passed + 4, sent)
    monkeypatch.setattr(
        dfsctl, "environment", lambda inner=dfsctl.environment: {**inner(), "QUORUMFS_SHORT_CIRCUIT": "off"}
    )
    assert dfsctl.well("cat", path).out == content
    cluster.wait_for(lambda: counts(cluster, fs)[1] >= sent + LENGTH, 10, "all that was sent is counted")
    assert counts(cluster, fs)[0] == passed + 4


def test_a_byte_that_flips_under_an_open_file_is_never_read_and_the_replica_is_reported(
    cluster: LocalCluster, fs: Client, stored: tuple[str, bytes]
) -> None:
    path, content = stored
    victim = source(fs, path, 0)
    file = begun(fs, path, content)
    flip_in(replica_files(fs, path, 0)[victim], HEADER_BYTES + CHUNK_BYTES // 2)
    assert content[limits.BLOCK_BYTES :] == rest(file)
    cluster.wait_for(lambda: whole(fs, path, content), 120, "the replica is healed")


def whole(fs: Client, path: str, content: bytes) -> bool:
    """Whether the first chunk lies on three nodes, right to the byte."""
    try:
        found = [file.read_bytes() for file in replica_files(fs, path, 0).values()]
    except OSError:
        return False
    return [one[HEADER_BYTES : HEADER_BYTES + CHUNK_BYTES] for one in found] == [content[:CHUNK_BYTES]] * 3


def test_a_chunk_that_is_deleted_under_an_open_file_is_read_to_its_end(
    fs: Client, stored: tuple[str, bytes]
) -> None:
    path, content = stored
    file = begun(fs, path, content)
    for replica in replica_files(fs, path, 0).values():
        replica.unlink()
    got = bytearray(CHUNK_BYTES - limits.BLOCK_BYTES)
    at = 0
    while at < len(got):
        at += file.readinto(memoryview(got)[at:]) or 0
    assert got == content[limits.BLOCK_BYTES : CHUNK_BYTES]
    fs.delete(path, purge=True)


def test_a_datanode_that_is_killed_in_the_middle_of_a_read_is_not_missed(
    cluster: LocalCluster, fs: Client, stored: tuple[str, bytes]
) -> None:
    path, content = stored
    file = begun(fs, path, content)
    victim = source(fs, path, 0)
    cluster.kill(victim)
    try:
        assert content[limits.BLOCK_BYTES :] == rest(file)
        with cluster.client() as another:
            assert another.read_bytes(path) == content
    finally:
        cluster.start_node(victim)
        cluster.wait_ready()


def test_a_datanode_that_is_stopped_in_the_middle_of_a_read_costs_a_bounded_time(
    cluster: LocalCluster, fs: Client, stored: tuple[str, bytes]
) -> None:
    path, content = stored
    file = begun(fs, path, content)
    victim = source(fs, path, 1)  # of a chunk that is not open yet
    cluster.pause(victim)
    try:
        since = time.monotonic()
        assert content[limits.BLOCK_BYTES :] == rest(file)
        with cluster.client() as another:
            assert another.read_bytes(path) == content
        assert time.monotonic() - since < STOPPED_SECONDS
    finally:
        cluster.resume(victim)
        cluster.wait_ready()


def test_a_stopped_datanode_is_overtaken_by_a_hedge_long_before_it_counts_as_stalled(
    cluster: LocalCluster, over_grpc: Client, stored: tuple[str, bytes]
) -> None:
    path, content = stored
    victim = source(over_grpc, path, 2)
    taken = []
    for _ in range(ROUNDS):
        with cluster.client(short_circuit=False) as client:
            opened = client._open(path.encode())
            assert b"".join(opened.read(0, CHUNK_BYTES)) == content[:CHUNK_BYTES]  # it knows what is usual
            cluster.pause(victim)
            try:
                since = time.monotonic()
                assert b"".join(opened.read(2 * CHUNK_BYTES)) == content[2 * CHUNK_BYTES :]
                taken.append(time.monotonic() - since)
            finally:
                cluster.resume(victim)
    assert min(taken) < limits.READ_STALL_SECONDS


def test_at_the_end_nothing_unusual_was_said(cluster: LocalCluster, fs: Client) -> None:
    assert surprises(cluster) == []
