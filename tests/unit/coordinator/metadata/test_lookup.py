"""From a path to an inode and back: links, "..", bases, and what is built to take long."""

from __future__ import annotations

import sqlite3

import pytest

from coordinator.metadata import lookup, queries, tree
from quorumfs.errors import Code
from quorumfs.limits import PATH_BYTES_MAX, PATH_DEPTH_MAX, SYMLINK_HOPS_MAX, SYMLINK_TARGET_BYTES_MAX
from quorumfs.v1 import namespace_pb2 as n
from tests.support.machines import Cluster
from tests.support.ops import delete, mkdir, names, put, ref, rename, set_attributes, stat, symlink, undelete


def statement_count(db: sqlite3.Connection) -> list[str]:
    """What is executed from now on."""
    seen: list[str] = []
    db.set_trace_callback(seen.append)
    return seen


def path_at(cluster: Cluster, path: bytes, follow: bool = True) -> bytes | Code:
    found = stat(cluster.replica.db, path, follow)
    return Code(found.code) if found.code else found.info.path


def below(base: int, path: bytes) -> n.Op:
    return n.Op(mkdir=n.MkdirRequest(ref=ref(path, base)))


@pytest.fixture
def linked(cluster: Cluster) -> Cluster:
    cluster.do(
        mkdir(b"/a/b/c", parents=True),
        put(b"/a/b/file", b"body"),
        symlink(b"/a/rel", b"b/c"),
        symlink(b"/a/up", b"../a/./b//c/.."),
        symlink(b"/abs", b"/a/b"),
        symlink(b"/chain", b"abs/c"),
        symlink(b"/root", b"/"),
        symlink(b"/above", b"../../../.."),
        symlink(b"/dangling", b"nowhere"),
        symlink(b"/through", b"a/b/file/x"),
        symlink(b"/self", b"self"),
    )
    return cluster


# Links


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (b"/", b"/"),
        (b"//a//b/", b"/a/b"),
        (b"/a/rel", b"/a/b/c"),
        (b"/a/up", b"/a/b"),
        (b"/a/up/file", b"/a/b/file"),
        (b"/abs/file", b"/a/b/file"),
        (b"/chain", b"/a/b/c"),
        (b"/root", b"/"),
        (b"/root/root/abs/c", b"/a/b/c"),
        (b"/above", b"/"),
        (b"/above/a", b"/a"),
        (b"/dangling", Code.NOT_FOUND),
        (b"/dangling/x", Code.NOT_FOUND),
        (b"/through", Code.NOT_A_DIRECTORY),
        (b"/a/b/file/x", Code.NOT_A_DIRECTORY),
        (b"/self", Code.CYCLE),
        (b"/self/x", Code.CYCLE),
        (b"/a/../b", Code.INVALID_PATH),
        (b"a", Code.INVALID_PATH),
    ],
)
def test_links_are_followed_to_where_they_lead(linked: Cluster, path: bytes, found: bytes | Code) -> None:
    assert path_at(linked, path) == found


def test_the_last_link_is_followed_only_when_asked(linked: Cluster) -> None:
    assert path_at(linked, b"/abs", follow=False) == b"/abs"
    assert path_at(linked, b"/self", follow=False) == b"/self"
    assert path_at(linked, b"/root/abs", follow=False) == b"/abs"


def test_a_link_leads_elsewhere_when_what_it_points_to_changes(linked: Cluster) -> None:
    linked.do(rename(b"/a/b", b"/a/old"), mkdir(b"/a/b"))
    assert path_at(linked, b"/abs/c") == Code.NOT_FOUND
    linked.do(rename(b"/a", b"/z"), mkdir(b"/a/b/c", parents=True))
    assert path_at(linked, b"/chain") == b"/a/b/c"
    assert path_at(linked, b"/z/rel") == Code.NOT_FOUND  # a relative target begins at its link


