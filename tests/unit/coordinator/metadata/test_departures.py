"""What nodes that leave still hold that nobody else does: counted by the database as one would by hand."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.metadata import departures, queries
from coordinator.metadata.departures import Held
from coordinator.metadata.queries import Apart, Gone, LostDisk
from quorumfs.errors import Code
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.machines import Cluster
from tests.support.ops import delete, ref

LIVE, CORRUPT = t.REPLICA_STATE_LIVE, t.REPLICA_STATE_CORRUPT
NODES = ("d1", "d2", "d3", "d4")
LEAVES = Apart(leaving=frozenset({"d1"}))

some_nodes = st.frozensets(st.sampled_from(NODES))


def store(cluster: Cluster, path: bytes, nodes: tuple[str, ...], want: int = 3, length: int = 5) -> bytes:
    """A file of one chunk with replicas on these nodes; the chunk."""
    assert cluster.upload(path, length, nodes=nodes).code == Code.OK
    attributes = n.SetAttributesRequest(ref=ref(path), replication=want)
    assert cluster.one(n.Op(set_attributes=attributes)).code == Code.OK
    asked = n.ReadOp(layout=n.LayoutRequest(ref=ref(path), no_body=True))
    return queries.answer(cluster.replica.db, asked).layout.extents[0].chunk


def become(cluster: Cluster, chunk: bytes, node: str, state: t.ReplicaState.ValueType) -> None:
    one = e.ReplicaUpdate(chunk=chunk, node_id=node, state=state)
    cluster.system(e.SystemCommand(update_replicas=e.UpdateReplicas(updates=[one])))


def test_what_is_in_enough_places_elsewhere_does_not_remain(cluster: Cluster) -> None:
    cluster.register("d4")
    db = cluster.replica.db
    moved = store(cluster, b"/moved", ("d1", "d2", "d3"))
    become(cluster, moved, "d4", LIVE)
    assert departures.held(db, "d1", (), LEAVES) == Held(1, 5, 0, 0, 0, 0, 0)
    short = store(cluster, b"/short", ("d1", "d2", "d3"), length=7)
    only = store(cluster, b"/only", ("d1", "d2"), want=1, length=11)
    become(cluster, only, "d2", CORRUPT)
    assert departures.held(db, "d1", (), LEAVES) == Held(3, 23, 2, 18, 1, 0, 0)
    assert departures.remaining(db, "d1", (), LEAVES, 9) == [only, short]
    assert departures.remaining(db, "d1", (), LEAVES, 1) == [only]
    assert departures.moving(db, (), LEAVES, 9) == (2, [only, short])
    assert departures.moving(db, (), LEAVES, 1) == (2, [only])
    assert departures.paths_of(db, only) == [b"/only"]


def test_replicas_on_nodes_that_leave_too_or_are_gone_do_not_help(cluster: Cluster) -> None:
    store(cluster, b"/x", ("d1", "d2"), want=1)
    db = cluster.replica.db
    for node in ("d1", "d2"):
        assert departures.held(db, node, (), Apart()).nothing_remains
    both = Apart(leaving=frozenset({"d1", "d2"}))
    assert departures.held(db, "d1", (), both) == Held(1, 5, 1, 5, 1, 0, 0)
    assert departures.held(db, "d1", ("d2",), Apart()) == Held(1, 5, 1, 5, 1, 0, 0)
    away = Apart(leaving=frozenset({"d1"}), resting=frozenset({"d2"}))
    assert departures.held(db, "d1", (), away) == Held(1, 5, 1, 5, 1, 0, 0)


def test_damaged_replicas_that_are_the_last_keep_a_node(cluster: Cluster) -> None:
    chunk = store(cluster, b"/x", ("d1", "d2"), want=2)
    become(cluster, chunk, "d1", CORRUPT)
    db = cluster.replica.db
    assert departures.held(db, "d1", (), LEAVES).nothing_remains
    become(cluster, chunk, "d2", CORRUPT)
    assert departures.held(db, "d1", (), LEAVES).unreadable == 1
    assert departures.unreadable(db, "d1", 9) == [chunk]
    assert not departures.held(db, "d1", (), LEAVES).nothing_remains


def test_what_is_being_written_there_keeps_a_node(cluster: Cluster) -> None:
    opened = cluster.one(n.Op(open_upload=n.OpenUploadRequest(ref=ref(b"/x"))))
    choice = e.Choice(placements=[e.Placement(node_ids=("d1", "d2"))])
    request = n.AllocateRequest(upload=opened.upload.upload, count=1)
    (made,) = cluster.one(n.Op(allocate=request), choices=[choice]).allocation.chunks
    db = cluster.replica.db
    assert departures.held(db, "d1", (), LEAVES).writing == 1
    assert departures.writing(db, "d1", 9) == [(made.chunk, b"/x")]
    assert departures.held(db, "d3", (), LEAVES).nothing_remains
    cluster.one(n.Op(abort_upload=n.AbortUploadRequest(upload=opened.upload.upload)))
    assert departures.held(db, "d1", (), LEAVES).nothing_remains


def test_garbage_keeps_nobody(cluster: Cluster) -> None:
    store(cluster, b"/x", ("d1", "d2"))
    cluster.one(delete(b"/x", purge=True))
    cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=100)))
    db = cluster.replica.db
    assert departures.held(db, "d1", (), LEAVES).nothing_remains
    assert departures.moving(db, (), LEAVES, 9) == (0, [])
    assert departures.held(db, "nobody", (), LEAVES).nothing_remains


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.frozensets(st.sampled_from(NODES), min_size=2), st.integers(1, 4)), max_size=5),
    some_nodes,
    some_nodes,
    some_nodes,
    some_nodes,
    st.sampled_from(NODES),
)
def test_the_database_counts_as_one_would_by_hand(
    files: list[tuple[frozenset[str], int]],
    gone: frozenset[str],
    failed: frozenset[str],
    leaving: frozenset[str],
    resting: frozenset[str],
    node: str,
) -> None:
    cluster = Cluster()
    cluster.register("d4")
    apart = Apart(leaving, resting - leaving)
    lost: Gone = frozenset([*gone, *(LostDisk(one, f"disk-{one}") for one in failed)])
    stored = {
        store(cluster, b"/%d" % k, tuple(sorted(live)), want): (live, want)
        for k, (live, want) in enumerate(files)
    }
    there = {chunk: (live - gone - failed, want) for chunk, (live, want) in stored.items()}
    db = cluster.replica.db
    left = departures.without(apart, node)
    here = {chunk for chunk, (live, _) in stored.items() if node in live - failed}
    needed = {
        chunk
        for chunk in here
        if not left.suffice(*there[chunk]) or not there[chunk][0]  # nothing of it can be read now
    }
    held = departures.held(db, node, lost, apart)
    assert (held.chunks, held.remaining_chunks) == (len(here), len(needed))
    assert set(departures.remaining(db, node, lost, apart, 99)) == needed
    assert {one.chunk for one in queries.damaged_chunks(db, here, lost, left)} == needed
    _, moving = departures.moving(db, lost, apart, 99)
    assert set(moving) == {
        chunk for chunk, (live, want) in there.items() if not apart.suffice(live, want) and len(live) >= want
    }
