"""Balancing: copy, verify, switch, then delete; what was begun is in the metadata, so that any leader goes on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from coordinator.decisions.collection import Birth, Found
from coordinator.duties.balance import FAILURES_MAX, ORDER, SETTLE_SECONDS, BalanceDuty
from coordinator.duties.trim import TrimDuty
from coordinator.metadata import excess, invariants, queries, settings
from coordinator.soft_state import INHERITED_SECONDS, known_nodes, node_table
from quorumfs.checksum import crc32c
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t
from tests.support.coordinator import DEAD_SECONDS, Coordinator
from tests.support.datanodes import Datanodes

NODES = ("d1", "d2", "d3", "d4")
ROOM_BYTES = 200
LENGTH = 5


class Farm:
    """Small datanodes that copy what they are told to; `duty` and `trim` are those of the present leadership."""

    def __init__(self, leader: Coordinator) -> None:
        self.leader = leader
        self.nodes = Datanodes(*NODES)
        self.fails: set[str] = set()  # destinations at which copies fail
        leader.lead(*NODES)
        self.begin()

    def begin(self) -> None:
        leader = self.leader
        self.trim = TrimDuty(leader.desk, leader.soft, self.nodes, leader.clock, leader.soft.epoch())
        self.duty = BalanceDuty(
            leader.desk, leader.soft, random.Random(1).random, leader.clock, self.trim.look_at
        )
        self.beat()

    def next_leader(self) -> None:
        leader = self.leader
        term = leader.soft.epoch().term + 1
        leader.soft.begin(1, term, known_nodes(leader.db), queries.applied_index(leader.db))
        self.begin()

    def store(self, number: int, *on: str) -> list[bytes]:
        chunks = []
        for k in range(number):
            chunk = self.leader.store(b"/%s-%d" % (on[0].encode(), k), *on)
            for node_id in on:
                self.nodes[node_id].chunks[chunk] = Found(Birth(1, 1, 0), LENGTH, crc32c(bytes(LENGTH)))
            chunks.append(chunk)
        self.leader.batch()
        self.beat()
        return chunks

    def set(self, state: int, **more: int) -> None:
        for key, value in {"state": state, **more}.items():
            command = e.SetSetting(key=f"balance.{key}", value=str(value))
            self.leader.system(e.SystemCommand(set_setting=command))

    def beat(self) -> None:
        """Each tells how full it is, and copies what it was told to."""
        for node in self.nodes.nodes.values():
            if node.reachable:
                self._outcomes(node.node_id, self._tell(node.node_id))

    def _tell(self, node_id: str, outcomes: Sequence[m.CommandOutcome] = ()) -> list[m.Command]:
        used = LENGTH * len(self.nodes[node_id].chunks)
        disk = t.DiskInfo(
            disk_id=f"disk-{node_id}", used_bytes=used, free_bytes=ROOM_BYTES - used, state="ok"
        )
        return self.leader.beat(node_id, disks=[disk], outcomes=outcomes)

    def _outcomes(self, node_id: str, commands: Sequence[m.Command]) -> None:
        outcomes = []
        for command in commands:
            if command.WhichOneof("command") != "replicate":
                continue
            ok = node_id not in self.fails
            if ok:
                order, node = command.replicate, self.nodes[node_id]
                if order.chunk in node.quarantine:
                    node.restore(command.epoch, [order.chunk], order.void_below_index)
                source = self.nodes[order.sources[0].node_id]
                node.chunks[order.chunk] = source.chunks[order.chunk]
            ack = t.ReplicaAck(node_id=node_id, disk_id=f"disk-{node_id}", durable=True)
            code = t.ERROR_CODE_OK if ok else t.ERROR_CODE_NO_SPACE
            outcomes.append(m.CommandOutcome(id=command.id, code=code, ack=ack))
        if outcomes:
            self._tell(node_id, outcomes)

    def round(self) -> str:
        said = self.duty.work()
        self.beat()
        self.trim.work()
        self.leader.clock.advance(SETTLE_SECONDS / 4)
        self.beat()
        return said

    def rounds(self, most: int = 200) -> None:
        """Until it has ended."""
        for _ in range(most):
            self.round()
            if not self.state:
                return
        raise AssertionError(f"it does not end: {self.duty.work()}")

    @property
    def state(self) -> int:
        return settings.load(self.leader.db)["balance.state"]

    @property
    def pending(self) -> list[tuple[str, bytes]]:
        return [(one.node_id, one.replicas.chunk) for one in excess.pending(self.leader.db, 1000)]

    def counts(self) -> list[int]:
        return [len(self.nodes[node_id].chunks) for node_id in NODES]

    def check(self, chunks: Sequence[bytes], want: int) -> None:
        """Every chunk lies where the metadata says, and on as many nodes as are wanted."""
        for chunk in chunks:
            found = self.leader.replicas(chunk)
            assert set(found.values()) == {"live"}
            assert len(found) == want
            assert {node for node in NODES if chunk in self.nodes[node].chunks} == set(found)
        assert invariants.violations(self.leader.db) == []


@pytest.fixture
def farm(leader: Coordinator) -> Farm:
    return Farm(leader)


def want_two(farm: Farm) -> None:
    """What is stored next is on two nodes."""
    farm.leader.system(e.SystemCommand(set_setting=e.SetSetting(key="data.replication", value="2")))


def test_nothing_moves_before_somebody_says_so(farm: Farm) -> None:
    chunks = farm.store(20, "d1", "d2", "d3")
    assert farm.round() == "off"
    assert farm.counts() == [20, 20, 20, 0]
    farm.check(chunks, 3)


def test_an_empty_node_gets_its_share_and_then_it_ends(farm: Farm) -> None:
    chunks = farm.store(20, "d1", "d2", "d3")
    plan = farm.duty.plan()
    assert {one.destination for one in plan} == {"d4"}
    farm.set(1)
    farm.rounds()
    counts = farm.counts()
    assert sum(counts) == 60
    assert max(counts) - min(counts) <= 4
    assert farm.duty.figures.moved == len(plan) == counts[3]
    assert farm.duty.figures.moved_bytes == LENGTH * len(plan)
    farm.check(chunks, 3)
    assert farm.duty.plan() == []


def test_a_move_is_in_the_metadata_before_anything_is_ordered(farm: Farm) -> None:
    chunks = farm.store(20, "d1", "d2", "d3")
    farm.set(1)
    farm.duty.work()
    assert farm.leader.soft.running("move") == []
    moves = farm.pending
    assert moves
    assert {node_id for node_id, _ in moves} == {"d4"}
    assert queries.chunk_counts(farm.leader.db, ()).under_replicated == 0
    for _, chunk in moves:
        assert farm.leader.replicas(chunk)["d4"] == "pending"
    assert invariants.violations(farm.leader.db) == []
    assert farm.counts() == [20, 20, 20, 0]
    farm.rounds()
    farm.check(chunks, 3)


@pytest.mark.parametrize("rounds", range(12))
def test_whoever_leads_next_goes_on(farm: Farm, rounds: int) -> None:
    chunks = farm.store(20, "d1", "d2", "d3")
    farm.set(1)
    for step in range(rounds):
        if step % 3 == 0:
            farm.duty.work()
        elif step % 3 == 1:
            farm.beat()
        else:
            farm.round()
    for chunk in chunks:
        live = [node for node, state in farm.leader.replicas(chunk).items() if state == "live"]
        assert len(live) >= 3
    farm.next_leader()
    farm.rounds()
    assert max(farm.counts()) - min(farm.counts()) <= 4
    farm.check(chunks, 3)


def test_what_a_destination_copies_for_the_leader_before_is_not_ordered_again(farm: Farm) -> None:
    chunks = farm.store(20, "d1", "d2", "d3")
    farm.set(1)
    farm.duty.work()
    farm.duty.work()
    copying = sorted(one.chunk for one in farm.leader.soft.running(ORDER))
    assert copying
    farm.leader.beat("d4")  # it hears of them, and has not made them when the next one leads
    farm.nodes["d4"].reachable = False
    farm.next_leader()
    farm.duty.work()
    assert farm.leader.soft.running(ORDER) == []  # what it copies is not known yet
    farm.nodes["d4"].reachable = True
    farm.leader.beat("d4", load=m.NodeLoad(copying=copying))
    farm.duty.work()
    assert not {one.chunk for one in farm.leader.soft.running(ORDER)} & set(copying)
    farm.leader.clock.advance(INHERITED_SECONDS)  # it says no more that it copies them
    farm.rounds()
    assert farm.duty.figures.failed == 0
    farm.check(chunks, 3)


def test_a_pause_holds_whoever_leads(farm: Farm) -> None:
    chunks = farm.store(20, "d1", "d2", "d3")
    farm.set(1)
    farm.duty.work()
    farm.set(2)
    moves = farm.pending
    for _ in range(3):
        assert farm.round() == f"paused, {len(moves)} moves are left"
    farm.next_leader()
    farm.round()
    assert (farm.pending, farm.counts()[3]) == (moves, 0)
    farm.set(1)
    farm.rounds()
    farm.check(chunks, 3)


def test_no_more_is_copied_than_the_throttle_allows(farm: Farm) -> None:
    chunks = farm.store(20, "d1", "d2", "d3")
    farm.set(1, bytes_per_second=LENGTH)
    farm.duty.work()
    for _ in range(20):
        farm.duty.work()
    assert len(farm.leader.soft.running("move")) == 1
    began = farm.leader.clock.monotonic()
    farm.rounds()
    took = farm.leader.clock.monotonic() - began
    assert took >= farm.duty.figures.moved - 2
    farm.check(chunks, 3)


def test_a_destination_that_dies_is_given_up(farm: Farm) -> None:
    chunks = farm.store(20, "d1", "d2", "d3")
    farm.set(1)
    farm.duty.work()
    farm.nodes["d4"].reachable = False
    for _ in range(int(DEAD_SECONDS) + 2):
        farm.leader.clock.advance(1)
        farm.beat()
        farm.leader.soft.judge()
    farm.duty.work()
    farm.duty.work()
    assert farm.pending == []
    farm.rounds()
    farm.check(chunks, 3)
    assert farm.counts() == [20, 20, 20, 0]


@pytest.mark.parametrize("rests", [False, True], ids=["died", "is in maintenance"])
def test_a_move_of_a_chunk_that_nobody_can_give_holds_up_no_other(farm: Farm, rests: bool) -> None:
    farm.leader.system(e.SystemCommand(set_setting=e.SetSetting(key="data.replication", value="1")))
    (alone,) = farm.store(1, "d1")
    want_two(farm)
    farm.store(20, "d2", "d3")
    begun = e.BeginMoves(moves=[e.BeginMoves.One(chunk=alone, node_id="d4")])
    farm.leader.system(e.SystemCommand(begin_moves=begun))
    farm.set(1)
    if rests:
        command = e.SetNode(
            node_id="d1",
            set_intent=True,
            intent=t.NODE_INTENT_MAINTENANCE,
            maintenance_until_cluster_ms=1 << 40,
        )
        farm.leader.system(e.SystemCommand(set_node=command))
        farm.leader.soft.set_known(farm.leader.desk.look(node_table))
    farm.nodes["d1"].reachable = False
    for _ in range(int(DEAD_SECONDS) + 2):
        farm.leader.clock.advance(1)
        farm.beat()
        farm.leader.soft.judge()
    farm.rounds()
    assert farm.pending == []
    assert farm.duty.figures.moved > 0
    assert farm.leader.replicas(alone) == {"d1": "live"}


def test_moves_that_fail_are_dropped_and_tried_only_so_often(farm: Farm) -> None:
    chunks = farm.store(8, "d1", "d2", "d3")
    farm.fails.add("d4")
    farm.set(1, threshold_percent=1)
    farm.rounds(2000)
    assert 0 < farm.duty.figures.failed <= FAILURES_MAX * len(chunks)
    assert farm.pending == []
    farm.check(chunks, 3)


def test_a_chunk_that_is_deleted_while_it_moves_is_garbage_as_any_other(farm: Farm) -> None:
    from tests.support.ops import delete

    chunks = farm.store(20, "d1", "d2", "d3")
    farm.set(1)
    farm.duty.work()
    for k in range(20):
        farm.leader.batch(delete(b"/d1-%d" % k, purge=True))
    farm.leader.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=1000)))
    farm.rounds()
    assert farm.pending == []
    for chunk in chunks:
        assert set(farm.leader.replicas(chunk)) == {"d1", "d2", "d3"}
    assert invariants.violations(farm.leader.db) == []


def test_switched_off_it_drops_what_is_not_copied(farm: Farm) -> None:
    chunks = farm.store(20, "d1", "d2", "d3")
    farm.set(1)
    farm.duty.work()
    assert farm.pending
    farm.set(0)
    farm.round()
    assert farm.round() == "off"
    assert farm.pending == []
    farm.check(chunks, 3)


def test_a_copy_that_counts_already_is_not_forgotten_with_its_move(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node has told of it between the look at what is left and the entry that drops it: nobody would tell again of
    what lies there, and nobody delete it."""
    chunks = farm.store(20, "d1", "d2", "d3")
    farm.set(1)
    farm.duty.work()
    farm.set(0)
    node_id, chunk = farm.pending[0]
    propose = farm.leader.desk.propose

    def arrives(commands: Sequence[e.SystemCommand]) -> Sequence[e.SystemResult.One]:
        farm.nodes[node_id].chunks[chunk] = farm.nodes["d1"].chunks[chunk]
        farm.leader.become(chunk, node_id, t.REPLICA_STATE_LIVE)
        return propose(commands)

    with monkeypatch.context() as patched:
        patched.setattr(farm.leader.desk, "propose", arrives)
        farm.duty.work()
    assert farm.leader.replicas(chunk)[node_id] == "live"
    farm.rounds(5)
    farm.check(chunks, 3)


