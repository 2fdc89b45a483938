"""Repair: chunks that lack replicas get new ones, ordered by heartbeat answers."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from coordinator.duties.repair import BUSY_SECONDS, IDLE_SECONDS, LOST_ALARM, Budget, Repair
from coordinator.metadata import queries
from quorumfs.errors import BusyError
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t
from tests.support.coordinator import DEAD_SECONDS, Coordinator

CORRUPT, MISSING = t.REPLICA_STATE_CORRUPT, t.REPLICA_STATE_MISSING


def repair_of(leader: Coordinator, per_second: float = 1e9, counted: Counter[str] | None = None) -> Repair:
    def count(what: str, number: int) -> None:
        if counted is not None:
            counted[what] += number

    budget = Budget(per_second, leader.clock)
    return Repair(leader.desk, leader.soft, random.Random(1).random, budget, 4, leader.clock, count)


@pytest.fixture
def duty(leader: Coordinator) -> Repair:
    leader.lead("d1", "d2", "d3", "d4")
    return repair_of(leader)


def kill(leader: Coordinator, *dead: str) -> None:
    alive = [node for node in ("d1", "d2", "d3", "d4") if node not in dead]
    leader.pass_time(DEAD_SECONDS + 1, *alive)


def copies(leader: Coordinator, node: str) -> dict[bytes, m.Command]:
    """Chunk -> the order that waits for this node."""
    return {one.replicate.chunk: one for one in leader.beat(node) if one.WhichOneof("command") == "replicate"}


def all_copies(leader: Coordinator, *nodes: str) -> dict[bytes, str]:
    """Chunk -> destination, of the orders that wait."""
    return {chunk: node for node in nodes for chunk in copies(leader, node)}


def finish(
    leader: Coordinator, node: str, order: m.Command, code: t.ErrorCode.ValueType = t.ERROR_CODE_OK
) -> None:
    ack = t.ReplicaAck(node_id=node, disk_id=f"disk-{node}", durable=True)
    leader.beat(node, outcomes=[m.CommandOutcome(id=order.id, code=code, ack=ack)])


def test_a_dead_nodes_replica_is_made_anew_on_another_node(leader: Coordinator) -> None:
    leader.lead("d1", "d2", "d3", "d4")
    counted: Counter[str] = Counter()
    duty = repair_of(leader, counted=counted)
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    assert duty.work() == "every chunk has its replicas"
    kill(leader, "d1")
    duty.work()
    assert duty.figures.running == 1
    order = copies(leader, "d4")[chunk]
    assert [one.node_id for one in order.replicate.sources] == ["d2", "d3"]
    assert (order.replicate.length, order.replicate.sources[0].grpc) == (5, "d2:1")
    duty.work()
    assert leader.replicas(chunk).keys() == {"d1", "d2", "d3"}  # nothing counts before the outcome
    finish(leader, "d4", order)
    duty.work()
    assert leader.replicas(chunk)["d4"] == "live"
    leader.pass_time(2, "d2", "d3", "d4")
    assert duty.work() == "every chunk has its replicas"
    assert (duty.figures.done, duty.figures.pending, counted) == (1, 0, {"done": 1, "bytes": 5})
    assert queries.held(leader.db, "d1", (), queries.Apart()).remaining_chunks == 0


def test_it_looks_when_a_silent_node_is_called_dead_and_not_a_pause_after_that(
    leader: Coordinator, duty: Repair
) -> None:
    leader.store(b"/x", "d1", "d2", "d3")
    duty.work()
    assert duty.wait() == IDLE_SECONDS
    leader.pass_time(DEAD_SECONDS - 1, "d2", "d3", "d4")
    leader.clock.advance(0.5)
    leader.soft.judge()
    duty.work()
    assert (duty.figures.running, duty.wait()) == (0, 0.5)
    leader.clock.advance(0.5)
    duty.work()
    assert (duty.figures.running, duty.wait()) == (1, BUSY_SECONDS)


def test_what_nobody_has_heard_of_yet_is_taken_back_when_the_dead_node_returns(
    leader: Coordinator, duty: Repair
) -> None:
    chunks = [leader.store(b"/%d" % k, "d1", "d2", "d3") for k in range(3)]
    hurt = leader.store(b"/hurt", "d2", "d3")
    kill(leader, "d1")
    duty.work()
    assert {one.chunk for one in leader.soft.running("replicate")} == {*chunks, hurt}
    for _ in range(5):  # d4 has much to do, and is not heard
        leader.clock.advance(1)
        for node in ("d1", "d2", "d3"):
            leader.beat(node)
        leader.soft.judge()
    duty.work()
    assert {one.chunk for one in leader.soft.running("replicate")} == {hurt}
    assert duty.figures.running == 1
    assert {*copies(leader, "d4"), *copies(leader, "d1")} == {hurt}
    assert duty.figures.failed == 0


def test_what_a_datanode_was_told_is_not_taken_back(leader: Coordinator, duty: Repair) -> None:
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    kill(leader, "d1")
    duty.work()
    order = copies(leader, "d4")[chunk]
    leader.pass_time(5, "d1", "d2", "d3", "d4")
    duty.work()
    assert [one.id for one in leader.soft.running("replicate")] == [order.id]


def test_an_outcome_that_comes_in_the_middle_of_a_round_orders_no_second_copy(
    leader: Coordinator, duty: Repair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no order that runs any more, and not in the metadata yet."""
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    kill(leader, "d1")
    duty.work()
    order = copies(leader, "d4")[chunk]
    look: Any = leader.desk.look

    def interrupted(question: Any) -> Any:
        monkeypatch.setattr(leader.desk, "look", look)
        finish(leader, "d4", order)
        return look(question)

    monkeypatch.setattr(leader.desk, "look", interrupted)
    duty.work()
    assert leader.soft.running("replicate") == []
    duty.work()
    assert leader.replicas(chunk)["d4"] == "live"
    assert leader.soft.running("replicate") == []


