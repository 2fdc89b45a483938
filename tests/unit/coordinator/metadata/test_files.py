"""Whole small files and clones: atomic, checked, and nothing that was there is lost."""

from __future__ import annotations

import pytest

from coordinator.metadata import queries
from quorumfs.checksum import crc32c
from quorumfs.errors import Code
from quorumfs.limits import INLINE_BYTES_MAX
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.machines import Cluster, Replica
from tests.support.ops import clone, delete, mkdir, put, ref, set_attributes, stat, symlink, trash_paths


def settle(cluster: Cluster, key: str, value: int) -> None:
    done = cluster.system(e.SystemCommand(set_setting=e.SetSetting(key=key, value=str(value))))
    assert done.code == Code.OK


def body_of(cluster: Cluster, path: bytes) -> bytes:
    found = queries.answer(cluster.replica.db, n.ReadOp(layout=n.LayoutRequest(ref=ref(path))))
    assert found.code == Code.OK
    return b"".join(chunk.body for chunk in found.layout.chunks)


def scalar(cluster: Cluster, query: str) -> object:
    return cluster.replica.db.execute(query).fetchone()[0]


def test_a_small_file_is_there_whole_with_what_was_asked_for(cluster: Cluster) -> None:
    made = cluster.one(put(b"/x", b"hello", mode=0o600, mtime_ns=-5, replication=1)).info
    assert (made.name, made.path, made.size, made.checksum) == (b"x", b"/x", 5, crc32c(b"hello"))
    assert (made.mode, made.mtime_ns, made.replication, made.type) == (0o600, -5, 1, t.INODE_TYPE_FILE)
    assert stat(cluster.replica.db, b"/x").info == made
    assert body_of(cluster, b"/x") == b"hello"


def test_what_was_not_asked_for_has_the_cluster_defaults(cluster: Cluster) -> None:
    made = cluster.one(put(b"/x")).info
    assert (made.mode, made.replication) == (0o644, 3)
    assert made.mtime_ns == made.changed_wall_ms * 1_000_000 > 0


def test_an_empty_file_has_no_chunk(cluster: Cluster) -> None:
    cluster.one(put(b"/x"))
    assert scalar(cluster, "SELECT count(*) FROM chunk") == 0
    assert body_of(cluster, b"/x") == b""


def test_an_overwritten_file_keeps_its_inode_and_its_mode(cluster: Cluster) -> None:
    first = cluster.one(put(b"/x", b"old", mode=0o600)).info
    second = cluster.one(put(b"/x", b"new")).info
    assert (second.id, second.mode) == (first.id, 0o600)
    assert second.version > first.version
    assert body_of(cluster, b"/x") == b"new"
    assert trash_paths(cluster.replica.db) == [b"/x"]


def test_a_reader_of_the_old_version_goes_on_after_an_overwrite(cluster: Cluster) -> None:
    old = cluster.one(put(b"/x", b"old")).info
    cluster.one(put(b"/x", b"new"))
    asked = n.LayoutRequest(inode=old.id, version=old.version)
    found = queries.answer(cluster.replica.db, n.ReadOp(layout=asked)).layout
    assert [chunk.body for chunk in found.chunks] == [b"old"]


@pytest.mark.parametrize("flag", [{"if_absent": True}, {"expected_version": 99}])
def test_a_condition_that_does_not_hold_changes_nothing(cluster: Cluster, flag: dict[str, int]) -> None:
    before = cluster.one(put(b"/x", b"old")).info
    assert cluster.one(put(b"/x", b"new", **flag)).code in (Code.ALREADY_EXISTS, Code.PRECONDITION_FAILED)
    assert stat(cluster.replica.db, b"/x").info == before


def test_the_expected_version_is_the_one_that_is_there(cluster: Cluster) -> None:
    version = cluster.one(put(b"/x", b"old")).info.version
    results = cluster.do(
        put(b"/x", b"new", expected_version=version),
        put(b"/x", b"newer", expected_version=version),
        put(b"/y", b"", expected_version=version),
        put(b"/z", b"", expected_version=2**64 - 1),
    )
    assert [one.code for one in results] == [Code.OK, *[Code.PRECONDITION_FAILED] * 3]


def test_a_body_that_does_not_match_its_checksum_is_refused(cluster: Cluster) -> None:
    assert cluster.one(put(b"/x", b"body", checksum=7)).code == Code.CORRUPT
    assert cluster.one(put(b"/x", b"", checksum=7)).code == Code.CORRUPT


def test_a_directory_is_not_overwritten_by_a_file(cluster: Cluster) -> None:
    cluster.one(mkdir(b"/d"))
    assert cluster.one(put(b"/d", b"x")).code == Code.IS_A_DIRECTORY
    assert cluster.one(put(b"/", b"x")).code == Code.IS_A_DIRECTORY
    assert cluster.one(put(b"/d", b"x", if_absent=True)).code == Code.ALREADY_EXISTS


def test_a_put_replaces_a_link_and_never_writes_through_it(cluster: Cluster) -> None:
    cluster.do(put(b"/target", b"untouched"), symlink(b"/link", b"/target"))
    made = cluster.one(put(b"/link", b"mine")).info
    assert (made.type, made.path) == (t.INODE_TYPE_FILE, b"/link")
    assert body_of(cluster, b"/target") == b"untouched"
    assert trash_paths(cluster.replica.db) == [b"/link"]


