"""The trash: what is deleted can be taken back, and is deleted for good a little at a time."""

from __future__ import annotations

import pytest

from coordinator.metadata import invariants, queries
from coordinator.metadata.commands import trash as commands
from quorumfs.checksum import crc32c
from quorumfs.errors import Code
from quorumfs.limits import TRASH_RETENTION_MS
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from tests.support.machines import Cluster
from tests.support.ops import delete, mkdir, names, put, ref, rename, stat, trash_paths, undelete


def reap(cluster: Cluster, limit: int) -> int:
    return cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=limit))).number


def empty(cluster: Cluster, **fields: int) -> n.Result:
    return cluster.one(n.Op(empty_trash=n.EmptyTrashRequest(**fields)))


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
def test_a_tree_is_reaped_whole_however_little_at_a_time(cluster: Cluster, limit: int) -> None:
    cluster.do(mkdir(b"/a"), mkdir(b"/a/b"), mkdir(b"/a/c"), put(b"/a/1", b"body"), put(b"/a/b/2", b"body"))
    cluster.one(put(b"/a/b/3"))
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


def test_what_is_in_the_trash_for_its_time_is_reaped_by_itself(cluster: Cluster) -> None:
    cluster.do(put(b"/x"), delete(b"/x"))
    assert not queries.trash_is_due(cluster.replica.db, cluster.now_ms + TRASH_RETENTION_MS - 1)
    cluster.now_ms += TRASH_RETENTION_MS
    assert queries.trash_is_due(cluster.replica.db, cluster.now_ms)
    assert reap(cluster, 10) == 1
    assert trash_paths(cluster.replica.db) == []
    assert not queries.trash_is_due(cluster.replica.db, cluster.now_ms)
    assert reap(cluster, 10) == 0


def test_what_is_younger_than_its_time_stays(cluster: Cluster) -> None:
    cluster.do(put(b"/x"), delete(b"/x"))
    cluster.now_ms += 1
    cluster.do(put(b"/y"), delete(b"/y"))
    cluster.now_ms += TRASH_RETENTION_MS - 1
    assert reap(cluster, 10) == 1
    assert trash_paths(cluster.replica.db) == [b"/y"]


# Taking back


def test_an_overwritten_file_can_be_taken_back(cluster: Cluster) -> None:
    cluster.do(put(b"/x", b"old"), put(b"/x", b"new"))
    taken = cluster.one(undelete(b"/x", to=ref(b"/y")))
    assert (taken.info.path, taken.info.size, taken.info.checksum) == (b"/y", 3, crc32c(b"old"))


