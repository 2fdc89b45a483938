"""A member whose log has no room even for what the reserve is kept for: it waits, and goes on when there is room."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from coordinator.consensus.configuration import Configuration
from coordinator.consensus.core import Core, Outside
from coordinator.consensus.journal import Journal
from coordinator.consensus.links import Peer
from coordinator.consensus.messages import Message
from coordinator.consensus.standing import Timing
from coordinator.consensus.upkeep import UPKEEP_SECONDS
from quorumfs.v1 import membership_pb2 as m
from tests.unit.coordinator.consensus.disks import SEGMENT_BYTES, JournalDisk, fill_up

MEMBERS = Configuration.of(m.Member(node_id=f"c{k}", member_uuid=f"uuid-{k}") for k in (1, 2, 3))
KEEP_BYTES = 5000


class Database:
    """Has applied the first entry and nothing since."""

    applied_index, applied_term = 1, 0

    def cluster_ms(self) -> int:
        return 0

    def rolling_at(self, index: int) -> bytes | None:
        return None


class Wire:
    """Brings nothing and takes everything."""

    def start(self, on_message: Callable[[str, Message], None], on_change: Any) -> None: ...

    def poll(self, seconds: float) -> None: ...

    def wake(self) -> None: ...

    def set_peers(self, peers: Iterable[Peer]) -> None: ...

    def send(self, peer: str, message: Message) -> bool:
        return True

    def room(self, peer: str) -> int:
        return 1 << 20

    def connected(self, peer: str) -> bool:
        return True


@pytest.fixture
def disk() -> JournalDisk:
    return JournalDisk(capacity_bytes=SEGMENT_BYTES * 2 + 2000)


@pytest.fixture
def core(disk: JournalDisk) -> Core:
    """Its log is full, and of the reserve is left what is kept for votes."""
    journal = disk.open()
    fill_up(journal)
    use_reserve(journal)
    outside = Outside(
        lambda readings: None,
        lambda *asked: None,
        lambda: MEMBERS,
        lambda: None,
        lambda: None,
        lambda leadership: None,
    )
    made = Core(
        "c3",
        MEMBERS,
        1,
        journal,
        Database(),  # type: ignore[arg-type]
        Wire(),
        disk.clock,
        lambda: 0.5,
        bytes,
        Timing(0.05, 0.25, 0.5),
        KEEP_BYTES,
        outside,
    )
    made.start()
    return made


def use_reserve(journal: Journal) -> None:
    """Terms, until nothing but terms and votes has a place."""
    while journal._log.fits(0, 0.5):
        journal.set_term(journal.term + 1, None)


def make_room(disk: JournalDisk, core: Core) -> None:
    disk.files.capacity_bytes = None
    assert core.journal.prepare()


def test_a_log_that_cannot_begin_at_an_installed_snapshot_does_so_when_there_is_room(
    disk: JournalDisk, core: Core
) -> None:
    before = core.journal.last_index
    core.upkeep.installed(before + 10, core.journal.term)
    core.turn(0.1)
    assert core.journal.last_index == before
    make_room(disk, core)
    core.turn(0.1)
    assert (core.journal.first_index, core.journal.last_index) == (before + 10, before + 10)


def test_a_compaction_that_finds_no_room_is_made_when_there_is_some(disk: JournalDisk, core: Core) -> None:
    core.applier.durable_index = core.journal.last_index
    disk.clock.advance(UPKEEP_SECONDS)
    core.turn(0.1)
    assert core.journal.first_index == 1
    make_room(disk, core)
    disk.clock.advance(UPKEEP_SECONDS)
    core.turn(0.1)
    assert core.journal.first_index > 1
