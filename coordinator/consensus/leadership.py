"""What it means to lead, as values: a leadership, its clock, whom the group still listens to; and what a follower knows
of the age of its own state."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T", int, float)

NEVER = -1e9
"""Before any clock.monotonic()."""

LEASE_SHARE = 0.8
"""Of the time that followers keep still, as a leader counts it: so much may their clocks and its own differ in rate."""


@dataclass(frozen=True, slots=True)
class Leadership:
    """A term that this member leads. `since`: clock.monotonic() when its own no-op was applied."""

    term: int
    history: int
    since: float


@dataclass(frozen=True, slots=True)
class LeaderClock:
    """Replicated time while this member leads: the last applied value, going on by the monotonic clock."""

    from_ms: int
    at: float

    def now_ms(self, monotonic: float) -> int:
        return self.from_ms + max(0, int((monotonic - self.at) * 1000))


class Beats:
    """Rounds of messages to all peers, numbered, and the latest round that each peer has echoed.

    A peer echoes a round only after it has accepted this member as leader of the present term. So a
    round that a majority echoed proves that nobody else led when it was sent. Numbers, not times: of two
    messages at one instant only the one that was sent after a question proves anything for it.

    With an echo a peer says for how long after it has heard that round it elects nobody. Until the share of that which
    a majority grants has passed since the round was sent, nobody else can lead: `lease_until`, as clock.monotonic()
    tells time, is read by any thread.
    """

    def __init__(self, peers: Iterable[str]) -> None:
        self._peers = tuple(peers)
        self._echoed: dict[str, int] = {}
        self._sent: deque[tuple[int, float]] = deque()
        self._proven_at = 0.0
        self._leases: dict[str, float] = {}
        self._may_lease = False
        self.last = 0
        self.lease_until = NEVER

    def set_peers(self, peers: Iterable[str]) -> None:
        """The other voters are these from now on."""
        self._peers = tuple(peers)
        self._renew()

    def restart(self, now: float) -> None:
        """A new leadership: no echo counts any more; the election itself proves contact at `now`."""
        self._echoed.clear()
        self._sent.clear()
        self._leases.clear()
        self._proven_at = now
        self._may_lease = True
        self._renew()

    def give_up_lease(self) -> None:
        """For the rest of this leadership: it is over, or somebody may be elected by its own wish."""
        self._may_lease = False
        self._renew()

    def send(self, now: float) -> int:
        """The number of the round that is sent now."""
        self.last += 1
        self._sent.append((self.last, now))
        return self.last

    def echo(self, peer: str, beat: int, hold: float) -> None:
        """`peer` has accepted round `beat`, and elects nobody for `hold` seconds of its clock from then on."""
        if beat > self.last:
            return
        self._echoed[peer] = max(self._echoed.get(peer, 0), beat)
        if self._sent and beat >= self._sent[0][0]:  # else a majority is further already
            _, sent_at = self._sent[beat - self._sent[0][0]]
            self._leases[peer] = max(self._leases.get(peer, NEVER), sent_at + hold * LEASE_SHARE)
            self._renew()

    def _renew(self) -> None:
        if not self._may_lease:
            self.lease_until = NEVER
        elif not self._peers:
            self.lease_until = math.inf
        else:
            self.lease_until = self._of_majority(self._leases, NEVER)

    def _of_majority(self, told: Mapping[str, T], without: T) -> T:
        """The highest value that a majority has reached, this member, which needs none, included."""
        needed = (len(self._peers) + 1) // 2  # besides this member
        return sorted((told.get(peer, without) for peer in self._peers), reverse=True)[needed - 1]

    def quorum_beat(self) -> int:
        """The latest round that a majority, this member included, is known to have accepted."""
        return self._of_majority(self._echoed, 0) if self._peers else self.last

    def quorum_sent_at(self, now: float) -> float:
        """When the round of `quorum_beat` was sent; `now` when this member is a majority by itself."""
        if not self._peers:
            self._sent.clear()
            self._proven_at = now
            return now
        beat = self.quorum_beat()
        while self._sent and self._sent[0][0] <= beat:
            self._proven_at = self._sent.popleft()[1]
        return self._proven_at


@dataclass(frozen=True, slots=True)
class _Told:
    """By a leader of `term`, heard at `at`: entries up to `commit_index` are committed."""

    at: float
    term: int
    commit_index: int


class Freshness:
    """As of when the state has all that was committed: `as_of`, as clock.monotonic() tells time.

    To hear a leader is not enough: who has a full disk hears it all the while and takes nothing in. A message says what
    was committed when it was sent; when that is applied, the state is as of that message. It does not count when the
    entry is not of the leader's own term: one that has just been elected tells a commit index from long ago.
    """

    def __init__(self) -> None:
        self.as_of = NEVER
        self._latest: _Told | None = None
        self._awaited: _Told | None = None

    def heard(self, at: float, term: int, commit_index: int) -> None:
        self._latest = _Told(at, term, commit_index)

    def applied(self, index: int, term_at: Callable[[int], int | None]) -> None:
        """Entries up to `index` are applied; `term_at`: of an entry of the log.

        While the state lags behind, every message is of more than it has: one is awaited until that is there.
        """
        for told in (self._latest, self._awaited):
            if told is not None and told.commit_index <= index:
                if term_at(told.commit_index) == told.term:
                    self.as_of = max(self.as_of, told.at)
                self._awaited = None
        if self._awaited is None:
            self._awaited = self._latest

    def led(self, proven_at: float) -> None:
        """This member leads, has applied all that is committed, and nobody else led at `proven_at`."""
        self.as_of = max(self.as_of, proven_at)
