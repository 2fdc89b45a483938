"""A disk that failed, or was taken out, of a node that is alive: what lies on it counts as lost everywhere."""

from __future__ import annotations

import random

import pytest

from coordinator.duties.liveness import LivenessDuty
from coordinator.duties.reconcile import UNPLACED_SECONDS, Reconcile
from coordinator.duties.repair import Budget, Repair
from coordinator.metadata import queries
from coordinator.metadata.queries import LostDisk
from coordinator.services.answers import complete
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.coordinator import FREE_BYTES, SUSPECT_SECONDS, Coordinator, node_info
from tests.support.ops import ref

FAILED = "disk-d1"


@pytest.fixture
def two_disks(leader: Coordinator) -> Coordinator:
    """`d1` has two disks: commits name the first."""
    both = [t.DiskInfo(disk_id=FAILED, path="/0"), t.DiskInfo(disk_id="spare", path="/1")]
    for node_id in ("d1", "d2", "d3", "d4"):
        info = node_info(node_id, **({"disks": both} if node_id == "d1" else {}))
        leader.system(e.SystemCommand(register_node=e.RegisterNode(node=info)))
    leader.begin()
    tell(leader)
    return leader


def tell(
    leader: Coordinator, failed: str = "ok", *, others: bool = True, listed: bool = True
) -> list[m.Command]:
    """Heartbeats; what `d1` is told."""
    disks = [t.DiskInfo(disk_id="spare", free_bytes=FREE_BYTES, state="ok")]
    if listed:
        disks.append(t.DiskInfo(disk_id=FAILED, free_bytes=FREE_BYTES if failed == "ok" else 0, state=failed))
    for node_id in ("d2", "d3", "d4") if others else ():
        leader.beat(node_id)
    return leader.beat("d1", disks=disks)


def under_replicated(leader: Coordinator) -> int:
    return queries.chunk_counts(leader.db, leader.soft.gone()).under_replicated


@pytest.mark.parametrize(
    ("state", "listed"), [("failed", True), ("ok", False)], ids=["it failed", "it was taken out"]
)
def test_its_replicas_are_lost_until_it_is_back(two_disks: Coordinator, state: str, listed: bool) -> None:
    leader = two_disks
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    assert (leader.soft.gone(), under_replicated(leader)) == (frozenset(), 0)
    tell(leader, state, listed=listed)
    gone = leader.soft.gone()
    assert gone == {LostDisk("d1", FAILED)}
    assert under_replicated(leader) == 1
    assert queries.endangered_chunks(leader.db, gone, 10) == [chunk]
    (found,) = queries.damaged_chunks(leader.db, [chunk], gone)
    assert (found.live, found.others) == (("d2", "d3"), ("d1",))
    tell(leader)
    assert (leader.soft.gone(), under_replicated(leader)) == (frozenset(), 0)


def alone_on_the_disk(leader: Coordinator) -> bytes:
    """A chunk that has no good replica but there."""
    chunk = leader.store(b"/x", "d1", "d2")
    leader.become(chunk, "d2", t.REPLICA_STATE_CORRUPT)
    return chunk


def test_a_chunk_that_lay_alone_on_a_disk_that_was_taken_out_is_missing(two_disks: Coordinator) -> None:
    leader = two_disks
    chunk = alone_on_the_disk(leader)
    tell(leader, listed=False)
    assert queries.chunk_counts(leader.db, leader.soft.gone()).missing == 1
    assert queries.a_lost_chunk(leader.db, leader.soft.gone()) == chunk
    assert queries.a_lost_chunk(leader.db, ()) is None


def test_a_chunk_that_lies_alone_on_a_disk_that_failed_is_in_danger_and_not_missing(
    two_disks: Coordinator,
) -> None:
    leader = two_disks
    chunk = alone_on_the_disk(leader)
    tell(leader, "failed")
    gone = leader.soft.gone()
    counts = queries.chunk_counts(leader.db, gone)
    assert (counts.under_replicated, counts.missing, counts.on_failed_disks) == (1, 0, 1)
    assert queries.a_lost_chunk(leader.db, gone) is None
    assert queries.endangered_chunks(leader.db, gone, 10) == [chunk]
    (found,) = queries.damaged_chunks(leader.db, [chunk], gone)
    assert (found.live, found.last_resort) == ((), ("d1",))


def replications(commands: list[m.Command]) -> list[m.Command]:
    return [one for one in commands if one.WhichOneof("command") == "replicate"]


