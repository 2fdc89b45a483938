"""Directories, links, names and attributes."""

from __future__ import annotations

import pytest

from coordinator.metadata.commands import namespace
from quorumfs.errors import Code
from quorumfs.limits import NAME_BYTES_MAX, SYMLINK_HOPS_MAX
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.machines import Cluster
from tests.support.ops import (
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


def codes(results: list[n.Result]) -> list[int]:
    return [one.code for one in results]


# mkdir


def test_a_directory_wants_its_parents_unless_it_may_make_them(cluster: Cluster) -> None:
    assert cluster.one(mkdir(b"/a/b/c")).code == Code.NOT_FOUND
    made = cluster.one(mkdir(b"/a/b/c", parents=True, mode=0o700)).info
    assert (made.path, made.name, made.mode) == (b"/a/b/c", b"c", 0o700)
    assert stat(cluster.replica.db, b"/a/b/c").info == made
    assert stat(cluster.replica.db, b"/a/b").info.mode == 0o755
    assert cluster.one(mkdir(b"/a/b/d/e", parents=True)).info.path == b"/a/b/d/e"


def test_a_directory_that_is_there_is_fine_only_with_parents(cluster: Cluster) -> None:
    results = cluster.do(mkdir(b"/a"), mkdir(b"/a"), mkdir(b"/a", parents=True), mkdir(b"/a/", parents=True))
    assert codes(results) == [0, Code.ALREADY_EXISTS, 0, 0]
    assert results[2].info == results[0].info
    assert cluster.one(mkdir(b"/")).code == Code.ALREADY_EXISTS
    root = cluster.one(mkdir(b"/", parents=True)).info
    assert (root.id, root.path) == (1, b"/")


def test_no_directory_is_made_in_a_file_or_over_one(cluster: Cluster) -> None:
    cluster.one(put(b"/x"))
    ops = mkdir(b"/x/a"), mkdir(b"/x/a", parents=True), mkdir(b"/x"), mkdir(b"/x", parents=True)
    refusals = Code.NOT_A_DIRECTORY, Code.NOT_A_DIRECTORY, Code.ALREADY_EXISTS, Code.NOT_A_DIRECTORY
    assert codes(cluster.do(*ops)) == list(refusals)


def test_parents_are_made_behind_a_link_where_it_points(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/real/deep", parents=True), symlink(b"/link", b"/real/deep"), symlink(b"/top", b"/"))
    assert cluster.one(mkdir(b"/link/a/b", parents=True)).info.path == b"/real/deep/a/b"
    assert cluster.one(mkdir(b"/top/c/d", parents=True)).info.path == b"/c/d"
    assert cluster.one(mkdir(b"/link", parents=True)).info.path == b"/real/deep"
    assert cluster.one(mkdir(b"/top", parents=True)).info.mode == 0o755
    cluster.one(symlink(b"/dangling", b"nowhere"))
    assert cluster.one(mkdir(b"/dangling/a", parents=True)).code == Code.NOT_FOUND


@pytest.mark.parametrize(
    "path", [b"relative", b"", b"/..", b"/a/./b", b"/\xff", b"/a\0b", b"/" + b"n" * (NAME_BYTES_MAX + 1)]
)
def test_bad_names_are_refused_and_spoil_nothing(cluster: Cluster, path: bytes) -> None:
    results = cluster.do(mkdir(path), mkdir(path, parents=True), put(path), mkdir(b"/good"))
    assert codes(results) == [Code.INVALID_PATH] * 3 + [Code.OK]


# delete


def test_a_deleted_thing_goes_to_the_trash_with_its_path(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/a"), put(b"/a/x"))
    removal = cluster.one(delete(b"/a/x")).removal
    assert (removal.trash_id, removal.removed) == (1, 1)
    assert trash_paths(cluster.replica.db) == [b"/a/x"]
    assert names(cluster.replica.db, b"/a") == []


def test_a_full_directory_wants_to_be_deleted_recursively(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/a"), put(b"/a/x"))
    results = cluster.do(delete(b"/a"), delete(b"/a", recursive=True), delete(b"/a", recursive=True))
    assert codes(results) == [Code.NOT_EMPTY, Code.OK, Code.NOT_FOUND]


def test_what_is_missing_may_be_missing(cluster: Cluster) -> None:
    results = cluster.do(delete(b"/a"), delete(b"/a", missing_ok=True), delete(b"/a/b", missing_ok=True))
    assert codes(results) == [Code.NOT_FOUND, 0, 0]
    assert results[1].removal == n.Removal()


def test_a_purged_thing_is_not_in_the_trash(cluster: Cluster) -> None:
    cluster.one(put(b"/x"))
    assert cluster.one(delete(b"/x", purge=True)).removal.trash_id == 0
    assert trash_paths(cluster.replica.db) == []


def test_the_root_is_not_deleted(cluster: Cluster) -> None:
    assert codes(cluster.do(delete(b"/"), delete(b"/", recursive=True))) == [Code.SAFETY_GUARD] * 2


def test_a_delete_of_another_version_is_refused(cluster: Cluster) -> None:
    version = cluster.one(put(b"/x")).info.version
    results = cluster.do(delete(b"/x", expected_version=version + 1), delete(b"/x", expected_version=version))
    assert codes(results) == [Code.PRECONDITION_FAILED, Code.OK]


def test_deleting_a_link_leaves_what_it_points_to(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/d"), put(b"/d/x"), symlink(b"/l", b"/d"), delete(b"/l"))
    assert names(cluster.replica.db, b"/") == [b"d"]
    assert names(cluster.replica.db, b"/d") == [b"x"]


# rename


def test_a_renamed_file_keeps_its_inode_version_and_content(cluster: Cluster) -> None:
    before = cluster.one(put(b"/x", b"body")).info
    cluster.one(mkdir(b"/d"))
    after = cluster.one(rename(b"/x", b"/d/y")).info
    assert (after.id, after.version, after.checksum) == (before.id, before.version, before.checksum)
    assert (after.path, after.name, after.size) == (b"/d/y", b"y", 4)
    assert stat(cluster.replica.db, b"/d/y").info == after


def test_a_renamed_tree_takes_along_what_is_in_it(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/a/b", parents=True), put(b"/a/b/x"), mkdir(b"/c"), rename(b"/a", b"/c/a"))
    assert stat(cluster.replica.db, b"/c/a/b/x").info.path == b"/c/a/b/x"
    assert names(cluster.replica.db, b"/") == [b"c"]


def test_a_rename_replaces_only_when_asked(cluster: Cluster) -> None:
    cluster.do(put(b"/x", b"new"), mkdir(b"/d"), put(b"/d/kept"))
    assert cluster.one(rename(b"/x", b"/d")).code == Code.ALREADY_EXISTS
    assert cluster.one(rename(b"/x", b"/d", replace=True)).info.size == 3
    assert trash_paths(cluster.replica.db) == [b"/d"]
    taken = cluster.one(n.Op(undelete=n.UndeleteRequest(original_path=b"/d", to=ref(b"/back"))))
    assert taken.code == Code.OK
    assert names(cluster.replica.db, b"/back") == [b"kept"]


def test_a_directory_is_not_moved_below_itself(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/a/b/c", parents=True), symlink(b"/l", b"/a/b"))
    results = cluster.do(rename(b"/a", b"/a/b/x"), rename(b"/a/b", b"/a/b/c/d"), rename(b"/a", b"/l/x"))
    assert codes(results) == [Code.CYCLE] * 3


def test_a_directory_is_not_replaced_by_what_is_in_it(cluster: Cluster) -> None:
    cluster.one(mkdir(b"/a/b/c", parents=True))
    assert cluster.one(rename(b"/a/b/c", b"/a", replace=True)).code == Code.CYCLE
    assert cluster.one(rename(b"/a/b", b"/a", replace=True)).code == Code.CYCLE


def test_a_rename_onto_itself_changes_nothing(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/d"), symlink(b"/l", b"/d"))
    made = cluster.one(put(b"/d/x")).info
    for target in (b"/d/x", b"/l/x"):
        for replace in (False, True):
            assert cluster.one(rename(b"/d/x", target, replace)).info == made
    assert trash_paths(cluster.replica.db) == []


def test_a_rename_moves_a_link_itself(cluster: Cluster) -> None:
    cluster.do(put(b"/x"), symlink(b"/l", b"x"))
    moved = cluster.one(rename(b"/l", b"/k")).info
    assert (moved.type, moved.target) == (t.INODE_TYPE_SYMLINK, b"x")


def test_neither_root_nor_nothing_is_renamed(cluster: Cluster) -> None:
    cluster.one(mkdir(b"/a"))
    ops = rename(b"/", b"/a/x"), rename(b"/a", b"/", True), rename(b"/no", b"/x"), rename(b"/a", b"/no/x")
    expected = [Code.SAFETY_GUARD, Code.SAFETY_GUARD, Code.NOT_FOUND, Code.NOT_FOUND]
    assert codes(cluster.do(*ops)) == expected


# Links


def test_a_link_may_be_as_old_as_the_epoch(cluster: Cluster) -> None:
    assert cluster.one(symlink(b"/l", b"x", mtime_ns=0)).info.mtime_ns == 0
    assert cluster.one(symlink(b"/now", b"x")).info.mtime_ns > 0


def test_a_link_says_where_it_points(cluster: Cluster) -> None:
    made = cluster.one(symlink(b"/l", b"../x\xff", mtime_ns=7)).info
    assert (made.target, made.mtime_ns, made.type) == (b"../x\xff", 7, t.INODE_TYPE_SYMLINK)


def test_a_link_replaces_files_and_links_when_asked_but_no_directory(cluster: Cluster) -> None:
    cluster.do(put(b"/x"), mkdir(b"/d"))
    ops = (
        symlink(b"/x", b"d"),
        symlink(b"/x", b"d", replace=True),
        symlink(b"/x", b"e", replace=True),
        symlink(b"/d", b"x", replace=True),
        symlink(b"/", b"x", replace=True),
    )
    expected = [Code.ALREADY_EXISTS, 0, 0, Code.IS_A_DIRECTORY, Code.IS_A_DIRECTORY]
    assert codes(cluster.do(*ops)) == expected
    assert trash_paths(cluster.replica.db) == [b"/x", b"/x"]


@pytest.mark.parametrize("target", [b"", b"a\0b", b"x" * 4096])
def test_a_link_cannot_point_to_what_is_no_path(cluster: Cluster, target: bytes) -> None:
    assert cluster.one(symlink(b"/l", target)).code == Code.INVALID_ARGUMENT


def test_a_link_may_point_upwards_and_never_above_the_root(cluster: Cluster) -> None:
    cluster.do(
        mkdir(b"/a/b/c", parents=True), symlink(b"/a/b/c/up", b".."), symlink(b"/a/top", b"../../x/../..")
    )
    cluster.one(mkdir(b"/x"))
    assert cluster.one(put(b"/a/b/c/up/f")).info.path == b"/a/b/f"
    assert cluster.one(put(b"/a/top/f")).info.path == b"/f"


def test_a_circle_of_links_is_told_after_a_bounded_time(cluster: Cluster) -> None:
    cluster.do(symlink(b"/a", b"b"), symlink(b"/b", b"a"))
    assert cluster.one(put(b"/a/x")).code == Code.CYCLE
    chain = [symlink(b"/l%d" % k, b"l%d" % (k + 1)) for k in range(SYMLINK_HOPS_MAX)]
    cluster.do(*chain, mkdir(b"/l%d" % SYMLINK_HOPS_MAX))
    assert cluster.one(put(b"/l0/x")).code == Code.OK


# Attributes


def test_only_what_is_given_is_changed(cluster: Cluster) -> None:
    before = cluster.one(put(b"/x", b"body", mode=0o600, mtime_ns=5)).info
    after = cluster.one(set_attributes(b"/x", mode=0)).info
    assert (after.mode, after.mtime_ns, after.version) == (0, 5, before.version)
    after = cluster.one(set_attributes(b"/x", mtime_ns=-1)).info
    assert (after.mode, after.mtime_ns, after.size) == (0, -1, 4)
    assert stat(cluster.replica.db, b"/x").info == after


def test_attributes_are_of_what_a_link_points_to(cluster: Cluster) -> None:
    cluster.do(put(b"/x"), symlink(b"/l", b"x"))
    assert cluster.one(set_attributes(b"/l", mode=0o600)).info.path == b"/x"
    assert stat(cluster.replica.db, b"/x").info.mode == 0o600


def test_a_directory_counts_the_changes_of_its_attributes(cluster: Cluster) -> None:
    cluster.one(mkdir(b"/d"))
    op = set_attributes(b"/d", mode=0o700, expected_version=1)
    first, second = cluster.do(op, op)
    assert (first.info.version, second.code) == (2, Code.PRECONDITION_FAILED)
    assert cluster.one(set_attributes(b"/", mode=0o711)).info.mode == 0o711


def test_odd_attributes_are_refused(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/d"), put(b"/x"))
    ops = (
        set_attributes(b"/x", mode=0o10000),
        set_attributes(b"/x", replication=0),
        set_attributes(b"/x", replication=17),
        set_attributes(b"/d", replication=2),
        set_attributes(b"/no", mode=0),
    )
    assert codes(cluster.do(*ops)) == [Code.INVALID_ARGUMENT] * 4 + [Code.NOT_FOUND]


def test_a_file_of_very_many_chunks_is_too_large_for_one_entry(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespace, "CHUNKS_MAX", 2)
    monkeypatch.setattr(namespace, "EXTENTS_MAX", 2)
    cluster.upload(b"/x", 1, 2, 3)
    cluster.upload(b"/y", 1, 2)
    ops = [set_attributes(path, replication=want) for path in (b"/x", b"/y") for want in (4, 1)]
    assert codes(cluster.do(*ops)) == [Code.TOO_LARGE, Code.TOO_LARGE, 0, 0]
