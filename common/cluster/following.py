"""Whom a node's heartbeat asks next, and when. Pure: events in, (address, wait) out; no clock, no chance.

1. While the leader answers: the same address again after the interval.
2. Otherwise `quorumfs.rpc.leader.Route` finds the way: hints at once, others in turn, the silent ones left
   out for a while, pauses that grow between rounds. It never ends, it only slows down.
3. A leader that answers and refuses this node (foreign cluster, duplicate, history behind) is asked again,
   slowly: only an operator changes that, and then nothing needs a restart.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from quorumfs.backoff import Backoff
from quorumfs.errors import Code, QuorumFSError, Retry
from quorumfs.rpc.leader import Outcome, Route, Step

REFUSED_SECONDS = 5.0
JITTER = 0.1
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


class Following:
    """The place of one node in its search for the leader. One thread."""

    def __init__(self, coordinators: Iterable[str], first: str | None = None) -> None:
        self._known = list(dict.fromkeys(coordinators))
        self._leader = first
        self._route: Route | None = None
        self._step = self._begin().begin()

    @property
    def address(self) -> str:
        """Whom to ask now."""
        return self._step.address

    @property
    def searching(self) -> bool:
        """Whether the last call was not answered by a leader."""
        return self._route is not None

    def learn(self, coordinators: Iterable[str]) -> None:
        """Further addresses of coordinators, as the leader told them; used from the next search on."""
        self._known = list(dict.fromkeys([*self._known, *(one for one in coordinators if one)]))

    def after(self, event: Event, hint: str | None, interval_seconds: float, chance: float) -> Step:
        """The next call, after one to `address` ended with `event`. `chance` is uniform in [0, 1)."""
        if event is Event.ACCEPTED:
            self._leader, self._route = self.address, None
            self._step = Step(self.address, interval_seconds * (1 - JITTER * chance))
        elif event is Event.REFUSED:
            self._step = Step(self.address, REFUSED_SECONDS * (1 - JITTER * chance))
        else:
            route = self._route or self._begin()
            # A hint to the one that was just asked says only that it does not know yet.
            useful = hint if hint != self.address else None
            self._step = route.after(self.address, _OUTCOME[event], useful, chance)
        return self._step

    def _begin(self) -> Route:
        self._route = Route(self._known, self._leader, _BACKOFF)
        return self._route
