"""Orders of the leader: queued once, carried out behind the fence, told until the leader has heard."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from datanode.duties import commands as room
from datanode.duties.commands import Commands, Hands, LaneDuty, Outcomes
from datanode.duties.content import Content
from datanode.duties.upkeep import ScrubDuty
from datanode.store.chunks import ChunkStore
from datanode.store.fence import EpochStore
from datanode.store.files import Files
from datanode.store.orders import Orders
from datanode.store.scrub import Scrubber
from datanode.transfer.admission import Gate
from datanode.transfer.pull import Puller
from quorumfs.checksum import crc32c
from quorumfs.clock import ManualClock
from quorumfs.errors import Code, UnavailableError
from quorumfs.ids import ChunkId
from quorumfs.rpc.circuit import Circuits
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t
from tests.unit.datanode.store.fakes import content, flip, opened, put

A, B = ChunkId(b"a" * 16), ChunkId(b"b" * 16)
DATA = b"d" * 100_000
EPOCH = t.Epoch(history=1, term=5)


class Node:
    """Hands, lanes and outcomes over a store, with a leader of EPOCH at commit index 500."""

    def __init__(self, store: ChunkStore, disks: Any) -> None:
        self.store = store
        self.fence = EpochStore(disks.disks)
        self.fence.load()
        self.fence.obey(EPOCH)
        self.fence.heard(EPOCH, 500)
        self.labels: list[tuple[dict[str, str], list[str]]] = []
        self.scrub = ScrubDuty(Scrubber(store), lambda: 1, 1.0, 1, ManualClock())
        hands = Hands(
            "d1",
            store,
            self.fence,
            Orders(store, self.fence),
            Puller(store, NoPeers(), Circuits(ManualClock(), lambda: 0.5)),
            self.scrub,
            lambda put, remove: self.labels.append((dict(put), list(remove))),
        )
        self.clock = ManualClock()
        self.commands = Commands(hands, Outcomes(), self.clock)
        self.lanes = [
            LaneDuty(lane.name, lane, self.commands) for lane in (self.commands.orders, self.commands.copies)
        ]

    def give(self, *commands: m.Command) -> list[m.CommandOutcome]:
        """Accept, work all off; what would be told."""
        self.commands.accept(commands)
        for lane in self.lanes:
            while lane.work() != "nothing was ordered":
                assert lane.wait() == 0
        return self.commands.outcomes.pending()[0]

    def told(self) -> None:
        """The leader has heard of all that came of commands."""
        self.commands.outcomes.acknowledge(self.commands.outcomes.pending()[1])


class Unlistable(Files):
    """Cannot list the directories of chunks."""

    def names(self, path: Path) -> Iterator[str]:
        if path.parent.name == "chunks":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return super().names(path)


class NoPeers:
    def get(self, address: str) -> Any:
        raise UnavailableError(f"{address} is not reached in this test")

    def drop(self, address: str) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with opened(tmp_path) as (store, disks):
        yield Node(store, disks)


def command(number: int, epoch: t.Epoch = EPOCH, **one: Any) -> m.Command:
    return m.Command(id=number, epoch=epoch, **one)


def delete(number: int, chunk: bytes = A, condemn_index: int = 100, epoch: t.Epoch = EPOCH) -> m.Command:
    return command(number, epoch, delete=m.DeleteCommand(chunk=chunk, condemn_index=condemn_index))


def test_a_delete_is_done_once_and_again_is_harmless(node: Node) -> None:
    put(node.store, A, DATA)
    (first,) = node.give(delete(1))
    assert (first.id, first.code, first.ack.durable) == (1, t.ERROR_CODE_OK, True)
    assert A not in node.store
    node.told()
    (again,) = node.give(delete(1))
    assert (again.code, again.ack.durable) == (t.ERROR_CODE_OK, False)


def test_a_command_that_waits_is_not_taken_twice(node: Node) -> None:
    put(node.store, A, DATA)
    node.commands.accept([delete(1)])
    node.commands.accept([delete(1)])
    assert len(node.give()) == 1


def test_a_command_that_ends_while_a_heartbeat_is_under_way_is_not_done_again_when_its_answer_repeats_it(
    node: Node,
) -> None:
    """The leader has heard nothing of it for long, and what came of it goes out with the next heartbeat."""
    told = Content(node.store, node.commands.outcomes, Gate("writes", 1), Gate("reads", 1))
    put(node.store, A, DATA)
    order = command(1, verify=m.VerifyCommand(chunk=A))
    node.commands.accept([order])
    assert told.outcomes(1) == []
    node.give()
    told.acknowledged(1)
    node.commands.accept([order])
    assert node.commands.copies.take() is None
    assert [one.id for one in told.outcomes(2)] == [1]
    node.commands.accept([command(1, t.Epoch(history=1, term=6), verify=m.VerifyCommand(chunk=A))])
    assert node.commands.copies.take() is not None  # of another leader it is another command
    told.acknowledged(2)
    node.commands.accept([order])
    assert node.commands.copies.take() is not None


def test_a_command_whose_outcome_had_to_make_room_is_done_again(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "OUTCOMES_MAX", 1)
    node.give(delete(1), delete(2))
    assert [one.id for one in node.give(delete(2))] == [2]
    node.commands.accept([delete(2), delete(1)])
    waits = node.commands.orders.take()
    assert waits is not None
    assert waits.id == 1
    assert node.commands.orders.take() is None


def test_a_leader_deposed_while_its_command_waited_commands_nothing(node: Node) -> None:
    put(node.store, A, DATA)
    node.commands.accept([delete(1)])
    node.fence.obey(t.Epoch(history=1, term=6))
    (outcome,) = node.give()
    assert outcome.code == t.ERROR_CODE_FENCED
    assert content(node.store, A) == DATA


def test_a_leader_that_knows_less_than_was_heard_deletes_nothing(node: Node) -> None:
    put(node.store, A, DATA)
    node.fence.heard(EPOCH, 90)
    (outcome,) = node.give(delete(1))
    assert outcome.code == t.ERROR_CODE_HISTORY_BEHIND
    assert A in node.store


def test_a_restore_brings_back_and_voids_the_delete_that_comes_late(node: Node) -> None:
    put(node.store, A, DATA)
    node.give(delete(1))
    restore = m.RestoreCommand(chunk=A, void_below_index=100)
    *_, restored, refused = node.give(command(2, restore=restore), delete(3))
    assert restored.ack.durable
    assert refused.code == t.ERROR_CODE_SAFETY_GUARD
    assert content(node.store, A) == DATA


def test_verifying_tells_good_damaged_and_absent_apart(node: Node) -> None:
    put(node.store, A, DATA)
    flip(Path(put(node.store, B, DATA).file), 5000)
    told = node.give(
        *(command(k, verify=m.VerifyCommand(chunk=c)) for k, c in enumerate((A, B, b"x" * 16), 1))
    )
    assert [one.code for one in told] == [
        t.ERROR_CODE_OK,
        t.ERROR_CODE_CORRUPT,
        t.ERROR_CODE_CHUNK_NOT_FOUND,
    ]
    assert told[0].ack.disk_id == node.store.disks[0].disk_id
    assert B not in node.store


def test_what_reads_whole_chunks_does_not_hold_up_deletes(node: Node) -> None:
    put(node.store, A, DATA)
    node.commands.accept([command(1, verify=m.VerifyCommand(chunk=A)), delete(2)])
    assert node.lanes[0].work().startswith("delete 2")


def test_a_copy_that_is_here_and_whole_already_is_success_without_a_source(node: Node) -> None:
    put(node.store, A, DATA)
    order = m.ReplicateCommand(chunk=A, length=len(DATA), checksum=crc32c(DATA))
    (outcome,) = node.give(command(1, replicate=order))
    assert outcome.ack.durable


def test_a_copy_that_cannot_be_had_names_each_source_and_why(node: Node) -> None:
    order = m.ReplicateCommand(chunk=A, length=5, sources=[t.NodeAddress(node_id="d7", grpc="d7:1")])
    (outcome,) = node.give(command(1, replicate=order))
    assert outcome.code == t.ERROR_CODE_UNAVAILABLE
    assert "d7" in outcome.error.cause


def test_labels_and_scrubbing_are_passed_on(node: Node) -> None:
    labels = m.SetLabelsCommand(labels={"zone": "b"}, remove=["rack"])
    node.give(command(1, set_labels=labels), command(2, scrub=m.ScrubCommand(stop=True)))
    assert node.labels == [({"zone": "b"}, ["rack"])]
    assert node.scrub.work() == "stopped by order"


@pytest.mark.parametrize("bad", [m.Command(id=1, epoch=EPOCH), delete(1, chunk=b"short")])
def test_a_command_that_makes_no_sense_is_refused_and_the_lane_goes_on(node: Node, bad: m.Command) -> None:
    put(node.store, A, DATA)
    told = node.give(bad, delete(2))
    assert [one.code for one in told] == [t.ERROR_CODE_INVALID_ARGUMENT, t.ERROR_CODE_OK]


def test_the_log_tells_which_chunk_a_command_was_about(node: Node) -> None:
    put(node.store, A, DATA)
    with structlog.testing.capture_logs() as events:
        node.give(delete(1), command(2, verify=m.VerifyCommand(chunk=B)), command(3, scrub=m.ScrubCommand()))
    told = [(one["event"], one["command"], one.get("chunk")) for one in events]
    assert told == [
        ("command.done", "delete", A.hex()),
        ("command.done", "scrub", None),
        ("command.failed", "verify", B.hex()),
    ]


def test_what_does_not_fit_is_answered_as_busy(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "WAITING_MAX", 2)
    node.commands.accept([delete(k) for k in (1, 2, 3)])
    assert [one.code for one in node.commands.outcomes.pending()[0]] == [t.ERROR_CODE_BUSY]
    assert [one.id for one in node.give()] == [3, 1, 2]
    node.told()
    assert [one.code for one in node.give(delete(3))] == [t.ERROR_CODE_OK]


def test_outcomes_and_changes_are_told_until_the_heartbeat_that_carried_them_is_acknowledged(
    node: Node,
) -> None:
    gates = Gate("writes", 1), Gate("reads", 1)
    told = Content(node.store, node.commands.outcomes, *gates)
    put(node.store, A, DATA)
    node.give(delete(1))
    assert [one.id for one in told.outcomes(1)] == [1]
    assert [one.state for one in told.take_delta(1)] == [t.REPLICA_STATE_MISSING]
    node.give(delete(2))
    assert [one.id for one in told.outcomes(2)] == [1, 2]
    told.take_delta(2)
    told.acknowledged(1)
    assert [one.id for one in told.outcomes(3)] == [2]
    assert told.take_delta(3) == []
    told.acknowledged(99)
    assert [one.id for one in told.outcomes(4)] == [2]


def test_copies_are_told_from_their_order_to_their_outcome(node: Node) -> None:
    gates = Gate("writes", 1), Gate("reads", 1)
    told = Content(node.store, node.commands.outcomes, *gates, node.commands.copying)
    order = m.Command(id=1, epoch=EPOCH, replicate=m.ReplicateCommand(chunk=A, length=1))
    node.commands.accept([order])
    assert list(told.load().copying) == [A]
    command = node.commands.copies.take()
    assert command is not None
    assert node.commands.carry_out(command).code != t.ERROR_CODE_OK  # nobody has it
    assert list(told.load().copying) == []


def test_a_copy_that_is_made_is_told_a_while_longer_for_a_leader_may_die_with_its_outcome(node: Node) -> None:
    gates = Gate("writes", 1), Gate("reads", 1)
    told = Content(node.store, node.commands.outcomes, *gates, node.commands.copying)
    put(node.store, A, DATA)  # so that there is nothing to fetch
    order = m.ReplicateCommand(chunk=A, length=len(DATA), checksum=crc32c(DATA))
    (outcome,) = node.give(command(1, replicate=order))
    assert outcome.code == t.ERROR_CODE_OK
    told.outcomes(1)
    told.take_delta(1)
    told.acknowledged(1)
    assert (told.outcomes(2), told.take_delta(2)) == ([], [])
    assert list(told.load().copying) == [A]
    node.clock.advance(room.MADE_SECONDS)
    assert list(told.load().copying) == []


def test_of_copies_that_were_made_so_many_are_told_at_most(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MADE_MAX", 1)
    for number, chunk in enumerate((A, B)):
        put(node.store, chunk, DATA)
        order = m.ReplicateCommand(chunk=chunk, length=len(DATA), checksum=crc32c(DATA))
        node.give(command(number, replicate=order))
    assert node.commands.copying() == [B]


def test_an_inventory_lists_every_sealed_chunk_once_in_order(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datanode.duties.content.INVENTORY_PAGE_IDS", 7)
    told = Content(node.store, Outcomes(), Gate("writes", 1), Gate("reads", 1))
    assert told.holds_nothing()
    assert list(told.inventory()) == []
    ids = [ChunkId(bytes([k * 7 % 256]) * 16) for k in range(30)]
    for chunk in ids:
        put(node.store, chunk, b"x")
    pages = list(told.inventory())
    assert [len(page.ids) // 16 for page in pages] == [7, 7, 7, 7, 2]
    assert b"".join(page.ids for page in pages) == b"".join(sorted(ids))
    assert not told.holds_nothing()


def test_a_node_whose_disk_cannot_be_listed_is_not_empty(tmp_path: Path) -> None:
    """The cluster would strike its replicas, and let it be forgotten with the last copies on it."""
    with opened(tmp_path) as (store, _):
        put(store, A, DATA)
    files = Unlistable()
    with opened(tmp_path, files=files) as (store, _):
        told = Content(store, Outcomes(), Gate("writes", 1), Gate("reads", 1))
        assert len(store) == 0
        assert [disk.state for disk in told.disks()] == ["failed"]
        assert not told.holds_nothing()


def test_a_node_with_chunks_in_quarantine_only_is_not_empty(node: Node) -> None:
    told = Content(node.store, Outcomes(), Gate("writes", 1), Gate("reads", 1))
    put(node.store, A, DATA)
    node.give(delete(1))
    assert A not in node.store
    assert not told.holds_nothing()


def test_load_is_told_as_it_is(node: Node) -> None:
    writes = Gate("writes", 3)
    told = Content(node.store, Outcomes(), writes, Gate("reads", 1))
    with writes.enter():
        load = told.load()
    assert (load.write_streams, load.read_streams) == (1, 0)
    assert load.rss_bytes > 1 << 20
    assert told.disks()[0].state == "ok"


def test_every_error_code_of_an_outcome_is_one_of_the_wires(node: Node) -> None:
    assert {int(code) for code in Code} <= set(t.ErrorCode.values())
