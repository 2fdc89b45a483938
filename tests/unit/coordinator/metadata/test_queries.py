"""Questions: every answer is a result, and what duties ask is right at the edges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.metadata import layouts, lookup, queries
from quorumfs.errors import Code
from quorumfs.limits import SESSION_TTL_MS, TRASH_RETENTION_MS, UPLOAD_TTL_MS
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.machines import MEMBERS, Cluster
from tests.support.ops import clone, delete, mkdir, put, ref, stat, symlink


def opened(cluster: Cluster, path: bytes = b"/x") -> bytes:
    return cluster.one(n.Op(open_upload=n.OpenUploadRequest(ref=ref(path)))).upload.upload


def session(cluster: Cluster, ttl_ms: int = 0) -> int:
    return cluster.one(n.Op(open_session=n.OpenSessionRequest(ttl_ms=ttl_ms))).session.session


# Answers


def test_a_question_of_a_newer_kind_is_refused_and_not_fatal(cluster: Cluster) -> None:
    assert queries.answer(cluster.replica.db, n.ReadOp()).code == Code.FORMAT_TOO_NEW


@given(st.binary(max_size=60))
def test_whatever_is_asked_has_an_answer(raw: bytes) -> None:
    op = n.ReadOp()
    try:
        op.ParseFromString(raw)
    except Exception:  # noqa: BLE001  not a question at all
        return
    found = queries.answer(_SHARED.replica.db, op)
    assert found.code in {int(code) for code in Code}
    assert (found.code == Code.OK) != found.HasField("error")


_PATHS = [b"", b"/", b"/a", b"/a/", b"/a/b", b"//a/b", b"/a//b", b"/a/c", b"/a/b/c", b"/a/.", b"a/b", b"/a/e"]
_PATHS += [b"/l", b"/l/x", b"/d", b"/d/b", b"/d/e", b"/d/e/f", b"/a/up", b"/a/up/a/b", b"/a/" + b"x" * 256]
_PATHS += [b"/c", b"/c2"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(_PATHS),
            st.sampled_from([0, 1]),
            st.booleans(),
            st.sampled_from(["stat", "layout"]),
            st.sampled_from([0, 1, 99, 100]),
        )
    )
)
def test_questions_asked_together_have_the_answers_that_each_has_alone(
    asked: list[tuple[bytes, int, bool, str, int]],
) -> None:
    directories: lookup.Directories = {}
    packs: layouts.Packs = {}
    for path, base, follow, kind, offset in asked:
        op = n.ReadOp(stat=n.StatRequest(ref=ref(path, base), follow=follow))
        if kind == "layout":
            op = n.ReadOp(layout=n.LayoutRequest(ref=ref(path, base), follow=follow, offset=offset))
        together = n.ReadResult()
        queries.answer_among(_SHARED.replica.db, op, directories, packs, together)
        assert together == queries.answer(_SHARED.replica.db, op)


def statements_for(cluster: Cluster, ops: list[n.ReadOp]) -> list[int]:
    """How many statements each of these took, asked together; each is the file /a/<its number>."""
    directories: lookup.Directories = {}
    statements: list[str] = []
    cluster.replica.db.set_trace_callback(statements.append)
    counts = []
    for number, op in enumerate(ops):
        statements.clear()
        told = n.ReadResult()
        queries.answer_among(cluster.replica.db, op, directories, {}, told)
        info = told.layout.info if op.WhichOneof("op") == "layout" else told.info
        assert info.path == b"/a/%d" % number
        counts.append(len(statements))
    cluster.replica.db.set_trace_callback(None)
    return counts


def test_a_directory_in_which_much_is_asked_for_is_looked_up_once(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/a"), *(put(b"/a/%d" % number) for number in range(3)))
    stats = [n.ReadOp(stat=n.StatRequest(ref=ref(b"/a/%d" % number))) for number in range(3)]
    assert statements_for(cluster, stats) == [3, 1, 1]


@given(
    st.lists(st.tuples(st.sampled_from(_PATHS), st.sampled_from([0, 1]), st.booleans()), max_size=200),
    st.integers(0, 70),
)
def test_stats_asked_together_have_the_answers_that_each_has_alone(
    asked: list[tuple[bytes, int, bool]], names: int
) -> None:
    asked = asked + [(b"/d/%d" % number, 0, False) for number in range(names)]
    stats = [n.StatRequest(ref=ref(path, base), follow=follow) for path, base, follow in asked]
    together = n.ReadBatchResult()
    told = queries.stat_all(_SHARED.replica.db, stats, together.results.add, 1 << 20)
    assert told == len(stats)
    assert list(together.results) == [queries.answer(_SHARED.replica.db, n.ReadOp(stat=one)) for one in stats]


def test_names_in_one_directory_are_looked_up_together(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/a"), *(put(b"/a/%d" % number) for number in range(100)))
    statements: list[str] = []
    stats = [n.StatRequest(ref=ref(b"/a/%d" % number)) for number in range(100)]
    told = n.ReadBatchResult()
    cluster.replica.db.set_trace_callback(statements.append)
    queries.stat_all(cluster.replica.db, stats, told.results.add, 1 << 20)
    cluster.replica.db.set_trace_callback(None)
    assert [one.info.path for one in told.results] == [one.ref.path for one in stats]
    assert len(statements) == 3 + 2  # the first the long way, the others 64 at once


@pytest.mark.parametrize("room", [0, 1, 4000, 12000])
def test_stats_end_when_their_answers_fill_the_room(cluster: Cluster, room: int) -> None:
    name = b"n" * 200
    cluster.do(mkdir(b"/a"), *(put(b"/a/%s%d" % (name, number)) for number in range(50)))
    stats = [n.StatRequest(ref=ref(b"/a/%s%d" % (name, number))) for number in range(50)]
    told = n.ReadBatchResult()
    count = queries.stat_all(cluster.replica.db, stats, told.results.add, room)
    assert count == len(told.results) < len(stats)
    sizes = [one.ByteSize() for one in told.results]
    assert sum(sizes[:-1]) < room or not sizes
    assert count >= room // 560  # each takes some 420


def test_layouts_in_a_directory_that_is_known_take_one_look_up(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/a"), *(put(b"/a/%d" % number) for number in range(3)))
    asked = [n.ReadOp(layout=n.LayoutRequest(ref=ref(b"/a/%d" % number))) for number in range(3)]
    assert statements_for(cluster, asked) == [4, 1, 1]


def test_a_file_of_many_extents_in_a_known_directory_is_told_whole(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/a"), put(b"/a/0"))
    cluster.upload(b"/a/1", 100, 50, 7)
    asked = [n.ReadOp(layout=n.LayoutRequest(ref=ref(b"/a/%d" % number))) for number in range(2)]
    directories: lookup.Directories = {}
    told = [n.ReadResult(), n.ReadResult()]
    for op, one in zip(asked, told, strict=True):
        queries.answer_among(cluster.replica.db, op, directories, {}, one)
    assert [extent.length for extent in told[1].layout.extents] == [100, 50, 7]
    assert told[1] == queries.answer(cluster.replica.db, asked[1])


def test_a_chunk_of_many_files_is_told_once_to_whoever_asks_for_new_chunks_only(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/a"))
    cluster.upload(b"/a/0", 100)
    cluster.do(
        clone(b"/a/0", b"/a/1"), clone(b"/a/0", b"/2"), put(b"/a/3", b"inline"), clone(b"/a/3", b"/a/4")
    )
    directories: lookup.Directories = {}
    packs: layouts.Packs = {}
    counts = []
    for path in (b"/a/0", b"/a/1", b"/2", b"/a/3", b"/a/4"):
        op = n.ReadOp(layout=n.LayoutRequest(ref=ref(path), new_chunks=True))
        told = n.ReadResult()
        queries.answer_among(cluster.replica.db, op, directories, packs, told)
        assert len(told.layout.extents) == 1
        counts.append(len(told.layout.chunks))
    assert counts == [1, 0, 0, 1, 1]


def test_a_chunk_that_many_files_share_is_looked_up_once(cluster: Cluster) -> None:
    cluster.upload(b"/0", 100)
    cluster.do(*(clone(b"/0", b"/%d" % number) for number in (1, 2)))
    packs: layouts.Packs = {}
    statements: list[str] = []
    cluster.replica.db.set_trace_callback(statements.append)
    counts = []
    for number in range(3):
        statements.clear()
        op = n.ReadOp(layout=n.LayoutRequest(ref=ref(b"/%d" % number)))
        told = n.ReadResult()
        queries.answer_among(cluster.replica.db, op, {}, packs, told)
        assert len(told.layout.chunks[0].replicas) == 3
        told.layout.chunks[0].replicas[0].node_state = t.NODE_STATE_DEAD  # of this answer only
        counts.append(len(statements))
    cluster.replica.db.set_trace_callback(None)
    assert counts[0] - counts[1] == 2
    assert counts[1] == counts[2]
    assert all(one.node_state == t.NODE_STATE_UNSPECIFIED for one in packs.popitem()[1].replicas)


_SHARED = Cluster()
_SHARED.upload(b"/c", 100)
_SHARED.one(clone(b"/c", b"/c2"))
_SHARED.do(mkdir(b"/a"), put(b"/a/b", b"body"), symlink(b"/l", b"a/b"))
_SHARED.do(mkdir(b"/a/e"), put(b"/a/e/f"), symlink(b"/d", b"a"), symlink(b"/a/up", b".."))


def test_an_inode_is_told_with_its_content_and_its_path(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/dir"), put(b"/dir/x", b"body"), symlink(b"/link", b"dir/x"))
    told = stat(cluster.replica.db, b"/link").info
    assert (told.type, told.target, told.size, told.path) == (t.INODE_TYPE_SYMLINK, b"dir/x", 0, b"/link")
    told = stat(cluster.replica.db, b"/link", follow=True).info
    assert (told.type, told.size, told.path) == (t.INODE_TYPE_FILE, 4, b"/dir/x")
    assert stat(cluster.replica.db, b"/").info.path == b"/"


def test_the_file_system_counts_what_is_not_yet_reaped(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/dir"), put(b"/dir/x", b"body"), put(b"/dir/y", b""), delete(b"/dir/y"))
    found = queries.answer(cluster.replica.db, n.ReadOp(stat_fs=n.StatFsRequest())).fs
    assert (found.files, found.directories, found.chunks) == (2, 2, 1)
    assert (found.logical_bytes, found.inline_bytes) == (4, 4)


def test_an_open_upload_tells_what_it_is_bound_to(cluster: Cluster) -> None:
    upload = opened(cluster)
    asked = n.ReadOp(get_upload=n.GetUploadRequest(upload=upload))
    found = queries.answer(cluster.replica.db, asked).upload
    assert (found.upload, found.replication, found.min_replicas) == (upload, 3, 2)
    assert found.deadline_cluster_ms == cluster.now_ms + UPLOAD_TTL_MS
    cluster.one(n.Op(abort_upload=n.AbortUploadRequest(upload=upload)))
    assert queries.answer(cluster.replica.db, asked).code == Code.UPLOAD_GONE


# What services and duties want to know


def test_the_state_says_what_cluster_it_is_of_and_who_its_members_are(cluster: Cluster) -> None:
    db = cluster.replica.db
    assert queries.cluster_identity(db) == ("cluster", 1)
    assert [one.node_id for one in queries.members(db)] == [one.node_id for one in MEMBERS]
    assert queries.applied_index(db) == cluster.replica.index
    assert [row.info.node_id for row in queries.node_rows(db)] == ["d1", "d2", "d3"]


def test_nothing_waits_in_an_idle_cluster(cluster: Cluster) -> None:
    assert queries.pending_deadline(cluster.replica.db) is None


def test_the_earliest_of_all_deadlines_is_pending(cluster: Cluster) -> None:
    db = cluster.replica.db
    cluster.do(put(b"/x"), delete(b"/x"))
    assert queries.pending_deadline(db) == cluster.now_ms + TRASH_RETENTION_MS
    opened(cluster)
    assert queries.pending_deadline(db) == cluster.now_ms + UPLOAD_TTL_MS
    session(cluster, ttl_ms=1000)
    assert queries.pending_deadline(db) == cluster.now_ms + 1000
    command = e.SetNode(
        node_id="d1",
        set_intent=True,
        intent=t.NODE_INTENT_MAINTENANCE,
        maintenance_until_cluster_ms=cluster.now_ms + 500,
    )
    cluster.system(e.SystemCommand(set_node=command))
    assert queries.pending_deadline(db) == cluster.now_ms + 500
    cluster.do(put(b"/y"), delete(b"/y", purge=True))
    assert queries.pending_deadline(db) == cluster.now_ms


def test_uploads_are_past_at_their_deadline_and_not_before(cluster: Cluster) -> None:
    first = opened(cluster, b"/1")
    cluster.now_ms += 10
    opened(cluster, b"/2")
    db = cluster.replica.db
    due = cluster.now_ms - 10 + UPLOAD_TTL_MS
    assert queries.open_uploads_past(db, due - 1, 10) == []
    assert queries.open_uploads_past(db, due, 10) == [first]
    assert len(queries.open_uploads_past(db, due + 10, 10)) == 2
    assert queries.open_uploads_past(db, due + 10, 1) == [first]


def test_a_session_counts_from_its_last_batch(cluster: Cluster) -> None:
    number = session(cluster)
    opened_ms = cluster.now_ms
    cluster.now_ms += 1000
    cluster.batch(n.Batch(session=number, slot=3, seq=1, ops=[mkdir(b"/a")]))
    db = cluster.replica.db
    assert queries.sessions_past(db, opened_ms + SESSION_TTL_MS, 10) == []
    assert queries.sessions_past(db, cluster.now_ms + SESSION_TTL_MS - 1, 10) == []
    assert queries.sessions_past(db, cluster.now_ms + SESSION_TTL_MS, 10) == [number]


@pytest.mark.parametrize(("ahead_ms", "expected"), [(999, []), (1000, ["d2"]), (5000, ["d2"])])
def test_maintenance_is_past_at_its_end(cluster: Cluster, ahead_ms: int, expected: list[str]) -> None:
    command = e.SetNode(
        node_id="d2",
        set_intent=True,
        intent=t.NODE_INTENT_MAINTENANCE,
        maintenance_until_cluster_ms=cluster.now_ms + 1000,
    )
    cluster.system(e.SystemCommand(set_node=command))
    assert queries.maintenance_past(cluster.replica.db, cluster.now_ms + ahead_ms) == expected
    command.intent = t.NODE_INTENT_DRAINING
    cluster.system(e.SystemCommand(set_node=command))
    assert queries.maintenance_past(cluster.replica.db, cluster.now_ms + ahead_ms) == []


def test_only_what_is_open_is_open(cluster: Cluster) -> None:
    upload, number = opened(cluster), session(cluster)
    db = cluster.replica.db
    assert queries.open_uploads(db, [upload, b"?" * 16, b""]) == {upload}
    assert queries.is_session(db, number)
    for other in (0, 1, 2**63 - 1, 2**63, 2**64 - 1):
        assert not queries.is_session(db, other)