def test_names_in_a_target_that_no_name_could_be_lead_nowhere(cluster: Cluster) -> None:
    cluster.one(symlink(b"/l", b"\xff/" + b"n" * 300))
    assert path_at(cluster, b"/l") == Code.NOT_FOUND


def test_as_many_links_as_allowed_are_followed_and_no_more(cluster: Cluster) -> None:
    cluster.do(*(symlink(b"/l%d" % k, b"l%d" % (k + 1)) for k in range(SYMLINK_HOPS_MAX + 1)))
    cluster.one(mkdir(b"/l%d" % (SYMLINK_HOPS_MAX + 1)))
    assert path_at(cluster, b"/l1") == b"/l%d" % (SYMLINK_HOPS_MAX + 1)
    assert path_at(cluster, b"/l0") == Code.CYCLE


def test_links_that_are_built_to_take_long_are_refused_soon(cluster: Cluster) -> None:
    """Forty links of two thousand names each would be 80,000 steps for one operation."""
    cluster.one(mkdir(b"/a"))
    bomb = (b"a/../" * SYMLINK_TARGET_BYTES_MAX)[: SYMLINK_TARGET_BYTES_MAX - 5]
    for k in range(3):
        cluster.one(symlink(b"/bomb%d" % k, bomb[:-2] + b"bomb%d" % (k + 1)))
    seen = statement_count(cluster.replica.db)
    assert path_at(cluster, b"/bomb0/x") == Code.CYCLE
    results = cluster.do(
        put(b"/bomb0/x"), mkdir(b"/bomb0/x", parents=True), mkdir(b"/bomb0/x/bomb0/y", parents=True)
    )
    assert [one.code for one in results] == [Code.CYCLE] * 3
    assert len(seen) < 4 * 2 * lookup.STEPS_MAX


def test_the_links_of_all_names_count_together(cluster: Cluster) -> None:
    """Also where parents are made name by name."""
    cluster.one(symlink(b"/here", b"."))
    path = b"/here" * (SYMLINK_HOPS_MAX + 1)
    results = cluster.do(put(path + b"/x"), mkdir(path + b"/x", parents=True))
    assert [one.code for one in results] == [Code.CYCLE] * 2
    assert cluster.one(mkdir(b"/here" * SYMLINK_HOPS_MAX + b"/x/y", parents=True)).info.path == b"/x/y"


# Parents that are made


def test_missing_parents_are_made_below_where_the_links_lead(linked: Cluster) -> None:
    made = linked.one(mkdir(b"/abs/new/deep", parents=True)).info
    assert made.path == b"/a/b/new/deep"
    assert linked.one(mkdir(b"/chain", parents=True)).info.path == b"/a/b/c"
    results = linked.do(
        mkdir(b"/dangling/x", parents=True),
        mkdir(b"/a/b/file", parents=True),
        mkdir(b"/a/b/file/x", parents=True),
        mkdir(b"/", parents=True),
    )
    assert [one.code for one in results] == [Code.NOT_FOUND, *[Code.NOT_A_DIRECTORY] * 2, Code.OK]


# Bases


def test_a_base_is_a_directory_that_is_in_the_tree(linked: Cluster) -> None:
    db = linked.replica.db
    base, file = stat(db, b"/a/b").info.id, stat(db, b"/a/b/file").info.id
    cases = [
        (base, b"new", Code.OK),
        (base, b"", Code.ALREADY_EXISTS),
        (1, b"top", Code.OK),
        (base, b"/abs", Code.INVALID_PATH),
        (base, b"../x", Code.INVALID_PATH),
        (file, b"x", Code.NOT_A_DIRECTORY),
        (file, b"", Code.NOT_A_DIRECTORY),
        (999, b"x", Code.NOT_FOUND),
        (2**63 - 1, b"x", Code.NOT_FOUND),
        (2**64 - 1, b"x", Code.NOT_FOUND),
    ]
    results = linked.do(*(below(number, path) for number, path, _ in cases))
    assert [one.code for one in results] == [code for _, _, code in cases]
    assert results[0].info.path == b"/a/b/new"
    assert names(db, b"/a/b") == [b"c", b"file", b"new"]


