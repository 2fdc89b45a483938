"""The duties that do one small thing each: liveness, tick, reap, genesis, settings, enrol."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.duties.desk import wait_for
from coordinator.duties.enrol import agrees
from coordinator.duties.genesis import Genesis
from coordinator.duties.liveness import LOOK_SECONDS, LivenessDuty
from coordinator.duties.reap import Reap
from coordinator.duties.settings import Settings
from coordinator.duties.tick import Tick
from coordinator.metadata import queries, settings
from coordinator.soft_state import node_table
from quorumfs.errors import BusyError, OutcomeUnknownError
from quorumfs.limits import TRASH_RETENTION_MS
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t
from tests.support.coordinator import DEAD_SECONDS, SUSPECT_SECONDS, Coordinator, node_info
from tests.support.local_consensus import CLUSTER_ID, MEMBERS
from tests.support.ops import delete, put


def codes(leader: Coordinator) -> list[str]:
    return [code for code, _, _ in leader.soft.alarms()]


# Liveness


def test_a_dead_node_raises_an_alarm_until_it_is_trusted_again(leader: Coordinator) -> None:
    leader.lead("d1", "d2")
    told: list[str] = []
    duty = LivenessDuty(leader.soft, lambda change: told.append(f"{change.node_id} {change.after.value}"))
    assert duty.work() == "nothing changed"
    leader.clock.advance(SUSPECT_SECONDS)
    leader.beat("d2")
    assert duty.work() == "d1 is suspect"
    assert codes(leader) == []
    for _ in range(27):
        leader.clock.advance(1)
        leader.beat("d2")
        duty.work()
    assert codes(leader) == ["node_dead:d1"]
    leader.beat("d1")
    duty.work()
    assert codes(leader) == ["node_dead:d1"]
    for _ in range(3):
        leader.clock.advance(1)
        leader.beat("d1")
        leader.beat("d2")
    duty.work()
    assert codes(leader) == []
    assert told == ["d1 suspect", "d1 dead", "d1 returning", "d1 alive"]


def test_a_silence_is_judged_when_it_is_long_enough_not_a_look_later(leader: Coordinator) -> None:
    leader.lead("d1", "d2")
    duty = LivenessDuty(leader.soft)
    duty.work()
    assert duty.wait() == LOOK_SECONDS
    leader.pass_time(2, "d2")
    leader.clock.advance(0.9)
    leader.beat("d2")
    duty.work()
    assert duty.wait() == pytest.approx(0.1)
    leader.clock.advance(0.1)
    assert duty.work() == "d1 is suspect"
    assert duty.wait() == LOOK_SECONDS


def test_the_alarm_of_a_forgotten_node_goes_with_it(leader: Coordinator) -> None:
    leader.lead("d1", "d2")
    duty = LivenessDuty(leader.soft)
    for _ in range(int(DEAD_SECONDS)):
        leader.clock.advance(1)
        leader.beat("d2")
    duty.work()
    assert codes(leader) == ["node_dead:d1"]
    leader.system(e.SystemCommand(forget_node=e.ForgetNode(node_id="d1")))
    leader.soft.set_known(node_table(leader.db))
    duty.work()
    assert codes(leader) == []


def test_the_orders_of_a_dead_node_are_given_up(leader: Coordinator) -> None:
    leader.lead("d1")
    command = m.Command(replicate=m.ReplicateCommand(chunk=b"c" * 16))
    assert leader.soft.order("d1", "replicate", command, b"c" * 16, "d2")
    duty = LivenessDuty(leader.soft)
    for _ in range(int(DEAD_SECONDS)):
        leader.clock.advance(1)
        duty.work()
    assert leader.soft.running("replicate") == []
    (done,) = leader.soft.take_done(("replicate",))
    assert done.outcome is None


# Tick


def test_time_is_told_when_something_waits_and_no_entry_came(leader: Coordinator) -> None:
    leader.lead()
    duty = Tick(leader.desk)
    duty.work()
    assert duty.work() == "nothing waits for a deadline"
    leader.opened(b"/x")
    assert duty.work() == "entries tell the time"
    leader.clock.advance(100)
    assert duty.work() == "told the time"
    (cluster_ms,) = leader.db.execute("SELECT cluster_ms FROM raft_state").fetchone()
    assert cluster_ms == leader.consensus.cluster_ms()


# Reap


def test_what_the_trash_let_go_is_deleted_unit_by_unit(
    leader: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.duties.reap.INODES_PER_ENTRY", 2)
    leader.lead()
    duty = Reap(leader.desk)
    assert duty.work() == "nothing in the trash is due"
    assert duty.wait() >= 1
    for k in range(5):
        leader.batch(put(b"/%d" % k), delete(b"/%d" % k))
    assert duty.work() == "nothing in the trash is due"
    leader.clock.advance(TRASH_RETENTION_MS / 1000)
    units = 0
    while duty.work() != "nothing in the trash is due":
        units += 1
        assert duty.wait() < 1
    assert units == 3
    assert leader.db.execute("SELECT count(*) FROM inode").fetchone() == (1,)


# Genesis


def test_the_first_leader_writes_down_what_the_cluster_is(leader: Coordinator) -> None:
    leader.lead()
    duty = Genesis(leader.desk, CLUSTER_ID, 1, MEMBERS)
    assert duty.work() == "the cluster is initialised"
    leader.db.execute("DELETE FROM cluster")
    assert duty.work() == "initialised the cluster"
    assert queries.cluster_identity(leader.db) == (CLUSTER_ID, 1)
    assert [row.info.node_id for row in queries.node_rows(leader.db)] == ["c1", "c2", "c3"]
    assert duty.wait() > 60


def test_a_refused_genesis_is_tried_again(leader: Coordinator) -> None:
    leader.lead()
    duty = Genesis(leader.desk, CLUSTER_ID, 2, MEMBERS[:0])
    assert duty.work().startswith("refused")
    assert duty.wait() <= 1


# Settings


def test_what_the_leader_is_configured_with_becomes_replicated(leader: Coordinator) -> None:
    leader.lead()
    duty = Settings(leader.desk, {"upload.ttl_ms": 5000, "data.replication": 3})
    assert duty.work() == "changed upload.ttl_ms"
    assert settings.load(leader.db)["upload.ttl_ms"] == 5000
    assert duty.work() == "the replicated settings are as configured"
    assert len(leader.consensus.proposed) == 1


def test_a_setting_out_of_bounds_is_told(leader: Coordinator) -> None:
    leader.lead()
    duty = Settings(leader.desk, {"data.replication": 99})
    assert duty.work().startswith("refused: data.replication cannot be")
    assert 10 < duty.wait() < 3600  # it will not be taken in a moment either


# Enrol


def described(**fields: Any) -> m.NodeInfo:
    return node_info("c1", role=t.NODE_ROLE_COORDINATOR, version="1", labels={"zone": "a"}, **fields)


def test_labels_that_operators_gave_do_not_make_a_node_register_again() -> None:
    stored = described()
    assert agrees(stored, described())
    stored.labels["rack"] = "r7"
    assert agrees(stored, described())
    own = described()
    own.labels["disk"] = "ssd"
    assert not agrees(stored, own)
    stored.dropped_labels.append("disk")
    assert agrees(stored, own)


def test_a_new_version_or_address_registers_again() -> None:
    for change in ({"version": "2"}, {"grpc": "elsewhere:1"}, {"http": "elsewhere:2"}):
        own = described()
        for name, value in change.items():
            setattr(own, name, value)
        assert not agrees(described(), own)


# The desk


def test_a_question_that_is_refused_raises_its_refusal() -> None:
    with pytest.raises(BusyError):
        wait_for(lambda done: done(BusyError("no")), 1.0, "a question")
    with pytest.raises(OutcomeUnknownError, match="a question"):
        wait_for(lambda done: None, 0.0, "a question")
    assert wait_for(lambda done: done(b"yes"), 1.0, "a question") == b"yes"
