"""Chunks after their commit: replicas that come and go, garbage, and packing."""

from __future__ import annotations

import pytest

from coordinator.metadata import queries
from quorumfs.errors import Code
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.machines import Cluster, commit_of
from tests.support.ops import clone, delete, put, ref, set_attributes, stat

LIVE, CORRUPT, MISSING = t.REPLICA_STATE_LIVE, t.REPLICA_STATE_CORRUPT, t.REPLICA_STATE_MISSING
GONE = t.REPLICA_STATE_UNSPECIFIED


def rows(cluster: Cluster, query: str) -> list[tuple[object, ...]]:
    return cluster.replica.db.execute(query).fetchall()


def chunk_of(cluster: Cluster, path: bytes) -> bytes:
    asked = n.ReadOp(layout=n.LayoutRequest(ref=ref(path), no_body=True))
    return queries.answer(cluster.replica.db, asked).layout.extents[0].chunk


def update(cluster: Cluster, chunk: bytes, node: str, state: t.ReplicaState.ValueType, disk: str = "") -> int:
    one = e.ReplicaUpdate(chunk=chunk, node_id=node, disk_id=disk, state=state)
    return cluster.system(e.SystemCommand(update_replicas=e.UpdateReplicas(updates=[one]))).number


def counts(cluster: Cluster) -> tuple[int, int]:
    """(live, want) of the only chunk."""
    ((live, want),) = rows(cluster, "SELECT live, want FROM chunk")
    assert isinstance(live, int)
    assert isinstance(want, int)
    return live, want


def purged(cluster: Cluster, path: bytes) -> None:
    cluster.one(delete(path, purge=True))
    cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=100)))


# Replicas


def test_a_chunk_counts_its_live_replicas(cluster: Cluster) -> None:
    cluster.upload(b"/x", 5, nodes=("d1", "d2"))
    chunk = chunk_of(cluster, b"/x")
    steps = [
        ("d3", LIVE, 3),
        ("d3", LIVE, 3),
        ("d1", CORRUPT, 2),
        ("d1", MISSING, 2),
        ("d1", LIVE, 3),
    ]
    for node, state, live in steps:
        assert update(cluster, chunk, node, state) == 1
        assert counts(cluster) == (live, 3)


def test_the_disk_of_a_replica_is_kept_when_it_is_not_told_again(cluster: Cluster) -> None:
    cluster.upload(b"/x", 5)
    chunk = chunk_of(cluster, b"/x")
    for disk in ("disk-d1", "", "unknown"):
        update(cluster, chunk, "d1", CORRUPT, disk)
        (row,) = [row for row in queries.replicas_of(cluster.replica.db, chunk) if row.node_id == "d1"]
        assert row.disk_id == "disk-d1"


def test_only_a_live_replica_in_excess_is_removed(cluster: Cluster) -> None:
    cluster.upload(b"/x", 5)
    chunk = chunk_of(cluster, b"/x")
    assert update(cluster, chunk, "d1", GONE) == 0
    cluster.one(set_attributes(b"/x", replication=2))
    assert update(cluster, chunk, "d1", GONE) == 1
    assert (
        update(cluster, chunk, "d2", GONE) == 0
    )  # also when two leaders in a row decided on another one each
    assert counts(cluster) == (2, 2)


def test_what_is_found_of_a_replica_is_noted_even_of_the_last(cluster: Cluster) -> None:
    cluster.upload(b"/x", 5, nodes=("d1", "d2"))
    chunk = chunk_of(cluster, b"/x")
    for node, state in (("d1", MISSING), ("d2", CORRUPT)):
        assert update(cluster, chunk, node, state) == 1
        assert update(cluster, chunk, node, GONE) == 1
    assert counts(cluster) == (0, 3)


def test_reports_of_what_is_not_known_are_passed_over(cluster: Cluster) -> None:
    cluster.upload(b"/x", 5)
    cluster.one(put(b"/small", b"body"))
    chunk, inline = chunk_of(cluster, b"/x"), chunk_of(cluster, b"/small")
    assert update(cluster, chunk, "nobody", LIVE) == 0
    assert update(cluster, b"c" * 16, "d1", LIVE) == 0
    assert update(cluster, b"short", "d1", LIVE) == 0
    assert update(cluster, inline, "d1", LIVE) == 0  # its home is the metadata
    assert update(cluster, chunk, "d1", 99) == 0  # type: ignore[arg-type]  # a state of newer software
    purged(cluster, b"/small")


def test_a_chunk_under_way_has_no_live_replica_before_it_is_handed_in(cluster: Cluster) -> None:
    upload = cluster.one(n.Op(open_upload=n.OpenUploadRequest(ref=ref(b"/x")))).upload.upload
    choice = e.Choice(placements=[e.Placement(node_ids=["d1"])])
    made = cluster.one(n.Op(allocate=n.AllocateRequest(upload=upload, count=1)), choices=[choice])
    assert update(cluster, made.allocation.chunks[0].chunk, "d1", LIVE) == 0