def test_what_nobody_else_has_is_copied_from_a_disk_that_failed(two_disks: Coordinator) -> None:
    """One copy from there, and the others from that one."""
    leader = two_disks
    duty = Repair(
        leader.desk, leader.soft, random.Random(1).random, Budget(1e9, leader.clock), 4, leader.clock
    )
    alone_on_the_disk(leader)
    tell(leader, "failed")
    duty.work()
    assert [code for code, _, _ in leader.soft.alarms()] == ["chunks_on_failed_disks"]
    ordered = {node_id: replications(leader.beat(node_id)) for node_id in ("d3", "d4")}
    ((destination, (order,)),) = [one for one in ordered.items() if one[1]]
    assert [one.node_id for one in order.replicate.sources] == ["d1"]
    ack = t.ReplicaAck(node_id=destination, disk_id=f"disk-{destination}", durable=True)
    leader.beat(destination, outcomes=[m.CommandOutcome(id=order.id, code=t.ERROR_CODE_OK, ack=ack)])
    leader.clock.advance(SUSPECT_SECONDS / 2)
    tell(leader, "failed")
    duty.work()
    duty.work()
    later = [one for node_id in ("d2", "d3", "d4") for one in replications(leader.beat(node_id))]
    assert later
    assert {one.node_id for command in later for one in command.replicate.sources} == {destination}
    assert leader.soft.alarms() == []


def test_what_cannot_be_read_from_a_disk_that_failed_becomes_missing(two_disks: Coordinator) -> None:
    leader = two_disks
    duty = Repair(
        leader.desk, leader.soft, random.Random(1).random, Budget(1e9, leader.clock), 4, leader.clock
    )
    chunk = alone_on_the_disk(leader)
    tell(leader, "failed")
    duty.work()
    ((destination, (order,)),) = [
        (node_id, found) for node_id in ("d3", "d4") if (found := replications(leader.beat(node_id)))
    ]
    leader.beat(destination, outcomes=[m.CommandOutcome(id=order.id, code=t.ERROR_CODE_UNAVAILABLE)])
    duty.work()
    (doubt,) = [one for one in tell(leader, "failed") if one.WhichOneof("command") == "verify"]
    assert doubt.verify.chunk == chunk
    leader.beat(
        "d1",
        outcomes=[m.CommandOutcome(id=doubt.id, code=t.ERROR_CODE_CORRUPT)],
        disks=[t.DiskInfo(disk_id=FAILED, state="failed"), t.DiskInfo(disk_id="spare", state="ok")],
    )
    Reconcile(leader.desk, leader.soft, leader.clock).work()
    counts = queries.chunk_counts(leader.db, leader.soft.gone())
    assert (counts.missing, counts.on_failed_disks) == (1, 0)


@pytest.mark.parametrize("state", ["read_only", "full"])
def test_a_disk_that_takes_nothing_new_keeps_what_it_has(two_disks: Coordinator, state: str) -> None:
    two_disks.store(b"/x", "d1", "d2", "d3")
    tell(two_disks, state)
    assert (two_disks.soft.gone(), under_replicated(two_disks)) == (frozenset(), 0)


def test_a_node_that_was_not_heard_has_lost_no_disk(two_disks: Coordinator) -> None:
    two_disks.store(b"/x", "d1", "d2", "d3")
    two_disks.begin()
    assert two_disks.soft.gone() == frozenset()


def test_nothing_of_a_node_in_maintenance_is_lost(two_disks: Coordinator) -> None:
    leader = two_disks
    leader.system(
        e.SystemCommand(set_node=e.SetNode(node_id="d1", set_intent=True, intent=t.NODE_INTENT_MAINTENANCE))
    )
    leader.begin()
    tell(leader, "failed")
    assert leader.soft.gone() == frozenset()


def test_repair_makes_them_anew_and_does_not_read_the_lost_disk(two_disks: Coordinator) -> None:
    leader = two_disks
    budget = Budget(1e9, leader.clock)
    duty = Repair(leader.desk, leader.soft, random.Random(1).random, budget, 4, leader.clock)
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    assert duty.work() == "every chunk has its replicas"
    tell(leader, "failed")
    duty.work()
    (order,) = [one for one in leader.beat("d4") if one.WhichOneof("command") == "replicate"]
    assert order.replicate.chunk == chunk
    assert {one.node_id for one in order.replicate.sources} == {"d2", "d3"}


