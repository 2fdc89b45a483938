"""The trash: what is deleted can be taken back, and is deleted for good a little at a time."""

from __future__ import annotations

import pytest

from coordinator.metadata import invariants, queries
from quorumfs.checksum import crc32c
from quorumfs.errors import Code
from quorumfs.limits import TRASH_RETENTION_MS
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from tests.support.machines import Cluster


def put(path: bytes, body: bytes = b"body") -> n.Op:
    return n.Op(put_file=n.PutFileRequest(ref=n.Ref(path=path), body=body, checksum=crc32c(body)))


def delete(path: bytes, **options: bool) -> n.Op:
    return n.Op(delete=n.DeleteRequest(ref=n.Ref(path=path), **options))


def reap(cluster: Cluster, limit: int) -> int:
    return cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=limit))).number


def trash(cluster: Cluster) -> list[bytes]:
    listed = queries.answer(cluster.replica.db, n.ReadOp(list_trash=n.ListTrashRequest())).trash
    return [entry.path for entry in listed.entries]


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
def test_a_tree_is_reaped_whole_however_little_at_a_time(limit: int) -> None:
    cluster = Cluster()
    mkdirs = [n.Op(mkdir=n.MkdirRequest(ref=n.Ref(path=path))) for path in (b"/a", b"/a/b", b"/a/c")]
    cluster.do(*mkdirs, put(b"/a/1"), put(b"/a/b/2"), put(b"/a/b/3", b""))
    cluster.upload(b"/a/c/4", 5, 6, 7)
    cluster.one(delete(b"/a", recursive=True, purge=True))
    for _ in range(100):
        done = reap(cluster, limit)
        assert invariants.violations(cluster.replica.db) == []
        if not done:
            break
    (inodes,) = cluster.replica.db.execute("SELECT count(*) FROM inode").fetchone()
    (orphans,) = cluster.replica.db.execute("SELECT count(*) FROM orphan").fetchone()
    assert (inodes, orphans) == (1, 3)


def test_what_is_in_the_trash_for_its_time_is_reaped_by_itself() -> None:
    cluster = Cluster()
    cluster.do(put(b"/x"), delete(b"/x"))
    assert not queries.trash_is_due(cluster.replica.db, cluster.now_ms + TRASH_RETENTION_MS - 1)
    cluster.now_ms += TRASH_RETENTION_MS
    assert queries.trash_is_due(cluster.replica.db, cluster.now_ms)
    reap(cluster, 10)
    assert trash(cluster) == []


def test_an_overwritten_file_can_be_taken_back() -> None:
    cluster = Cluster()
    cluster.do(put(b"/x", b"old"), put(b"/x", b"new"))
    taken = cluster.one(n.Op(undelete=n.UndeleteRequest(original_path=b"/x", to=n.Ref(path=b"/y"))))
    assert (taken.info.path, taken.info.size, taken.info.checksum) == (b"/y", 3, crc32c(b"old"))


def test_a_tree_comes_back_with_all_that_was_in_it() -> None:
    cluster = Cluster()
    cluster.do(n.Op(mkdir=n.MkdirRequest(ref=n.Ref(path=b"/a/b"), parents=True)), put(b"/a/b/c"))
    cluster.one(delete(b"/a", recursive=True))
    assert cluster.one(n.Op(undelete=n.UndeleteRequest(original_path=b"/a"))).code == Code.OK
    found = queries.answer(cluster.replica.db, n.ReadOp(stat=n.StatRequest(ref=n.Ref(path=b"/a/b/c"))))
    assert found.info.size == 4


def test_nothing_comes_back_to_where_something_else_is_unless_asked() -> None:
    cluster = Cluster()
    cluster.do(put(b"/x", b"old"), delete(b"/x"), put(b"/x", b"new"))
    undelete = n.UndeleteRequest(original_path=b"/x")
    assert cluster.one(n.Op(undelete=undelete)).code == Code.ALREADY_EXISTS
    undelete.replace = True
    assert cluster.one(n.Op(undelete=undelete)).info.checksum == crc32c(b"old")
    assert trash(cluster) == [b"/x"]


def test_what_is_not_in_the_trash_is_not_found() -> None:
    cluster = Cluster()
    assert cluster.one(n.Op(undelete=n.UndeleteRequest(original_path=b"/x"))).code == Code.NOT_FOUND
    assert cluster.one(n.Op(empty_trash=n.EmptyTrashRequest(trash_id=7))).code == Code.NOT_FOUND
