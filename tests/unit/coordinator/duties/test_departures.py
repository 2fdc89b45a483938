"""A node leaves: repair moves what it holds, the duty sees it through, and a new leader goes on with both."""

from __future__ import annotations

import random
from typing import Any

import pytest

from coordinator.decisions.repair import FULL_BYTES
from coordinator.duties.departures import LOOK_SECONDS_MIN, LOOK_SHARE, Departures
from coordinator.duties.repair import Budget, Repair
from coordinator.metadata import queries
from coordinator.soft_state import INHERITED_SECONDS, node_table
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.coordinator import DEAD_SECONDS, SUSPECT_SECONDS, Coordinator
from tests.support.ops import ref

NODES = ("d1", "d2", "d3", "d4")
DECOMMISSIONING, DECOMMISSIONED = t.NODE_INTENT_DECOMMISSIONING, t.NODE_INTENT_DECOMMISSIONED


class Reign:
    """The duties of one leadership, and what its datanodes do."""

    def __init__(self, leader: Coordinator) -> None:
        self.leader = leader
        budget = Budget(1e9, leader.clock)
        self.repair = Repair(leader.desk, leader.soft, random.Random(1).random, budget, 4, leader.clock)
        self.departures = Departures(leader.desk, leader.soft, leader.clock)

    def turn(self) -> None:
        self.repair.work()
        for node in NODES:
            outcomes = [
                m.CommandOutcome(id=one.id, ack=t.ReplicaAck(disk_id=f"disk-{node}", durable=True))
                for one in self.leader.beat(node)
                if one.WhichOneof("command") == "replicate"
            ]
            self.leader.beat(node, outcomes=outcomes)
        self.leader.pass_time(1, *NODES)

    def until_quiet(self, turns: int = 30) -> None:
        for _ in range(turns):
            self.turn()


@pytest.fixture
def reign(leader: Coordinator) -> Reign:
    leader.lead(*NODES)
    return Reign(leader)


def say(leader: Coordinator, node_id: str, intent: t.NodeIntent.ValueType, **fields: Any) -> None:
    command = e.SetNode(node_id=node_id, set_intent=True, intent=intent, **fields)
    leader.system(e.SystemCommand(set_node=command))
    leader.soft.set_known(node_table(leader.db))


def intent(leader: Coordinator, node_id: str) -> int:
    rows = {row.info.node_id: row.intent for row in queries.node_rows(leader.db)}
    return rows[node_id]


def entries(leader: Coordinator) -> int:
    return len(leader.consensus.proposed)


def test_when_nothing_is_left_the_node_is_decommissioned(leader: Coordinator, reign: Reign) -> None:
    chunks = [leader.store(b"/%d" % k, "d1", "d2", "d3") for k in range(10)]
    assert reign.departures.work() == "no node leaves"
    say(leader, "d1", DECOMMISSIONING)
    assert reign.departures.work() == "d1: 10 of 10 chunks remain"
    assert intent(leader, "d1") == DECOMMISSIONING
    reign.until_quiet()
    assert reign.departures.work() == "d1: 0 of 10 chunks remain"
    assert intent(leader, "d1") == leader.soft.known()["d1"].intent == DECOMMISSIONED
    for chunk in chunks:
        assert set(leader.replicas(chunk)) == set(NODES)  # its own stay, and are read
    before = entries(leader)
    reign.until_quiet(5)
    assert reign.departures.work() == "d1: 0 of 10 chunks remain"
    assert entries(leader) == before  # said once


def test_a_new_leader_goes_on_and_nothing_is_copied_twice(leader: Coordinator, reign: Reign) -> None:
    chunks = [leader.store(b"/%d" % k, "d1", "d2", "d3") for k in range(10)]
    say(leader, "d1", DECOMMISSIONING)
    reign.turn()
    reign.departures.work()
    copied = sum("d4" in leader.replicas(chunk) for chunk in chunks)
    assert copied < 10
    leader.begin()
    for node in NODES:
        leader.beat(node)
    successor = Reign(leader)
    successor.until_quiet()
    successor.departures.work()
    assert intent(leader, "d1") == DECOMMISSIONED
    assert all(set(leader.replicas(chunk)) == set(NODES) for chunk in chunks)
    assert reign.repair.figures.done + successor.repair.figures.done <= 10


def test_a_new_leader_hears_everybody_before_it_orders_anything(leader: Coordinator, reign: Reign) -> None:
    """A node that it has not heard may have made the copy already."""
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    say(leader, "d1", DECOMMISSIONING)
    leader.begin()
    successor = Reign(leader)
    for node in ("d1", "d2", "d3"):
        leader.beat(node)
    assert successor.repair.work() == "waits to hear of d4"
    leader.become(chunk, "d4", t.REPLICA_STATE_LIVE)
    leader.beat("d4")
    successor.repair.work()
    assert leader.soft.running("replicate") == []


