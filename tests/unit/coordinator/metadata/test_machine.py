"""The machine itself: entries in order, one answer per item, and nothing a client sends can stop it."""

from __future__ import annotations

import pytest

from coordinator.metadata import hashing
from coordinator.metadata.machine import CLUSTER_MS_MAX, FORMAT, WALL_MS_MAX
from quorumfs.errors import Code, FormatTooNewError, InternalError
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.machines import Cluster, Replica
from tests.support.ops import mkdir, names, put, stat


def item(*ops: n.Op) -> e.Item:
    return e.Item(batch=n.Batch(ops=ops).SerializeToString())


def test_each_item_of_an_entry_has_its_answer_and_sees_those_before_it(cluster: Cluster) -> None:
    tick = e.SystemBatch(commands=[e.SystemCommand(tick=e.Tick())]).SerializeToString()
    first, second, third = cluster.entry(item(mkdir(b"/a")), e.Item(system=tick), item(put(b"/a/x")))
    assert n.BatchResult.FromString(first).results[0].code == Code.OK
    assert e.SystemResult.FromString(second).results[0].code == Code.OK
    assert n.BatchResult.FromString(third).results[0].info.path == b"/a/x"


def test_an_entry_out_of_order_is_not_applied(cluster: Cluster) -> None:
    before = hashing.state_hash(cluster.replica.db)
    for index in (cluster.replica.index, cluster.replica.index + 2):
        cluster.replica.db.execute("BEGIN")
        with pytest.raises(InternalError, match=str(index)):
            cluster.replica.machine.apply(cluster.replica.db, index, 1, b"")
        cluster.replica.db.execute("ROLLBACK")
    assert hashing.state_hash(cluster.replica.db) == before


def test_an_entry_that_is_none_or_too_new_ends_the_process(cluster: Cluster) -> None:
    index = cluster.replica.index + 1
    with pytest.raises(InternalError, match="decoded"):
        cluster.replica.machine.apply(cluster.replica.db, index, 1, b"\xff")
    newer = e.Entry(format=FORMAT + 1).SerializeToString()
    with pytest.raises(FormatTooNewError):
        cluster.replica.machine.apply(cluster.replica.db, index, 1, newer)


def test_bytes_that_are_no_batch_are_an_answer(cluster: Cluster) -> None:
    batch, system, neither = cluster.entry(e.Item(batch=b"\xff"), e.Item(system=b"\xff"), e.Item())
    assert n.BatchResult.FromString(batch).code == Code.INVALID_ARGUMENT
    assert e.SystemResult.FromString(system).results[0].code == Code.INVALID_ARGUMENT
    assert n.BatchResult.FromString(neither).code == Code.OK


@pytest.mark.parametrize("raw", [b"\xff", b"\x0b" * 10_000, b"\x2a\x7f", b"\x2a\x04\x42\x02\x0a\x7f"])
def test_whatever_the_bytes_are_they_are_an_answer_and_change_nothing(cluster: Cluster, raw: bytes) -> None:
    before = cluster.replica.db.execute("SELECT * FROM totals").fetchall()
    batch, system = cluster.entry(e.Item(batch=raw), e.Item(system=raw))
    assert n.BatchResult.FromString(batch).code == Code.INVALID_ARGUMENT
    assert all(one.code == Code.INVALID_ARGUMENT for one in e.SystemResult.FromString(system).results)
    assert cluster.replica.db.execute("SELECT * FROM totals").fetchall() == before


def test_lists_of_very_many_elements_are_gone_through(cluster: Cluster) -> None:
    upload = cluster.one(n.Op(open_upload=n.OpenUploadRequest(ref=n.Ref(path=b"/x")))).upload.upload
    many = 100_000
    chunk = n.SealedChunk(chunk=bytes(16), replicas=[t.ReplicaAck(node_id="d1", durable=True)] * many)
    extents = [t.Extent(offset=2**64 - 1, length=2**64 - 1, chunk=bytes(16), chunk_offset=2**64 - 1)] * many
    results = cluster.do(
        n.Op(add_extents=n.AddExtentsRequest(upload=upload, extents=extents)),
        n.Op(add_extents=n.AddExtentsRequest(upload=upload, chunks=[chunk])),
        n.Op(allocate=n.AllocateRequest(upload=upload, count=2**32 - 1, exclude=["d1"] * many)),
        mkdir(b"/a" * many, parents=True),
        choices=[e.Choice(op=2, placements=[e.Placement(node_ids=["d1"] * many)] * 2)] * 3,
    )
    assert [one.code for one in results] == [
        Code.CHUNK_NOT_FOUND,
        Code.CHUNK_NOT_FOUND,
        Code.INVALID_ARGUMENT,
        Code.INVALID_PATH,
    ]
    update = e.ReplicaUpdate(chunk=b"c" * 16, node_id="d1")
    outcomes = [
        cluster.system(e.SystemCommand(update_replicas=e.UpdateReplicas(updates=[update] * many))),
        cluster.system(e.SystemCommand(expire_sessions=e.ExpireSessions(sessions=[2**64 - 1] * many))),
        cluster.system(
            e.SystemCommand(set_node=e.SetNode(node_id="d1", labels={f"k{k}": "" for k in range(many)}))
        ),
    ]
    assert [(one.code, one.number) for one in outcomes] == [(0, 0), (0, 0), (Code.INVALID_ARGUMENT, 0)]