def test_only_sealed_chunks_without_a_replica_there_are_promised(farm: Farm) -> None:
    (chunk,) = farm.store(1, "d1", "d2", "d3")
    leader = farm.leader

    def begin(chunk: bytes, node_id: str) -> int:
        moves = [e.BeginMoves.One(chunk=chunk, node_id=node_id)]
        (done,) = leader.system(e.SystemCommand(begin_moves=e.BeginMoves(moves=moves)))
        return int(done.number)

    assert begin(chunk, "d1") == 0
    assert begin(chunk, "nobody") == 0
    assert begin(b"?" * 16, "d4") == 0
    upload = leader.opened(b"/y")
    under_way = leader.allocated(upload, 5, nodes=("d1", "d2")).chunks[0].chunk
    assert begin(under_way, "d4") == 0
    assert begin(chunk, "d4") == 1
    assert begin(chunk, "d4") == 0
    assert farm.pending == [("d4", chunk)]


def test_an_outcome_that_comes_in_the_middle_of_a_round_orders_no_second_copy(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no order that runs any more, and not in the metadata yet."""
    farm.store(20, "d1", "d2", "d3")
    farm.set(1)
    for _ in range(10):
        farm.duty.work()
        if farm.leader.soft.running(ORDER):
            break
    before = {(one.node_id, one.chunk) for one in farm.leader.soft.running(ORDER)}
    assert before
    look: Any = farm.leader.desk.look

    def interrupted(question: Any) -> Any:
        monkeypatch.setattr(farm.leader.desk, "look", look)
        farm.beat()
        return look(question)

    monkeypatch.setattr(farm.leader.desk, "look", interrupted)
    farm.duty.work()
    assert not before & {(one.node_id, one.chunk) for one in farm.leader.soft.running(ORDER)}