@pytest.mark.parametrize("state", [CORRUPT, MISSING])
def test_three_nodes_heal_a_bad_replica_where_it_was(
    leader: Coordinator, state: t.ReplicaState.ValueType
) -> None:
    leader.lead("d1", "d2", "d3")
    duty = repair_of(leader)
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    leader.become(chunk, "d1", state)
    duty.work()
    order = copies(leader, "d1")[chunk]
    assert {one.node_id for one in order.replicate.sources} == {"d2", "d3"}
    finish(leader, "d1", order)
    duty.work()
    assert leader.replicas(chunk)["d1"] == "live"


def test_what_was_copied_is_kept_until_the_log_has_it(leader: Coordinator, duty: Repair) -> None:
    chunk = leader.store(b"/x", "d1", "d2")
    duty.work()
    ((_, node),) = all_copies(leader, "d3", "d4").items()
    (order,) = leader.soft.running("replicate")
    finish(leader, node, m.Command(id=order.id))
    leader.consensus.refuse_with = BusyError("the queue is full")
    with pytest.raises(BusyError):
        duty.work()
    leader.consensus.refuse_with = None
    duty.work()
    assert leader.replicas(chunk)[node] == "live"
    assert duty.figures.done == 1


def test_a_copy_that_failed_rests_and_its_source_is_verified(leader: Coordinator, duty: Repair) -> None:
    chunk = leader.store(b"/x", "d1", "d2")
    duty.work()
    ((_, node),) = all_copies(leader, "d3", "d4").items()
    (order,) = leader.soft.running("replicate")
    finish(leader, node, m.Command(id=order.id), t.ERROR_CODE_UNAVAILABLE)
    duty.work()
    assert leader.soft.running("replicate") == []
    asked = leader.beat(order.source)
    assert [one.verify.chunk for one in asked if one.WhichOneof("command") == "verify"] == [chunk]
    leader.pass_time(2, "d1", "d2", "d3", "d4")
    duty.work()
    assert len(leader.soft.running("replicate")) == 1
    assert duty.figures.failed == 1


def test_a_full_destination_says_nothing_against_the_source(leader: Coordinator, duty: Repair) -> None:
    leader.store(b"/x", "d1", "d2")
    duty.work()
    ((_, node),) = all_copies(leader, "d3", "d4").items()
    (order,) = leader.soft.running("replicate")
    finish(leader, node, m.Command(id=order.id), t.ERROR_CODE_NO_SPACE)
    duty.work()
    assert leader.beat(order.source) == []


def test_what_rests_is_tried_again_at_once_when_somebody_says_so(leader: Coordinator, duty: Repair) -> None:
    leader.store(b"/x", "d1", "d2")
    duty.work()
    (order,) = leader.soft.running("replicate")
    finish(leader, order.node_id, m.Command(id=order.id), t.ERROR_CODE_UNAVAILABLE)
    duty.work()
    assert leader.soft.running("replicate") == []
    duty.hurry()
    duty.work()
    assert len(leader.soft.running("replicate")) == 1


def test_each_failure_makes_the_rest_longer(leader: Coordinator, duty: Repair) -> None:
    leader.store(b"/x", "d1", "d2")
    waited = []
    for _ in range(4):
        seconds = 0
        while duty.work() and not leader.soft.running("replicate"):
            leader.pass_time(1, "d1", "d2", "d3", "d4")
            seconds += 1
        waited.append(seconds)
        (order,) = leader.soft.running("replicate")
        leader.beat(order.node_id)
        finish(leader, order.node_id, m.Command(id=order.id), t.ERROR_CODE_UNAVAILABLE)
    assert waited[0] == 0
    assert waited == sorted(waited)
    assert waited[-1] >= 4