def test_a_base_in_the_trash_is_not_there(linked: Cluster) -> None:
    base = stat(linked.replica.db, b"/a/b").info.id
    linked.one(delete(b"/a", recursive=True))
    assert linked.one(below(base, b"x")).code == Code.NOT_FOUND
    linked.one(undelete(b"/a"))
    assert linked.one(below(base, b"x")).info.path == b"/a/b/x"


# Depth and length


def deepest(cluster: Cluster) -> bytes:
    path = b"/d" * PATH_DEPTH_MAX
    assert cluster.one(mkdir(path, parents=True)).code == Code.OK
    return path


def test_nothing_is_made_deeper_than_a_path_can_name(cluster: Cluster) -> None:
    path = deepest(cluster)
    base = stat(cluster.replica.db, path).info.id
    cluster.do(
        symlink(b"/l", path), put(b"/x"), mkdir(b"/t/u", parents=True), put(b"/gone"), delete(b"/gone")
    )
    into = ref(b"y", base)
    results = cluster.do(
        below(base, b"y"),
        n.Op(mkdir=n.MkdirRequest(ref=ref(b"y/z", base), parents=True)),
        n.Op(put_file=n.PutFileRequest(ref=into)),
        n.Op(open_upload=n.OpenUploadRequest(ref=into)),
        n.Op(symlink=n.SymlinkRequest(ref=into, target=b"x")),
        n.Op(rename=n.RenameRequest(to=into, **{"from": ref(b"/x")})),
        n.Op(clone=n.CloneRequest(to=into, **{"from": ref(b"/x")})),
        undelete(b"/gone", to=into),
        mkdir(b"/l/y"),
        mkdir(b"/l/y/z", parents=True),
    )
    assert {one.code for one in results} == {Code.INVALID_PATH}
    assert names(cluster.replica.db, path) == []