def test_a_copy_that_a_former_leader_ordered_is_not_made_elsewhere_as_well(
    leader: Coordinator, reign: Reign
) -> None:
    chunk = leader.store(b"/x", "d1", "d2")
    leader.begin()
    successor = Reign(leader)
    for node in ("d1", "d2", "d3"):
        leader.beat(node)
    leader.beat("d4", load=m.NodeLoad(copying=[chunk]))
    successor.repair.work()
    assert leader.soft.running("replicate") == []
    leader.beat("d4")  # it has made it, and told so; the entry is on its way
    successor.repair.work()
    assert leader.soft.running("replicate") == []
    leader.pass_time(INHERITED_SECONDS + 1, *NODES)  # or it had given up
    successor.repair.work()
    assert len(leader.soft.running("replicate")) == 1


def test_a_copy_of_ones_own_is_not_counted_twice(leader: Coordinator, reign: Reign) -> None:
    chunk = leader.store(b"/x", "d1", "d2")
    attributes = n.SetAttributesRequest(ref=ref(b"/x"), replication=4)
    leader.batch(n.Op(set_attributes=attributes))
    reign.repair.work()
    (order,) = leader.soft.running("replicate")
    leader.beat(order.node_id, load=m.NodeLoad(copying=[chunk]))
    reign.repair.work()
    assert {one.node_id for one in leader.soft.running("replicate")} == {"d3", "d4"}
    ack = t.ReplicaAck(disk_id=f"disk-{order.node_id}", durable=True)
    leader.beat(
        order.node_id,
        load=m.NodeLoad(copying=[chunk]),
        outcomes=[m.CommandOutcome(id=order.id, ack=ack)],
    )
    assert leader.soft.inherited() == []


def test_copies_of_what_lacks_nothing_take_no_place_from_repair(leader: Coordinator, reign: Reign) -> None:
    """They were made a moment ago, or are moves of the balancing."""
    whole = [leader.store(b"/%d" % k, "d1", "d2", "d3") for k in range(10)]
    chunk = leader.store(b"/x", "d1", "d2")
    for node in ("d3", "d4"):
        leader.beat(node, load=m.NodeLoad(copying=whole))
    reign.repair.work()
    assert [one.chunk for one in leader.soft.running("replicate")] == [chunk]
    assert reign.repair.figures.running == 1


def test_a_node_that_stays_silent_is_waited_for_until_it_is_dead_but_not_by_last_copies(
    leader: Coordinator, reign: Reign
) -> None:
    """It may look for the new leader for long, and have made the very copy."""
    leader.store(b"/x", "d1", "d2")
    last = leader.store(b"/y", "d1", "d2")
    leader.become(last, "d2", t.REPLICA_STATE_MISSING)
    leader.begin()
    successor = Reign(leader)
    leader.pass_time(SUSPECT_SECONDS, "d1", "d2", "d3")
    assert successor.repair.work().endswith("wait to hear of d4")
    assert {one.chunk for one in leader.soft.running("replicate")} == {last}
    leader.pass_time(DEAD_SECONDS, "d1", "d2", "d3")
    successor.repair.work()
    assert len({one.chunk for one in leader.soft.running("replicate")}) == 2


def test_a_silent_node_that_speaks_at_last_has_what_it_copied_counted(
    leader: Coordinator, reign: Reign
) -> None:
    chunk = leader.store(b"/x", "d1", "d2")
    leader.begin()
    successor = Reign(leader)
    leader.pass_time(SUSPECT_SECONDS + 1, "d1", "d2", "d3")
    successor.repair.work()
    leader.beat("d4", load=m.NodeLoad(copying=[chunk]))
    successor.repair.work()
    assert leader.soft.running("replicate") == []


def test_a_chunk_that_came_late_makes_it_decommissioning_again(leader: Coordinator, reign: Reign) -> None:
    say(leader, "d1", DECOMMISSIONING)
    reign.departures.work()
    assert intent(leader, "d1") == DECOMMISSIONED
    chunk = leader.store(b"/late", "d1", "d2", "d3")
    reign.departures.work()
    assert intent(leader, "d1") == DECOMMISSIONING
    reign.until_quiet(5)
    reign.departures.work()
    assert intent(leader, "d1") == DECOMMISSIONED
    assert "d4" in leader.replicas(chunk)


