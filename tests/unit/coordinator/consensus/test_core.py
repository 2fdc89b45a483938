"""When committed entries are applied, and when the loop is woken for it; the rest of the core is the simulation's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from coordinator.consensus import core
from coordinator.consensus.applier import GROUP_ENTRIES_MAX
from coordinator.consensus.configuration import Configuration
from coordinator.consensus.core import GATHER_SECONDS, Core, Outside, Reading
from coordinator.consensus.interfaces import LogEntry
from coordinator.consensus.links import Peer
from coordinator.consensus.messages import Message
from coordinator.consensus.proposals import Proposal
from coordinator.consensus.standing import COMMAND, Timing
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from tests.unit.coordinator.consensus.disks import JournalDisk

MEMBERS = tuple(m.Member(node_id=f"c{k}", member_uuid=f"uuid-{k}") for k in (1, 2, 3))
TURN_SECONDS = 1.0


class Database:
    """Notes the groups of entries that it is given."""

    applied_term = 0

    def __init__(self) -> None:
        self.applied_index = 1
        self.groups: list[list[int]] = []
        self.tried: list[LogEntry] = []
        self.on_try: Callable[[], None] = lambda: None

    def try_next(self, entry: LogEntry) -> None:
        self.tried.append(entry)
        self.on_try()

    def apply(self, entries: Sequence[LogEntry]) -> list[Sequence[bytes] | None]:
        self.groups.append([entry.index for entry in entries])
        self.applied_index = entries[-1].index
        return [None if entry.data is None else [b"done"] for entry in entries]

    def checkpoint_if_needed(self) -> bool:
        return False

    def cluster_ms(self) -> int:
        return 0

    def rolling_at(self, index: int) -> bytes | None:
        return None


class Wire:
    """Delivers `inbox` in a poll, and remembers how long that would have waited."""

    def __init__(self) -> None:
        self.inbox: list[Message] = []
        self.patience = 0.0
        self.wakes = 0
        self.on_send: Callable[[], None] = lambda: None

    def start(self, on_message: Callable[[str, Message], None], on_change: Any) -> None:
        self._deliver = on_message

    def poll(self, seconds: float) -> None:
        self.patience = seconds
        inbox, self.inbox = self.inbox, []
        for message in inbox:
            self._deliver("c1", message)

    def wake(self) -> None:
        self.wakes += 1

    def set_peers(self, peers: Iterable[Peer]) -> None: ...

    def send(self, peer: str, message: Message) -> bool:
        self.on_send()
        return True

    def room(self, peer: str) -> int:
        return 1 << 20

    def connected(self, peer: str) -> bool:
        return True


class Scene:
    """A member, c3, of as many; its applier works when the test says so."""

    def __init__(self, members: int) -> None:
        self.disk = disk = JournalDisk()
        self.clock = disk.clock
        self.wire, self.database = Wire(), Database()
        self.asked = 0  # how often the applier was told to work
        self.works_at_once = False  # while the turn that told it so goes on
        self.answered: list[Reading] = []
        configuration = Configuration.of(MEMBERS[-members:])
        self.core = Core(
            "c3",
            configuration,
            1,
            disk.open(),
            self.database,  # type: ignore[arg-type]
            self.wire,
            self.clock,
            lambda: 0.5,
            bytes,
            Timing(0.05, 0.25, 0.5),
            1 << 30,
            Outside(
                self.answered.extend,
                lambda *asked: pytest.fail("a snapshot is fetched"),
                lambda: configuration,
                self._work,
                lambda: None,
                lambda leadership: None,
            ),
        )
        self.core.start()

    def _work(self) -> None:
        self.asked += 1
        if self.works_at_once:
            self.core.applier.work()

    def turn(self) -> None:
        self.core.turn(TURN_SECONDS)

    def hear(self, first: int, count: int) -> None:
        """A leader sends entries, and that they are committed; they are synced, and handed over in the next turn."""
        self.wire.inbox.append(
            {
                "type": "append_entries",
                "term": 1,
                "commit_index": first + count - 1,
                "prevLogIdx": first - 1,
                "prevLogTerm": 1 if first > 2 else 0,
                "entries": [(COMMAND + b"entry", index, 1) for index in range(first, first + count)],
                "beat": first,
                "check_index": 0,
                "check_hash": b"",
            }
        )
        self.turn()
        self.turn()


def leading() -> Scene:
    """A group of one, whose no-op is applied."""
    scene = Scene(members=1)
    for _ in range(100):
        if scene.core.leadership is not None:
            return scene
        scene.clock.now += 0.1
        scene.turn()
        if scene.core.applier.waits:
            scene.core.applier.work()
    raise AssertionError("a group of one has no leader")


def test_a_follower_applies_what_has_gathered_in_one_piece() -> None:
    scene = Scene(members=3)
    scene.hear(2, 1)
    scene.clock.now += GATHER_SECONDS / 2
    scene.hear(3, 1)
    assert scene.asked == 0
    assert scene.wire.patience == pytest.approx(GATHER_SECONDS / 2)
    scene.clock.now += GATHER_SECONDS
    scene.turn()
    assert scene.asked == 1
    scene.core.applier.work()
    assert scene.database.groups == [[2, 3]]
    scene.turn()
    assert scene.wire.patience > GATHER_SECONDS


def test_a_follower_acknowledges_what_is_synced_before_it_seals_it() -> None:
    scene = Scene(members=3)
    scene.hear(2, 1)
    calls = scene.disk.files.calls
    writes, syncs = calls["write"], calls["sync_data"]
    scene.wire.on_send = lambda: seen.append((calls["write"] - writes, calls["sync_data"] - syncs))
    seen: list[tuple[int, int]] = []
    scene.hear(3, 1)
    assert seen == [(1, 1)]
    assert calls["write"] - writes == 2


def test_a_follower_lets_no_more_gather_than_one_piece_takes() -> None:
    scene = Scene(members=3)
    scene.hear(2, GROUP_ENTRIES_MAX)
    assert scene.asked == 1


def test_a_leader_applies_at_once_and_is_not_woken_for_what_it_does_not_wait_for() -> None:
    scene = leading()
    answers: list[object] = []
    scene.asked = 0
    scene.core.propose(Proposal(e.Item(batch=b"batch"), 1, 5, scene.clock.now + 1), answers.append)
    scene.turn()
    assert scene.asked == 2  # to try it, and when it was committed
    scene.wire.wakes = 0
    scene.core.applier.work()
    assert answers == [b"done"]
    assert scene.wire.wakes == 0


def test_a_leader_has_an_entry_tried_while_the_disk_is_waited_for() -> None:
    scene = leading()
    scene.works_at_once = True
    calls = scene.disk.files.calls
    seen: list[tuple[int, int, int]] = []
    scene.database.on_try = lambda: seen.append(
        (calls["write"], calls["sync_data"], scene.core.replica.commit_index())
    )
    writes, syncs, committed = calls["write"], calls["sync_data"], scene.core.replica.commit_index()
    scene.core.propose(Proposal(e.Item(batch=b"batch"), 1, 5, scene.clock.now + 1), lambda answer: None)
    scene.turn()
    assert seen == [(writes + 1, syncs, committed)]
    (tried,) = scene.database.tried
    assert tried == LogEntry(committed + 1, scene.core.replica.term(), tried.data)
    assert scene.database.applied_index == committed + 1


def test_what_is_behind_another_entry_is_not_tried() -> None:
    scene = leading()
    scene.core.replica.advance_commit = lambda: None  # type: ignore[method-assign]
    for _ in range(2):
        scene.core.propose(Proposal(e.Item(batch=b"batch"), 1, 5, scene.clock.now + 1), lambda answer: None)
        scene.turn()
        scene.core.applier.work()
    first = scene.core.journal.last_index - 1
    assert [entry.index for entry in scene.database.tried] == [first]


def test_a_new_leader_applies_what_it_let_gather_as_a_follower() -> None:
    scene = Scene(members=3)
    scene.hear(2, 1)
    assert scene.asked == 0
    scene.core.replica.leads = lambda: True  # type: ignore[method-assign]
    scene.turn()
    assert scene.asked == 1


def test_a_leader_whose_first_entry_is_not_applied_yet_is_woken_for_it() -> None:
    scene = Scene(members=1)
    while not scene.core.applier.waits:
        scene.clock.now += 0.1
        scene.turn()
    scene.wire.wakes = 0
    scene.core.applier.work()
    assert scene.wire.wakes == 1


def test_what_the_loop_waits_for_and_comes_before_it_sleeps_is_looked_at_again() -> None:
    """The turn found the first entry not applied; then it is, and the loop may not wait for a wake that was before."""
    scene = Scene(members=1)
    scene.works_at_once = True
    while not scene.asked:
        scene.clock.now += 0.1
        scene.turn()
    assert scene.core.leadership is None
    assert scene.wire.patience == 0.0


def test_a_leader_with_too_much_to_apply_sleeps_until_there_is_less(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = leading()
    answers: list[object] = []
    monkeypatch.setattr(core, "BACKLOG_BYTES_MAX", 1)
    for _ in range(2):
        scene.core.propose(Proposal(e.Item(batch=b"batch"), 1, 5, scene.clock.now + 1), answers.append)
        scene.turn()
    scene.turn()
    assert scene.wire.patience > 0
    scene.wire.wakes = 0
    scene.core.applier.work()
    assert scene.wire.wakes == 1
    scene.turn()
    scene.core.applier.work()
    assert answers == [b"done"] * 2


@pytest.mark.parametrize("lack", ["room", "right"])
def test_a_leader_that_may_propose_nothing_sleeps_until_it_may(
    monkeypatch: pytest.MonkeyPatch, lack: str
) -> None:
    scene = leading()
    if lack == "room":
        monkeypatch.setattr(scene.core.journal, "has_room", lambda: False)
    else:
        scene.core.replica.transferring = True
    scene.core.propose(Proposal(e.Item(batch=b"batch"), 1, 5, scene.clock.now + 1), lambda _: None)
    scene.turn()
    assert scene.wire.patience > 0
