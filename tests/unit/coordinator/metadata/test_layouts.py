"""Layouts: where the bytes of a file, or of a version that a reader holds, lie."""

from __future__ import annotations

import pytest

from coordinator.metadata import layouts, queries
from quorumfs.errors import Code
from quorumfs.limits import LAYOUT_EXTENTS_MAX
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.machines import Cluster
from tests.support.ops import clone, delete, mkdir, put, ref, rename, symlink


def ask(cluster: Cluster, path: bytes = b"", **fields: object) -> n.ReadResult:
    request = n.LayoutRequest(**fields)  # type: ignore[arg-type]  # a test's shorthand
    if path:
        request.ref.path = path
    return queries.answer(cluster.replica.db, n.ReadOp(layout=request))


def layout(cluster: Cluster, path: bytes = b"", **fields: object) -> n.Layout:
    found = ask(cluster, path, **fields)
    assert found.code == Code.OK, found
    return found.layout


def offsets(found: n.Layout) -> list[int]:
    return [one.offset for one in found.extents]


def test_each_chunk_is_told_once_with_its_replicas(cluster: Cluster) -> None:
    cluster.upload(b"/x", 5, 6)
    found = layout(cluster, b"/x")
    assert [(one.offset, one.length, one.chunk_offset) for one in found.extents] == [(0, 5, 0), (5, 6, 0)]
    assert [one.length for one in found.chunks] == [5, 6]
    replica = found.chunks[0].replicas[0]
    assert (replica.node_id, replica.grpc, replica.disk_id) == ("d1", "d1:1", "disk-d1")
    assert replica.state == t.REPLICA_STATE_LIVE
    assert (found.info.path, found.info.size, found.next_offset) == (b"/x", 11, 0)


def test_a_small_file_comes_with_its_body_unless_only_its_place_is_asked_for(cluster: Cluster) -> None:
    cluster.do(put(b"/x", b"body"))
    (told,) = layout(cluster, b"/x").chunks
    assert (told.inline, told.body, told.length) == (True, b"body", 4)
    (told,) = layout(cluster, b"/x", no_body=True).chunks
    assert (told.inline, told.body, told.length) == (True, b"", 4)


def test_an_empty_file_has_no_extents(cluster: Cluster) -> None:
    cluster.do(put(b"/x"))
    found = layout(cluster, b"/x")
    assert (len(found.extents), len(found.chunks), found.info.size) == (0, 0, 0)


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, 0, [0, 5, 11]),
        (0, 5, [0]),
        (0, 6, [0, 5]),
        (4, 1, [0]),
        (5, 1, [5]),
        (10, 2, [5, 11]),
        (11, 0, [11]),
        (17, 0, [11]),
        (18, 0, []),
        (2**64 - 1, 2**64 - 1, []),
    ],
)
def test_a_range_gets_the_extents_that_touch_it(
    cluster: Cluster, offset: int, length: int, expected: list[int]
) -> None:
    cluster.upload(b"/x", 5, 6, 7)
    assert offsets(layout(cluster, b"/x", offset=offset, length=length)) == expected


