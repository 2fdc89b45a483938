"""Extents move from sparse chunks to new ones: whatever lies within a range, and nothing else."""

from __future__ import annotations

import pytest

from coordinator.metadata import context, invariants, sparse
from coordinator.metadata.sparse import Range
from quorumfs.errors import Code
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.machines import Cluster, commit_of
from tests.support.ops import clone, delete, ref, stat

NODES = ("d1", "d2", "d3")


def sealed(cluster: Cluster, name: bytes, length: int) -> tuple[bytes, bytes]:
    """An open upload with one sealed chunk."""
    upload = cluster.one(n.Op(open_upload=n.OpenUploadRequest(ref=ref(name)))).upload.upload
    choice = e.Choice(placements=[e.Placement(node_ids=NODES)])
    made = cluster.one(n.Op(allocate=n.AllocateRequest(upload=upload, count=1)), choices=[choice])
    commit = commit_of(upload, made.allocation, [length], NODES)
    cluster.one(n.Op(add_extents=n.AddExtentsRequest(upload=upload, chunks=commit.chunks)))
    return upload, commit.chunks[0].chunk


def close(cluster: Cluster, upload: bytes) -> None:
    cluster.one(n.Op(abort_upload=n.AbortUploadRequest(upload=upload)))


def packed(cluster: Cluster, *files: tuple[bytes, int, int], length: int = 100) -> bytes:
    """A pack with files (path, offset, length)."""
    upload, chunk = sealed(cluster, b"/.pack", length)
    for path, offset, size in files:
        place = n.Packed(upload=upload, chunk=chunk, chunk_offset=offset, length=size)
        cluster.one(n.Op(put_file=n.PutFileRequest(ref=ref(path), packed=place, checksum=7)))
    close(cluster, upload)
    return chunk


def purged(cluster: Cluster, path: bytes) -> None:
    cluster.one(delete(path, purge=True))
    cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=100)))


def repack(
    cluster: Cluster, upload: bytes, *ranges: tuple[bytes, int, int, bytes, int]
) -> e.SystemResult.One:
    ones = [
        e.RepackChunks.Range(chunk=chunk, offset=offset, length=length, into=into, into_offset=at)
        for chunk, offset, length, into, at in ranges
    ]
    return cluster.system(e.SystemCommand(repack=e.RepackChunks(upload=upload, ranges=ones)))


def extents(cluster: Cluster) -> set[tuple[bytes, int, int]]:
    return set(cluster.replica.db.execute("SELECT chunk, chunk_offset, length FROM extent"))


def test_extents_within_a_range_name_the_new_chunk_and_the_old_one_is_garbage(cluster: Cluster) -> None:
    old = packed(cluster, (b"/a", 10, 5), (b"/b", 15, 5), (b"/gone", 20, 80))
    purged(cluster, b"/gone")
    cluster.one(clone(b"/a", b"/clone"))
    before = {path: stat(cluster.replica.db, path).info for path in (b"/a", b"/b", b"/clone")}
    upload, new = sealed(cluster, b"/.new", 10)
    assert repack(cluster, upload, (old, 10, 10, new, 0)).number == 3
    close(cluster, upload)
    assert extents(cluster) == {(new, 0, 5), (new, 5, 5)}
    assert {path: stat(cluster.replica.db, path).info for path in before} == before
    orphans = cluster.replica.db.execute("SELECT chunk, deleted_by <> '' FROM orphan").fetchall()
    assert orphans == [(old, 1)]
    assert invariants.violations(cluster.replica.db) == []


def test_what_lies_only_partly_within_a_range_keeps_its_chunk(cluster: Cluster) -> None:
    old = packed(cluster, (b"/a", 10, 5), (b"/b", 13, 5))
    upload, new = sealed(cluster, b"/.new", 10)
    assert repack(cluster, upload, (old, 10, 5, new, 2)).number == 1
    close(cluster, upload)
    assert extents(cluster) == {(new, 2, 5), (old, 13, 5)}
    assert cluster.replica.db.execute("SELECT count(*) FROM orphan").fetchone() == (0,)


def test_a_file_that_went_meanwhile_is_passed_over(cluster: Cluster) -> None:
    old = packed(cluster, (b"/a", 10, 5))
    upload, new = sealed(cluster, b"/.new", 5)
    purged(cluster, b"/a")
    assert repack(cluster, upload, (old, 10, 5, new, 0)).number == 0
    close(cluster, upload)
    assert {row[0] for row in cluster.replica.db.execute("SELECT chunk FROM orphan")} == {old, new}


def test_a_version_that_an_open_upload_began_from_keeps_its_chunks(cluster: Cluster) -> None:
    """Its commit may name them."""
    old = packed(cluster, (b"/a", 10, 5))
    request = n.OpenUploadRequest(ref=ref(b"/a"), from_current=True)
    base = cluster.one(n.Op(open_upload=request)).upload.upload
    upload, new = sealed(cluster, b"/.new", 5)
    assert repack(cluster, upload, (old, 10, 5, new, 0)).number == 0
    close(cluster, base)
    assert repack(cluster, upload, (old, 10, 5, new, 0)).number == 1
    close(cluster, upload)