def test_a_tree_comes_back_with_all_that_was_in_it(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/a/b", parents=True), put(b"/a/b/c", b"body"), delete(b"/a", recursive=True))
    assert cluster.one(undelete(b"/a")).code == Code.OK
    assert stat(cluster.replica.db, b"/a/b/c").info.size == 4


def test_nothing_comes_back_to_where_something_else_is_unless_asked(cluster: Cluster) -> None:
    cluster.do(put(b"/x", b"old"), delete(b"/x"), put(b"/x", b"new"))
    assert cluster.one(undelete(b"/x")).code == Code.ALREADY_EXISTS
    assert cluster.one(undelete(b"/x", replace=True)).info.checksum == crc32c(b"old")
    assert trash_paths(cluster.replica.db) == [b"/x"]


def test_of_several_the_newest_comes_back_or_the_one_that_is_named(cluster: Cluster) -> None:
    cluster.do(*(op for body in (b"1", b"22", b"333") for op in (put(b"/x", body), delete(b"/x"))))
    listed = queries.answer(cluster.replica.db, n.ReadOp(list_trash=n.ListTrashRequest())).trash.entries
    assert cluster.one(undelete(b"/x")).info.size == 3
    named = n.UndeleteRequest(trash_id=listed[0].trash_id, to=ref(b"/y"))
    assert cluster.one(n.Op(undelete=named)).info.size == 1
    assert cluster.one(n.Op(undelete=named)).code == Code.NOT_FOUND


def test_a_thing_whose_directory_is_gone_wants_another_place(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/d"), put(b"/d/x"), delete(b"/d/x"), rename(b"/d", b"/e"))
    assert cluster.one(undelete(b"/d/x")).code == Code.NOT_FOUND
    assert cluster.one(undelete(b"/d/x", to=ref(b"/"))).code == Code.ALREADY_EXISTS
    assert cluster.one(undelete(b"/d/x", to=ref(b"/e/y"))).info.path == b"/e/y"


def test_what_is_not_in_the_trash_is_not_found(cluster: Cluster) -> None:
    assert cluster.one(undelete(b"/x")).code == Code.NOT_FOUND
    assert cluster.one(n.Op(undelete=n.UndeleteRequest(trash_id=2**64 - 1))).code == Code.NOT_FOUND
    assert empty(cluster, trash_id=7).code == Code.NOT_FOUND
    assert cluster.one(undelete(b"x")).code == Code.INVALID_PATH


# Emptying


def test_emptying_takes_all_that_is_there_and_nothing_that_comes_after(cluster: Cluster) -> None:
    cluster.do(put(b"/x"), put(b"/y"), delete(b"/x"), delete(b"/y", purge=True), put(b"/z"))
    emptied, later = cluster.do(n.Op(empty_trash=n.EmptyTrashRequest()), delete(b"/z"))  # at the same time
    assert (emptied.removal.removed, later.code) == (1, Code.OK)
    assert trash_paths(cluster.replica.db) == [b"/z"]
    assert cluster.one(undelete(b"/x")).code == Code.NOT_FOUND
    assert queries.trash_is_due(cluster.replica.db, cluster.now_ms)
    assert reap(cluster, 10) == 2
    assert cluster.one(undelete(b"/z")).code == Code.OK
    assert empty(cluster).removal.removed == 0


def test_emptying_by_age_leaves_what_is_younger(cluster: Cluster) -> None:
    for path in (b"/x", b"/y"):
        cluster.do(put(path), delete(path))
        cluster.now_ms += 1000
    cluster.now_ms -= 1000
    assert empty(cluster, older_than_ms=2**64 - 1).removal.removed == 0
    assert empty(cluster, older_than_ms=1000).removal.removed == 1
    assert trash_paths(cluster.replica.db) == [b"/y"]


def test_one_row_is_emptied_by_its_number_once(cluster: Cluster) -> None:
    cluster.do(put(b"/x"), put(b"/y"))
    number = cluster.one(delete(b"/x")).removal.trash_id
    cluster.one(delete(b"/y"))
    assert empty(cluster, trash_id=number).removal.removed == 1
    assert empty(cluster, trash_id=number).code == Code.NOT_FOUND
    assert trash_paths(cluster.replica.db) == [b"/y"]
    empty(cluster)
    assert empty(cluster, trash_id=number + 1).code == Code.NOT_FOUND


def test_a_million_deleted_things_are_emptied_by_changing_no_row(cluster: Cluster) -> None:
    cluster.do(*(put(b"/%d" % k) for k in range(50)), *(delete(b"/%d" % k) for k in range(50)))
    before = cluster.replica.db.total_changes
    assert empty(cluster).removal.removed == 50
    assert cluster.replica.db.total_changes - before <= 3


# Reaping


@pytest.mark.parametrize("limit", [1, 3, 1000])
def test_a_tree_deeper_than_any_path_is_reaped_in_parts(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(commands, "PATH_DEPTH_MAX", 3)
    cluster.do(mkdir(b"/a/b/c/d/e/f/g", parents=True), put(b"/a/b/c/x", b"x"), put(b"/a/b/c/d/e/f/g/y", b"y"))
    cluster.do(mkdir(b"/a/b/c/d/h"), delete(b"/a", recursive=True, purge=True))
    parts: set[bytes] = set()
    for _ in range(100):
        if not reap(cluster, limit):
            break
        assert invariants.violations(cluster.replica.db) == []
        parts.update(row[0] for row in cluster.replica.db.execute("SELECT path FROM trash"))
    assert limit > 1 or parts == {b"/a", b"/d", b"/x", b"/g"}  # nobody goes down seven levels in every entry
    assert names(cluster.replica.db, b"/") == []
    for table in ("trash", "version", "body"):
        assert cluster.replica.db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    assert cluster.replica.db.execute("SELECT count(*) FROM inode").fetchone() == (1,)
