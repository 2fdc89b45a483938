"""Garbage: from the last reference that goes to the last replica."""

from __future__ import annotations

import pytest

from coordinator.metadata import garbage, invariants, queries
from coordinator.metadata.commands import garbage as commands
from coordinator.metadata.contents import OF_ANOTHER_LOG, RESTORED
from coordinator.metadata.hashing import state_hash
from quorumfs.errors import Code
from quorumfs.limits import GC_GRACE_MS
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.machines import MEMBERS, Cluster, commit_of
from tests.support.ops import clone, ref
from tests.unit.coordinator.metadata.test_chunks import GONE, chunk_of, counts, purged, rows, update

STRAY = b"s" * 16
LIVE = t.REPLICA_STATE_LIVE


@pytest.fixture
def cluster(cluster: Cluster) -> Cluster:
    """Most tests wait for no grace."""
    set_grace(cluster, 0)
    return cluster


def set_grace(cluster: Cluster, grace_ms: int) -> None:
    command = e.SetSetting(key="gc.grace_ms", value=str(grace_ms))
    assert cluster.system(e.SystemCommand(set_setting=command)).code == Code.OK


def condemn(cluster: Cluster, *chunks: bytes) -> int:
    return cluster.system(e.SystemCommand(condemn=e.CondemnChunks(chunks=chunks, cycle=7))).number


def forget(cluster: Cluster, *chunks: bytes) -> int:
    return cluster.system(e.SystemCommand(forget_chunks=e.ForgetChunks(chunks=chunks))).number


def restore(cluster: Cluster, *chunks: bytes) -> int:
    return cluster.system(e.SystemCommand(restore=e.RestoreChunks(chunks=chunks))).number


def release(cluster: Cluster, *chunks: bytes) -> int:
    return cluster.system(e.SystemCommand(release=e.ReleaseChunks(chunks=chunks))).number


def adopt(
    cluster: Cluster, chunk: bytes, *nodes: str, birth: tuple[int, int, int] = (1, 2, 1000), length: int = 5
) -> int:
    history, index, cluster_ms = birth
    one = e.AdoptChunks.One(
        chunk=chunk,
        node_ids=nodes,
        birth=t.ChunkBirth(history=history, index=index, cluster_ms=cluster_ms),
        length=length,
        checksum=7,
    )
    return cluster.system(e.SystemCommand(adopt=e.AdoptChunks(chunks=[one]))).number


def orphan(cluster: Cluster, path: bytes = b"/x", *nodes: str) -> bytes:
    cluster.upload(path, 5, nodes=nodes or ("d1", "d2"))
    chunk = chunk_of(cluster, path)
    purged(cluster, path)
    return chunk


def test_a_chunk_without_a_file_is_an_orphan_and_says_whose_it_was(cluster: Cluster) -> None:
    cluster.upload(b"/x", 5)
    chunk = chunk_of(cluster, b"/x")
    cluster.one(clone(b"/x", b"/y"))
    purged(cluster, b"/x")
    assert rows(cluster, "SELECT * FROM orphan") == []
    purged(cluster, b"/y")
    found = rows(cluster, "SELECT chunk, since_index, deleted_by, path FROM orphan")
    assert found == [(chunk, cluster.replica.index, "tester", b"/y")]


def test_only_orphans_are_condemned(cluster: Cluster) -> None:
    cluster.upload(b"/x", 5)
    chunk = chunk_of(cluster, b"/x")
    assert condemn(cluster, chunk, b"c" * 16, b"") == 0
    purged(cluster, b"/x")
    assert condemn(cluster, chunk, chunk) == 1
    assert rows(cluster, "SELECT condemned_index, cycle FROM orphan") == [(cluster.replica.index, 7)]
    assert rows(cluster, "SELECT state FROM chunk") == [(2,)]


