"""Many files out in few reads, over a cluster in memory: runs, fail-over, damage, and what moves meanwhile."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumfs import Client, limits
from quorumfs.errors import IntegrityError, NotFoundError, PartialError, UnavailableError
from quorumfs.get_many import Wanted, plan
from quorumfs.limits import KIB, MIB
from quorumfs.v1 import namespace_pb2 as pb
from quorumfs.v1 import types_pb2
from tests.unit.quorumfs.fakes import Cluster

RANDOM = random.Random(12)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(chunk_size=64 * MIB)


@pytest.fixture
def fs(cluster: Cluster) -> Iterator[Client]:
    with Client("c1:1,c2:1,c3:1", channels=cluster.net) as client:
        yield client


def some(count: int, size: int = 4 * KIB, prefix: str = "/") -> dict[str, bytes]:
    return {f"{prefix}{number:05}": RANDOM.randbytes(size) for number in range(count)}


def reads(cluster: Cluster) -> int:
    return sum(len(node.reads) for node in cluster.nodes.values())


def test_the_files_of_a_pack_come_in_one_read(fs: Client, cluster: Cluster) -> None:
    files = some(500)
    fs.put_many(files)
    assert fs.get_many(files) == files
    assert reads(cluster) == 2
    asked = [raw for _, name, raw in cluster.net.calls if name == "Read"]
    assert [len(pb.ReadBatch.FromString(raw).ops) for raw in asked] == [256, 244]


def test_a_chunk_of_many_files_is_told_once_in_a_message(fs: Client, cluster: Cluster) -> None:
    files = some(500)
    fs.put_many(files)
    told = []
    whole = cluster.read

    def counted(address: str, raw: bytes) -> pb.ReadBatchResult:
        result = whole(address, raw)
        told.append(sum(len(one.layout.chunks) for one in result.results))
        return result

    cluster.read = counted  # type: ignore[method-assign]
    assert fs.get_many(files) == files
    assert told == [1, 1]


def test_a_coordinator_that_tells_a_chunk_with_each_of_its_files_is_understood(
    fs: Client, cluster: Cluster
) -> None:
    files = some(500)
    fs.put_many(files)
    whole = cluster.read

    def as_before(address: str, raw: bytes) -> pb.ReadBatchResult:
        batch = pb.ReadBatch.FromString(raw)
        for op in batch.ops:
            op.layout.ClearField("new_chunks")
        return whole(address, batch.SerializeToString())

    cluster.read = as_before  # type: ignore[method-assign]
    assert fs.get_many(files) == files
    assert reads(cluster) == 2


def test_files_of_every_kind_come_together(fs: Client) -> None:
    files = {"/empty": b"", "/inline": b"inline", "/large": RANDOM.randbytes(2 * MIB), **some(100)}
    fs.put_many(files)
    assert fs.get_many(files) == files
    assert fs.get_many([]) == {}


def test_what_cannot_be_read_is_named_and_the_others_come(fs: Client) -> None:
    files = some(40)
    fs.put_many(files)
    fs.mkdir("/directory")
    failed: dict[str, Exception] = {}
    found = fs.get_many([*files, "/missing", "/directory"], failed=failed)  # type: ignore[arg-type]
    assert found == files
    assert set(failed) == {"/missing", "/directory"}
    assert isinstance(failed["/missing"], NotFoundError)
    with pytest.raises(PartialError) as caught:
        fs.get_many(["/missing", "/00001"])
    assert list(caught.value.ids) == ["/missing"]


def test_a_datanode_that_died_is_not_noticed(fs: Client, cluster: Cluster) -> None:
    files = some(300)
    fs.put_many(files)
    cluster.net.down.add("d1:1")
    assert fs.get_many(files) == files


def test_other_bytes_under_matching_block_checksums_are_found_out(fs: Client, cluster: Cluster) -> None:
    files = some(40)
    fs.put_many(files)
    for node in cluster.nodes.values():
        for chunk in node.chunks:
            node.lies[chunk] = bytes(len(node.chunks[chunk]))
    failed: dict[str, Exception] = {}
    assert fs.get_many(files, failed=failed) == {}  # type: ignore[arg-type]
    assert {type(error) for error in failed.values()} == {IntegrityError}
    assert len(failed) == 40


def test_a_file_that_moves_to_another_chunk_meanwhile_is_read_there(fs: Client, cluster: Cluster) -> None:
    files = some(40)
    fs.put_many(files)

    def move(where: str, path: str, raw: bytes) -> None:
        if path.endswith("Chunks/Read"):
            cluster.net.before = lambda *_: None
            (old,) = {one.chunk for file in cluster.names.values() for one in file.extents}
            new = b"n" * 16
            cluster.sealed[new] = pb.ChunkLocation()
            cluster.sealed[new].CopyFrom(cluster.sealed[old])
            cluster.sealed[new].chunk = new
            cluster.original[new] = cluster.original[old]
            for node in cluster.nodes.values():
                if old in node.chunks:
                    node.chunks[new] = node.chunks.pop(old)
            for file in cluster.names.values():
                for extent in file.extents:
                    extent.chunk = new

    cluster.net.before = move
    assert fs.get_many(files) == files


def test_questions_whose_answers_do_not_fit_are_asked_again(fs: Client, cluster: Cluster) -> None:
    files = some(100)
    fs.put_many(files)
    whole = cluster.read

    def some_only(address: str, raw: bytes) -> pb.ReadBatchResult:
        result = whole(address, raw)
        for late in result.results[30:]:
            late.CopyFrom(pb.ReadResult(code=types_pb2.ERROR_CODE_TOO_LARGE))
        return result

    cluster.read = some_only  # type: ignore[method-assign]
    assert fs.get_many(files) == files


def test_no_leader_ends_it_all(cluster: Cluster) -> None:
    with Client("c1:1", channels=cluster.net, timeout=0.2) as fs:
        fs.put_many(some(40))
        cluster.net.down.update(cluster.coordinators)
        with pytest.raises(UnavailableError):
            fs.get_many(["/00001"])


def test_who_gives_up_early_waits_for_nothing(fs: Client) -> None:
    fs.put_many(some(300))
    coming = fs.iterate_many(some(300), failed={})
    next(coming)
    coming.close()  # type: ignore[attr-defined]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12 * MIB), st.integers(1, MIB)), max_size=40))
def test_every_file_is_in_one_run_that_holds_it(places: list[tuple[int, int, int]]) -> None:
    files = [
        Wanted(
            str(number).encode(),
            pb.FileInfo(size=size),
            pb.ChunkLocation(chunk=bytes([chunk]) * 16, length=16 * MIB),
            offset,
        )
        for number, (chunk, offset, size) in enumerate(places)
    ]
    runs = plan(files)
    assert sorted(file.path for run in runs for file in run.files) == sorted(file.path for file in files)
    for run in runs:
        assert len({file.chunk.chunk for file in run.files}) == 1
        assert run.start == min(file.chunk_offset for file in run.files)
        assert run.end == max(file.end for file in run.files)
        assert run.end - run.start <= limits.RUN_BYTES_MAX
        covered = run.start
        for file in run.files:
            assert file.chunk_offset - covered <= limits.RUN_GAP_BYTES
            covered = max(covered, file.end)
