"""Uploads: a file appears at its commit or not at all, and only out of chunks that are safe somewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from coordinator.metadata import context, invariants, queries
from coordinator.metadata.commands import files, sealing
from quorumfs.checksum import crc32c
from quorumfs.errors import Code
from quorumfs.limits import CHUNK_SIZE_BYTES, UPLOAD_TTL_MS
from quorumfs.mint import derived_id
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.machines import Cluster, Replica, commit_of
from tests.support.ops import (
    clone,
    delete,
    mkdir,
    names,
    put,
    ref,
    rename,
    set_attributes,
    stat,
    symlink,
    trash_paths,
)

NODES = ("d1", "d2", "d3")


def open_upload(cluster: Cluster, path: bytes = b"/x", **fields: int) -> n.UploadInfo:
    made = cluster.one(n.Op(open_upload=n.OpenUploadRequest(ref=ref(path), **fields)))
    assert made.code == Code.OK, made
    return made.upload


def allocate(
    cluster: Cluster,
    upload: bytes,
    count: int = 1,
    nodes: Sequence[str] = NODES,
    placements: int | None = None,
) -> n.Result:
    wanted = count if placements is None else placements
    choice = e.Choice(placements=[e.Placement(node_ids=nodes)] * wanted)
    return cluster.one(n.Op(allocate=n.AllocateRequest(upload=upload, count=count)), choices=[choice])


def commit(cluster: Cluster, request: n.CommitUploadRequest) -> n.Result:
    return cluster.one(n.Op(commit_upload=request))


def ready(
    cluster: Cluster, *lengths: int, path: bytes = b"/x", acks: Sequence[str] = NODES, **fields: int
) -> n.CommitUploadRequest:
    """Opened and allocated: the commit that would make the file."""
    upload = open_upload(cluster, path, **fields).upload
    allocated = allocate(cluster, upload, len(lengths)) if lengths else n.Result()
    return commit_of(upload, allocated.allocation, lengths, acks)


def rows(cluster: Cluster, query: str) -> list[tuple[object, ...]]:
    return cluster.replica.db.execute(query).fetchall()


def count(cluster: Cluster, table: str) -> int:
    return int(rows(cluster, f"SELECT count(*) FROM {table}")[0][0])


# The whole way


def test_a_file_appears_only_at_its_commit(cluster: Cluster) -> None:
    request = ready(cluster, 3, 4)
    assert names(cluster.replica.db, b"/") == []
    made = commit(cluster, request).info
    assert (made.path, made.size, made.checksum, made.replication) == (b"/x", 7, request.checksum, 3)
    assert stat(cluster.replica.db, b"/x").info == made
    assert count(cluster, "upload") == 0
    assert count(cluster, "orphan") == 0
    assert rows(cluster, "SELECT DISTINCT state, live, upload FROM chunk") == [(1, 3, None)]


def test_an_upload_says_what_it_may_do(cluster: Cluster) -> None:
    made = open_upload(cluster, replication=1)
    assert (made.replication, made.min_replicas, made.chunk_size_bytes) == (1, 1, CHUNK_SIZE_BYTES)
    assert made.deadline_cluster_ms == cluster.now_ms + UPLOAD_TTL_MS
    other = open_upload(cluster)
    assert (other.replication, other.min_replicas) == (3, 2)
    assert other.upload != made.upload


def test_chunks_handed_in_early_need_not_come_again(cluster: Cluster) -> None:
    whole = ready(cluster, 3, 4)
    part = n.AddExtentsRequest(upload=whole.upload, chunks=whole.chunks, extents=whole.extents)
    for _ in range(2):  # again is harmless: a call without a session may be repeated
        assert cluster.one(n.Op(add_extents=part)).upload.upload == whole.upload
    last = n.CommitUploadRequest(upload=whole.upload, size=whole.size, checksum=whole.checksum)
    assert commit(cluster, last).info.size == 7


def test_an_empty_file_needs_no_chunk(cluster: Cluster) -> None:
    assert commit(cluster, ready(cluster)).info.size == 0


def test_a_committed_upload_is_gone(cluster: Cluster) -> None:
    request = ready(cluster, 3)
    commit(cluster, request)
    assert commit(cluster, request).code == Code.UPLOAD_GONE
    abort = n.Op(abort_upload=n.AbortUploadRequest(upload=request.upload))
    add = n.Op(add_extents=n.AddExtentsRequest(upload=request.upload))
    assert [cluster.one(op).code for op in (abort, add)] == [Code.UPLOAD_GONE] * 2
    assert allocate(cluster, request.upload).code == Code.UPLOAD_GONE
    assert allocate(cluster, b"short").code == Code.UPLOAD_GONE


def test_an_overwrite_by_upload_keeps_the_inode_and_moves_the_old_content_to_the_trash(
    cluster: Cluster,
) -> None:
    before = cluster.one(put(b"/x", b"old", mode=0o600)).info
    after = commit(cluster, ready(cluster, 3, mtime_ns=5)).info
    assert (after.id, after.mode, after.mtime_ns) == (before.id, 0o600, 5)
    assert trash_paths(cluster.replica.db) == [b"/x"]


# Conditions, judged at the beginning and at the end


@pytest.mark.parametrize(
    ("meanwhile", "fields", "code"),
    [
        (put(b"/x"), {"if_absent": 1}, Code.ALREADY_EXISTS),
        (mkdir(b"/x"), {}, Code.IS_A_DIRECTORY),
    ],
)
def test_what_came_meanwhile_is_judged_at_the_commit(
    cluster: Cluster, meanwhile: n.Op, fields: dict[str, int], code: Code
) -> None:
    request = ready(cluster, 3, **fields)
    cluster.one(meanwhile)
    assert commit(cluster, request).code == code
    assert count(cluster, "upload") == 1  # a refusal leaves it open
    again = n.Op(
        open_upload=n.OpenUploadRequest(ref=ref(b"/x"), **fields)
    )  # and is told at once the next time
    assert cluster.one(again).code == code


def test_a_version_that_changed_meanwhile_is_not_overwritten(cluster: Cluster) -> None:
    version = cluster.one(put(b"/x", b"one")).info.version
    request = ready(cluster, 3, expected_version=version)
    cluster.one(put(b"/x", b"two"))
    assert commit(cluster, request).code == Code.PRECONDITION_FAILED
    early = n.OpenUploadRequest(ref=ref(b"/x"), expected_version=version)
    assert cluster.one(n.Op(open_upload=early)).code == Code.PRECONDITION_FAILED


def test_a_directory_that_moved_takes_the_upload_along(cluster: Cluster) -> None:
    cluster.one(mkdir(b"/a"))
    request = ready(cluster, 3, path=b"/a/x")
    cluster.one(rename(b"/a", b"/b"))
    assert commit(cluster, request).info.path == b"/b/x"


def test_a_directory_that_was_deleted_takes_no_file(cluster: Cluster) -> None:
    cluster.one(mkdir(b"/a/b", parents=True))
    request = ready(cluster, 3, path=b"/a/b/x")
    cluster.one(delete(b"/a", recursive=True))
    assert commit(cluster, request).code == Code.NOT_FOUND
    cluster.one(n.Op(empty_trash=n.EmptyTrashRequest()))
    cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=10)))
    assert commit(cluster, request).code == Code.NOT_FOUND
    assert cluster.one(n.Op(abort_upload=n.AbortUploadRequest(upload=request.upload))).code == Code.OK


def test_an_upload_replaces_a_link_and_not_what_it_points_to(cluster: Cluster) -> None:
    cluster.do(put(b"/target", b"untouched"), symlink(b"/x", b"target"))
    assert commit(cluster, ready(cluster, 3)).info.type == t.INODE_TYPE_FILE
    assert stat(cluster.replica.db, b"/target").info.size == len(b"untouched")


# Allocation


def test_an_allocation_takes_the_nodes_that_were_chosen_in_their_order(cluster: Cluster) -> None:
    upload = open_upload(cluster).upload
    made = allocate(cluster, upload, 2, nodes=("d3", "d1")).allocation.chunks
    assert [[one.node_id for one in chunk.replicas] for chunk in made] == [["d3", "d1"]] * 2
    assert made[0].replicas[0].grpc == "d3:1"
    assert (made[0].birth.history, made[0].birth.index) == (1, cluster.replica.index)
    assert made[0].chunk != made[1].chunk
    assert rows(cluster, "SELECT DISTINCT state, disk FROM replica") == [(t.REPLICA_STATE_PENDING, 0)]


@pytest.mark.parametrize("count", [0, 65, 2**32 - 1])
def test_an_allocation_is_of_1_to_64_chunks(cluster: Cluster, count: int) -> None:
    upload = open_upload(cluster).upload
    assert allocate(cluster, upload, count, placements=1).code == Code.INVALID_ARGUMENT


def test_without_nodes_nothing_is_allocated(cluster: Cluster) -> None:
    upload = open_upload(cluster).upload
    codes = [
        allocate(cluster, upload, 2, placements=1).code,
        allocate(cluster, upload, nodes=()).code,
        allocate(cluster, upload, nodes=("d1", "nobody")).code,
        cluster.one(n.Op(allocate=n.AllocateRequest(upload=upload, count=1))).code,
    ]
    assert codes == [Code.NO_PLACEMENT] * 4
    assert count(cluster, "chunk") == 0


# What a commit may name


def test_a_chunk_counts_only_on_enough_different_datanodes(cluster: Cluster) -> None:
    for acks in (("d1",), ("d1", "d1"), ("d1", "nobody"), ()):
        request = ready(cluster, 3, acks=acks)
        assert commit(cluster, request).code == Code.PRECONDITION_FAILED
    request = ready(cluster, 3)
    for ack in request.chunks[0].replicas[1:]:
        ack.durable = False
    assert commit(cluster, request).code == Code.PRECONDITION_FAILED


def test_what_is_acknowledged_is_live_and_what_was_only_promised_is_not_there(cluster: Cluster) -> None:
    commit(cluster, ready(cluster, 3, acks=("d1", "d3")))
    found = rows(
        cluster, "SELECT node_id, replica.state, disk <> 0 FROM replica JOIN node ON node = key ORDER BY 1"
    )
    assert found == [("d1", t.REPLICA_STATE_LIVE, 1), ("d3", t.REPLICA_STATE_LIVE, 1)]
    assert rows(cluster, "SELECT live, want FROM chunk") == [(2, 3)]


Damage = Callable[[n.CommitUploadRequest], object]


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda r: r.extents.pop(), Code.PRECONDITION_FAILED),  # too short
        (lambda r: r.extents.pop(0), Code.PRECONDITION_FAILED),  # a gap at the beginning
        (lambda r: setattr(r, "size", r.size + 1), Code.PRECONDITION_FAILED),
        (lambda r: setattr(r, "size", 2**64 - 1), Code.TOO_LARGE),
        (lambda r: setattr(r, "checksum", 1), Code.CORRUPT),
        (lambda r: setattr(r.extents[1], "offset", 2), Code.PRECONDITION_FAILED),  # an overlap
        (lambda r: setattr(r.extents[1], "offset", 0), Code.INVALID_ARGUMENT),  # two at one place
        (lambda r: setattr(r.extents[1], "offset", 2**64 - 1), Code.INVALID_ARGUMENT),
        (lambda r: setattr(r.extents[1], "length", 5), Code.INVALID_ARGUMENT),  # beyond its chunk
        (lambda r: setattr(r.extents[1], "length", 0), Code.INVALID_ARGUMENT),
        (lambda r: setattr(r.extents[1], "chunk_offset", 2**64 - 1), Code.INVALID_ARGUMENT),
        (lambda r: setattr(r.extents[1], "chunk", b"c" * 16), Code.CHUNK_NOT_FOUND),
        (lambda r: setattr(r.extents[1], "chunk", b""), Code.CHUNK_NOT_FOUND),
        (lambda r: setattr(r.chunks[1], "chunk", b"c" * 16), Code.CHUNK_NOT_FOUND),
        (lambda r: setattr(r.chunks[1], "length", 0), Code.INVALID_ARGUMENT),
        (lambda r: setattr(r.chunks[1], "length", 2**64 - 1), Code.INVALID_ARGUMENT),
        (lambda r: r.chunks.pop(), Code.PRECONDITION_FAILED),  # an extent of a chunk that is not sealed
    ],
)
def test_a_commit_that_is_no_whole_file_is_refused_and_can_be_mended(
    cluster: Cluster, damage: Damage, code: Code
) -> None:
    request = ready(cluster, 3, 4)
    broken = n.CommitUploadRequest()
    broken.CopyFrom(request)
    damage(broken)
    assert commit(cluster, broken).code == code
    assert rows(cluster, "SELECT DISTINCT state, live FROM chunk") == [(0, 0)]  # nothing of it stayed
    assert count(cluster, "extent") == 0
    assert commit(cluster, request).code == Code.OK


def test_a_checksum_is_taken_as_given_where_it_cannot_be_composed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ready(cluster, 3)
    request.extents[0].length = request.size = 2  # a part of a chunk
    request.checksum = crc32c(b"\0\0")
    assert commit(cluster, request).info.checksum == crc32c(b"\0\0")
    monkeypatch.setattr(sealing, "COMPOSED_EXTENTS_MAX", 1)
    request = ready(cluster, 3, 4)
    request.checksum = 1
    assert commit(cluster, request).info.checksum == 1


def test_a_chunk_of_another_upload_is_not_taken(cluster: Cluster) -> None:
    mine, other = ready(cluster, 3), ready(cluster, 3)
    mine.chunks[0].chunk = mine.extents[0].chunk = other.chunks[0].chunk
    assert commit(cluster, mine).code == Code.CHUNK_NOT_FOUND
    commit(cluster, other)
    assert commit(cluster, mine).code == Code.CHUNK_NOT_FOUND


def test_a_chunk_is_sealed_once_and_keeps_its_length(cluster: Cluster) -> None:
    whole = ready(cluster, 3)
    cluster.one(n.Op(add_extents=n.AddExtentsRequest(upload=whole.upload, chunks=whole.chunks)))
    other = n.AddExtentsRequest(upload=whole.upload, chunks=whole.chunks)
    other.chunks[0].length = 4
    assert cluster.one(n.Op(add_extents=other)).code == Code.PRECONDITION_FAILED


def test_a_replica_that_was_found_damaged_is_not_mended_by_an_old_acknowledgement(cluster: Cluster) -> None:
    whole = ready(cluster, 3)
    cluster.one(n.Op(add_extents=n.AddExtentsRequest(upload=whole.upload, chunks=whole.chunks)))
    damaged = e.ReplicaUpdate(chunk=whole.chunks[0].chunk, node_id="d1", state=t.REPLICA_STATE_CORRUPT)
    cluster.system(e.SystemCommand(update_replicas=e.UpdateReplicas(updates=[damaged])))
    assert commit(cluster, whole).code == Code.OK
    assert rows(cluster, "SELECT live FROM chunk") == [(2,)]


def test_a_file_is_not_acknowledged_whose_chunks_were_lost_since_they_were_handed_in(
    cluster: Cluster,
) -> None:
    whole = ready(cluster, 3, 4)
    handed_in = n.AddExtentsRequest(upload=whole.upload, chunks=whole.chunks, extents=whole.extents)
    assert cluster.one(n.Op(add_extents=handed_in)).code == Code.OK
    for node in ("d1", "d2"):
        cluster.register(node, empty=True)  # its disk was wiped
    late = n.CommitUploadRequest(upload=whole.upload, size=whole.size, checksum=whole.checksum)
    assert commit(cluster, late).code == Code.PRECONDITION_FAILED
    repaired = [
        e.ReplicaUpdate(chunk=one.chunk, node_id="d2", state=t.REPLICA_STATE_LIVE) for one in whole.chunks
    ]
    cluster.system(e.SystemCommand(update_replicas=e.UpdateReplicas(updates=repaired)))
    assert commit(cluster, late).code == Code.OK


# Appending: extents of the version it began from


def append(cluster: Cluster, base: bytes, extra: int) -> n.CommitUploadRequest:
    """The commit that appends a chunk of zeros to a file of one chunk."""
    asked = n.ReadOp(layout=n.LayoutRequest(ref=ref(base)))
    extents = queries.answer(cluster.replica.db, asked).layout.extents
    request = ready(cluster, extra, path=base, from_current=1)
    size = sum(one.length for one in extents)
    request.extents[0].offset = size
    request.extents.extend(extents)
    request.size = size + extra
    request.checksum = crc32c(bytes(request.size))
    return request


def test_an_append_shares_the_chunks_of_the_version_before(cluster: Cluster) -> None:
    cluster.upload(b"/x", 5)
    made = commit(cluster, append(cluster, b"/x", 3)).info
    assert (made.size, made.checksum) == (8, crc32c(bytes(8)))
    assert count(cluster, "chunk") == 2


def test_an_append_to_a_small_file_names_the_inline_chunk(cluster: Cluster) -> None:
    cluster.one(put(b"/x", bytes(5)))
    assert commit(cluster, append(cluster, b"/x", 3)).info.size == 8
    cluster.one(n.Op(empty_trash=n.EmptyTrashRequest()))
    cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=10)))
    assert count(cluster, "body") == 1


def test_chunks_of_the_base_are_named_only_when_it_was_asked_for(cluster: Cluster) -> None:
    cluster.upload(b"/x", 5)
    request = append(cluster, b"/x", 3)
    other = ready(cluster, 3)
    other.extents[0].offset = 5
    other.extents.extend(request.extents[1:])
    other.size, other.checksum = 8, request.checksum
    assert commit(cluster, other).code == Code.CHUNK_NOT_FOUND


def test_a_base_that_was_reaped_meanwhile_has_no_chunks_to_name(cluster: Cluster) -> None:
    cluster.upload(b"/x", 5)
    request = append(cluster, b"/x", 3)
    cluster.one(delete(b"/x", purge=True))
    cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=10)))
    assert commit(cluster, request).code == Code.CHUNK_NOT_FOUND
    assert cluster.one(n.Op(abort_upload=n.AbortUploadRequest(upload=request.upload))).code == Code.OK


def test_extents_that_were_handed_in_protect_the_chunks_of_the_base(cluster: Cluster) -> None:
    cluster.upload(b"/x", 5)
    request = append(cluster, b"/x", 3)
    part = n.AddExtentsRequest(upload=request.upload, chunks=request.chunks, extents=request.extents)
    cluster.one(n.Op(add_extents=part))
    cluster.one(delete(b"/x", purge=True))
    cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=10)))
    assert count(cluster, "orphan") == 0
    last = n.CommitUploadRequest(upload=request.upload, size=8, checksum=request.checksum)
    assert commit(cluster, last).info.size == 8


# The end without a commit


def test_an_aborted_upload_leaves_its_chunks_to_gc_and_says_whose_they_were(cluster: Cluster) -> None:
    cluster.one(mkdir(b"/d"))
    request = ready(cluster, 3, 4, path=b"/d/x")
    assert cluster.one(n.Op(abort_upload=n.AbortUploadRequest(upload=request.upload))).code == Code.OK
    found = rows(cluster, "SELECT DISTINCT path, deleted_by, since_index FROM orphan")
    assert found == [(b"/d/x", "tester", cluster.replica.index)]
    assert count(cluster, "version") == 0


def test_a_chunk_that_the_commit_does_not_use_is_garbage(cluster: Cluster) -> None:
    request = ready(cluster, 3, 4)
    request.extents.pop()
    request.size, request.checksum = 3, crc32c(bytes(3))
    assert commit(cluster, request).code == Code.OK
    assert count(cluster, "orphan") == 1


def test_an_upload_expires_after_its_time_and_not_before(cluster: Cluster) -> None:
    upload = open_upload(cluster).upload
    expire = e.SystemCommand(expire_uploads=e.ExpireUploads(uploads=[upload, upload, b"nobody's"]))
    cluster.now_ms += UPLOAD_TTL_MS - 1
    assert cluster.system(expire).number == 0
    allocate(cluster, upload)  # a sign of life
    cluster.now_ms += UPLOAD_TTL_MS - 1
    assert queries.open_uploads_past(cluster.replica.db, cluster.now_ms, 10) == []
    assert cluster.system(expire).number == 0
    cluster.now_ms += 1
    assert queries.open_uploads_past(cluster.replica.db, cluster.now_ms, 10) == [upload]
    assert cluster.system(expire).number == 1
    assert allocate(cluster, upload).code == Code.UPLOAD_GONE


def test_a_file_of_very_many_extents_is_not_cloned_in_one_entry(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "CLONE_EXTENTS_MAX", 2)
    cluster.upload(b"/x", 1, 2, 3)
    cluster.upload(b"/y", 1, 2)
    results = cluster.do(clone(b"/x", b"/z"), clone(b"/y", b"/z"))
    assert [one.code for one in results] == [Code.TOO_LARGE, Code.OK]


def test_no_entry_touches_very_many_chunks_whatever_is_put_together_in_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.upload(b"/x", 1, 2, 3)
    requests = [ready(cluster, 1, 2, 3, path=path) for path in (b"/a", b"/b", b"/c")]
    monkeypatch.setattr(context, "ROWS_PER_ENTRY", 8)
    ops = (
        clone(b"/x", b"/y"),
        set_attributes(b"/x", replication=4),
        clone(b"/x", b"/z"),
        n.Op(commit_upload=requests[0]),
        n.Op(abort_upload=n.AbortUploadRequest(upload=requests[0].upload)),
        put(b"/small"),
        mkdir(b"/d"),
    )
    assert [one.code for one in cluster.do(*ops)] == [0, 0, *[Code.BUSY] * 3, 0, 0]
    monkeypatch.setattr(context, "ROWS_PER_ENTRY", 1)
    assert commit(cluster, requests[0]).code == Code.OK  # the first in an entry always has room
    cluster.now_ms += UPLOAD_TTL_MS
    expire = e.SystemCommand(expire_uploads=e.ExpireUploads(uploads=[one.upload for one in requests]))
    assert [cluster.system(expire).number for _ in range(3)] == [1, 1, 0]


def test_before_the_cluster_is_initialised_no_upload_is_opened_that_could_end_by_halves() -> None:
    replica = Replica()
    opened = n.Op(open_upload=n.OpenUploadRequest(ref=ref(b"/x")))
    ids = [derived_id(bytes(16), 0, 0, 0)]
    ops = [opened, n.Op(abort_upload=n.AbortUploadRequest(upload=ids[0]))]
    item = e.Item(batch=n.Batch(ops=ops).SerializeToString())
    (raw,) = replica.apply(2, e.Entry(format=1, seed=bytes(16), items=[item]).SerializeToString())
    codes = [one.code for one in n.BatchResult.FromString(raw).results]
    assert codes == [Code.PRECONDITION_FAILED, Code.UPLOAD_GONE]
    assert invariants.violations(replica.db) == []