def test_a_condemned_chunk_is_forgotten_when_nobody_holds_it(cluster: Cluster) -> None:
    cluster.upload(b"/x", 5, nodes=("d1", "d2"))
    chunk = chunk_of(cluster, b"/x")
    purged(cluster, b"/x")
    assert forget(cluster, chunk) == 0  # not condemned
    condemn(cluster, chunk)
    assert forget(cluster, chunk) == 0  # two nodes may have it
    assert update(cluster, chunk, "d1", GONE) == 1
    assert update(cluster, chunk, "d2", GONE) == 1  # of a condemned chunk the last one too
    assert forget(cluster, chunk, chunk) == 1
    assert rows(cluster, "SELECT * FROM chunk") == rows(cluster, "SELECT * FROM orphan") == []


def test_a_restored_chunk_is_held_and_condemned_no_more(cluster: Cluster) -> None:
    cluster.upload(b"/x", 5)
    chunk = chunk_of(cluster, b"/x")
    purged(cluster, b"/x")
    condemn(cluster, chunk)
    assert restore(cluster, chunk, b"c" * 16) == cluster.replica.index
    assert rows(cluster, "SELECT condemned_index, hold FROM orphan") == [(0, 1)]
    assert rows(cluster, "SELECT state FROM chunk") == [(1,)]
    assert condemn(cluster, chunk) == 0
    assert forget(cluster, chunk) == 0


def test_a_restored_chunk_that_never_had_bytes_is_not_sealed(cluster: Cluster) -> None:
    upload = cluster.one(n.Op(open_upload=n.OpenUploadRequest(ref=ref(b"/x")))).upload.upload
    choice = e.Choice(placements=[e.Placement(node_ids=["d1"])])
    cluster.one(n.Op(allocate=n.AllocateRequest(upload=upload, count=1)), choices=[choice])
    cluster.one(n.Op(abort_upload=n.AbortUploadRequest(upload=upload)))
    ((chunk,),) = rows(cluster, "SELECT id FROM chunk")
    assert isinstance(chunk, bytes)
    condemn(cluster, chunk)
    restore(cluster, chunk)
    assert rows(cluster, "SELECT state FROM chunk") == [(0,)]


# Grace


def test_nothing_is_condemned_before_its_grace_is_over_in_replicated_time(cluster: Cluster) -> None:
    set_grace(cluster, 1000)
    chunk = orphan(cluster)
    cluster.now_ms += 999
    assert condemn(cluster, chunk) == 0
    assert garbage.due(cluster.replica.db, b"", 10) == []
    cluster.now_ms += 1
    assert condemn(cluster, chunk) == 1


def test_the_grace_is_hours_unless_it_is_set(cluster: Cluster) -> None:
    fresh = Cluster()
    chunk = orphan(fresh)
    fresh.now_ms += GC_GRACE_MS - 1
    assert condemn(fresh, chunk) == 0
    fresh.now_ms += 1
    assert condemn(fresh, chunk) == 1


def test_a_chunk_of_an_open_upload_is_not_condemned_however_old(cluster: Cluster) -> None:
    upload = cluster.one(n.Op(open_upload=n.OpenUploadRequest(ref=ref(b"/x")))).upload.upload
    choice = e.Choice(placements=[e.Placement(node_ids=["d1", "d2"])])
    made = cluster.one(n.Op(allocate=n.AllocateRequest(upload=upload, count=1)), choices=[choice])
    cluster.now_ms += 100 * GC_GRACE_MS
    assert condemn(cluster, made.allocation.chunks[0].chunk) == 0
    commit = commit_of(upload, made.allocation, [5], ("d1", "d2"))
    assert cluster.one(n.Op(commit_upload=commit)).code == Code.OK


# Adoption


def test_a_chunk_that_no_table_knows_is_adopted_and_its_grace_begins(cluster: Cluster) -> None:
    set_grace(cluster, 1000)
    assert adopt(cluster, STRAY, "d1", "d2") == 1
    db = cluster.replica.db
    assert garbage.orphans(db, b"", 10) == [garbage.Held(STRAY, 0, ("d1", "d2"))]
    assert garbage.counts(db) == garbage.Counts(candidates=1, condemned=0, held=0, unexplained=1)
    assert condemn(cluster, STRAY) == 0
    cluster.now_ms += 1000
    assert condemn(cluster, STRAY) == 1
    for node in ("d1", "d2"):
        assert update(cluster, STRAY, node, GONE) == 1
    assert forget(cluster, STRAY) == 1
    assert invariants.violations(db) == []


