"""Whom a node's heartbeat asks next, and when. Pure: events and times in, (address, wait) out; no clock, no chance.

1. While the leader answers: the same address again after the interval.
2. Otherwise `quorumfs.rpc.leader.Route` finds the way: hints at once, others in turn, the silent ones left
   out for a while, pauses that grow between rounds. It never ends, it only slows down.
3. A leader that answers and refuses this node (foreign cluster, duplicate, history behind) is asked again,
   slowly: only an operator changes that, and then nothing needs a restart. When it refuses again the others are asked
   as well, as slowly: another may lead the history that this node has obeyed.
4. Whoever else names a leader (`advise`: a sidecar) is believed as far as to be asked, unless it was silent just now.
5. All calls that do not come at the interval have one budget (`Tries`): whatever coordinators answer, and however many
   there are, a node calls them so often and no oftener.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from quorumfs.backoff import Backoff
from quorumfs.errors import Code, QuorumFSError, Retry
from quorumfs.rpc.leader import Outcome, Route, Step

REFUSED_SECONDS = 5.0
JITTER = 0.1
TRIES_AT_ONCE = 24
TRIES_PER_SECOND = 4.0
_BACKOFF = Backoff(first_seconds=0.05, most_seconds=1.0)

_NOT_LEADER = frozenset({Code.NOT_LEADER, Code.NO_LEADER, Code.FENCED})
_REFUSED = frozenset(
    {
        Code.WRONG_CLUSTER,
        Code.DUPLICATE_NODE,
        Code.HISTORY_BEHIND,
        Code.PERMISSION_DENIED,
        Code.INVALID_ARGUMENT,
        Code.FORMAT_TOO_NEW,
        Code.PRECONDITION_FAILED,
        Code.SAFETY_GUARD,
    }
)


class Event(Enum):
    """How a call to a coordinator ended."""

    ACCEPTED = "accepted"
    NOT_LEADER = "not_leader"
    SILENT = "silent"
    BUSY = "busy"
    REFUSED = "refused"


_OUTCOME = {
    Event.NOT_LEADER: Outcome.NOT_LEADER,
    Event.SILENT: Outcome.SILENT,
    Event.BUSY: Outcome.BUSY,
    Event.REFUSED: Outcome.NOT_LEADER,  # by one that refused before
}


def judge(error: QuorumFSError) -> Event:
    """What an error says about whom to ask next."""
    if error.code in _NOT_LEADER:
        return Event.NOT_LEADER
    if error.code in _REFUSED:
        return Event.REFUSED
    # Of a timeout nobody knows whose it was: silence, and the others know more.
    if error.retry is Retry.LATER and error.code is not Code.TIMED_OUT:
        return Event.BUSY
    return Event.SILENT


class Tries:
    """A budget: TRIES_AT_ONCE of them in a burst, TRIES_PER_SECOND in the long run."""

    def __init__(self) -> None:
        self._left = float(TRIES_AT_ONCE)
        self._at: float | None = None

    def take(self, now: float) -> float:
        """Take one; returns how many seconds it has to wait for its turn. `now`: monotonic seconds."""
        grown = 0.0 if self._at is None else max(0.0, now - self._at) * TRIES_PER_SECOND
        self._left = min(float(TRIES_AT_ONCE), self._left + grown) - 1
        self._at = now
        return max(0.0, -self._left / TRIES_PER_SECOND)


class Following:
    """The place of one node in its search for the leader. One thread."""

    def __init__(self, coordinators: Iterable[str], first: str | None = None) -> None:
        self._known = list(dict.fromkeys(coordinators))
        self._leader = first
        self._route: Route | None = None
        self._tries = Tries()
        self._refused_by = ""
        self._step = self._begin().begin()

    @property
    def address(self) -> str:
        """Whom to ask now."""
        return self._step.address

    @property
    def searching(self) -> bool:
        """Whether the last call was not answered by a leader."""
        return self._route is not None

    @property
    def refused(self) -> bool:
        """Whether a leader refused this node, and no other has been found since."""
        return self._refused_by != ""

    def learn(self, coordinators: Iterable[str]) -> None:
        """Further addresses of coordinators, as the leader told them; used from the next search on."""
        self._known = list(dict.fromkeys([*self._known, *(one for one in coordinators if one)]))

    def advise(self, address: str) -> None:
        """Somebody outside says that this one leads: it is asked next, if no leader is known, and it was not silent
        just now."""
        if self._route is not None and self._route.may_ask(address):
            self._step = Step(address)

    def after(
        self, event: Event, hint: str | None, interval_seconds: float, chance: float, now: float
    ) -> Step:
        """The next call, after one to `address` ended with `event`. `chance` is uniform in [0, 1), `now` in monotonic
        seconds."""
        step = self._next(event, hint, interval_seconds, chance)
        if event is not Event.ACCEPTED or interval_seconds <= 0:
            step = Step(step.address, max(step.wait_seconds, self._tries.take(now)))
        self._step = step
        return step

    def _next(self, event: Event, hint: str | None, interval_seconds: float, chance: float) -> Step:
        if event is Event.ACCEPTED:
            self._leader, self._route, self._refused_by = self.address, None, ""
            return Step(self.address, interval_seconds * (1 - JITTER * chance))
        slowly = REFUSED_SECONDS * (1 - JITTER * chance)
        if event is Event.REFUSED and self._refused_by != self.address:
            self._refused_by = self.address
            return Step(self.address, slowly)
        if event is not Event.REFUSED and self._refused_by == self.address:
            self._refused_by = ""  # it leads no more
        route = self._route or self._begin()
        # A hint to the one that was just asked says only that it does not know yet.
        useful = hint if hint != self.address else None
        step = route.after(self.address, _OUTCOME[event], useful, chance)
        return Step(step.address, max(step.wait_seconds, slowly)) if self._refused_by else step

    def _begin(self) -> Route:
        self._route = Route(self._known, self._leader, _BACKOFF)
        return self._route