def test_without_another_node_the_other_disk_gets_the_replica(two_disks: Coordinator) -> None:
    leader = two_disks
    duty = Repair(
        leader.desk, leader.soft, random.Random(1).random, Budget(1e9, leader.clock), 4, leader.clock
    )
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    leader.system(
        e.SystemCommand(set_node=e.SetNode(node_id="d4", set_intent=True, intent=t.NODE_INTENT_DRAINING))
    )
    leader.begin()
    tell(leader, "failed")
    duty.work()
    (order,) = [one for one in tell(leader, "failed") if one.WhichOneof("command") == "replicate"]
    ack = t.ReplicaAck(node_id="d1", disk_id="spare", durable=True)
    outcome = m.CommandOutcome(id=order.id, code=t.ERROR_CODE_OK, ack=ack)
    leader.beat("d1", outcomes=[outcome], disks=[t.DiskInfo(disk_id="spare", state="ok")])
    duty.work()
    assert queries.damaged_chunks(leader.db, [chunk], leader.soft.gone()) == []
    assert under_replicated(leader) == 0


def test_readers_are_told_that_it_is_missing(two_disks: Coordinator) -> None:
    leader = two_disks
    leader.store(b"/x", "d1", "d2", "d3")
    tell(leader, "failed")
    answer = queries.answer(leader.db, n.ReadOp(layout=n.LayoutRequest(ref=ref(b"/x"))))
    complete(answer, leader.soft, {})
    (chunk,) = answer.layout.chunks
    assert [one.state for one in chunk.replicas] == [
        t.REPLICA_STATE_MISSING,
        t.REPLICA_STATE_LIVE,
        t.REPLICA_STATE_LIVE,
    ]
    assert {one.node_state for one in chunk.replicas} == {t.NODE_STATE_ALIVE}


def test_an_alarm_names_it_until_it_is_back(two_disks: Coordinator) -> None:
    leader = two_disks
    duty = LivenessDuty(leader.soft)
    tell(leader, "failed")
    duty.work()
    ((code, message, _),) = leader.soft.alarms()
    assert code == f"disk_lost:d1/{FAILED}"
    assert "d1" in message
    tell(leader)
    duty.work()
    assert leader.soft.alarms() == []


def test_of_a_dead_node_no_disk_is_named(two_disks: Coordinator) -> None:
    leader = two_disks
    tell(leader, "failed")
    for _ in range(31):
        leader.clock.advance(SUSPECT_SECONDS / 3)
        for node_id in ("d2", "d3", "d4"):
            leader.beat(node_id)
        leader.soft.judge()
    assert leader.soft.gone() == {"d1"}


def test_replicas_of_which_nobody_said_where_they_lie_are_looked_at_when_a_disk_of_their_node_is_lost(
    two_disks: Coordinator,
) -> None:
    """An inventory names chunks and no disks: what only it told of might lie on the disk that failed."""
    leader = two_disks
    chunk = leader.store(b"/x", "d2", "d3")
    other = leader.store(b"/y", "d1", "d2", "d3")
    leader.become(chunk, "d1", t.REPLICA_STATE_LIVE)
    duty = Reconcile(leader.desk, leader.soft, leader.clock)
    duty.work()
    assert verified(tell(leader)) == {}
    tell(leader, "failed")
    assert under_replicated(leader) == 1  # `other`, which is known to lie there
    leader.clock.advance(UNPLACED_SECONDS)
    duty.work()
    told = verified(tell(leader, "failed"))
    assert told.keys() == {chunk}
    ack = t.ReplicaAck(node_id="d1", disk_id=FAILED)
    disks = [t.DiskInfo(disk_id=FAILED, state="failed"), t.DiskInfo(disk_id="spare", state="ok")]
    outcome = m.CommandOutcome(id=told[chunk], code=t.ERROR_CODE_OK, ack=ack)
    leader.beat("d1", disks=disks, outcomes=[outcome])
    duty.work()
    assert under_replicated(leader) == 2
    assert leader.replicas(other)["d1"] == "live"
    leader.clock.advance(UNPLACED_SECONDS)
    duty.work()
    assert verified(tell(leader, "failed")) == {}


def verified(commands: list[m.Command]) -> dict[bytes, int]:
    return {one.verify.chunk: one.id for one in commands if one.WhichOneof("command") == "verify"}