def test_what_something_refers_to_is_never_adopted(cluster: Cluster) -> None:
    cluster.upload(b"/x", 5, nodes=("d1", "d2"))
    chunk = chunk_of(cluster, b"/x")
    assert adopt(cluster, chunk, "d3") == 0
    assert counts(cluster) == (2, 3)


def test_of_an_orphan_that_lies_elsewhere_too_only_that_is_noted(cluster: Cluster) -> None:
    chunk = orphan(cluster)
    assert adopt(cluster, chunk, "d2", "d3") == 1
    assert adopt(cluster, chunk, "d3") == 0
    assert garbage.orphans(cluster.replica.db, b"", 10) == [garbage.Held(chunk, 0, ("d1", "d2", "d3"))]
    assert rows(cluster, "SELECT deleted_by FROM orphan") == [("tester",)]
    assert invariants.violations(cluster.replica.db) == []


def test_nothing_is_adopted_from_a_node_that_is_not_registered(cluster: Cluster) -> None:
    assert adopt(cluster, STRAY, "d9") == 0
    assert adopt(cluster, b"short", "d1") == 0
    assert rows(cluster, "SELECT * FROM chunk") == []


@pytest.mark.parametrize(
    "birth",
    [(2, 2, 1000), (1, 10**6, 1000), (1, 2, 10**12), (0, 0, 0)],
    ids=["a later history", "a later index", "a later time", "no birth at all"],
)
def test_a_chunk_of_a_log_that_this_one_has_not_seen_waits_for_an_operator(
    cluster: Cluster, birth: tuple[int, int, int]
) -> None:
    adopt(cluster, STRAY, "d1", birth=birth)
    assert rows(cluster, "SELECT hold FROM orphan") == [(OF_ANOTHER_LOG,)]
    cluster.now_ms += 10**9
    assert condemn(cluster, STRAY) == 0
    assert garbage.candidates(cluster.replica.db, b"", 10, held=True) == [STRAY]
    assert "gc release" in garbage.guard_of(garbage.story(cluster.replica.db, STRAY))


def test_after_a_new_history_began_strays_of_the_old_one_wait_for_an_operator(cluster: Cluster) -> None:
    init = e.InitCluster(cluster_id="cluster", history=2, members=MEMBERS)
    cluster.system(e.SystemCommand(init=init))
    adopt(cluster, STRAY, "d1", birth=(1, 2, 1000))
    assert condemn(cluster, STRAY) == 0


def test_a_released_chunk_gets_its_whole_grace_anew(cluster: Cluster) -> None:
    set_grace(cluster, 1000)
    adopt(cluster, STRAY, "d1", birth=(0, 2, 1000))
    cluster.now_ms += 5000
    assert release(cluster, STRAY, b"?" * 16) == 1
    assert release(cluster, STRAY) == 0
    assert condemn(cluster, STRAY) == 0
    cluster.now_ms += 1000
    assert condemn(cluster, STRAY) == 1


def test_a_chunk_of_a_later_history_is_not_released(cluster: Cluster) -> None:
    adopt(cluster, STRAY, "d1", birth=(2, 2, 1000))
    assert release(cluster, STRAY) == 0
    assert condemn(cluster, STRAY) == 0


def test_a_chunk_that_is_held_is_held_on_when_it_is_restored(cluster: Cluster) -> None:
    adopt(cluster, STRAY, "d1", birth=(9, 2, 1000))
    restore(cluster, STRAY)
    assert rows(cluster, "SELECT hold FROM orphan") == [(RESTORED,)]


# Stories