def test_nothing_is_made_at_a_path_longer_than_can_be_named(cluster: Cluster) -> None:
    name = b"n" * 255
    path = (b"/" + name) * (PATH_BYTES_MAX // 256)
    assert cluster.one(mkdir(path, parents=True)).code == Code.OK
    base = stat(cluster.replica.db, path).info.id
    assert cluster.one(below(base, b"x")).code == Code.INVALID_PATH


def test_a_tree_that_was_moved_too_deep_can_be_seen_moved_back_and_deleted(cluster: Cluster) -> None:
    path = deepest(cluster)
    middle = b"/d" * (PATH_DEPTH_MAX // 2)
    cluster.one(mkdir(b"/e" * PATH_DEPTH_MAX, parents=True))
    bottom = stat(cluster.replica.db, b"/e" * PATH_DEPTH_MAX).info.id
    assert cluster.one(rename(b"/e", middle + b"/e")).code == Code.OK
    assert stat(cluster.replica.db, path).code == Code.OK
    asked = n.ReadOp(stat=n.StatRequest(ref=ref(b"", bottom)))
    found = queries.answer(cluster.replica.db, asked).info
    assert found.path == middle + b"/e" * PATH_DEPTH_MAX
    assert cluster.one(rename(middle + b"/e", b"/e")).code == Code.OK
    assert stat(cluster.replica.db, b"/e" * PATH_DEPTH_MAX).info.id == bottom
    assert cluster.one(delete(b"/e", recursive=True)).code == Code.OK


def test_ways_up_end_however_deep_a_tree_is(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cluster.one(mkdir(b"/a/b/c/d/e", parents=True)).info
    monkeypatch.setattr(lookup, "STEPS_MAX", 3)
    assert cluster.one(below(made.id, b"x")).code == Code.INVALID_PATH
    inode = tree.by_id(cluster.replica.db, made.id)
    assert inode is not None
    assert lookup.path_of(cluster.replica.db, inode) == b"/c/d/e"


def test_a_way_by_its_names_costs_one_look_a_name(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/a/b/c", parents=True), put(b"/a/b/c/x"))
    seen = statement_count(cluster.replica.db)
    assert lookup.locate(cluster.replica.db, ref(b"/a/b/c/x"), follow=True)[0].type == tree.FILE
    assert len(seen) == 4


def test_attributes_of_the_root_are_those_of_its_row(cluster: Cluster) -> None:
    cluster.one(set_attributes(b"/", mode=0o700))
    assert stat(cluster.replica.db, b"/").info.mode == 0o700
    cluster.one(symlink(b"/l", b"/"))
    assert stat(cluster.replica.db, b"/l", follow=True).info.mode == 0o700


# What an entry has looked up


def made_in_one_entry(cluster: Cluster, *ops: n.Op) -> list[bytes | Code]:
    return [Code(one.code) if one.code else one.info.path for one in cluster.do(*ops)]


def test_many_places_in_a_directory_cost_one_look_at_it(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/a/b/c", parents=True), symlink(b"/l", b"a/b"))
    first = statement_count(cluster.replica.db)
    cluster.do(put(b"/l/c/0"))
    alone = len(first)
    more = statement_count(cluster.replica.db)
    found = made_in_one_entry(cluster, *(put(b"/l/c/%d" % k) for k in range(1, 11)))
    assert found == [b"/a/b/c/%d" % k for k in range(1, 11)]
    assert len(more) <= alone + 9 * 4


def test_what_was_looked_up_is_looked_up_again_when_anything_has_moved(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/a/d", parents=True), mkdir(b"/b/d", parents=True), symlink(b"/l", b"a"))
    found = made_in_one_entry(
        cluster,
        put(b"/a/d/1"),
        rename(b"/a", b"/z"),
        put(b"/a/d/2"),
        put(b"/z/d/3"),
        delete(b"/z", recursive=True),
        put(b"/z/d/4"),
        undelete(b"/z", to=ref(b"/y")),
        put(b"/y/d/5"),
        symlink(b"/l", b"b", replace=True),
        put(b"/l/6"),
        symlink(b"/l", b"y", replace=True),
        put(b"/l/7"),
        rename(b"/b", b"/y", replace=True),
        put(b"/l/8"),
        put(b"/y/d/9"),
    )
    codes_and_paths = [
        b"/a/d/1",
        b"/z",
        Code.NOT_FOUND,
        b"/z/d/3",
        b"",
        Code.NOT_FOUND,
        b"/y",
        b"/y/d/5",
        b"/l",
        b"/b/6",
        b"/l",
        b"/y/7",
        b"/y",
        b"/y/8",
        b"/y/d/9",
    ]
    assert found == codes_and_paths
    assert names(cluster.replica.db, b"/y/d") == [b"9"]


def test_a_name_is_judged_also_in_a_directory_that_was_looked_up(cluster: Cluster) -> None:
    cluster.one(mkdir(b"/a"))
    paths = [
        b"x",
        b"/a/..",
        b"/a/.",
        b"/a/\xff",
        b"/a/" + b"n" * 256,
        b"a/y",
        b"/a/" + b"/" * PATH_BYTES_MAX + b"y",
    ]
    found = made_in_one_entry(cluster, put(b"/ok"), put(b"/a/ok"), *(put(path) for path in paths))
    assert found == [b"/ok", b"/a/ok", *[Code.INVALID_PATH] * len(paths)]
    assert made_in_one_entry(cluster, put(b"/a/x"), put(b"/a/"), put(b"/a//y"), put(b"//a/z")) == [
        b"/a/x",
        Code.IS_A_DIRECTORY,
        b"/a/y",
        b"/a/z",
    ]