def test_a_long_layout_comes_in_pages(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    assert layouts.LAYOUT_EXTENTS_MAX == LAYOUT_EXTENTS_MAX
    monkeypatch.setattr(layouts, "LAYOUT_EXTENTS_MAX", 2)
    cluster.upload(b"/x", 1, 1, 1, 1, 1)
    found = layout(cluster, b"/x")
    assert (offsets(found), found.next_offset) == ([0, 1], 2)
    found = layout(cluster, b"/x", offset=found.next_offset)
    assert (offsets(found), found.next_offset) == ([2, 3], 4)
    found = layout(cluster, b"/x", offset=found.next_offset)
    assert (offsets(found), found.next_offset) == ([4], 0)


def test_a_reader_goes_on_with_the_version_that_it_opened(cluster: Cluster) -> None:
    cluster.do(put(b"/x", b"old"))
    held = layout(cluster, b"/x").info
    cluster.do(put(b"/x", b"newer"), rename(b"/x", b"/y"))
    found = layout(cluster, inode=held.id, version=held.version)
    assert (found.chunks[0].body, found.info.size, found.info.path) == (b"old", 3, b"/x")
    assert layout(cluster, inode=held.id).chunks[0].body == b"newer"


def test_a_deleted_version_is_there_until_it_is_purged(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/dir"), put(b"/dir/x", b"body"))
    held = layout(cluster, b"/dir/x").info
    cluster.one(delete(b"/dir", recursive=True))
    found = layout(cluster, inode=held.id, version=held.version)
    assert (found.chunks[0].body, found.info.path) == (b"body", b"/dir/x")
    cluster.one(n.Op(empty_trash=n.EmptyTrashRequest()))
    assert ask(cluster, inode=held.id, version=held.version).code == Code.NOT_FOUND


def test_a_version_that_is_being_reaped_is_never_told_short(cluster: Cluster) -> None:
    cluster.upload(b"/x", 5, 6, 7)
    held = layout(cluster, b"/x").info
    cluster.one(delete(b"/x", purge=True))
    cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=1)))
    (size,) = cluster.replica.db.execute("SELECT size FROM version").fetchone()
    assert size == 11  # its last extent is gone already
    assert ask(cluster, inode=held.id, version=held.version).code == Code.NOT_FOUND


def test_numbers_that_nothing_has_are_not_found(cluster: Cluster) -> None:
    for number in (2, 2**63 - 1, 2**63, 2**64 - 1):
        assert ask(cluster, inode=number).code == Code.NOT_FOUND
        assert ask(cluster, inode=1, version=number).code == Code.NOT_FOUND


def test_the_version_of_an_open_upload_is_nobodys(cluster: Cluster) -> None:
    cluster.one(n.Op(open_upload=n.OpenUploadRequest(ref=ref(b"/x"))))
    (version,) = cluster.replica.db.execute("SELECT id FROM version").fetchone()
    assert ask(cluster, inode=1, version=version).code == Code.NOT_FOUND


def test_only_files_have_a_layout(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/dir"), put(b"/dir/x", b"body"), symlink(b"/link", b"dir/x"))
    assert ask(cluster, b"/dir").code == Code.IS_A_DIRECTORY
    assert ask(cluster, inode=1).code == Code.IS_A_DIRECTORY
    assert ask(cluster, b"/link").code == Code.IS_A_DIRECTORY
    assert layout(cluster, b"/link", follow=True).info.path == b"/dir/x"


def test_bodies_are_bounded_in_bytes(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of many inline chunks, as an append in place would make: here by hand."""
    monkeypatch.setattr(layouts, "BODIES_BYTES_MAX", 10)
    db = cluster.replica.db
    cluster.do(*(put(b"/%d" % k, b"%d" % k * 4) for k in range(4)))
    (version,) = db.execute("SELECT version FROM inode WHERE name = CAST('0' AS BLOB)").fetchone()
    db.execute(
        "UPDATE extent SET version = ?1, file_offset = 4 * (version - ?1)",
        (version,),
    )
    found = layout(cluster, b"/0")
    assert (offsets(found), found.next_offset) == ([0, 4], 8)
    found = layout(cluster, b"/0", offset=8)
    assert (offsets(found), found.next_offset) == ([8, 12], 0)
    assert offsets(layout(cluster, b"/0", no_body=True)) == [0, 4, 8, 12]
    db.execute("UPDATE extent SET version = version + file_offset / 4, file_offset = 0")


def test_a_clone_names_the_same_chunks(cluster: Cluster) -> None:
    cluster.upload(b"/x", 5, 6)
    cluster.one(clone(b"/x", b"/y"))
    first, second = layout(cluster, b"/x"), layout(cluster, b"/y")
    assert [one.chunk for one in first.chunks] == [one.chunk for one in second.chunks]
    assert first.info.id != second.info.id
