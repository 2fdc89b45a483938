"""What is asked about replicas: what lacks some, and what a node's loss takes."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.metadata import queries
from coordinator.metadata.queries import Apart
from quorumfs.errors import Code
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.machines import Cluster
from tests.support.ops import delete, put, ref

LIVE, CORRUPT, MISSING = t.REPLICA_STATE_LIVE, t.REPLICA_STATE_CORRUPT, t.REPLICA_STATE_MISSING
FIRST = (0, b"")


def store(cluster: Cluster, path: bytes, nodes: Sequence[str], replication: int = 3) -> bytes:
    """A file of one chunk with replicas on these nodes; the chunk."""
    assert cluster.upload(path, 5, nodes=nodes).code == Code.OK
    if replication != 3:
        attributes = n.SetAttributesRequest(ref=ref(path), replication=replication)
        assert cluster.one(n.Op(set_attributes=attributes)).code == Code.OK
    asked = n.ReadOp(layout=n.LayoutRequest(ref=ref(path), no_body=True))
    return queries.answer(cluster.replica.db, asked).layout.extents[0].chunk


def become(cluster: Cluster, chunk: bytes, node: str, state: t.ReplicaState.ValueType) -> None:
    one = e.ReplicaUpdate(chunk=chunk, node_id=node, state=state)
    cluster.system(e.SystemCommand(update_replicas=e.UpdateReplicas(updates=[one])))


def four_nodes(cluster: Cluster) -> Cluster:
    cluster.register("d4")
    return cluster


def test_a_chunk_with_all_its_replicas_lacks_none(cluster: Cluster) -> None:
    chunk = store(cluster, b"/x", ("d1", "d2", "d3"))
    db = cluster.replica.db
    assert queries.wanting_chunks(db, FIRST, 10) == []
    assert queries.damaged_chunks(db, [chunk], ()) == []
    assert queries.endangered_chunks(db, (), 10) == []
    assert queries.a_lost_chunk(db, ()) is None
    assert queries.chunk_counts(db, ()) == queries.ChunkCounts(1, 1, 1, 0, 0, 0)


def test_what_lacks_replicas_is_found_page_by_page_fewest_copies_first(cluster: Cluster) -> None:
    two = [store(cluster, b"/two%d" % k, ("d1", "d2")) for k in range(3)]
    one = store(cluster, b"/one", ("d1", "d2"))
    become(cluster, one, "d2", CORRUPT)
    found: list[tuple[int, bytes]] = []
    while page := queries.wanting_chunks(cluster.replica.db, found[-1] if found else FIRST, 2):
        assert len(page) <= 2
        found += page
    assert found == [(1, one), *((2, chunk) for chunk in sorted(two))]


def test_chunks_without_any_replica_are_told_apart(cluster: Cluster) -> None:
    chunk = store(cluster, b"/x", ("d1", "d2"))
    for node in ("d1", "d2"):
        become(cluster, chunk, node, MISSING)
    db = cluster.replica.db
    assert queries.wanting_chunks(db, FIRST, 10) == []
    assert queries.a_lost_chunk(db, ()) == chunk
    assert queries.chunk_counts(db, ()) == queries.ChunkCounts(1, 1, 1, 0, 1, 0)


def test_a_damaged_chunk_that_no_file_names_any_more_does_not_count(cluster: Cluster) -> None:
    chunk = store(cluster, b"/x", ("d1", "d2"))
    become(cluster, chunk, "d1", CORRUPT)
    become(cluster, chunk, "d2", MISSING)
    assert queries.chunk_counts(cluster.replica.db, ()) == queries.ChunkCounts(1, 1, 1, 0, 1, 1)
    cluster.one(delete(b"/x", purge=True))
    cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=10)))
    become(cluster, chunk, "d2", CORRUPT)
    counts = queries.chunk_counts(cluster.replica.db, ())
    assert (counts.missing, counts.corrupt) == (0, 0)


def test_what_a_lost_node_leaves_with_the_fewest_copies_comes_first(cluster: Cluster) -> None:
    four_nodes(cluster)
    three = store(cluster, b"/three", ("d1", "d2", "d3"))
    two = store(cluster, b"/two", ("d1", "d2"))
    lost = store(cluster, b"/lost", ("d1", "d2"))
    become(cluster, lost, "d2", CORRUPT)
    store(cluster, b"/elsewhere", ("d2", "d3", "d4"))
    db = cluster.replica.db
    assert queries.endangered_chunks(db, ("d1",), 10) == [two, three]
    assert queries.endangered_chunks(db, ("d1",), 1) == [two]
    assert queries.endangered_chunks(db, ("nobody",), 10) == []
    assert queries.a_lost_chunk(db, ("d1",)) == lost
    assert queries.a_lost_chunk(db, ()) is None


def test_a_lost_node_is_counted_once_however_much_is_wrong(cluster: Cluster) -> None:
    four_nodes(cluster)
    store(cluster, b"/three", ("d1", "d2", "d3"))
    store(cluster, b"/two", ("d1", "d2"))
    corrupt = store(cluster, b"/lost", ("d1", "d2"))
    become(cluster, corrupt, "d2", CORRUPT)
    store(cluster, b"/elsewhere", ("d2", "d3", "d4"))
    db = cluster.replica.db
    assert queries.chunk_counts(db, ()) == queries.ChunkCounts(4, 1, 4, 2, 0, 1)
    assert queries.chunk_counts(db, ("d1",)) == queries.ChunkCounts(4, 1, 4, 2, 1, 1)
    assert queries.chunk_counts(db, ("d1", "d2")) == queries.ChunkCounts(4, 1, 4, 2, 2, 1)
    assert queries.chunk_counts(db, ("d1", "nobody")) == queries.chunk_counts(db, ("d1",))


def test_a_chunk_that_was_copied_meanwhile_is_damaged_no_more(cluster: Cluster) -> None:
    four_nodes(cluster)
    chunk = store(cluster, b"/x", ("d1", "d2", "d3"))
    db = cluster.replica.db
    (found,) = queries.damaged_chunks(db, [chunk, b"?" * 16], ("d1",))
    assert (found.chunk, found.length, found.want, found.live, found.others) == (
        chunk,
        5,
        3,
        ("d1", "d2", "d3"),
        (),
    )
    become(cluster, chunk, "d4", LIVE)
    assert queries.damaged_chunks(db, [chunk], ("d1",)) == []
    assert queries.held(db, "d1", (), Apart()).remaining_chunks == 0
    assert queries.held(db, "d2", (), Apart()).remaining_chunks == 0


def test_a_node_is_needed_while_chunks_would_lack_replicas_without_it(cluster: Cluster) -> None:
    store(cluster, b"/x", ("d1", "d2", "d3"))
    store(cluster, b"/y", ("d1", "d2", "d3"), replication=2)
    assert queries.held(cluster.replica.db, "d1", (), Apart()).remaining_chunks == 1
    assert queries.held(cluster.replica.db, "nobody", (), Apart()).remaining_chunks == 0


def test_garbage_and_inline_bodies_want_no_replicas(cluster: Cluster) -> None:
    chunk = store(cluster, b"/x", ("d1", "d2"))
    cluster.one(put(b"/small", b"body"))
    cluster.one(delete(b"/x", purge=True))
    cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=100)))
    db = cluster.replica.db
    assert queries.wanting_chunks(db, FIRST, 10) == []
    assert queries.damaged_chunks(db, [chunk], ("d1", "d2")) == []
    assert queries.endangered_chunks(db, ("d1", "d2"), 10) == []
    assert queries.a_lost_chunk(db, ("d1", "d2")) is None
    assert queries.chunk_counts(db, ("d1", "d2", "d3")) == queries.ChunkCounts(1, 1, 2, 0, 0, 0)


def test_what_is_in_the_trash_keeps_its_replicas(cluster: Cluster) -> None:
    chunk = store(cluster, b"/x", ("d1", "d2"))
    cluster.one(delete(b"/x"))
    assert queries.wanting_chunks(cluster.replica.db, FIRST, 10) == [(2, chunk)]


def test_the_chunks_of_a_node_come_in_pages(cluster: Cluster) -> None:
    chunks = sorted(store(cluster, b"/%d" % k, ("d1", "d2")) for k in range(5))
    become(cluster, chunks[0], "d1", CORRUPT)
    db = cluster.replica.db
    assert queries.chunks_on(db, "d1", b"", 3) == chunks[1:4]
    assert queries.chunks_on(db, "d1", chunks[3], 3) == chunks[4:]
    assert queries.chunks_on(db, "nobody", b"", 3) == []


def test_only_chunks_that_are_known_and_not_condemned_have_rows(cluster: Cluster) -> None:
    kept, garbage = store(cluster, b"/x", ("d1", "d2")), store(cluster, b"/y", ("d1", "d2"))
    cluster.one(delete(b"/y", purge=True))
    cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=100)))
    cluster.system(e.SystemCommand(set_setting=e.SetSetting(key="gc.grace_ms", value="0")))
    db = cluster.replica.db
    assert queries.chunk_rows(db, [kept, garbage, b"?" * 16]).keys() == {kept, garbage}
    cluster.system(e.SystemCommand(condemn=e.CondemnChunks(chunks=[garbage], cycle=1)))
    assert queries.chunk_rows(db, [kept, garbage, b"?" * 16]).keys() == {kept}


def test_a_chunk_under_way_is_known_and_not_sealed(cluster: Cluster) -> None:
    opened = cluster.one(n.Op(open_upload=n.OpenUploadRequest(ref=ref(b"/x"))))
    choice = e.Choice(placements=[e.Placement(node_ids=("d1", "d2"))])
    request = n.AllocateRequest(upload=opened.upload.upload, count=1)
    (made,) = cluster.one(n.Op(allocate=request), choices=[choice]).allocation.chunks
    db = cluster.replica.db
    assert queries.chunk_rows(db, [made.chunk]) == {made.chunk: queries.ChunkRow(False, True, 0, 0)}
    cluster.one(n.Op(abort_upload=n.AbortUploadRequest(upload=opened.upload.upload)))
    assert queries.chunk_rows(db, [made.chunk]) == {made.chunk: queries.ChunkRow(False, False, 0, 0)}


def trim(cluster: Cluster, chunk: bytes, *nodes: str) -> int:
    replicas = [e.TrimReplicas.One(chunk=chunk, node_id=node) for node in nodes]
    return int(cluster.system(e.SystemCommand(trim=e.TrimReplicas(replicas=replicas))).number)


def test_only_what_is_beyond_the_wish_is_trimmed(cluster: Cluster) -> None:
    chunk = store(cluster, b"/x", ("d1", "d2", "d3"), replication=2)
    assert trim(cluster, chunk, "nobody") == 0
    assert trim(cluster, chunk, "d1", "d1", "d2", "d3") == 1
    assert trim(cluster, chunk, "d2") == 0
    db = cluster.replica.db
    asked = n.ReadOp(layout=n.LayoutRequest(ref=ref(b"/x"), no_body=True))
    layout = queries.answer(db, asked).layout
    assert [one.node_id for one in layout.chunks[0].replicas] == ["d2", "d3"]
    assert queries.chunk_counts(db, ()).under_replicated == 0
    become(cluster, chunk, "d3", CORRUPT)
    (found,) = queries.damaged_chunks(db, [chunk], ())
    assert (found.live, found.others, found.leaving) == (("d2",), ("d3",), ("d1",))


def test_what_is_being_deleted_goes_or_is_in_doubt_and_nothing_else(cluster: Cluster) -> None:
    chunk = store(cluster, b"/x", ("d1", "d2", "d3"), replication=1)
    assert trim(cluster, chunk, "d1", "d2") == 2
    db = cluster.replica.db

    def states() -> list[int]:
        return [one.state for one in queries.replicas_of(db, chunk)]

    for state in (LIVE, CORRUPT, t.REPLICA_STATE_PENDING, t.REPLICA_STATE_DELETING):
        become(cluster, chunk, "d1", state)
        become(cluster, chunk, "d3", t.REPLICA_STATE_DELETING)
    assert states() == [t.REPLICA_STATE_DELETING, t.REPLICA_STATE_DELETING, LIVE]
    become(cluster, chunk, "d1", MISSING)
    become(cluster, chunk, "d2", t.REPLICA_STATE_UNSPECIFIED)
    assert states() == [MISSING, LIVE]


def test_neither_garbage_nor_what_is_under_way_is_trimmed(cluster: Cluster) -> None:
    chunk = store(cluster, b"/x", ("d1", "d2", "d3"), replication=1)
    cluster.one(delete(b"/x", purge=True))
    cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=100)))
    assert trim(cluster, chunk, "d1") == 0