def test_replicated_time_at_the_end_of_its_range_stops_nobody(cluster: Cluster) -> None:
    cluster.now_ms = 2**64 - 1 - 1_700_000_000_000
    upload = cluster.one(n.Op(open_upload=n.OpenUploadRequest(ref=n.Ref(path=b"/x")))).upload
    assert CLUSTER_MS_MAX < upload.deadline_cluster_ms < 2**63
    session = cluster.one(n.Op(open_session=n.OpenSessionRequest())).session.session
    assert cluster.batch(n.Batch(session=session, seq=1, ops=[put(b"/y")])).results[0].code == Code.OK
    assert cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=1))).code == Code.OK


def test_operations_of_a_kind_unknown_here_are_refused_one_by_one(cluster: Cluster) -> None:
    results = cluster.do(n.Op(), mkdir(b"/a"))
    assert [one.code for one in results] == [Code.FORMAT_TOO_NEW, Code.OK]
    assert cluster.system(e.SystemCommand()).code == Code.FORMAT_TOO_NEW


def test_replicated_time_never_goes_back(cluster: Cluster) -> None:
    cluster.now_ms = 5000
    cluster.do(mkdir(b"/a"))
    cluster.now_ms = 4000
    cluster.do(mkdir(b"/b"))
    assert cluster.replica.db.execute("SELECT cluster_ms FROM raft_state").fetchone() == (5000,)


def test_a_wall_clock_centuries_ahead_stops_nobody(cluster: Cluster) -> None:
    entry = e.Entry(stamp=e.Stamp(cluster_ms=9, wall_ms=2**64 - 1), seed=bytes(16), items=[item(put(b"/x"))])
    cluster.replica.apply(cluster.replica.index + 1, entry.SerializeToString())
    assert stat(cluster.replica.db, b"/x").info.changed_wall_ms == WALL_MS_MAX


def test_an_entry_without_commands_moves_the_index_and_nothing_else(cluster: Cluster) -> None:
    replica = cluster.replica
    rolling, index = replica.machine.rolling, replica.index
    replica.db.execute("BEGIN")
    replica.machine.skip(replica.db, index + 1, 7)
    replica.db.execute("COMMIT")
    row = replica.db.execute(
        "SELECT applied_index, applied_term, cluster_ms, rolling FROM raft_state"
    ).fetchone()
    assert row == (index + 1, 7, cluster.now_ms, rolling)
    assert replica.machine.rolling == rolling


def test_the_rolling_hash_binds_entries_results_and_their_order() -> None:
    def rolled(*order: n.Op) -> bytes:
        cluster = Cluster()
        for op in order:
            cluster.one(op)
        assert cluster.replica.machine.rolling == hashing_of(cluster)
        return cluster.replica.machine.rolling

    def hashing_of(cluster: Cluster) -> bytes:
        (stored,) = cluster.replica.db.execute("SELECT rolling FROM raft_state").fetchone()
        return bytes(stored)

    assert rolled(mkdir(b"/a"), mkdir(b"/b")) == rolled(mkdir(b"/a"), mkdir(b"/b"))
    assert rolled(mkdir(b"/a"), mkdir(b"/b")) != rolled(mkdir(b"/b"), mkdir(b"/a"))


def test_a_machine_that_begins_from_a_snapshot_goes_on_with_its_rolling_hash(cluster: Cluster) -> None:
    other = Replica(cluster.replica.image())
    cluster.do(mkdir(b"/a"))
    other.apply(cluster.replica.index, cluster.log[-1])
    assert other.machine.rolling == cluster.replica.machine.rolling
    assert hashing.state_hash(other.db) == hashing.state_hash(cluster.replica.db)


def test_a_mark_is_told_once(cluster: Cluster) -> None:
    made = cluster.system(e.SystemCommand(hash_at=e.HashAt(nonce=9)))
    assert made.number == cluster.replica.index
    assert cluster.replica.machine.take_marks() == [made.number]
    assert cluster.replica.machine.take_marks() == []


def test_ids_come_from_the_entry_alone(cluster: Cluster) -> None:
    twin = Cluster()
    ops = [n.Op(open_upload=n.OpenUploadRequest(ref=n.Ref(path=b"/%d" % k))) for k in range(3)]
    ids = [one.upload.upload for one in cluster.do(*ops)]
    assert ids == [one.upload.upload for one in twin.do(*ops)]
    assert len(set(ids)) == 3


def test_a_refused_operation_leaves_nothing_and_the_others_go_on(cluster: Cluster) -> None:
    results = cluster.do(mkdir(b"/a"), put(b"/a/x/y"), put(b"/a/x", b"b", checksum=1), mkdir(b"/b"))
    assert [one.code for one in results] == [Code.OK, Code.NOT_FOUND, Code.CORRUPT, Code.OK]
    assert names(cluster.replica.db, b"/a") == []
    assert names(cluster.replica.db, b"/") == [b"a", b"b"]
