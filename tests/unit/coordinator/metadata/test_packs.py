"""Packed files: many small ones made out of one sealed chunk of an open upload."""

from __future__ import annotations

import pytest

from quorumfs.errors import Code
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.machines import Cluster, commit_of
from tests.support.ops import clone, delete, put, ref, set_attributes, stat

ALL = ("d1", "d2", "d3")


def rows(cluster: Cluster, query: str) -> list[tuple[object, ...]]:
    return cluster.replica.db.execute(query).fetchall()


def sealed_pack(cluster: Cluster, length: int = 100, nodes: tuple[str, ...] = ALL) -> n.Packed:
    """An upload with one sealed chunk, and all of it as a range."""
    upload = cluster.one(n.Op(open_upload=n.OpenUploadRequest(ref=ref(b"/.pack")))).upload.upload
    choice = e.Choice(placements=[e.Placement(node_ids=ALL)])
    made = cluster.one(n.Op(allocate=n.AllocateRequest(upload=upload, count=1)), choices=[choice])
    sealed = commit_of(upload, made.allocation, [length], nodes)
    done = cluster.one(n.Op(add_extents=n.AddExtentsRequest(upload=upload, chunks=sealed.chunks)))
    assert done.code == Code.OK
    return n.Packed(upload=upload, chunk=sealed.chunks[0].chunk, length=length)


def part(pack: n.Packed, offset: int, length: int) -> n.Packed:
    return n.Packed(upload=pack.upload, chunk=pack.chunk, chunk_offset=offset, length=length)


def closed(cluster: Cluster, pack: n.Packed) -> None:
    done = cluster.one(n.Op(abort_upload=n.AbortUploadRequest(upload=pack.upload)))
    assert done.code == Code.OK


def lost(cluster: Cluster, pack: n.Packed, *nodes: str) -> None:
    updates = [e.ReplicaUpdate(chunk=pack.chunk, node_id=one, state=t.REPLICA_STATE_MISSING) for one in nodes]
    cluster.system(e.SystemCommand(update_replicas=e.UpdateReplicas(updates=updates)))


def test_files_of_one_batch_share_a_chunk_and_outlive_its_upload(cluster: Cluster) -> None:
    pack = sealed_pack(cluster)
    results = cluster.do(
        put(b"/a", checksum=1, packed=part(pack, 0, 40)), put(b"/b", checksum=2, packed=part(pack, 40, 60))
    )
    assert [(one.code, one.info.size, one.info.checksum) for one in results] == [(0, 40, 1), (0, 60, 2)]
    closed(cluster, pack)
    assert rows(cluster, "SELECT chunk, chunk_offset, length FROM extent ORDER BY chunk_offset") == [
        (pack.chunk, 0, 40),
        (pack.chunk, 40, 60),
    ]
    assert rows(cluster, "SELECT * FROM orphan") == []


def test_a_pack_without_files_is_an_orphan_when_its_upload_ends(cluster: Cluster) -> None:
    pack = sealed_pack(cluster)
    closed(cluster, pack)
    assert rows(cluster, "SELECT chunk FROM orphan") == [(pack.chunk,)]


def test_a_pack_is_an_orphan_when_its_last_file_is_gone(cluster: Cluster) -> None:
    pack = sealed_pack(cluster)
    cluster.do(put(b"/a", packed=part(pack, 0, 1)), put(b"/b", packed=part(pack, 1, 1)))
    cluster.one(clone(b"/a", b"/c"))
    cluster.do(delete(b"/a", purge=True), delete(b"/b", purge=True))
    closed(cluster, pack)
    cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=100)))
    assert rows(cluster, "SELECT * FROM orphan") == []
    cluster.one(delete(b"/c", purge=True))
    cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=100)))
    assert rows(cluster, "SELECT chunk FROM orphan") == [(pack.chunk,)]


def test_one_refused_file_of_a_pack_does_not_keep_out_the_others(cluster: Cluster) -> None:
    cluster.one(put(b"/there", b"old"))
    pack = sealed_pack(cluster)
    refused, made = cluster.do(
        put(b"/there", packed=part(pack, 0, 50), if_absent=True), put(b"/new", packed=part(pack, 50, 50))
    )
    assert (refused.code, made.code) == (Code.ALREADY_EXISTS, Code.OK)
    assert stat(cluster.replica.db, b"/there").info.size == 3


def test_a_pack_gets_as_many_replicas_as_the_most_demanding_of_its_files(cluster: Cluster) -> None:
    pack = sealed_pack(cluster)
    cluster.one(put(b"/a", packed=part(pack, 0, 1), replication=5))
    cluster.one(put(b"/b", packed=part(pack, 0, 1), replication=1))
    assert rows(cluster, "SELECT want, live FROM chunk") == [(5, 3)]
    assert cluster.one(set_attributes(b"/a", mode=0o600)).code == Code.OK


