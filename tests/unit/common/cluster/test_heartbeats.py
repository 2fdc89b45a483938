"""A datanode's heartbeats against coordinators that lead, follow, stop and die, turn by turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from common.cluster import Agenda, ClusterNode, State
from common.cluster.heartbeats import Heartbeats
from common.cluster.inventory import InventoryReport
from quorumfs.clock import ManualClock
from quorumfs.errors import (
    BusyError,
    DuplicateNodeError,
    FencedError,
    HistoryBehindError,
    QuorumFSError,
    UnavailableError,
    WrongClusterError,
)
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t
from tests.unit.common.cluster.coordinators import Coordinators

C1, C2, C3 = "c1:1", "c2:1", "c3:1"


@dataclass
class Epochs:
    epoch: tuple[int, int] = (0, 0)
    commit_index: int = 0
    incarnation: int = 3
    saved: list[tuple[int, int]] = field(default_factory=list)

    def obey(self, epoch: t.Epoch) -> None:
        wanted = (epoch.history, epoch.term)
        if wanted < self.epoch:
            raise FencedError("an older leader")
        if wanted > self.epoch:
            self.saved.append(wanted)
        self.epoch = wanted

    def heard(self, epoch: t.Epoch, commit_index: int) -> None:
        self.commit_index = max(self.commit_index, commit_index)


@dataclass
class Content:
    """Reports stay until acknowledged."""

    pending: list[m.ReplicaReport] = field(default_factory=list)
    done: list[m.CommandOutcome] = field(default_factory=list)
    acks: list[int] = field(default_factory=list)
    broken: bool = False
    pages: int = 3
    chunks: int = 0

    def load(self) -> m.NodeLoad:
        if self.broken:
            raise OSError("the disk does not answer")
        return m.NodeLoad(write_streams=1)

    def disks(self) -> Sequence[t.DiskInfo]:
        return [t.DiskInfo(disk_id="disk-1", free_bytes=5)]

    def take_delta(self, sequence: int) -> Sequence[m.ReplicaReport]:
        return self.pending

    def outcomes(self, sequence: int) -> Sequence[m.CommandOutcome]:
        return self.done

    def acknowledged(self, sequence: int) -> None:
        self.acks.append(sequence)
        self.pending, self.done = [], []

    def inventory(self) -> Iterator[m.InventoryPage]:
        for number in range(self.pages):
            yield m.InventoryPage(ids=bytes([number]) * 16)

    def holds_nothing(self) -> bool:
        return not self.chunks


class Bench:
    """One datanode and three coordinators."""

    def __init__(self, cluster_id: str = "") -> None:
        self.coordinators = Coordinators([C1, C2, C3], leader=C1)
        self.clock = ManualClock()
        self.content = Content()
        self.epochs = Epochs()
        self.obeyed: list[tuple[tuple[int, int], list[int]]] = []
        self.learnt: list[str] = []
        self.labels: list[dict[str, str]] = []
        agenda = Agenda(
            content=self.content,
            epochs=self.epochs,
            obey_commands=lambda found: self.obeyed.append((self.epochs.epoch, [one.id for one in found])),
            learn_cluster_id=self.learnt.append,
            apply_labels=self.labels.append,
            heartbeat_seconds=1.0,
        )
        self.agenda = agenda
        self.node = ClusterNode.for_datanode(
            self.describe,
            [C1, C2, C3],
            self.coordinators,
            agenda,
            cluster_id,
            clock=self.clock,
            chance=lambda: 0.5,
        )
        heartbeats = self.node.heartbeats
        assert heartbeats is not None
        self.heartbeats: Heartbeats = heartbeats

    def describe(self) -> m.NodeInfo:
        return m.NodeInfo(node_id="d1", node_uuid="u-1", grpc="d1:1", labels={"zone": "a"}, version="1")

    def turns(self, count: int) -> list[float]:
        waits = []
        for _ in range(count):
            waits.append(self.heartbeats.turn())
            self.clock.advance(waits[-1])
        return waits

    def new_leader(self, address: str | None, term: int) -> None:
        self.coordinators.leader, self.coordinators.epoch = address, (1, term)

    @property
    def beats(self) -> list[m.HeartbeatRequest]:
        return [beat for _, beat in self.coordinators.beats]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_node_registers_then_sends_heartbeats_at_the_interval(bench: Bench) -> None:
    assert bench.node.state.name == State.WAITING_FOR_GENESIS.name
    waits = bench.turns(3)
    assert waits == [0.0, 0.95, 0.95]
    ((address, request),) = bench.coordinators.registered
    assert (address, request.node.incarnation, request.empty, request.cluster_id) == (C1, 3, True, "")
    assert request.node.disks[0].disk_id == "disk-1"
    assert [beat.sequence for beat in bench.beats] == [1, 2]
    assert bench.beats[0].cluster_id == "cluster-1"
    assert bench.learnt == ["cluster-1"]
    assert bench.node.state.name == State.RUNNING.name
    view = bench.node.leader_view()
    assert (view.leader.node_id, view.source, view.observed_by) == ("c1", "heartbeat", "d1")


def test_heartbeats_are_counted_by_how_they_ended_and_registrations_are_none(bench: Bench) -> None:
    bench.turns(3)
    bench.coordinators.dead.add(C1)
    bench.turns(1)
    assert bench.node.sent() == {"accepted": 2, "not_leader": 0, "silent": 1, "busy": 0, "refused": 0}


def test_a_follower_that_is_asked_sends_the_node_to_the_leader_at_once(bench: Bench) -> None:
    bench.coordinators.leader = C3
    assert bench.turns(2) == [0.0, 0.0]
    assert bench.coordinators.registered[0][0] == C3


def test_the_interval_is_the_leaders_and_a_call_has_twice_that(bench: Bench) -> None:
    bench.coordinators.interval_ms = 400
    bench.turns(3)
    assert bench.coordinators.deadlines == [2.0, 0.8, 0.8]


@pytest.mark.parametrize("how", ["dead", "stopped"])
def test_a_lost_leader_is_replaced_by_its_successor_without_a_restart(bench: Bench, how: str) -> None:
    bench.turns(2)
    getattr(bench.coordinators, how).add(C1)
    bench.new_leader(C2, 2)
    waits = bench.turns(3)
    assert bench.coordinators.beats[-1][0] == C2
    assert waits[0] == 0.0
    bench.turns(2)
    assert bench.coordinators.registered[-1][0] == C2  # another leadership: registered again
    assert bench.node.leader is not None
    assert bench.node.leader.node_id == "c2"


def test_nothing_that_was_to_be_told_is_lost_with_the_leader(bench: Bench) -> None:
    bench.turns(1)
    bench.content.pending = [m.ReplicaReport(chunk=b"c" * 16, state=t.REPLICA_STATE_LIVE)]
    bench.content.done = [m.CommandOutcome(id=5)]
    bench.coordinators.stopped.add(C1)
    bench.new_leader(None, 2)
    bench.turns(5)
    assert bench.content.acks == []
    bench.new_leader(C3, 2)
    bench.turns(6)
    told = next(beat for beat in bench.beats if beat.delta)
    assert told.outcomes[0].id == 5
    assert bench.content.acks[0] == told.sequence
    assert not bench.beats[-1].delta


def test_reports_that_were_not_acknowledged_are_told_again(bench: Bench) -> None:
    bench.content.pending = [m.ReplicaReport(chunk=b"c" * 16)]
    bench.coordinators.acknowledge = False
    bench.turns(3)
    assert [len(beat.delta) for beat in bench.beats] == [1, 1]
    assert bench.node.heartbeat_age_seconds() == -1.0


def test_the_epoch_is_kept_before_its_commands_are_obeyed(bench: Bench) -> None:
    bench.turns(2)
    bench.new_leader(C1, 5)
    bench.coordinators.commands = [bench.coordinators.command(1, delete=m.DeleteCommand(chunk=b"c" * 16))]
    bench.turns(1)
    assert bench.epochs.saved == [(1, 1), (1, 5)]
    assert bench.obeyed == [((1, 5), [1])]


def test_a_deposed_leader_is_not_obeyed_and_left() -> None:
    bench = Bench(cluster_id="cluster-1")
    bench.epochs.epoch = (1, 9)
    bench.coordinators.commands = [bench.coordinators.command(1, delete=m.DeleteCommand())]
    bench.turns(3)
    assert bench.obeyed == []
    assert not bench.heartbeats.registered
    assert bench.epochs.epoch == (1, 9)


def test_a_command_of_another_epoch_than_the_answers_is_dropped(bench: Bench) -> None:
    bench.turns(1)
    old = m.Command(id=1, epoch=t.Epoch(history=1, term=0), delete=m.DeleteCommand())
    bench.coordinators.commands = [old, bench.coordinators.command(2, scrub=m.ScrubCommand())]
    bench.turns(1)
    assert bench.obeyed == [((1, 1), [2])]


def test_a_node_registers_again_when_told_to(bench: Bench) -> None:
    bench.turns(2)
    bench.coordinators.commands = [bench.coordinators.command(1, register=m.RegisterCommand())]
    waits = bench.turns(3)
    assert len(bench.coordinators.registered) == 2
    assert 0 < waits[0] < 0.5


def test_the_clusters_labels_for_this_node_are_applied(bench: Bench) -> None:
    bench.turns(1)
    assert bench.labels == []
    bench.coordinators.labels = {"zone": "b"}
    bench.coordinators.commands = [bench.coordinators.command(1, register=m.RegisterCommand())]
    bench.turns(2)
    assert bench.labels == [{"zone": "b"}]


def test_a_node_of_a_foreign_cluster_keeps_its_own_and_asks_slowly() -> None:
    bench = Bench(cluster_id="mine")
    waits = bench.turns(3)
    assert min(waits) > 4
    assert bench.heartbeats.cluster_id == "mine"
    assert "cluster-1" in bench.heartbeats.trouble
    assert bench.node.state.name == State.STARTING.name
    assert bench.epochs.saved == []


@pytest.mark.parametrize("refusal", [DuplicateNodeError("a twin"), WrongClusterError("not ours")])
def test_a_node_that_is_refused_needs_no_restart_once_an_operator_has_helped(
    bench: Bench, refusal: UnavailableError
) -> None:
    bench.coordinators.refusal = refusal
    bench.turns(4)
    assert not bench.heartbeats.registered
    bench.coordinators.refusal = None
    bench.turns(2)
    assert bench.heartbeats.registered


def check(bench: Bench, name: str) -> bool:
    return next(one.ok for one in bench.node.checks() if one.name == name)


@pytest.mark.parametrize("refusal", [DuplicateNodeError("a twin"), HistoryBehindError("a backup")])
def test_a_member_that_the_leader_refuses_does_not_call_itself_registered(
    bench: Bench, refusal: QuorumFSError
) -> None:
    bench.turns(3)
    assert check(bench, "registered")
    bench.coordinators.refusal = refusal
    bench.turns(1)
    assert not check(bench, "registered")
    bench.coordinators.refusal = None
    bench.turns(2)
    assert check(bench, "registered")


def test_a_member_whom_the_leader_has_not_answered_for_long_does_not_call_itself_registered(
    bench: Bench,
) -> None:
    bench.turns(3)
    bench.coordinators.stopped = {C1}  # the others still name it
    bench.turns(2)
    bench.clock.advance(3)
    assert not check(bench, "registered")
    bench.coordinators.stopped = set()
    waits = bench.turns(12)
    assert sum(waits) < 10
    assert check(bench, "registered")
    assert len(bench.coordinators.registered) == 1


def test_a_busy_leader_is_asked_again_and_stays_the_leader(bench: Bench) -> None:
    bench.turns(2)
    bench.coordinators.refusal = BusyError("the leader has just begun")
    waits = bench.turns(3)
    assert all(0 < wait <= 1 for wait in waits)
    assert bench.node.leader is not None
    bench.coordinators.refusal = None
    bench.turns(1)
    assert len(bench.coordinators.registered) == 1


def test_without_any_coordinator_the_node_asks_on_with_growing_pauses(bench: Bench) -> None:
    bench.coordinators.dead = {C1, C2, C3}
    waits = bench.turns(60)
    assert max(waits) > 0.3
    assert sum(waits) > 10
    assert bench.node.leader is None
    bench.coordinators.dead = set()
    bench.turns(6)
    assert bench.heartbeats.registered


def test_a_disk_that_does_not_answer_is_no_reason_to_leave_the_leader(bench: Bench) -> None:
    bench.turns(2)
    bench.content.broken = True
    assert bench.turns(1) == [1.0]
    bench.content.broken = False
    bench.turns(1)
    assert bench.coordinators.beats[-1][0] == C1


def test_a_full_inventory_is_told_in_numbered_pages_and_the_last_says_so(bench: Bench) -> None:
    report = InventoryReport(bench.agenda, bench.coordinators, bench.heartbeats.header, lambda: C1)
    assert report.send(42, lambda: False) == 3
    pages = bench.coordinators.pages
    assert [(page.gather_id, page.page, page.last) for page in pages] == [
        (42, 0, False),
        (42, 1, False),
        (42, 2, True),
    ]
    assert {page.node_id for page in pages} == {"d1"}


def test_an_empty_node_tells_one_empty_page(bench: Bench) -> None:
    bench.content.pages = 0
    report = InventoryReport(bench.agenda, bench.coordinators, bench.heartbeats.header, lambda: C1)
    assert report.send(1, lambda: False) == 1
    assert bench.coordinators.pages[0].last


def test_an_inventory_that_nobody_waits_for_is_given_up(bench: Bench) -> None:
    report = InventoryReport(bench.agenda, bench.coordinators, bench.heartbeats.header, lambda: C1)
    assert report.send(1, lambda: len(bench.coordinators.pages) >= 1) == 1
    assert not bench.coordinators.pages[-1].last


def test_a_loop_that_waits_for_a_long_interval_is_not_stuck(bench: Bench) -> None:
    bench.coordinators.interval_ms = 60_000
    told = threading.Event()
    beat = bench.coordinators.heartbeat

    def heartbeat(address: str, request: m.HeartbeatRequest, seconds: float) -> m.HeartbeatResponse:
        told.set()
        return beat(address, request, seconds)

    bench.coordinators.heartbeat = heartbeat  # type: ignore[method-assign]  # watched
    bench.node.start()
    try:
        assert told.wait(10)
        until(lambda: bench.heartbeats._due_at > bench.clock.monotonic())
        bench.clock.advance(59)
        assert bench.heartbeats.turning
        bench.clock.advance(60)
        assert not bench.heartbeats.turning
    finally:
        bench.node.stop()


def test_channels_that_close_under_a_stopping_loop_are_no_reason_to_die(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    calling, closed, died = threading.Event(), threading.Event(), []
    monkeypatch.setattr("common.cluster.heartbeats.fatal", died.append)

    def register(address: str, request: m.RegisterRequest, seconds: float) -> m.RegisterResponse:
        calling.set()
        closed.wait(10)
        raise ValueError("Cannot invoke RPC on closed channel!")

    bench.coordinators.register = register  # type: ignore[method-assign]  # as gRPC does
    bench.node.start()
    assert calling.wait(10)
    bench.node.stop(0.01)
    closed.set()
    until(lambda: not bench.heartbeats._thread.is_alive())
    assert died == []


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(2000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("the condition did not come true in time")


def test_the_loop_turns_on_its_thread_and_hurries_when_there_is_news() -> None:
    bench = Bench()
    told = threading.Semaphore(0)
    beat = bench.coordinators.heartbeat

    def heartbeat(address: str, request: m.HeartbeatRequest, seconds: float) -> m.HeartbeatResponse:
        told.release()
        return beat(address, request, seconds)

    bench.coordinators.heartbeat = heartbeat  # type: ignore[method-assign]  # watched
    bench.coordinators.interval_ms = 60_000
    bench.node.start()
    try:
        assert told.acquire(timeout=10)
        for _ in range(2):
            bench.node.hurry()
            assert told.acquire(timeout=10)
        assert bench.heartbeats.turning
    finally:
        bench.node.stop()
    assert not bench.heartbeats.turning
    assert bench.node.state.name == State.STOPPING.name


def test_coordinators_that_did_not_answer_are_known_as_silent_until_they_do() -> None:
    bench = Bench()
    heartbeats = bench.node.heartbeats
    assert heartbeats is not None
    heartbeats.turn()
    assert bench.node.silent == frozenset()
    bench.coordinators.leader = None
    bench.coordinators.stopped = {C1, C2, C3}
    for _ in range(30):
        heartbeats.turn()
    assert bench.node.silent == {C1, C2, C3}
    bench.coordinators.stopped = {C1}
    for _ in range(30):
        heartbeats.turn()
    assert bench.node.silent == {C1}
    bench.coordinators.leader, bench.coordinators.stopped = C1, set()
    for _ in range(30):
        heartbeats.turn()
    assert bench.node.silent == frozenset()