def test_the_story_of_a_chunk_from_its_upload_to_its_end(cluster: Cluster) -> None:
    db = cluster.replica.db
    upload = cluster.one(n.Op(open_upload=n.OpenUploadRequest(ref=ref(b"/x")))).upload.upload
    choice = e.Choice(placements=[e.Placement(node_ids=["d1", "d2"])])
    made = cluster.one(n.Op(allocate=n.AllocateRequest(upload=upload, count=1)), choices=[choice])
    chunk = made.allocation.chunks[0].chunk

    def told() -> garbage.Story:
        return garbage.story(db, chunk)

    assert (told().state, garbage.guard_of(told())) == ("uploading", f"its upload {upload.hex()} is open")
    cluster.one(n.Op(commit_upload=commit_of(upload, made.allocation, [5], ("d1", "d2"))))
    assert (told().state, told().references, told().nodes) == ("referenced", (b"/x",), ("d1", "d2"))
    set_grace(cluster, 1000)
    purged(cluster, b"/x")
    gone = told()
    assert (gone.state, gone.references, gone.last_path, gone.deleted_by) == ("orphan", (), b"/x", "tester")
    assert gone.since_index == cluster.replica.index
    assert garbage.guard_of(gone) == "its grace is not over"
    cluster.now_ms += 1000
    condemn(cluster, chunk)
    assert (told().state, garbage.guard_of(told())) == ("condemned", "")
    assert garbage.condemned(db, b"", 10) == [garbage.Held(chunk, cluster.replica.index, ("d1", "d2"))]
    for node in ("d1", "d2"):
        update(cluster, chunk, node, GONE)
    forget(cluster, chunk)
    assert told().state == "unknown"


def set_quarantine(cluster: Cluster, quarantine_ms: int) -> None:
    command = e.SetSetting(key="gc.quarantine_ms", value=str(quarantine_ms))
    assert cluster.system(e.SystemCommand(set_setting=command)).code == Code.OK


def deleted(cluster: Cluster, path: bytes) -> bytes:
    """A chunk that lies in quarantine, and that nobody has any more."""
    chunk = orphan(cluster, path, "d1", "d2")
    condemn(cluster, chunk)
    for node in ("d1", "d2"):
        update(cluster, chunk, node, GONE)
    assert forget(cluster, chunk) == 1
    return chunk


def test_what_a_chunk_in_quarantine_was_is_remembered_for_its_time(cluster: Cluster) -> None:
    set_quarantine(cluster, 1000)
    db, before = cluster.replica.db, state_hash(cluster.replica.db)
    chunk = orphan(cluster, b"/x", "d1", "d2")
    as_orphan = garbage.story(db, chunk)
    cluster.now_ms += 70
    condemn(cluster, chunk)
    for node in ("d1", "d2"):
        update(cluster, chunk, node, GONE)
    forget(cluster, chunk)
    told = garbage.story(db, chunk)
    assert told.state == "unknown"
    assert (told.last_path, told.deleted_by, told.length) == (b"/x", "tester", 5)
    assert (told.since_index, told.since_ms) == (as_orphan.since_index, as_orphan.since_ms)
    assert told.condemned_index > told.since_index
    assert rows(cluster, "SELECT forgotten_wall_ms - forgotten_ms FROM quarantined") == [
        (told.since_wall_ms - told.since_ms,)
    ]
    assert state_hash(db) != before
    cluster.now_ms += 1999  # a node that starts anew counts from its beginning
    forget(cluster)
    assert not garbage.has_outlived(db)
    assert garbage.story(db, chunk) != garbage.Story("unknown", told.now_ms, told.grace_ms)
    cluster.now_ms += 1
    cluster.system(e.SystemCommand(tick=e.Tick()))
    assert garbage.has_outlived(db)
    forget(cluster)
    assert garbage.story(db, chunk).since_index == 0
    assert rows(cluster, "SELECT * FROM quarantined") == []