def test_lost_chunks_raise_an_alarm_and_do_not_keep_the_others_waiting(
    leader: Coordinator, duty: Repair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.duties.backlog.WORST", 2)
    monkeypatch.setattr("coordinator.duties.backlog.IN_TURN", 1)
    lost = [leader.store(b"/lost%d" % k, "d1", "d2") for k in range(5)]
    for chunk in lost:
        leader.become(chunk, "d1", CORRUPT)
        leader.become(chunk, "d2", CORRUPT)
    hurt = leader.store(b"/hurt", "d1", "d2")
    duty.work()
    assert hurt in all_copies(leader, "d3", "d4")
    assert [(code, message.split()[0]) for code, message, _ in leader.soft.alarms()] == [(LOST_ALARM, "5")]
    for chunk in lost:
        leader.become(chunk, "d2", t.REPLICA_STATE_LIVE)
    leader.pass_time(2, "d1", "d2", "d3", "d4")
    duty.work()
    assert leader.soft.alarms() == []


def test_chunks_that_died_with_their_nodes_are_lost_until_one_returns(
    leader: Coordinator, duty: Repair
) -> None:
    leader.store(b"/x", "d1", "d2")
    duty.work()
    for node in ("d3", "d4"):
        for order in copies(leader, node).values():
            finish(leader, node, order, t.ERROR_CODE_NO_SPACE)
    kill(leader, "d1", "d2")
    duty.work()
    assert [code for code, _, _ in leader.soft.alarms()] == [LOST_ALARM]
    assert leader.soft.running("replicate") == []
    leader.pass_time(5, "d1", "d3", "d4")
    duty.work()
    assert leader.soft.alarms() == []
    assert len(leader.soft.running("replicate")) == 1


def test_nothing_is_copied_because_a_node_is_in_maintenance(leader: Coordinator, duty: Repair) -> None:
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    command = e.SetNode(
        node_id="d1", set_intent=True, intent=t.NODE_INTENT_MAINTENANCE, maintenance_until_cluster_ms=10**9
    )
    leader.system(e.SystemCommand(set_node=command))
    leader.begin()
    for node in ("d1", "d2", "d3", "d4"):
        leader.beat(node)
    kill(leader, "d1")
    assert duty.work() == "every chunk has its replicas"
    leader.become(chunk, "d2", CORRUPT)
    leader.pass_time(2, "d2", "d3", "d4")
    duty.work()
    assert set(all_copies(leader, "d2", "d4").values()) == {"d4"}
    (order,) = leader.soft.running("replicate")
    finish(leader, "d4", m.Command(id=order.id))
    leader.pass_time(2, "d2", "d3", "d4")
    assert duty.work() == "every chunk has its replicas"


def test_no_more_bytes_are_ordered_than_the_budget_allows(leader: Coordinator) -> None:
    leader.lead("d1", "d2", "d3", "d4")
    duty = repair_of(leader, per_second=12.0)
    for k in range(6):
        leader.store(b"/%d" % k, "d1", "d2")
    duty.work()
    assert len(leader.soft.running("replicate")) == 3  # 5 bytes each; the last one goes into debt
    assert duty.figures.pending == 3


def test_every_chunk_is_copied_in_the_end(leader: Coordinator, duty: Repair) -> None:
    for k in range(30):
        leader.store(b"/%d" % k, *(["d1", "d2", "d3"] if k % 2 else ["d1", "d2"]))
    kill(leader, "d1")
    for _ in range(200):
        duty.work()
        for node in ("d2", "d3", "d4"):
            for order in copies(leader, node).values():
                finish(leader, node, order)
        leader.pass_time(1, "d2", "d3", "d4")
    counts = queries.chunk_counts(leader.db, ("d1",))
    assert (counts.under_replicated, counts.missing) == (0, 0)
    assert duty.figures.pending == 0
    assert duty.figures.failed == 0


def test_a_copy_that_was_deleted_again_before_its_outcome_came_does_not_count(
    leader: Coordinator, duty: Repair
) -> None:
    """Its node told of the replica first; others were back by then, and this one was too much."""
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    kill(leader, "d1")
    duty.work()
    order = copies(leader, "d4")[chunk]
    leader.clock.advance(1)
    leader.become(chunk, "d4", t.REPLICA_STATE_LIVE)
    leader.soft.touched("d4", [chunk])
    remove = e.ReplicaUpdate(chunk=chunk, node_id="d4")
    leader.system(e.SystemCommand(update_replicas=e.UpdateReplicas(updates=[remove])))
    leader.clock.advance(1)
    finish(leader, "d4", order)
    duty.work()
    assert "d4" not in leader.replicas(chunk)
    (verify,) = [one for one in leader.beat("d4") if one.WhichOneof("command") == "verify"]
    assert verify.verify.chunk == chunk