def test_a_put_through_a_linked_directory_says_where_the_file_is(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/real"), symlink(b"/link", b"real"))
    assert cluster.one(put(b"/link/x")).info.path == b"/real/x"


def test_a_file_below_a_base_inode_lands_there(cluster: Cluster) -> None:
    base = cluster.one(mkdir(b"/d")).info.id
    op = n.Op(put_file=n.PutFileRequest(ref=ref(b"x", base)))
    assert cluster.one(op).info.path == b"/d/x"
    cluster.one(delete(b"/d", recursive=True))
    assert cluster.one(op).code == Code.NOT_FOUND  # nothing is written into the trash
    assert cluster.one(n.Op(put_file=n.PutFileRequest(ref=ref(b"x", 2**64 - 1)))).code == Code.NOT_FOUND


def test_odd_modes_and_replications_are_refused(cluster: Cluster) -> None:
    results = cluster.do(put(b"/x", mode=0o10000), put(b"/x", replication=17), put(b"/x", mode=0o7777))
    assert [one.code for one in results] == [Code.INVALID_ARGUMENT, Code.INVALID_ARGUMENT, Code.OK]


# Room in the metadata


def test_a_body_up_to_the_limit_is_taken_and_no_more(cluster: Cluster) -> None:
    assert cluster.one(put(b"/x", bytes(INLINE_BYTES_MAX))).code == Code.OK
    assert cluster.one(put(b"/y", bytes(INLINE_BYTES_MAX + 1))).code == Code.TOO_LARGE
    settle(cluster, "data.inline_bytes_max", 3)
    assert [one.code for one in cluster.do(put(b"/y", b"abcd"), put(b"/y", b"abc"))] == [Code.TOO_LARGE, 0]


def test_the_budget_counts_what_is_there_and_what_was_reaped_is_free_again(cluster: Cluster) -> None:
    settle(cluster, "data.inline_budget_bytes", 10)
    results = cluster.do(put(b"/x", b"123456"), put(b"/y", b"12345"), put(b"/y", b"1234"), put(b"/z", b"1"))
    assert [one.code for one in results] == [0, Code.INLINE_BUDGET, 0, Code.INLINE_BUDGET]
    cluster.one(delete(b"/x", purge=True))
    cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=10)))
    assert scalar(cluster, "SELECT inline_bytes FROM totals") == 4
    assert cluster.one(put(b"/z", b"1")).code == Code.OK


def test_a_lone_coordinator_takes_no_body_that_shall_be_on_two() -> None:
    cluster = Cluster()
    cluster.replica, cluster.log = Replica(), []
    init = e.InitCluster(cluster_id="one", history=1, members=[m.Member(node_id="c1")])
    cluster.system(e.SystemCommand(init=init))
    results = cluster.do(put(b"/x", b"body"), put(b"/x", b"body", replication=1), put(b"/y"))
    assert [one.code for one in results] == [Code.INLINE_BUDGET, Code.OK, Code.OK]


# Clones


def test_a_clone_shares_the_chunks_and_is_a_file_of_its_own(cluster: Cluster) -> None:
    source = cluster.upload(b"/x", 5, 6).info
    made = cluster.one(clone(b"/x", b"/y")).info
    assert (made.size, made.checksum, made.path) == (source.size, source.checksum, b"/y")
    assert made.id != source.id
    assert made.version != source.version
    assert scalar(cluster, "SELECT count(*) FROM chunk") == 2
    cluster.one(delete(b"/x", purge=True))
    cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=100)))
    assert scalar(cluster, "SELECT count(*) FROM orphan") == 0
    assert stat(cluster.replica.db, b"/y").info == made


def test_a_clone_replaces_only_when_asked(cluster: Cluster) -> None:
    cluster.do(put(b"/x", b"new"), put(b"/y", b"old"))
    assert cluster.one(clone(b"/x", b"/y")).code == Code.ALREADY_EXISTS
    assert cluster.one(clone(b"/x", b"/y", replace=True)).code == Code.OK
    assert body_of(cluster, b"/y") == b"new"
    assert trash_paths(cluster.replica.db) == [b"/y"]


def test_a_clone_of_itself_changes_nothing(cluster: Cluster) -> None:
    made = cluster.one(put(b"/x", b"body")).info
    assert cluster.one(clone(b"/x", b"/x")).code == Code.ALREADY_EXISTS
    assert cluster.one(clone(b"/x", b"/x", replace=True)).info == made
    assert trash_paths(cluster.replica.db) == []


def test_only_files_are_cloned(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/d"), symlink(b"/l", b"/d"))
    codes = [cluster.one(clone(source, b"/y")).code for source in (b"/d", b"/l", b"/", b"/nothing")]
    assert codes == [Code.IS_A_DIRECTORY, Code.IS_A_DIRECTORY, Code.IS_A_DIRECTORY, Code.NOT_FOUND]


def test_what_a_file_asks_for_its_clone_asks_for_too(cluster: Cluster) -> None:
    cluster.upload(b"/x", 5)
    cluster.do(
        set_attributes(b"/x", replication=2), clone(b"/x", b"/y"), set_attributes(b"/y", replication=5)
    )
    assert scalar(cluster, "SELECT want FROM chunk") == 5
    cluster.one(set_attributes(b"/y", replication=1))
    assert scalar(cluster, "SELECT want FROM chunk") == 2