# Packing


def pack(cluster: Cluster, length: int) -> tuple[bytes, bytes]:
    """An open upload with one sealed chunk of `length` bytes."""
    upload = cluster.one(n.Op(open_upload=n.OpenUploadRequest(ref=ref(b"/pack")))).upload.upload
    nodes = ("d1", "d2", "d3")
    choice = e.Choice(placements=[e.Placement(node_ids=nodes)])
    made = cluster.one(n.Op(allocate=n.AllocateRequest(upload=upload, count=1)), choices=[choice])
    sealed = commit_of(upload, made.allocation, [length], nodes)
    cluster.one(n.Op(add_extents=n.AddExtentsRequest(upload=upload, chunks=sealed.chunks)))
    return upload, sealed.chunks[0].chunk


def rehome(cluster: Cluster, upload: bytes, *ones: tuple[bytes, bytes, int]) -> e.SystemResult.One:
    chunks = [e.RehomeChunks.One(chunk=chunk, into=into, offset=offset) for chunk, into, offset in ones]
    return cluster.system(e.SystemCommand(rehome=e.RehomeChunks(upload=upload, chunks=chunks)))


def test_a_packed_file_is_the_same_file_with_its_bytes_elsewhere(cluster: Cluster) -> None:
    before = cluster.one(put(b"/x", b"hello", replication=5)).info
    cluster.one(clone(b"/x", b"/y"))
    upload, into = pack(cluster, 100)
    assert rehome(cluster, upload, (chunk_of(cluster, b"/x"), into, 90)).number == 1
    assert stat(cluster.replica.db, b"/x").info == before
    found = rows(cluster, "SELECT DISTINCT chunk, length, chunk_offset FROM extent")
    assert found == [(into, 5, 90)]
    assert rows(cluster, "SELECT count(*) FROM body") == [(0,)]
    assert counts(cluster) == (3, 5)
    cluster.one(n.Op(abort_upload=n.AbortUploadRequest(upload=upload)))
    assert rows(cluster, "SELECT * FROM orphan") == []  # files hold the pack now


def test_what_does_not_fit_any_more_is_not_packed(cluster: Cluster) -> None:
    cluster.do(put(b"/x", b"hello"), put(b"/gone", b"gone"))
    upload, into = pack(cluster, 100)
    mine, gone = chunk_of(cluster, b"/x"), chunk_of(cluster, b"/gone")
    purged(cluster, b"/gone")
    done = rehome(
        cluster,
        upload,
        (gone, into, 0),
        (mine, into, 96),
        (mine, into, 2**64 - 1),
        (mine, b"c" * 16, 0),
        (into, into, 0),
        (b"", b"", 0),
    )
    assert (done.code, done.number) == (Code.OK, 0)
    assert rehome(cluster, b"u" * 16, (mine, into, 0)).code == Code.UPLOAD_GONE


@pytest.mark.parametrize("found", [MISSING, CORRUPT])
def test_bytes_are_not_moved_to_where_they_are_lost(
    cluster: Cluster, found: t.ReplicaState.ValueType
) -> None:
    cluster.one(put(b"/x", b"hello"))
    upload, into = pack(cluster, 100)
    for node in ("d1", "d2"):
        update(cluster, into, node, found)
    assert rehome(cluster, upload, (chunk_of(cluster, b"/x"), into, 0)).number == 0
    update(cluster, into, "d1", LIVE)
    assert rehome(cluster, upload, (chunk_of(cluster, b"/x"), into, 0)).number == 1


def test_a_pack_goes_when_its_last_file_goes(cluster: Cluster) -> None:
    cluster.do(put(b"/x", b"hello"), put(b"/y", b"world!"))
    upload, into = pack(cluster, 11)
    rehome(cluster, upload, (chunk_of(cluster, b"/x"), into, 0), (chunk_of(cluster, b"/y"), into, 5))
    cluster.one(n.Op(abort_upload=n.AbortUploadRequest(upload=upload)))
    purged(cluster, b"/x")
    assert rows(cluster, "SELECT * FROM orphan") == []
    purged(cluster, b"/y")
    assert rows(cluster, "SELECT chunk FROM orphan") == [(into,)]


@pytest.mark.parametrize("limit", [0, 1, 2**64 - 1])
def test_reaping_any_number_at_once_is_bounded(cluster: Cluster, limit: int) -> None:
    cluster.do(put(b"/x", b"hello"), delete(b"/x", purge=True))
    for _ in range(3):
        cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=limit)))
    assert rows(cluster, "SELECT count(*) FROM inode") == [(1,)]