def test_so_many_memories_go_with_one_entry_the_oldest_first(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_quarantine(cluster, 1000)
    monkeypatch.setattr(commands, "FORGOTTEN_PER_COMMAND", 2)
    chunks = []
    for k in range(3):
        chunks.append(deleted(cluster, b"/%d" % k))
        cluster.now_ms += 10
    cluster.now_ms += 2000
    forget(cluster)
    assert rows(cluster, "SELECT chunk FROM quarantined") == [(chunks[2],)]
    forget(cluster)
    assert rows(cluster, "SELECT chunk FROM quarantined") == []


def test_without_a_quarantine_nothing_is_remembered(cluster: Cluster) -> None:
    set_quarantine(cluster, 0)
    deleted(cluster, b"/x")
    assert rows(cluster, "SELECT * FROM quarantined") == []


def test_a_chunk_that_comes_back_is_explained_by_what_deleted_it(cluster: Cluster) -> None:
    chunk = deleted(cluster, b"/x")
    db = cluster.replica.db
    was = garbage.story(db, chunk)
    assert adopt(cluster, chunk, "d1") == 1
    told = garbage.story(db, chunk)
    assert (told.state, told.last_path, told.deleted_by) == ("orphan", b"/x", "tester")
    assert (told.since_index, told.since_ms) == (was.since_index, cluster.now_ms)  # its grace begins anew
    assert rows(cluster, "SELECT * FROM quarantined") == []
    assert garbage.counts(db).unexplained == 0


def test_replicas_are_told_by_what_holds_their_chunk(cluster: Cluster) -> None:
    db = cluster.replica.db
    cluster.upload(b"/kept", 5, nodes=("d1", "d2"))
    orphan(cluster, b"/gone", "d1", "d2")
    condemn(cluster, orphan(cluster, b"/condemned", "d1", "d2"))
    page = garbage.placed(db, "d1", b"", 10)
    assert sum(page.lengths.values()) == 15
    assert {kind for kind, _ in page.lengths} == {"condemned", "orphan", "referenced"}
    assert page.last is not None
    assert garbage.placed(db, "d1", page.last, 10) == garbage.Placed({}, None)
    assert garbage.placed(db, "d3", b"", 10) == garbage.Placed({}, None)
    assert queries.pending_deadline(db) is not None


# Another log


def next_history(cluster: Cluster) -> None:
    init = e.InitCluster(cluster_id="cluster", history=2, members=MEMBERS)
    assert cluster.system(e.SystemCommand(init=init)).code == Code.OK


def test_an_upload_that_was_open_when_a_history_was_left_may_be_a_file_there(cluster: Cluster) -> None:
    """Its chunks were born before the fork, and committed after it: this log saw the one, and not the other."""
    choice = e.Choice(placements=[e.Placement(node_ids=["d1", "d2"])])
    upload = cluster.one(n.Op(open_upload=n.OpenUploadRequest(ref=ref(b"/x")))).upload.upload
    made = cluster.one(n.Op(allocate=n.AllocateRequest(upload=upload, count=1)), choices=[choice])
    next_history(cluster)
    later = cluster.one(n.Op(allocate=n.AllocateRequest(upload=upload, count=1)), choices=[choice])
    cluster.one(n.Op(abort_upload=n.AbortUploadRequest(upload=upload)))
    before, after = made.allocation.chunks[0].chunk, later.allocation.chunks[0].chunk
    assert condemn(cluster, before, after) == 1
    assert garbage.story(cluster.replica.db, before).hold == OF_ANOTHER_LOG
    assert garbage.story(cluster.replica.db, after).state == "condemned"
    assert release(cluster, before) == 1
    assert condemn(cluster, before) == 1
    assert invariants.violations(cluster.replica.db) == []


def test_what_waits_for_an_operator_is_no_evidence_and_what_one_has_judged_is_explained(
    cluster: Cluster,
) -> None:
    next_history(cluster)
    assert adopt(cluster, STRAY, "d1", birth=(1, 2, 1000)) == 1
    db = cluster.replica.db
    assert garbage.counts(db) == garbage.Counts(0, 0, held=1, unexplained=0, of_another_log=1)
    assert release(cluster, STRAY) == 1
    assert garbage.counts(db) == garbage.Counts(1, 0, held=0, unexplained=0, of_another_log=0)
    assert garbage.story(db, STRAY).deleted_by != ""
