"""What a member of the group is at the moment: its term, its role, whom it follows, and who belongs to the group.

This is the only module that imports pysyncobj. What still runs of it is said in `replica.py`; it gets our journal, and
neither a thread nor a socket, file or clock of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from common import log
from coordinator.consensus.configuration import Configuration, Configurations
from coordinator.consensus.guard import BrokenInvariantError, Entry
from coordinator.consensus.interfaces import LogEntry
from coordinator.consensus.journal import Journal
from coordinator.consensus.leadership import NEVER, Beats, Freshness
from coordinator.consensus.memory import Memory
from coordinator.consensus.messages import Message
from coordinator.consensus.progress import Progress
from quorumfs.clock import Clock
from quorumfs.v1 import membership_pb2 as m

FOLLOWER, CANDIDATE, LEADER = 0, 1, 2
ROLE_NAMES = {FOLLOWER: "follower", CANDIDATE: "candidate", LEADER: "leader"}

COMMAND, NOOP, CONFIGURATION = b"\x00", b"\x01", b"\x02"
BATCH_BYTES_MAX = 1 << 20
BATCH_ENTRIES_MAX = 512
HOLD_SECONDS_MAX = 0.2  # who has just started does not know what it promised: it waits for longer than that

_log = log.get(__name__)


class Links(Protocol):
    """How messages get to peers: lost, delayed, but not garbled, and in order while a connection lasts."""

    def send(self, peer: str, message: Message) -> bool: ...

    def room(self, peer: str) -> int: ...

    def connected(self, peer: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds; see ConsensusSettings."""

    heartbeat: float
    election_min: float
    election_max: float

    @property
    def hold(self) -> float:
        """For how long after it has heard a leader a member elects nobody, whatever happens to their connection."""
        return min(2 * self.heartbeat, HOLD_SECONDS_MAX)


@dataclass(slots=True)
class PreVote:
    """An election that this member would begin with `term`, and who would vote for it."""

    term: int
    granted: set[str]


class _NoTransport(Transport):  # type: ignore[misc]
    """What PySyncObj sends, which is only answers to votes, goes through the guard."""

    def __init__(self, send: Callable[[str, Message], None]) -> None:
        super().__init__(None, None, [])
        self._send = send

    @property
    def ready(self) -> bool:
        return True

    def send(self, node: Node, message: Message) -> bool:
        self._send(node.id, message)
        return True

    def destroy(self) -> None:
        pass


