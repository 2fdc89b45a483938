"""A member's elections: when it asks for votes, and whom it grants its own.

Rules 4 and 5 of `replica.py` say who grants what.
"""

from __future__ import annotations

from common import log
from coordinator.consensus.configuration import Configuration
from coordinator.consensus.messages import Message
from coordinator.consensus.progress import Progress
from coordinator.consensus.standing import CANDIDATE, LEADER, NOOP, PreVote, Standing
from quorumfs.errors import InvalidArgumentError

_log = log.get(__name__)


class Elections(Standing):
    """The side of a member that becomes a leader, or lets another become one."""

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

    # Asking

    def _ask_for_pre_votes(self) -> None:
        """Harmless, so asked again sooner than an election: who hears a leader does not answer. Who may not campaign,
        as a learner, asks all the same: so it is told whom to hear, when others lead than it knows of."""
        self._SyncObj__raftLeader = None
        timing = self._timing
        wait = timing.heartbeat + (timing.election_min - timing.heartbeat) * self._chance()
        self._deadline = self._clock.monotonic() + wait
        term = self.term() + 1
        self._pre_vote = PreVote(term, {self.own_id})
        self._count_pre_votes()
        for peer in self.peers:
            self._links.send(peer, {"type": "pre_vote", "term": term, **self._log_end()})

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

    def _on_response_vote(self, peer: str, message: Message) -> None:
        """PySyncObj counts answers, not voters: the same voter must not get through twice."""
        if message["term"] == self.term() and peer in self.voters and peer not in self._votes:
            self._votes.add(peer)
            self._stock(peer, message)

    def _on_timeout_now(self, peer: str, message: Message) -> None:
        asked = message["term"] == self.term() and self.leader_id() == peer
        if asked and self._may_campaign() and not self._has_just_started():
            self._campaign(transfer=True)

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

    # Being asked

    def _on_pre_vote(self, peer: str, message: Message) -> None:
        applied = self.handed_index()
        if message["last_log_index"] < applied:  # its leader may be somebody it has not heard of
            configuration = self.configurations.committed.encode()
            self._links.send(peer, {"type": "members", "index": applied, "configuration": configuration})
        if message["term"] <= self.term():
            self._send_stale(peer)
        elif self._may_vote() and self._is_up_to_date(message):
            self._links.send(peer, {"type": "pre_vote_ok", "term": message["term"]})

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