def test_extents_of_an_open_upload_stay_what_was_handed_in(cluster: Cluster) -> None:
    """They are handed in again when the answer was lost, and have to be the same then."""
    old = packed(cluster, (b"/a", 10, 5))
    request = n.OpenUploadRequest(ref=ref(b"/a"), from_current=True)
    copy = cluster.one(n.Op(open_upload=request)).upload.upload
    extent = t.Extent(offset=0, length=5, chunk=old, chunk_offset=10)
    hand_in = n.Op(add_extents=n.AddExtentsRequest(upload=copy, extents=[extent]))
    cluster.one(hand_in)
    upload, new = sealed(cluster, b"/.new", 5)
    assert repack(cluster, upload, (old, 10, 5, new, 0)).number == 0
    assert cluster.one(hand_in).code == Code.OK
    cluster.one(n.Op(commit_upload=n.CommitUploadRequest(upload=copy, size=5, checksum=7)))
    assert repack(cluster, upload, (old, 10, 5, new, 0)).number == 2  # the former content is in the trash
    close(cluster, upload)
    assert invariants.violations(cluster.replica.db) == []


def test_what_is_too_much_for_an_entry_keeps_its_chunk_and_moves_in_the_next(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "ROWS_PER_ENTRY", 1)
    old = packed(cluster, (b"/a", 10, 5), (b"/b", 20, 5))
    upload, new = sealed(cluster, b"/.new", 10)
    both = ((old, 10, 5, new, 0), (old, 20, 5, new, 5))
    done = repack(cluster, upload, *both)
    assert (done.code, done.number, extents(cluster)) == (Code.OK, 1, {(new, 0, 5), (old, 20, 5)})
    assert repack(cluster, upload, *both).number == 1
    close(cluster, upload)
    assert extents(cluster) == {(new, 0, 5), (new, 5, 5)}
    assert invariants.violations(cluster.replica.db) == []


def test_chunks_that_an_open_upload_may_name_are_not_found_until_it_is_over(cluster: Cluster) -> None:
    """Else they would be copied in every round, for nothing."""
    packed(cluster, (b"/a", 10, 5))
    request = n.OpenUploadRequest(ref=ref(b"/a"), from_current=True)
    base = cluster.one(n.Op(open_upload=request)).upload.upload
    assert sparse.sparse(cluster.replica.db, b"", 100, 10, 50).chunks == []
    close(cluster, base)
    assert len(sparse.sparse(cluster.replica.db, b"", 100, 10, 50).chunks) == 1


def test_nonsense_moves_nothing(cluster: Cluster) -> None:
    old = packed(cluster, (b"/a", 10, 5))
    upload, new = sealed(cluster, b"/.new", 5)
    most = 2**64 - 1
    for one in (
        (old, 10, 5, new, 1),  # does not fit
        (old, 10, 5, old, 0),
        (new, 0, 5, new, 0),
        (old, most, most, new, 0),
        (old, 10, most, new, 0),
        (old, 10, 5, new, most),
        (b"c" * 16, 0, 5, new, 0),
        (old, 10, 5, b"c" * 16, 0),
        (old, 10, 0, new, 0),
    ):
        assert (repack(cluster, upload, one).code, repack(cluster, upload, one).number) == (Code.OK, 0), one
    assert repack(cluster, b"u" * 16, (old, 10, 5, new, 0)).code == Code.UPLOAD_GONE
    close(cluster, upload)


def test_more_replicas_are_wanted_of_the_new_chunk_when_the_old_one_wanted_more(cluster: Cluster) -> None:
    old = packed(cluster, (b"/a", 10, 5))
    cluster.replica.db.execute("UPDATE chunk SET want = 5 WHERE id = ?", (old,))
    upload, new = sealed(cluster, b"/.new", 5)
    repack(cluster, upload, (old, 10, 5, new, 0))
    close(cluster, upload)
    assert cluster.replica.db.execute("SELECT want FROM chunk WHERE id = ?", (new,)).fetchone() == (5,)


def test_sparse_chunks_are_found_with_what_is_alive_in_them(cluster: Cluster) -> None:
    old = packed(cluster, (b"/a", 10, 5), (b"/b", 15, 5), (b"/c", 50, 29), (b"/gone", 80, 20))
    packed(cluster, (b"/full", 0, 100))
    cluster.upload(b"/whole", 100)
    cluster.one(clone(b"/a", b"/clone"))
    db = cluster.replica.db
    assert sparse.sparse(db, b"", 100, 10, 59).chunks == []
    purged(cluster, b"/gone")
    page = sparse.sparse(db, b"", 100, 10, 40)
    (found,) = page.chunks
    assert (found.chunk, found.ranges, found.live_bytes) == (old, (Range(10, 10), Range(50, 29)), 39)
    assert page.after == b""
    assert sparse.sparse(db, b"", 100, 10, 39).chunks == []


def test_pages_of_chunks_are_looked_through_in_turns(cluster: Cluster) -> None:
    chunks = {packed(cluster, (b"/%d" % k, 0, 10)) for k in range(5)}
    found: set[bytes] = set()
    after = b""
    for _ in range(6):
        page = sparse.sparse(cluster.replica.db, after, 2, 10, 50)
        found |= {one.chunk for one in page.chunks}
        after = page.after
        if not after:
            break
    assert found == chunks
    assert len(sparse.sparse(cluster.replica.db, b"", 100, 3, 50).chunks) == 3
