"""Raft's promises, watched from outside while they are kept: what members say on the wire, and how they stand after.

Each rule here is one that a client would notice only much later, if at all:
1. One leader a term; one vote a member and term.
2. What was said is remembered: a term, a vote, an acknowledged entry are there after any crash.
3. What is acknowledged to a leader is what that leader has.
4. What is committed anywhere stays committed, the same everywhere, and is on a majority's disks.
5. Nobody grants a vote while it hears a leader, or just after its start; a transfer is an exception.
6. A leader whom no majority answers steps down.
7. Terms and indexes of a process do not go back. Whoever waits is answered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coordinator.consensus.messages import Message
from tests.simulation.world import Violation

if TYPE_CHECKING:
    from tests.simulation.process import Process

ANSWER_SECONDS_MAX = 15.0
NEVER = -1e9


@dataclass
class _Standing:
    """Of one process: where it stood after its last turn, and what it heard. Times by its own clock."""

    term: int = 0
    commit: int = 0
    handed: int = 0
    applied: int = 0
    began: float = 0.0
    heard: float = NEVER
    heard_from: str = ""
    answered: dict[str, float] = field(
        default_factory=dict
    )  # peer -> true time of its last answer to this leader
    led_since: float = 0.0
    led_term: int = 0
    voters: tuple[str, ...] = ()
    transfers: set[tuple[str, int]] = field(default_factory=set)


@dataclass
class _Said:
    """Of one member, over all its runs: what it may not forget. `acked`: (index, term of that entry)."""

    term: int = 0
    vote: str | None = None
    acked: tuple[int, int] | None = None


class Monitor:
    """Members report here; violations are raised where they show."""

    def __init__(self) -> None:
        self.leaders: dict[int, str] = {}
        self.committed: dict[int, int] = {}
        self._committed_in: dict[int, int] = {}  # term -> the highest index committed in it
        self._votes: dict[tuple[str, int], str] = {}
        self._said: dict[str, _Said] = {}
        self._standings: dict[Process, _Standing] = {}
        self._waiting: dict[int, tuple[Process, float]] = {}
        self._proposals = 0

    # A process begins

    def recovered(self, process: Process) -> None:
        """Its journal is open, and nothing has been done with it yet."""
        self._standings = {one: kept for one, kept in self._standings.items() if one.alive}
        self._standings[process] = _Standing(began=process.clock.monotonic())
        journal, said = process.journal, self._said.setdefault(process.member.uuid, _Said())
        same_vote = journal.term > said.term or said.vote in (None, journal.voted_for)
        if journal.term < said.term or not same_vote:
            raise Violation(
                f"{process.node_id} said term {said.term}, vote {said.vote}; "
                f"its disk has term {journal.term}, vote {journal.voted_for}"
            )
        if said.acked is not None and not self._holds(process, *said.acked):
            raise Violation(
                f"{process.node_id} acknowledged entry {said.acked}; its disk ends at {journal.last_index}"
            )

    @staticmethod
    def _holds(process: Process, index: int, term: int) -> bool:
        """In the log, or in the state that stands for it."""
        journal = process.journal
        covered = index <= max(journal.first_index, process.database.applied_index)
        return covered or journal.term_at(index) == term

    def forgive(self, uuid: str) -> None:
        """The disk of this member is set back: what it said is forgotten."""
        self._said.pop(uuid, None)

    # Messages

    def sends(self, process: Process, peer: str, message: Message) -> None:
        rule = self._SENT.get(message["type"])
        if rule is not None:
            rule(self, process, peer, message)

    def receives(self, process: Process, peer: str, message: Message) -> None:
        rule = self._RECEIVED.get(message["type"])
        if rule is not None and process in self._standings:
            rule(self, process, peer, message)

    def _asks_for_vote(self, process: Process, peer: str, message: Message) -> None:
        self._votes_for(process, process.node_id, message["term"])

    def _grants_vote(self, process: Process, peer: str, message: Message) -> None:
        self._votes_for(process, peer, message["term"])
        if (peer, message["term"]) not in self._standings[process].transfers:
            self._check_stickiness(process, "vote")

    def _grants_pre_vote(self, process: Process, peer: str, message: Message) -> None:
        self._check_stickiness(process, "pre-vote")

    def _votes_for(self, process: Process, candidate: str, term: int) -> None:
        node_id, uuid = process.node_id, process.member.uuid
        before = self._votes.setdefault((uuid, term), candidate)
        if before != candidate:
            raise Violation(f"{node_id} votes for {candidate} in term {term}, and has voted for {before}")
        said = self._said[uuid]
        if term > said.term or (term == said.term and said.vote is None):
            said.term, said.vote = term, candidate

    def _check_stickiness(self, process: Process, what: str) -> None:
        standing, timing = self._standings[process], process.cluster.plan.timing
        now = process.clock.monotonic()
        if now - standing.began < timing.election_min - 1e-6:
            raise Violation(f"{process.node_id} grants a {what} {now - standing.began:.3f} s after its start")
        if now - standing.heard < timing.election_min - 1e-6:
            raise Violation(
                f"{process.node_id} grants a {what}, {now - standing.heard:.3f} s after a leader's message"
            )

    def _leads(self, process: Process, peer: str, message: Message) -> None:
        self._note_leader(process, message["term"])

    def _note_leader(self, process: Process, term: int) -> None:
        node_id = process.node_id
        leader = self.leaders.setdefault(term, node_id)
        if leader != node_id:
            raise Violation(f"{node_id} leads in term {term}, and so does {leader}")

    def _acknowledges(self, process: Process, peer: str, message: Message) -> None:
        said = self._said[process.member.uuid]
        if message["term"] > said.term:
            said.term, said.vote = message["term"], None
        if not message["success"]:
            return
        index = message["next_node_idx"] - 1
        journal = process.journal
        term = journal.term_at(index)
        if index > journal.synced_index:
            raise Violation(f"{process.node_id} acknowledges {index}, its disk has {journal.synced_index}")
        if term is None:
            return
        if said.acked is None or index > said.acked[0]:
            said.acked = index, term
        leader = process.cluster.members[peer].process
        if leader is None or leader.core.replica.term() != message["term"] or not leader.core.replica.leads():
            return
        theirs = leader.journal.term_at(index)
        if index > leader.journal.last_index or (theirs is not None and theirs != term):
            raise Violation(
                f"{process.node_id} acknowledges {index} of term {term}; its leader has term {theirs}"
            )

    def _hears_leader(self, process: Process, peer: str, message: Message) -> None:
        if message["term"] >= process.core.replica.term():
            standing = self._standings[process]
            standing.heard, standing.heard_from = process.clock.monotonic(), peer

    def _is_asked(self, process: Process, peer: str, message: Message) -> None:
        if message["transfer"]:
            self._standings[process].transfers.add((peer, message["term"]))

    def _is_answered(self, process: Process, peer: str, message: Message) -> None:
        replica = process.core.replica
        if replica.leads() and message["term"] == replica.term():
            self._standings[process].answered[peer] = process.world.now + process.clock.spent

    def link_lost(self, process: Process, peer: str) -> None:
        standing = self._standings.get(process)
        if standing is not None and standing.heard_from == peer:
            standing.heard = NEVER

    _SENT: Any = {
        "request_vote": _asks_for_vote,
        "response_vote": _grants_vote,
        "pre_vote_ok": _grants_pre_vote,
        "append_entries": _leads,
        "snapshot_hint": _leads,
        "next_node_idx": _acknowledges,
    }
    _RECEIVED: Any = {
        "append_entries": _hears_leader,
        "snapshot_hint": _hears_leader,
        "request_vote": _is_asked,
        "next_node_idx": _is_answered,
    }

    # Turns

    def turned(self, process: Process) -> None:
        """A turn of the loop is through."""
        replica, journal, standing = process.core.replica, process.journal, self._standings[process]
        now = (replica.term(), replica.commit_index(), replica.handed_index(), process.database.applied_index)
        before = (standing.term, standing.commit, standing.handed, standing.applied)
        if any(new < old for new, old in zip(now, before, strict=True)):
            raise Violation(f"{process.node_id} went back from {before} to {now}")
        standing.term, _, standing.handed, standing.applied = now
        if replica.leads():
            self._note_leader(process, replica.term())
            self._check_majority(process, standing)
        if replica.commit_index() > standing.commit:
            self._check_commit(process, max(standing.commit, journal.first_index) + 1, replica.commit_index())
            standing.commit = replica.commit_index()
        standing.voters = replica.voters
        said = self._said[process.member.uuid]
        if said.acked is not None and not self._holds(process, *said.acked):
            said.acked = None  # a conflict; had it been committed, `committed` would tell

    def _check_majority(self, process: Process, standing: _Standing) -> None:
        replica, now = process.core.replica, process.world.now
        if standing.led_term != replica.term():
            standing.led_term, standing.led_since = replica.term(), now + process.clock.spent
            standing.answered.clear()
            self._check_completeness(process)
        if standing.voters != replica.voters:
            standing.led_since = now + process.clock.spent
        peers = [one for one in replica.voters if one != process.node_id]
        needed = len(replica.voters) // 2 + 1 - (process.node_id in replica.voters)
        if not needed:
            return
        latest = sorted((standing.answered.get(peer, 0.0) for peer in peers), reverse=True)[needed - 1]
        silent = (now - max(latest, standing.led_since)) * process.clock.rate
        if silent > 2 * process.cluster.plan.timing.election_max:
            raise Violation(
                f"{process.node_id} leads in term {replica.term()}, unanswered for {silent:.2f} s"
            )

    def _check_completeness(self, process: Process) -> None:
        """A leader has everything that was committed in earlier terms. (It may be elected late, in an old one.)"""
        journal, term = process.journal, process.core.replica.term()
        index = max((last for earlier, last in self._committed_in.items() if earlier < term), default=1)
        found, wanted = journal.term_at(index), self.committed.get(index)
        if index > journal.last_index or (None not in (found, wanted) and found != wanted):
            raise Violation(f"{process.node_id} leads in term {term} without entry {index}")

    def _check_commit(self, process: Process, first: int, last: int) -> None:
        journal = process.journal
        for index in range(first, last + 1):
            term = journal.term_at(index)
            if term is None:
                continue
            if process.core.replica.leads():
                self._check_spread(process, index, term)
            if self.committed.setdefault(index, term) != term:
                raise Violation(
                    f"{process.node_id} commits {index} of term {term}; it was {self.committed[index]}"
                )
        now = process.core.replica.term()
        self._committed_in[now] = max(self._committed_in.get(now, 1), last)

    def _check_spread(self, process: Process, index: int, term: int) -> None:
        """A majority's disks have it."""
        before, now = self._standings[process].voters, process.core.replica.voters
        if not any(self._majority_has(process, voters, index, term) for voters in {before, now}):
            raise Violation(f"{process.node_id} commits {index} of term {term}; no majority of {now} has it")

    def _majority_has(self, process: Process, voters: tuple[str, ...], index: int, term: int) -> bool:
        members = [process.cluster.members[one] for one in voters]
        having = sum(self._has(member.process or member.last_process, index, term) for member in members)
        return having * 2 > len(voters)

    @staticmethod
    def _has(process: Process | None, index: int, term: int) -> bool:
        if process is None or not hasattr(process, "journal"):
            return False
        journal = process.journal
        return index < journal.first_index or (
            journal.synced_index >= index and journal.term_at(index) == term
        )

    # Those who wait

    def proposed(self, process: Process, done: Callable[[Any], None]) -> Callable[[Any], None]:
        """`done`, watched: it is called once, and before long."""
        self._proposals += 1
        number = self._proposals
        self._waiting[number] = process, process.world.now

        def watched(answer: Any) -> None:
            if self._waiting.pop(number, None) is None:
                raise Violation(f"{process.node_id} answers the same proposal twice")
            done(answer)

        return watched

    def check_waiting(self, now: float, seconds_max: float = ANSWER_SECONDS_MAX) -> None:
        for number, (process, since) in list(self._waiting.items()):
            if not process.alive:
                del self._waiting[number]
            elif now - since > seconds_max and not process.paused:
                raise Violation(f"{process.node_id} does not answer a proposal of {since:.3f}")