class Standing(SyncObj):  # type: ignore[misc]
    """What all sides of a member share; see `Replica`, which is all of them."""

    def __init__(
        self,
        own_id: str,
        applied_configuration: Configuration,
        journal: Journal,
        applied: tuple[int, int],
        links: Links,
        clock: Clock,
        chance: Callable[[], float],
        timing: Timing,
        on_commit: Callable[[list[LogEntry]], None],
        on_role: Callable[[int], None],
        members_changed: Callable[[Mapping[str, m.Member]], None],
        memory: Memory,
        boot: int,
    ) -> None:
        self.journal = journal
        self.own_id = own_id
        self.configurations = Configurations(applied_configuration)
        self.voters: tuple[str, ...] = ()
        self.peers: tuple[str, ...] = ()
        self._links = links
        self._clock = clock
        self._chance = chance
        self._timing = timing
        self._on_commit = on_commit
        self._on_role = on_role
        self._members_changed = members_changed
        self._known: Mapping[str, m.Member] = {}
        self._memory = memory
        self._boot = boot
        self._may_unmute = False
        now = clock.monotonic()
        self.heard_at = self.spoke_at = (
            NEVER  # a connection to the leader that broke counts as not hearing it
        )
        self.freshness = Freshness()
        self._promised_until = (
            NEVER  # see Beats: until then a leader may count on it that nobody else is elected
        )
        self._mute_until = now + max(timing.election_min, HOLD_SECONDS_MAX)
        self._deadline = 0.0
        self._heartbeat_at = now
        self._sends_on = False
        self._led_by: dict[int, str] = {}  # the last term that had a leader, and which
        self._unheard: set[str] = set()  # peers whose last message found no room on the disk
        self._pre_vote: PreVote | None = None
        self._votes: set[str] = set()
        self._acks: list[tuple[int, str, Message]] = []
        self.beats = Beats(())
        self.progress: dict[str, Progress] = {}
        self.noop_index = 0
        self.wanted_snapshot: tuple[str, int] | None = None
        self.check: tuple[int, bytes] | None = None
        self.own_check: Callable[[], tuple[int, bytes]] = lambda: (0, b"")
        self.may_hand_over: Callable[[], bool] = lambda: True
        self.transferring = False
        super().__init__(
            Node(own_id),
            [Node(one) for one in applied_configuration.voters if one != own_id],
            conf=_conf(timing),
            transport=_NoTransport(self._send_vote),
        )
        self._adopt(journal, applied)
        self._find_configurations(journal, applied[0])
        self._postpone_election()

    def _adopt(self, journal: Journal, applied: tuple[int, int]) -> None:
        """Give PySyncObj our journal and what it remembers; `applied`: (index, term) of the state machine."""
        index, term = applied
        if index < journal.first_index:
            raise BrokenInvariantError(
                f"the state is of index {index}, but the log begins at {journal.first_index}"
            )
        if index > journal.last_index or journal.term_at(index) != term:
            _log.warning("journal.superseded", state_index=index, log_last=journal.last_index)
            journal.reset(index, term)
        self._SyncObj__raftLog = journal
        remembered = journal.getCurrentTerm()
        current = max(remembered, journal.last_term)
        self._SyncObj__raftCurrentTerm = current
        self._SyncObj__votedForNodeId = journal.getVotedForNodeId() if remembered == current else None
        self._SyncObj__raftCommitIndex = self._SyncObj__raftLastApplied = index

    def _find_configurations(self, journal: Journal, applied_index: int) -> None:
        """Those of the log's tail are effective, though not applied."""
        index = applied_index + 1
        while index <= journal.last_index:
            entries = self._batch(index, BATCH_ENTRIES_MAX)
            for command, at, _ in entries:
                if command[:1] == CONFIGURATION:
                    self.configurations.append(at, Configuration.decode(command[1:]))
            index = entries[-1][1] + 1
        self._configure()

    def _configure(self) -> None:
        """Go by the current configuration from now on."""
        current = self.configurations.current
        self.voters = current.voters
        self.peers = tuple(one for one in current.ids if one != self.own_id)
        voting_peers = [one for one in self.voters if one != self.own_id]
        self._SyncObj__otherNodes = {Node(one) for one in voting_peers}
        self.beats.set_peers(voting_peers)
        for peer in self.peers:
            self.progress.setdefault(peer, Progress(self.journal.last_index + 1))
        self.progress = {peer: self.progress[peer] for peer in self.peers}
        _log.info("group.configured", voters=list(self.voters), peers=list(self.peers))
        self._know()

    def _know(self) -> None:
        """Hear those who may be members, and nobody else, from now on."""
        known = self.configurations.known
        if known != self._known:
            self._known = known
            self._members_changed(known)

    def _batch(self, index: int, most: int) -> list[Entry]:
        """Entries of the log from `index` on: `most` of them, or as many as a message holds."""
        return self.journal.entries(index, BATCH_BYTES_MAX, min(BATCH_ENTRIES_MAX, most))

    # What it is

    def role(self) -> int:
        return int(self._SyncObj__raftState)

    def leads(self) -> bool:
        return self.role() == LEADER

    def term(self) -> int:
        return int(self._SyncObj__raftCurrentTerm)

    def commit_index(self) -> int:
        return int(self._SyncObj__raftCommitIndex)

    def handed_index(self) -> int:
        """The last entry that was given to `on_commit`."""
        return int(self._SyncObj__raftLastApplied)

    def leader_id(self) -> str | None:
        leader = self._SyncObj__raftLeader
        return None if leader is None else str(leader.id)

    def has_contact(self) -> bool:
        """Of a leader: a majority accepted a round that was sent less than an election timeout ago."""
        now = self._clock.monotonic()
        return now - self.beats.quorum_sent_at(now) < self._timing.election_max

    def _log_end(self) -> dict[str, int]:
        return {"last_log_index": self.journal.last_index, "last_log_term": self.journal.last_term}

    # What it becomes

    def _become_follower(self, term: int | None) -> None:
        """Of `term`, or of the present one. No leader is known after it."""
        if term is not None and term > self.term():
            self._SyncObj__setCurrentTerm(term, None)
        self._pre_vote = None
        self._SyncObj__raftLeader = None
        self._SyncObj__setState(FOLLOWER)
        self._postpone_election()

    def _postpone_election(self) -> None:
        timing = self._timing
        wait = timing.election_min + (timing.election_max - timing.election_min) * self._chance()
        self._deadline = self._clock.monotonic() + wait

    def _SyncObj__setCurrentTerm(self, term: int, voted_for: str | None) -> None:  # noqa: N802  a name of PySyncObj's
        """The disk first: a term that it has no room for was never heard of. Raises StorageFull, StorageFailure."""
        self.journal.set_term(term, voted_for)
        self._SyncObj__raftCurrentTerm = term
        self._SyncObj__votedForNodeId = voted_for

    def _SyncObj__setState(self, role: int) -> None:  # noqa: N802  a name of PySyncObj's
        before = self.role()
        self._SyncObj__raftState = role
        if before != role:
            self.transferring = False
            self.beats.give_up_lease()
            self._on_role(role)

    # What it says

    def _send_vote(self, peer: str, message: Message) -> None:
        """PySyncObj answers a candidate; its term and vote are synced by then."""
        if message["type"] != "response_vote":
            raise BrokenInvariantError(f"PySyncObj sends {message['type']}")
        self._links.send(peer, message)

    def _send_stale(self, peer: str) -> None:
        self._links.send(peer, {"type": "stale", "term": self.term()})

    def _stock(self, peer: str, message: Message) -> None:
        """Let PySyncObj handle it."""
        self._SyncObj__onMessageReceived(Node(peer), message)

    def _hear(self, peer: str) -> None:
        """`peer` leads, and this member follows."""
        self._SyncObj__raftLeader = Node(peer)
        self._SyncObj__setState(FOLLOWER)


def _conf(timing: Timing) -> SyncObjConf:
    """Everything of PySyncObj's own that reads clocks, files and sockets is off."""
    return SyncObjConf(
        autoTick=False,
        journalFile=None,
        fullDumpFile=None,
        useFork=False,
        dynamicMembershipChange=False,
        raftMinTimeout=timing.election_min,
        raftMaxTimeout=timing.election_max,
        appendEntriesPeriod=timing.heartbeat,
        leaderFallbackTimeout=timing.election_max,
    )