def test_an_open_upload_that_writes_there_is_waited_for(leader: Coordinator, reign: Reign) -> None:
    upload = leader.opened(b"/x")
    leader.allocated(upload, 5, nodes=("d1", "d2"))
    say(leader, "d1", DECOMMISSIONING)
    reign.departures.work()
    assert intent(leader, "d1") == DECOMMISSIONING
    leader.batch(n.Op(abort_upload=n.AbortUploadRequest(upload=upload)))
    reign.departures.work()
    assert intent(leader, "d1") == DECOMMISSIONED


def test_an_operator_who_called_it_off_meanwhile_is_obeyed(leader: Coordinator, reign: Reign) -> None:
    say(leader, "d1", DECOMMISSIONING)
    command = e.SetNode(node_id="d1", set_intent=True, intent=t.NODE_INTENT_NORMAL)
    leader.system(e.SystemCommand(set_node=command))  # soft state does not know it yet
    reign.departures.work()
    assert intent(leader, "d1") == leader.soft.known()["d1"].intent == t.NODE_INTENT_NORMAL
    assert reign.departures.work() == "no node leaves"


def test_three_nodes_can_give_up_none_of_three_replicas(leader: Coordinator) -> None:
    leader.lead("d1", "d2", "d3")
    reign = Reign(leader)
    leader.store(b"/x", "d1", "d2", "d3")
    say(leader, "d1", DECOMMISSIONING)
    for _ in range(5):
        reign.repair.work()
        leader.pass_time(1, "d1", "d2", "d3")
    assert reign.departures.work() == "d1: 1 of 1 chunks remain"
    assert intent(leader, "d1") == DECOMMISSIONING
    assert leader.soft.alarms() == []  # nothing is hurt


def test_what_is_hurt_comes_before_what_is_moved(leader: Coordinator, reign: Reign) -> None:
    moved = [leader.store(b"/%d" % k, "d1", "d2", "d3", length=FULL_BYTES) for k in range(8)]
    hurt = leader.store(b"/hurt", "d2", "d3", length=FULL_BYTES)
    say(leader, "d1", DECOMMISSIONING)
    reign.repair.work()
    ordered = [one.chunk for one in leader.soft.running("replicate")]
    assert hurt in ordered
    assert len(set(ordered) & set(moved)) < len(moved)
    assert reign.repair.figures.pending + reign.repair.figures.running == 9


def test_a_decommission_counts_nothing_as_under_replicated(leader: Coordinator, reign: Reign) -> None:
    leader.store(b"/x", "d1", "d2", "d3")
    say(leader, "d1", DECOMMISSIONING)
    reign.repair.work()
    counts = queries.chunk_counts(leader.db, ())
    assert (counts.under_replicated, counts.missing) == (0, 0)


def test_the_rate_is_measured_while_it_goes_on(leader: Coordinator, reign: Reign) -> None:
    for k in range(10):
        leader.store(b"/%d" % k, "d1", "d2", "d3")
    say(leader, "d1", DECOMMISSIONING)
    reign.departures.work()
    assert reign.departures.rate("d1") is None
    reign.until_quiet(4)
    reign.departures.work()
    assert (reign.departures.rate("d1") or 0) > 0
    say(leader, "d1", t.NODE_INTENT_NORMAL)
    reign.departures.work()
    assert reign.departures.rate("d1") is None


def test_looking_takes_a_small_part_of_the_time(
    leader: Coordinator, reign: Reign, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reign.departures.wait() == LOOK_SECONDS_MIN
    say(leader, "d1", DECOMMISSIONING)
    real = queries.held

    def slow(*args: Any) -> queries.Held:
        leader.clock.advance(2.0)
        return real(*args)

    monkeypatch.setattr(queries, "held", slow)
    reign.departures.work()
    assert reign.departures.wait() >= 2.0 * LOOK_SHARE


# Maintenance


def test_what_nobody_else_has_is_copied_when_a_maintenance_begins(leader: Coordinator, reign: Reign) -> None:
    only = leader.store(b"/only", "d1", "d2")
    leader.become(only, "d2", t.REPLICA_STATE_MISSING)
    whole = leader.store(b"/whole", "d1", "d2", "d3")
    say(leader, "d1", t.NODE_INTENT_MAINTENANCE, maintenance_until_cluster_ms=10**9)
    reign.repair.work()
    assert only in [one.chunk for one in leader.soft.running("replicate")]
    reign.until_quiet(10)
    assert set(leader.replicas(whole)) == {"d1", "d2", "d3"}
    assert len([state for state in leader.replicas(only).values() if state == "live"]) >= 2
