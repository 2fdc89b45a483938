"""The member of the group as one deterministic thing: replica, log, queue, reads, applying, put in order.

`turn` is the whole loop. Production calls it on the thread `raft` (door.py); the simulation calls it under its own
clock and network. Other threads only put things into queues here and wake the loop.

The order of a turn
1. Time: elections, stepping down, compaction.
2. Commit what a majority has; hand it to the applier, which a follower has begin only when some has gathered.
3. A leader whose no-op is applied begins its leadership; it takes what waits into entries (at most two under way),
   notes the barrier of what wants to read, and sends. The journal is synced after sending, so that the disks of
   all members work at the same time; and meanwhile the applier may try what is not committed yet.
4. Messages are received. What they appended is synced once, and only then acknowledged; then the sync is sealed.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from common import log
from coordinator.consensus.applier import BACKLOG_BYTES_MAX, Applier, Committed
from coordinator.consensus.configuration import Configuration
from coordinator.consensus.guard import BrokenInvariantError
from coordinator.consensus.interfaces import DatabaseDoor, Done, LogEntry, Question
from coordinator.consensus.journal import Journal
from coordinator.consensus.leadership import LeaderClock, Leadership
from coordinator.consensus.links import Peer
from coordinator.consensus.memory import Memory, VolatileMemory
from coordinator.consensus.messages import Message
from coordinator.consensus.proposals import (
    SEED_BYTES,
    Proposal,
    ProposalQueue,
    Waiting,
    build_entry,
    expired_error,
)
from coordinator.consensus.replica import Replica
from coordinator.consensus.standing import LEADER, Links, Timing
from coordinator.consensus.upkeep import Fetch, Upkeep
from quorumfs.clock import Clock
from quorumfs.errors import BusyError, NoSpaceError, NotLeaderError, OutcomeUnknownError, QuorumFSError
from quorumfs.mint import RandomBytes
from quorumfs.v1 import membership_pb2 as m

ENTRIES_UNDER_WAY_MAX = 2
BARRIERS_MAX = 2
READS_MAX = 20_000
ROOM_SECONDS_MAX = 3.0  # a leader that waits longer for a segment to be made hands over
TRANSFER_SECONDS = 2.0
GATHER_SECONDS = 0.1  # how long a follower lets committed entries gather before it applies them

_log = log.get(__name__)


class Wire(Links, Protocol):
    """Links that the loop drives."""

    def start(
        self, on_message: Callable[[str, Message], None], on_change: Callable[[str, bool], None]
    ) -> None: ...

    def poll(self, seconds: float) -> None: ...

    def wake(self) -> None: ...

    def set_peers(self, peers: Iterable[Peer]) -> None: ...


@dataclass(frozen=True, slots=True)
class Reading:
    """A question that waits for its barrier."""

    question: Question
    done: Done


@dataclass(frozen=True, slots=True)
class _Barrier:
    """Reads that may be answered once round `beat` is echoed by a majority and `index` is applied."""

    beat: int
    index: int
    readings: Sequence[Reading]


@dataclass(frozen=True, slots=True)
class Change:
    """A wish to change the members: `make` gives the next configuration, or raises QuorumFSError."""

    make: Callable[[Configuration], Configuration]
    done: Done


@dataclass(slots=True)
class Transfer:
    """A wish to hand the leadership over; `done` is set when it ended, `given` says how."""

    to: str | None
    deadline: float
    done: threading.Event
    given: bool = False


@dataclass(frozen=True, slots=True)
class Outside:
    """What the core needs of the world around it. Called on the loop, `answer` also by whoever asks."""

    answer: Callable[[Sequence[Reading]], None]  # run questions on this member's state, now
    fetch: Fetch
    applied_configuration: Callable[[], Configuration]  # as the state has it
    apply_waits: Callable[[], None]  # there is work for the applier
    prepare_journal: Callable[[], None]  # have the spare segment made
    leadership_changed: Callable[[Leadership | None], None]


class Core:
    """See the module. `propose`, `read`, `transfer` from any thread; the rest from the loop."""

    def __init__(
        self,
        own_id: str,
        configuration: Configuration,
        history: int,
        journal: Journal,
        database: DatabaseDoor,
        wire: Wire,
        clock: Clock,
        chance: Callable[[], float],
        random: RandomBytes,
        timing: Timing,
        journal_keep_bytes: int,
        outside: Outside,
        memory: Memory | None = None,
        boot: int = 0,
        read_lease: bool = True,
    ) -> None:
        self.journal = journal
        self.database = database
        self.queue = ProposalQueue()
        self.applier = Applier(database, outside.apply_waits, self._on_progress, self._on_installed)
        self._wire = wire
        self._history = history
        self._clock = clock
        self._random = random
        self._outside = outside
        self._read_lease = read_lease
        self._waiting: dict[int, list[Waiting]] = {}
        self._reads: deque[Reading] = deque()
        self._changes: deque[Change] = deque()
        self._own_id = own_id
        self._barriers: deque[_Barrier] = deque()
        self._transfer: Transfer | None = None
        self._leader_clock = LeaderClock(0, 0.0)
        self._last_stamp_ms = 0
        self._had_room_at = clock.monotonic()
        self._awaits_applier = True
        self._apply_at = math.inf  # when what has gathered is to be applied
        self._progress_seen = 0
        self._to_try: LogEntry | None = None  # proposed in this turn, with nothing before it under way
        self.leadership: Leadership | None = None
        self.turned_at = clock.monotonic()
        self.replica = Replica(
            own_id,
            configuration,
            journal,
            (database.applied_index, database.applied_term),
            wire,
            clock,
            chance,
            timing,
            self._on_commit,
            self._on_role,
            self._members_changed,
            memory or VolatileMemory(),
            boot,
        )
        self.upkeep = Upkeep(
            self.replica,
            journal,
            self.applier,
            database,
            clock,
            journal_keep_bytes,
            outside.fetch,
            outside.applied_configuration,
            outside.prepare_journal,
            wire.wake,
        )
        journal.on_wait(self._try_proposed)
        self.replica.own_check = self._own_check
        self.replica.may_hand_over = lambda: self.applier.backlog_bytes < BACKLOG_BYTES_MAX

    def start(self) -> None:
        """Open the wire. Raises UnavailableError."""
        self._wire.start(self.replica.receive, self.replica.link_changed)

    def end(self) -> None:
        """The loop turns no more: answer everybody who still waits."""
        self._end_leadership()

    # Any thread

    def propose(self, proposal: Proposal, done: Done) -> None:
        """Queue it; `done` gets the answer. Whatever is refused at once goes to `done` too."""
        if self.leadership is None:
            done(self.not_leader())
            return
        if self.disk_full:
            done(
                NoSpaceError(
                    f"the disk of {self.replica.own_id} is full",
                    cause="the leader can write no log entry; it hands the leadership over",
                    next="free space on its node.data_dir; another coordinator takes over meanwhile",
                )
            )
            return
        try:
            self.queue.put(proposal, done)
        except QuorumFSError as error:
            done(error)
            return
        self._wire.wake()

    @property
    def disk_full(self) -> bool:
        """There is no room for the log or the state. Not: the next segment of the log is still being made."""
        return self.journal.disk_full or self.applier.disk_full

    def read(self, question: Question, done: Done) -> None:
        """Answer under the lease, else behind a barrier: what was acknowledged before this call is seen."""
        lease_until = self.replica.beats.lease_until  # first of all: see docs/decisions/0013
        leased = self._read_lease and self._clock.monotonic() < lease_until
        if self.leadership is None:
            done(self.not_leader())
            return
        if leased:
            self._outside.answer((Reading(question, done),))
            return
        if len(self._reads) >= READS_MAX:
            done(BusyError("too many questions wait", next="try again a little later"))
            return
        self._reads.append(Reading(question, done))
        self._wire.wake()

    def change_members(self, change: Change) -> None:
        """Queue a change of the group's members; its `done` gets b"" when it is committed, or why it was refused."""
        if self.leadership is None:
            change.done(self.not_leader())
            return
        self._changes.append(change)
        self._wire.wake()

    def transfer(self, transfer: Transfer) -> None:
        self._transfer = transfer
        self._wire.wake()

    def now_ms(self) -> int:
        """Replicated time: as a leader tells it, or that of the last entry applied here."""
        if self.leadership is None:
            return self.database.cluster_ms()
        return max(self._last_stamp_ms, self._leader_clock.now_ms(self._clock.monotonic()))

    def state_age(self) -> float:
        """Seconds since this member's state had all that was committed, as far as its leader said; 0 when it leads.
        What a leader's message took on its way comes on top."""
        if self.leadership is not None:
            return 0.0
        return self._clock.monotonic() - self.replica.freshness.as_of

    def not_leader(self) -> NotLeaderError:
        return NotLeaderError(f"{self.replica.own_id} does not lead")

    # The loop

    def turn(self, wait_seconds: float) -> None:
        """One turn, waiting up to `wait_seconds` for messages. Raises what must end the process."""
        replica, journal = self.replica, self.journal
        self.turned_at = self._clock.monotonic()
        self._progress_seen = self.applier.progress  # first of all: what comes after it is looked for again
        self.upkeep.take_installed()
        replica.keep_time()
        replica.advance_commit()
        self._follow_role()
        self._expire()
        self._lead()
        journal.sync()
        replica.advance_commit()
        self._apply_gathered()
        self._note_freshness()
        self._check_state()
        self.upkeep.work()
        self._wire.poll(self._patience(wait_seconds))
        journal.sync(seal=False)
        replica.release()
        journal.seal()

    def _patience(self, wait_seconds: float) -> float:
        if self._waits_for_applier():
            return 0.0
        if (self.leadership and self._may_propose()) or (self._reads and len(self._barriers) < BARRIERS_MAX):
            return 0.0
        if self._barriers and not self.replica.peers:
            return 0.0  # a group of one: the round is accepted already
        until = (
            min(self.replica.next_deadline(), self.upkeep.due_at, self._apply_at) - self._clock.monotonic()
        )
        return max(0.0, min(wait_seconds, until))

    def _waits_for_applier(self) -> bool:
        """Whether what this turn lacked may have been applied while it ran; if it was not, its coming wakes the loop.

        Nothing else does: a turn that finds nothing to do would stand between the applier and those whom it answers.
        """
        replica = self.replica
        self._awaits_applier = (
            bool(self._barriers)
            or (self.leadership is None and replica.leads())
            or replica.handed_index() < min(replica.commit_index(), self.journal.synced_index)
            or (bool(self.queue) and self.applier.backlog_bytes >= BACKLOG_BYTES_MAX)
        )
        return self._awaits_applier and self.applier.progress != self._progress_seen

    def _on_progress(self) -> None:
        """The applier's thread: it has done a piece of its work."""
        if self._awaits_applier:
            self._wire.wake()

    def _on_installed(self, index: int, term: int) -> None:
        self.upkeep.installed(index, term)

    # Leading

    def _on_role(self, role: int) -> None:
        """Before anything else is done with the log: what waits belongs to entries that may be replaced now."""
        if role != LEADER:
            self._end_leadership()

    def _follow_role(self) -> None:
        """Begin a leadership when its no-op is applied; refuse what came too late for a lost one."""
        if not self.replica.leads():
            self._refuse_all()
        elif self.leadership is None and self.database.applied_index >= self.replica.noop_index:
            now = self._clock.monotonic()
            self._leader_clock = LeaderClock(self.database.cluster_ms(), now)
            self._had_room_at = now
            self._last_stamp_ms = self.database.cluster_ms()
            self.leadership = Leadership(self.replica.term(), self._history, now)
            self._outside.leadership_changed(self.leadership)

    def _end_leadership(self) -> None:
        led, self.leadership = self.leadership, None
        unknown = list(self._waiting.values())
        self._waiting.clear()
        for waiting in (one for entry in unknown for one in entry):
            waiting.done(
                OutcomeUnknownError(
                    f"{self.replica.own_id} stopped leading",
                    cause="the operation is in its log and may yet be committed by the next leader",
                )
            )
        self._refuse_all()
        if self._transfer is not None:
            self._end_transfer(given=True)
        if led is not None:
            self._outside.leadership_changed(None)

    def _refuse_all(self) -> None:
        """Nothing of what waits was proposed or read."""
        if not (self.queue or self._reads or self._barriers or self._changes):
            return
        while self._changes:
            self._changes.popleft().done(self.not_leader())
        for waiting in self.queue.take_all():
            waiting.done(self.not_leader())
        while self._barriers:
            for reading in self._barriers.popleft().readings:
                reading.done(self.not_leader())
        while self._reads:
            self._reads.popleft().done(self.not_leader())

    def _expire(self) -> None:
        for waiting in self.queue.take_expired(self._clock.monotonic()):
            waiting.done(expired_error())

    def _lead(self) -> None:
        replica = self.replica
        if not replica.leads():
            return
        send = replica.replication_due()
        if self.leadership is not None:
            self._finish_barriers()
            send = self._transfer_leadership() or send
            send = self._change_members() or send
            send = self._propose() or send
            send = self._note_barrier() or send
        if send:
            replica.replicate()

    def _propose(self) -> bool:
        """What waits becomes entries; True when there is something to send."""
        sends = False
        while self._may_propose():
            taken = self.queue.take()
            self._last_stamp_ms = self.now_ms()
            entry = build_entry(taken, self._last_stamp_ms, self._clock.wall_ms(), self._random(SEED_BYTES))
            index = self.replica.append(entry)
            if not self._waiting:
                self._to_try = LogEntry(index, self.replica.term(), entry)
            self._waiting[index] = taken
            sends = True
        return sends

    def _may_propose(self) -> bool:
        """Whether something waits, and may become an entry now; if not, what it lacks wakes the loop when it comes."""
        return (
            bool(self.queue)
            and len(self._waiting) < ENTRIES_UNDER_WAY_MAX
            and not self.replica.transferring
            and self.journal.has_room()
            and self.applier.backlog_bytes < BACKLOG_BYTES_MAX
        )

    def _note_barrier(self) -> bool:
        if not self._reads or len(self._barriers) >= BARRIERS_MAX:
            return False
        readings = []
        while self._reads:
            readings.append(self._reads.popleft())
        beat = self.replica.beats.last + 1  # of the round that is sent in this very turn
        self._barriers.append(_Barrier(beat, self.replica.commit_index(), readings))
        return True

    def _finish_barriers(self) -> None:
        while self._barriers:
            first = self._barriers[0]
            if self.replica.beats.quorum_beat() < first.beat or self.database.applied_index < first.index:
                return
            self._barriers.popleft()
            self._outside.answer(first.readings)

    def _transfer_leadership(self) -> bool:
        transfer = self._transfer
        if transfer is None:
            if self.disk_full or self._waits_long_for_room():
                self._transfer = Transfer(None, self._clock.monotonic() + TRANSFER_SECONDS, threading.Event())
            return False
        if self._clock.monotonic() >= transfer.deadline:
            self._end_transfer(given=False)
            return False
        peer = transfer.to or self.replica.best_follower()
        if peer is None:
            return False
        if peer not in self.replica.voters:
            self._end_transfer(given=False)
            return False
        if not self.replica.transferring:
            self.replica.transferring = True
            return True
        self.replica.hand_leadership_to(peer)
        return False

    def _waits_long_for_room(self) -> bool:
        """The disk is not full, but too slow to make the next segment: another may have a better one."""
        now = self._clock.monotonic()
        if self.journal.has_room():
            self._had_room_at = now
        return now - self._had_room_at > ROOM_SECONDS_MAX

    def _end_transfer(self, *, given: bool) -> None:
        transfer, self._transfer = self._transfer, None
        self.replica.transferring = False
        if transfer is not None:
            transfer.given = given
            transfer.done.set()

    def _try_proposed(self) -> None:
        """While the disks are waited for, the applier may begin with what they are waited for."""
        entry, self._to_try = self._to_try, None
        if entry is not None:
            self.applier.try_next(entry)

    # Members

    def _members_changed(self, known: Mapping[str, m.Member]) -> None:
        """Who may belong to the group is decided in the log; the wire follows."""
        own_id = self._own_id
        self._wire.set_peers(
            Peer(one.node_id, one.member_uuid, one.raft) for one in known.values() if one.node_id != own_id
        )

    def _change_members(self) -> bool:
        """One change at a time, made from the configuration as it is; True when there is something to send."""
        replica = self.replica
        if not self._changes or replica.transferring or not self.journal.has_room():
            return False
        if replica.configurations.last_index > replica.handed_index():
            return False  # the one before is still under way
        change = self._changes.popleft()
        try:
            configuration = change.make(replica.configurations.current)
        except QuorumFSError as error:
            change.done(error)
            return False
        index = replica.change_members(configuration)
        self._waiting[index] = [Waiting(b"", 1, 0.0, change.done)]
        return True

    # Applying

    def _on_commit(self, entries: list[LogEntry]) -> None:
        at_once = self.replica.leads()
        for entry in entries:
            self.applier.put(Committed(entry, self._waiting.pop(entry.index, ())), at_once=at_once)
        if not at_once:
            self._apply_at = min(self._apply_at, self._clock.monotonic() + GATHER_SECONDS)

    def _apply_gathered(self) -> None:
        """Nobody waits for what a follower applies: a transaction for many entries costs it little more than one for
        each, and leaves it free to acknowledge the next. Whoever leads applies at once."""
        if self._apply_at < math.inf and (
            self.replica.leads() or self.applier.fills_group or self._clock.monotonic() >= self._apply_at
        ):
            self._apply_at = math.inf
            self._outside.apply_waits()

    def _own_check(self) -> tuple[int, bytes]:
        index = self.database.applied_index
        return index, self.database.rolling_at(index) or b""

    def _note_freshness(self) -> None:
        replica, applied = self.replica, self.database.applied_index
        if self.leadership is None:
            replica.freshness.applied(applied, self.journal.term_at)
        elif applied >= replica.commit_index():
            replica.freshness.led(replica.beats.quorum_sent_at(self._clock.monotonic()))

    def _check_state(self) -> None:
        """Compare this state with the leader's at an index that both have applied."""
        check = self.replica.check
        if check is None or check[0] > self.database.applied_index:
            return
        self.replica.check = None
        own = self.database.rolling_at(check[0])
        if own and check[1] and own != check[1]:
            raise BrokenInvariantError(
                f"the state of {self.replica.own_id} differs from the leader's at index {check[0]}"
            )
