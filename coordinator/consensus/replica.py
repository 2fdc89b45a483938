"""A member of the Raft group: PySyncObj's bookkeeping of votes, behind a guard that keeps Raft's rules.

DESIGN.md lists the holes of the stock library and where each is closed. No thread, socket, file or clock of its own:
`Core` calls it from one loop and hands in what it needs. Here is the side that follows; the others are in `leading.py`
and `elections.py`, and what they share, with the only import of pysyncobj, in `standing.py`.

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

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from common import log
from coordinator.consensus.configuration import Configuration
from coordinator.consensus.elections import Elections
from coordinator.consensus.files import StorageFull
from coordinator.consensus.guard import BrokenInvariantError, follow
from coordinator.consensus.leadership import NEVER
from coordinator.consensus.leading import Leading
from coordinator.consensus.memory import CHANCE_BITS, boots_lacking, was_set_back
from coordinator.consensus.messages import Message
from coordinator.consensus.progress import Progress
from coordinator.consensus.standing import CONFIGURATION, FOLLOWER

_log = log.get(__name__)


class Replica(Leading):
    """One member. Everything is called from one thread (the loop); plain reads of numbers from any.

    `on_commit` takes the committed entries in order, each once; `on_role` is told the new role.
    """

    def receive(self, peer: str, message: Message) -> None:
        """Take in a message of a peer. Raises BrokenInvariantError, StorageFailure.

        One whose term a full disk has no place for, after a hundred others since it is full, counts as lost.
        """
        handle = self._HANDLERS.get(message["type"])
        if handle is None or peer not in self._known:
            return
        try:
            handle(self, peer, message)
        except StorageFull as error:
            if peer not in self._unheard:
                _log.warning("message.no_room", sender=peer, type=message["type"], cause=str(error))
            self._unheard.add(peer)
        else:
            self._unheard.discard(peer)

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

    # A follower's side

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
        self._hear(peer)
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

    _HANDLERS: Mapping[str, Callable[[Any, str, Message], None]] = {
        "append_entries": _on_append_entries,
        "next_node_idx": Leading._on_next_node_idx,
        "request_vote": Elections._on_request_vote,
        "response_vote": Elections._on_response_vote,
        "pre_vote": Elections._on_pre_vote,
        "pre_vote_ok": Elections._on_pre_vote_ok,
        "stale": _on_stale,
        "timeout_now": Elections._on_timeout_now,
        "snapshot_hint": _on_snapshot_hint,
        "greeting": _on_greeting,
        "forgotten": _on_forgotten,
        "members": Elections._on_members,
    }