@pytest.mark.parametrize(("offset", "length"), [(0, 0), (0, 101), (100, 1), (2**64 - 1, 1), (1, 2**64 - 1)])
def test_a_range_that_is_not_in_the_pack_is_refused(cluster: Cluster, offset: int, length: int) -> None:
    pack = sealed_pack(cluster)
    assert cluster.one(put(b"/a", packed=part(pack, offset, length))).code == Code.INVALID_ARGUMENT
    assert stat(cluster.replica.db, b"/a").code == Code.NOT_FOUND


def test_a_file_has_a_body_or_is_packed(cluster: Cluster) -> None:
    pack = sealed_pack(cluster)
    assert cluster.one(put(b"/a", b"body", packed=part(pack, 0, 4))).code == Code.INVALID_ARGUMENT
    for packed in (n.Packed(), n.Packed(upload=b"u" * 16, chunk=b"c" * 1000, length=1)):
        assert cluster.one(put(b"/a", packed=packed)).code == Code.INVALID_ARGUMENT


def test_only_a_sealed_chunk_of_that_open_upload_is_a_pack(cluster: Cluster) -> None:
    cluster.upload(b"/other", 50)
    ((strange,),) = rows(cluster, "SELECT chunk FROM extent")
    assert isinstance(strange, bytes)
    pack = sealed_pack(cluster)
    theirs = n.Packed(upload=pack.upload, chunk=strange, length=50)
    assert cluster.one(put(b"/a", packed=theirs)).code == Code.CHUNK_NOT_FOUND
    closed(cluster, pack)
    assert cluster.one(put(b"/a", packed=pack)).code == Code.UPLOAD_GONE
    assert stat(cluster.replica.db, b"/a").code == Code.NOT_FOUND


def test_no_file_is_made_of_a_pack_that_was_lost_meanwhile(cluster: Cluster) -> None:
    pack = sealed_pack(cluster)
    lost(cluster, pack, "d1")
    assert cluster.one(put(b"/a", packed=part(pack, 0, 1))).code == Code.OK
    lost(cluster, pack, "d2")
    assert cluster.one(put(b"/b", packed=part(pack, 0, 1))).code == Code.CHUNK_NOT_FOUND


def test_the_pack_of_many_files_of_an_entry_is_looked_up_once(cluster: Cluster) -> None:
    pack = sealed_pack(cluster)
    files = [put(b"/%d" % number, packed=part(pack, number, 1)) for number in range(10)]
    statements: list[str] = []
    cluster.replica.db.set_trace_callback(statements.append)
    assert {one.code for one in cluster.do(*files)} == {Code.OK}
    cluster.replica.db.set_trace_callback(None)
    assert len([one for one in statements if "FROM upload" in one]) == 1
    assert len([one for one in statements if one.startswith("SELECT length, live, want")]) == 1


def test_what_happens_to_a_pack_between_two_of_its_files_in_an_entry_counts(cluster: Cluster) -> None:
    pack = sealed_pack(cluster)
    first, wider, third, last, late = cluster.do(
        put(b"/a", packed=part(pack, 0, 1)),
        put(b"/b", packed=part(pack, 1, 1), replication=5),
        put(b"/d", packed=part(pack, 3, 1), replication=4),
        n.Op(abort_upload=n.AbortUploadRequest(upload=pack.upload)),
        put(b"/c", packed=part(pack, 2, 1)),
    )
    assert {one.code for one in (first, wider, third, last)} == {Code.OK}
    assert late.code == Code.UPLOAD_GONE
    assert rows(cluster, "SELECT want FROM chunk") == [(5,)]


def test_replicas_that_an_entry_takes_away_are_missed_by_the_files_behind_it(cluster: Cluster) -> None:
    pack = sealed_pack(cluster)
    batch = n.Batch(ops=[put(b"/a", packed=part(pack, 0, 1))])
    again = n.Batch(ops=[put(b"/b", packed=part(pack, 1, 1))])
    updates = [
        e.ReplicaUpdate(chunk=pack.chunk, node_id=one, state=t.REPLICA_STATE_MISSING) for one in ("d1", "d2")
    ]
    lost = e.SystemBatch(commands=[e.SystemCommand(update_replicas=e.UpdateReplicas(updates=updates))])
    principal = e.Principal(name="somebody")
    told = cluster.entry(
        e.Item(principal=principal, batch=batch.SerializeToString()),
        e.Item(principal=principal, system=lost.SerializeToString()),
        e.Item(principal=principal, batch=again.SerializeToString()),
    )
    results = [n.BatchResult.FromString(told[number]).results[0].code for number in (0, 2)]
    assert results == [Code.OK, Code.CHUNK_NOT_FOUND]
