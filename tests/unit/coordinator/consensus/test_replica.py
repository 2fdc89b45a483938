"""A member's own bookkeeping, message by message; what several of them make of it is the simulation's matter."""

from __future__ import annotations

from coordinator.consensus.configuration import Configuration
from coordinator.consensus.memory import VolatileMemory
from coordinator.consensus.messages import Message
from coordinator.consensus.replica import Replica
from coordinator.consensus.standing import Timing
from quorumfs.v1 import membership_pb2 as m
from tests.unit.coordinator.consensus.disks import SEGMENT_BYTES, JournalDisk, fill_up

MEMBERS = Configuration.of(m.Member(node_id=f"c{k}", member_uuid=f"uuid-{k}") for k in (1, 2, 3))


class Links:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Message]] = []

    def send(self, peer: str, message: Message) -> bool:
        self.sent.append((peer, message))
        return True

    def room(self, peer: str) -> int:
        return 1 << 20

    def connected(self, peer: str) -> bool:
        return True


def replica_of(disk: JournalDisk, links: Links) -> Replica:
    return Replica(
        "c3",
        MEMBERS,
        disk.open(),
        (1, 0),
        links,
        disk.clock,
        lambda: 0.5,
        Timing(0.05, 0.25, 0.5),
        lambda entries: None,
        lambda role: None,
        lambda known: None,
        VolatileMemory(),
        0,
    )


def heartbeat(term: int, previous: int, previous_term: int) -> Message:
    return {
        "type": "append_entries",
        "term": term,
        "commit_index": 1,
        "prevLogIdx": previous,
        "prevLogTerm": previous_term,
        "entries": [],
        "beat": 1,
        "check_index": 0,
        "check_hash": b"",
    }


def test_a_state_of_a_later_term_is_the_end_of_the_leader_before() -> None:
    """What that one sends still is about entries which may have been replaced: that is no broken invariant, and to be
    acknowledged neither."""
    links = Links()
    replica = replica_of(JournalDisk(), links)
    replica.receive("c1", heartbeat(term=1, previous=1, previous_term=0))
    assert (replica.term(), replica.leader_id()) == (1, "c1")
    replica.installed(10, 2, MEMBERS)
    links.sent.clear()
    replica.receive("c1", heartbeat(term=1, previous=9, previous_term=1))
    replica.receive("c1", heartbeat(term=1, previous=10, previous_term=1))
    assert links.sent == [("c1", {"type": "stale", "term": 2})] * 2


def test_terms_that_a_full_disk_has_no_place_for_are_as_if_never_heard_of() -> None:
    """Each election takes a sector of the reserve. When it is used up the member neither ends nor acts in a term that
    its disk would not remember; with room it goes on."""
    disk, links = JournalDisk(capacity_bytes=SEGMENT_BYTES * 2 + 2000), Links()
    replica = replica_of(disk, links)
    journal = replica.journal
    fill_up(journal)
    last = journal.last_index
    for term in range(2, 200):
        replica.receive("c1", heartbeat(term, previous=last, previous_term=1))
    kept = replica.term()
    assert 2 < kept < 199
    assert (journal.term, journal.dirty) == (kept, False)
    links.sent.clear()
    replica.receive("c2", {"type": "stale", "term": 250})
    replica.receive("c1", heartbeat(250, previous=last, previous_term=1))
    assert (links.sent, replica.term(), replica.leader_id()) == ([], kept, "c1")
    disk.files.capacity_bytes = None
    journal.prepare()
    replica.receive("c2", heartbeat(250, previous=last, previous_term=1))
    assert (replica.term(), replica.leader_id()) == (250, "c2")
    assert disk.crashed().term == 250
