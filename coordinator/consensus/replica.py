"""A member of the Raft group: PySyncObj's bookkeeping of votes, behind a guard that keeps Raft's rules.

This is the only module that imports pysyncobj. DESIGN.md lists the holes of the stock library and where each is
closed. No thread, socket, file or clock of its own: `Core` calls it from one loop and hands in what it needs.

Theory of operation
1. What PySyncObj still does: the vote of this member for others (terms, up-to-dateness, one vote a term), and the
   count of votes for this member. What replicates, commits and applies is here, on a journal that is ours.
2. Nothing leaves that says more than the journal's disk does: a vote leaves after term and vote are synced, an
   acknowledgement after the entries are (`release`), and a leader counts its own entries only when they are.
3. A leader commits by majority only entries of its own term; all before them follow.
4. Before a real election there is a pre-vote, which changes nobody's term. Nobody grants either while it hears a
   leader, nor in the first election timeout after its start (it may have promised then what it forgot).
5. A leader numbers its rounds of messages (beats). A round that a majority has echoed proves that nobody led in a
   higher term when it was sent: that is what reads wait for, and what a leader must have lately, or it steps down.
   Who echoes a round also promises to elect nobody for a moment: while a majority's promises last, reads need not wait
   (the lease, `docs/decisions/0013`). Nothing but the leader's own wish to hand over releases one from a promise.
6. Raised exceptions end the process: BrokenInvariantError, StorageFailure. Nothing is logged and gone on from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from common import log
from coordinator.consensus.configuration import Configuration, Configurations
from coordinator.consensus.files import StorageFull
from coordinator.consensus.guard import BrokenInvariantError, Entry, follow
from coordinator.consensus.interfaces import LogEntry
from coordinator.consensus.journal import Journal
from coordinator.consensus.leadership import NEVER, Beats, Freshness
from coordinator.consensus.memory import CHANCE_BITS, Memory, boots_lacking, was_set_back
from coordinator.consensus.messages import Message
from coordinator.consensus.progress import Progress, agreed
from quorumfs.clock import Clock
from quorumfs.errors import InvalidArgumentError
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
class _PreVote:
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


class Replica(SyncObj):  # type: ignore[misc]
    """One member. Everything is called from one thread (the loop); plain reads of numbers from any.

    `on_commit` takes the committed entries in order, each once; `on_role` is told the new role.
    """

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
        self._pre_vote: _PreVote | None = None
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
            entries = journal.entries(index, BATCH_BYTES_MAX, BATCH_ENTRIES_MAX)
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

    # Time

    def keep_time(self) -> None:
        """Elections that are due; a leader without a majority steps down."""
        now = self._clock.monotonic()
        if self.leads():
            if not self.has_contact():
                _log.warning("leadership.lost", term=self.term(), cause="no majority answers")
                self._become_follower(None)
        elif now >= self._deadline:
            self._ask_for_pre_votes()

    def _may_campaign(self) -> bool:
        return self.own_id in self.voters and self.journal.has_room() and self._memory.muted_term is None

    def next_deadline(self) -> float:
        return self._heartbeat_at if self.leads() else self._deadline

    def _postpone_election(self) -> None:
        timing = self._timing
        wait = timing.election_min + (timing.election_max - timing.election_min) * self._chance()
        self._deadline = self._clock.monotonic() + wait

    # Elections

    def _ask_for_pre_votes(self) -> None:
        """Harmless, so asked again sooner than an election: who hears a leader does not answer. Who may not campaign,
        as a learner, asks all the same: so it is told whom to hear, when others lead than it knows of."""
        self._SyncObj__raftLeader = None
        timing = self._timing
        wait = timing.heartbeat + (timing.election_min - timing.heartbeat) * self._chance()
        self._deadline = self._clock.monotonic() + wait
        term = self.term() + 1
        self._pre_vote = _PreVote(term, {self.own_id})
        self._count_pre_votes()
        for peer in self.peers:
            self._links.send(peer, {"type": "pre_vote", "term": term, **self._log_end()})

    def _on_pre_vote(self, peer: str, message: Message) -> None:
        applied = self.handed_index()
        if message["last_log_index"] < applied:  # its leader may be somebody it has not heard of
            configuration = self.configurations.committed.encode()
            self._links.send(peer, {"type": "members", "index": applied, "configuration": configuration})
        if message["term"] <= self.term():
            self._send_stale(peer)
        elif self._may_vote() and self._is_up_to_date(message):
            self._links.send(peer, {"type": "pre_vote_ok", "term": message["term"]})

    def _on_pre_vote_ok(self, peer: str, message: Message) -> None:
        if self._pre_vote is not None and message["term"] == self._pre_vote.term and peer in self.voters:
            self._pre_vote.granted.add(peer)
            self._count_pre_votes()

    def _count_pre_votes(self) -> None:
        asked = self._pre_vote
        if asked is None or self.leads() or asked.term != self.term() + 1 or not self._may_campaign():
            return
        if len(asked.granted) * 2 > len(self.voters):
            self._campaign(transfer=False)

    def _campaign(self, *, transfer: bool) -> None:
        self._pre_vote = None
        self._postpone_election()
        self._SyncObj__raftLeader = None
        self._SyncObj__setState(CANDIDATE)
        self._SyncObj__setCurrentTerm(self.term() + 1, self.own_id)
        self._votes = {self.own_id}
        self._SyncObj__votesCount = 1
        _log.info("election.begun", term=self.term(), transfer=transfer)
        if self.voters == (self.own_id,):
            self._SyncObj__onBecomeLeader()
            return
        for peer in self.peers:
            self._links.send(
                peer,
                {"type": "request_vote", "term": self.term(), "transfer": transfer, **self._log_end()},
            )

    def _on_members(self, peer: str, message: Message) -> None:
        """Somebody who is further says whom to hear."""
        if message["index"] > self.handed_index():
            try:
                told = Configuration.decode(message["configuration"])
            except InvalidArgumentError as error:
                _log.warning("members.malformed", told_by=peer, cause=str(error))
                return
            self.configurations.tell(message["index"], told)
            self._know()

    def _on_request_vote(self, peer: str, message: Message) -> None:
        if not message["transfer"] and not self._may_vote():
            return
        if self._has_just_started() or not self.journal.has_room() or self._memory.muted_term is not None:
            return
        before = self.term()
        self._stock(peer, message)
        if self.term() > before:
            self._pre_vote = None
            self._postpone_election()

    def _on_response_vote(self, peer: str, message: Message) -> None:
        """PySyncObj counts answers, not voters: the same voter must not get through twice."""
        if message["term"] == self.term() and peer in self.voters and peer not in self._votes:
            self._votes.add(peer)
            self._stock(peer, message)

    def _on_timeout_now(self, peer: str, message: Message) -> None:
        asked = message["term"] == self.term() and self.leader_id() == peer
        if asked and self._may_campaign() and not self._has_just_started():
            self._campaign(transfer=True)

    def _may_vote(self) -> bool:
        """Stickiness and the boot wait; a full disk could not remember the vote."""
        if self._has_just_started() or not self.journal.has_room() or self._memory.muted_term is not None:
            return False
        if self.leads():
            return not self.has_contact()
        now = self._clock.monotonic()
        return now >= self._promised_until and now - self.heard_at >= self._timing.election_min

    def _has_just_started(self) -> bool:
        """Time for its peers to tell it what it has forgotten: until then not even a leader's wish makes it vote."""
        return self._clock.monotonic() < self._mute_until

    def _is_up_to_date(self, message: Message) -> bool:
        theirs = (message["last_log_term"], message["last_log_index"])
        return theirs >= (self.journal.last_term, self.journal.last_index)

    def _log_end(self) -> dict[str, int]:
        return {"last_log_index": self.journal.last_index, "last_log_term": self.journal.last_term}

    def _send_vote(self, peer: str, message: Message) -> None:
        """PySyncObj answers a candidate; its term and vote are synced by then."""
        if message["type"] != "response_vote":
            raise BrokenInvariantError(f"PySyncObj sends {message['type']}")
        self._links.send(peer, message)

    def _send_stale(self, peer: str) -> None:
        self._links.send(peer, {"type": "stale", "term": self.term()})

    def _become_follower(self, term: int | None) -> None:
        """Of `term`, or of the present one. No leader is known after it."""
        if term is not None and term > self.term():
            self._SyncObj__setCurrentTerm(term, None)
        self._pre_vote = None
        self._SyncObj__raftLeader = None
        self._SyncObj__setState(FOLLOWER)
        self._postpone_election()

    def _SyncObj__setState(self, role: int) -> None:  # noqa: N802  a name of PySyncObj's
        before = self.role()
        self._SyncObj__raftState = role
        if before != role:
            self.transferring = False
            self.beats.give_up_lease()
            self._on_role(role)

    def _SyncObj__onBecomeLeader(self) -> None:  # noqa: N802  a name of PySyncObj's
        now = self._clock.monotonic()
        last = self.journal.last_index
        self._SyncObj__raftLeader = self._SyncObj__selfNode
        self.progress = {peer: Progress(last + 1) for peer in self.peers}
        self.noop_index = last + 1
        self.journal.add(NOOP, self.noop_index, self.term())
        self._SyncObj__setState(LEADER)
        self.beats.restart(now)
        self._led_by = {self.term(): self.own_id}
        _log.info("election.won", term=self.term(), votes=len(self._votes))
        self.replicate()

    # A leader's side

    def append(self, command: bytes) -> int:
        """Add an entry to the log of this leader; its index. It goes out with the next `replicate`."""
        index = self.journal.last_index + 1
        self.journal.add(COMMAND + command, index, self.term())
        return index

    def change_members(self, configuration: Configuration) -> int:
        """Append a configuration to the log of this leader; effective at once. Its index."""
        index = self.journal.last_index + 1
        self.journal.add(CONFIGURATION + configuration.encode(), index, self.term())
        self.configurations.append(index, configuration)
        self._configure()
        return index

    def replication_due(self) -> bool:
        """A heartbeat, or a peer that is behind has room again for more."""
        return self.leads() and (self._sends_on or self._clock.monotonic() >= self._heartbeat_at)

    def replicate(self) -> int:
        """Send every peer what it lacks, or a heartbeat; the number of the round."""
        now = self._clock.monotonic()
        self._sends_on = False
        self._heartbeat_at = now + self._timing.heartbeat
        beat = self.beats.send(now)
        check_index, check_hash = self.own_check()
        for peer in self.peers:
            self._send_entries(peer, beat, check_index, check_hash)
        return beat

    def _send_entries(self, peer: str, beat: int, check_index: int, check_hash: bytes) -> None:
        if not self._links.connected(peer):
            return
        progress, log = self.progress[peer], self.journal
        first_message = True
        while first_message or self._may_send_more(peer):
            previous = progress.next - 1
            previous_term = log.term_at(previous)
            if previous_term is None:
                self._hint_at_snapshot(peer, beat)
                return
            entries: Sequence[Entry] = ()
            if progress.next <= log.last_index and progress.window and self._links.room(peer):
                count = min(progress.window, BATCH_ENTRIES_MAX)
                entries = log.entries(progress.next, BATCH_BYTES_MAX, count)
            message = {
                "type": "append_entries",
                "term": self.term(),
                "commit_index": self.commit_index(),
                "prevLogIdx": previous,
                "prevLogTerm": previous_term,
                "entries": entries,
                "beat": beat,
                "check_index": check_index,
                "check_hash": check_hash,
            }
            if not self._links.send(peer, message):
                return
            progress.next += len(entries)
            first_message = False

    def _may_send_more(self, peer: str) -> bool:
        """A peer of which nothing is known yet gets one message a round, to find out where it stands."""
        progress = self.progress[peer]
        behind = progress.known > 0 and progress.next <= self.journal.last_index
        return behind and progress.window > 0 and self._links.room(peer) > 0

    def _hint_at_snapshot(self, peer: str, beat: int) -> None:
        """The peer needs entries that are gone here: it must fetch the state itself. Also a heartbeat."""
        self._links.send(
            peer,
            {"type": "snapshot_hint", "term": self.term(), "beat": beat, "index": self.journal.first_index},
        )

    def _on_next_node_idx(self, peer: str, message: Message) -> None:
        if message["term"] != self.term() or not self.leads() or peer not in self.progress:
            return
        progress = self.progress[peer]
        known_before = progress.known
        if message["success"]:
            if progress.doubted:
                return
            # No other answer proves anything: a muted member may have elected another leader, and have forgotten it.
            self.beats.echo(peer, message["beat"], message["hold_ms"] / 1000)
            if message["next_node_idx"] - 1 <= self.journal.last_index:
                progress.acknowledged(message["next_node_idx"] - 1)
        elif not message["reset"]:
            progress.heard(min(message["next_node_idx"] - 1, self.journal.last_index))
        else:
            progress.refused(message["next_node_idx"], message["beat"], self.beats.last)
        self._sends_on |= progress.known > known_before and self._may_send_more(peer)

    def link_changed(self, peer: str, connected: bool) -> None:
        """What was under way on a connection that ended is lost; a leader whose process died closes its."""
        if peer in self.progress:
            self.progress[peer].lost_contact()
        if connected:
            greeting = {"boot": self._boot, "last_log_index": self.journal.synced_index}
            self._links.send(peer, {"type": "greeting", **greeting})
        elif self.leader_id() == peer and not self.leads():
            self.heard_at = NEVER
            free_from = max(self._clock.monotonic(), self._promised_until)
            soon = free_from + 2 * self._timing.heartbeat * self._chance()
            self._deadline = min(self._deadline, soon)

    def advance_commit(self) -> None:
        """Commit what a majority has, this member's own entries only as far as its disk has them."""
        if self.leads():
            matches = [
                self.journal.synced_index if voter == self.own_id else self.progress[voter].match
                for voter in self.voters
            ]
            index = agreed(matches)
            if index > self.commit_index() and self.journal.term_at(index) == self.term():
                self._SyncObj__raftCommitIndex = index
        self._hand_over()

    def _hand_over(self) -> None:
        """Give the committed entries to be applied: those that this member's disk has."""
        if self.configurations.applied(self.handed_index()):
            self._know()
        upto = min(self.commit_index(), self.journal.synced_index)
        while self.handed_index() < upto and self.may_hand_over():
            found = self.journal.entries(
                self.handed_index() + 1, BATCH_BYTES_MAX, min(BATCH_ENTRIES_MAX, upto - self.handed_index())
            )
            self._SyncObj__raftLastApplied = found[-1][1]
            self._on_commit(
                [
                    LogEntry(
                        index,
                        term,
                        command[1:] if command[:1] == COMMAND else None,
                        command[1:] if command[:1] == CONFIGURATION else None,
                    )
                    for command, index, term in found
                ]
            )

    def best_follower(self) -> str | None:
        """Whom the leadership could be handed to with the least waiting."""
        connected = [peer for peer in self.voters if peer != self.own_id and self._links.connected(peer)]
        return max(connected, key=lambda peer: (self.progress[peer].match, peer), default=None)

    def hand_leadership_to(self, peer: str) -> bool:
        """Tell a follower that has the whole log to begin an election at once; False: it lacks some yet."""
        if not self.leads() or peer not in self.voters or peer == self.own_id or self.journal.dirty:
            return False
        if self.progress[peer].match != self.journal.last_index:
            return False
        self.beats.give_up_lease()
        return self._links.send(peer, {"type": "timeout_now", "term": self.term()})

    # A follower's side

    def receive(self, peer: str, message: Message) -> None:
        """Take in a message of a peer. Raises BrokenInvariantError, StorageFailure."""
        handle = self._HANDLERS.get(message["type"])
        if handle is None or peer not in self._known:
            return
        handle(self, peer, message)

    def _on_append_entries(self, peer: str, message: Message) -> None:
        if not self._accept_leader(peer, message["term"]):
            return
        entries = message["entries"]
        if entries and not self.journal.has_room():
            entries = []  # a full disk: hear the leader, take nothing, acknowledge what was here before
        plan = follow(
            self.journal, self.commit_index(), message["prevLogIdx"], message["prevLogTerm"], entries
        )
        if not plan.matched:
            self._acknowledge(peer, message["beat"], plan.verified, reset=True)
            return
        if plan.truncate_from is not None:
            _log.info("log.truncated", index=plan.truncate_from, leader=peer)
            self.journal.truncate_from(plan.truncate_from)
        reconfigured = plan.truncate_from is not None and self.configurations.truncate_from(
            plan.truncate_from
        )
        for command, index, term in plan.append:
            self.journal.add(command, index, term)
            if command[:1] == CONFIGURATION:
                self.configurations.append(index, Configuration.decode(command[1:]))
                reconfigured = True
        if reconfigured:
            self._configure()
        muted_since = self._memory.muted_term
        if muted_since is not None and message["term"] > muted_since:
            self._may_unmute = self._has_all_committed(message, plan.verified)
        commit = min(message["commit_index"], plan.verified)
        if commit > self.commit_index():
            self._SyncObj__raftCommitIndex = commit
        self.freshness.heard(self.heard_at, message["term"], message["commit_index"])
        if self.check is None and message["check_index"]:
            self.check = (message["check_index"], message["check_hash"])
        self._acknowledge(peer, message["beat"], plan.verified, reset=False)

    def _has_all_committed(self, message: Message, verified: int) -> bool:
        """Whether `verified` covers all that was committed before the leader's term. A leader knows that only when an
        entry of its own term is committed: one that has just been started tells a commit index from long ago."""
        commit: int = message["commit_index"]
        return verified >= commit and self.journal.term_at(commit) == int(message["term"])

    def _on_snapshot_hint(self, peer: str, message: Message) -> None:
        if not self._accept_leader(peer, message["term"]):
            return
        self.wanted_snapshot = (peer, message["index"])
        # What is committed here is in every leader's log: so it may go on from there, after a snapshot above all.
        self._acknowledge(
            peer, message["beat"], min(self.commit_index(), self.journal.synced_index), reset=False
        )

    def _on_stale(self, peer: str, message: Message) -> None:
        if message["term"] > self.term():
            self._become_follower(message["term"])

    def _accept_leader(self, peer: str, term: int) -> bool:
        """Hear `peer` as leader of `term`, unless that is over; then it is told so."""
        if term < self.term():
            self._send_stale(peer)
            return False
        led_before = self.own_id if self.leads() else self._led_by.get(term)
        if term == self.term() and led_before not in (None, peer):
            raise BrokenInvariantError(f"{peer} leads in term {term}, and so does {led_before}")
        if term > self.term():
            self._SyncObj__setCurrentTerm(term, None)
        self._led_by = {term: peer}
        self._pre_vote = None
        self._SyncObj__raftLeader = Node(peer)
        self._SyncObj__setState(FOLLOWER)
        self.heard_at = self.spoke_at = self._clock.monotonic()
        self._promised_until = self.heard_at + self._timing.hold
        self._postpone_election()
        return True

    def _acknowledge(self, peer: str, beat: int, verified: int, *, reset: bool) -> None:
        """Say what was compared with this leader, once it is synced; a refusal needs no disk."""
        message = {
            "type": "next_node_idx",
            "term": self.term(),
            "next_node_idx": verified + 1,
            "reset": reset,
            "success": not reset and self._memory.muted_term is None,
            "beat": beat,
            "hold_ms": int(self._timing.hold * 1000),
        }
        if self.journal.dirty and not reset:
            self._acks.append((self.term(), peer, message))
        else:
            self._links.send(peer, message)

    def release(self) -> None:
        """After the journal was synced: let the acknowledgements go that are still of this term."""
        if self._may_unmute:
            self._may_unmute = False
            if self._remember(self._memory.unmute):
                _log.info("member.unmuted", term=self.term())
        acks, self._acks = self._acks, []
        for term, peer, message in acks:
            if term == self.term():
                self._links.send(peer, message)

    # Disks that forgot

    def _on_greeting(self, peer: str, message: Message) -> None:
        """A peer whose disk was set back shows a start, or an end of its log, that lies before what is remembered."""
        member = self._known[peer]
        remembered = self._memory.boot_of(member.member_uuid)
        acknowledged = self.progress[peer].match if self.leads() and peer in self.progress else 0
        set_back = was_set_back(message["boot"], remembered)
        if message["boot"] != remembered and not set_back:
            self._remember(partial(self._memory.note_boot, member.member_uuid, message["boot"]))
        if set_back or message["last_log_index"] < acknowledged:
            _log.warning("peer.forgot", peer=peer, boot=message["boot"], remembered=remembered)
            if peer in self.progress:
                self.progress[peer] = Progress(self.journal.last_index + 1, doubted=set_back)
            told = {"term": self.term(), "boot": remembered, "match": acknowledged}
            self._links.send(peer, {"type": "forgotten", **told})

    def _on_forgotten(self, peer: str, message: Message) -> None:
        """Believed only if it is so: the message may be late, and the disk in order."""
        if not was_set_back(self._boot, message["boot"]) and message["match"] <= self.journal.synced_index:
            return
        term = max(message["term"], self.term())
        set_back = was_set_back(self._boot, message["boot"])
        lacking = boots_lacking(self._boot, message["boot"]) if set_back else 0
        _log.warning("member.muted", told_by=peer, term=term)
        if self._remember(partial(self._memory.mute, term, lacking)):
            self._boot += lacking << CHANCE_BITS  # what it has forgotten is kept in mind here from now on
        if self.role() != FOLLOWER:
            self._become_follower(None)

    def _remember(self, write: Callable[[], None]) -> bool:
        """A full disk is no reason to end: the same is told again by a later greeting, or by the leader."""
        try:
            write()
        except StorageFull as error:
            _log.warning("memory.disk_full", cause=str(error))
            return False
        return True

    # Snapshots

    def installed(self, index: int, term: int, configuration: Configuration) -> None:
        """The state machine became a snapshot of (index, term): the log begins there, or goes on."""
        if term > self.term():
            self._become_follower(term)  # the snapshot knows of a later leader than this member
        if (
            index >= self.journal.first_index
        ):  # else applying went on, and the log was compacted beyond it already
            self.journal.reset(index, term)
        if (
            index > self.handed_index()
        ):  # else the log, which was followed beyond it, told of later ones already
            self.configurations.reset(index, configuration)
        self.configurations.truncate_from(self.journal.last_index + 1)
        self._configure()
        self._SyncObj__raftLastApplied = max(self.handed_index(), index)
        self._SyncObj__raftCommitIndex = min(max(self.commit_index(), index), self.journal.last_index)
        self.check = None

    def _stock(self, peer: str, message: Message) -> None:
        self._SyncObj__onMessageReceived(Node(peer), message)

    _HANDLERS: Mapping[str, Callable[[Any, str, Message], None]] = {
        "append_entries": _on_append_entries,
        "next_node_idx": _on_next_node_idx,
        "request_vote": _on_request_vote,
        "response_vote": _on_response_vote,
        "pre_vote": _on_pre_vote,
        "pre_vote_ok": _on_pre_vote_ok,
        "stale": _on_stale,
        "timeout_now": _on_timeout_now,
        "snapshot_hint": _on_snapshot_hint,
        "greeting": _on_greeting,
        "forgotten": _on_forgotten,
        "members": _on_members,
    }


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
