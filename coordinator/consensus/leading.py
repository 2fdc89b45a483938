"""A leader's side of a member: what it appends, sends and commits, and to whom it hands over."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.consensus.configuration import Configuration
from coordinator.consensus.elections import Elections
from coordinator.consensus.guard import Entry
from coordinator.consensus.interfaces import LogEntry
from coordinator.consensus.messages import Message
from coordinator.consensus.progress import agreed
from coordinator.consensus.standing import COMMAND, CONFIGURATION


class Leading(Elections):
    """The side of a member that leads. `advance_commit` hands over what is committed on every member."""

    # Entries

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

    # Replication

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
                entries = self._batch(progress.next, progress.window)
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

    # Commitment

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
            found = self._batch(self.handed_index() + 1, upto - self.handed_index())
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

    # Handing over

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
