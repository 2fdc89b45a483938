"""Which coordinator to ask next, and how long to wait before it. Pure: no clock, no chance, no network.

1. Ask whom one believes to lead; else the coordinators in turn.
2. "Not I, but X": ask X at once, unless X has just been silent.
3. Who did not answer is left out for a few rounds: a stopped leader costs a whole time limit per question,
   while the others know its successor as soon as there is one.
4. When all that may be asked were asked, the next round begins after a pause that grows.
5. A leader that is busy is asked again after a pause; nobody else could help.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from quorumfs.backoff import Backoff

_ROUNDS_LEFT_OUT = 4


class Outcome(Enum):
    """How a question to a coordinator ended without an answer."""

    NOT_LEADER = "not_leader"  # it answered: it does not lead
    SILENT = "silent"  # no connection, no answer in time, or it broke off
    BUSY = "busy"  # it leads, and asks to come back later


@dataclass(frozen=True, slots=True)
class Step:
    """Ask `address` after `wait_seconds`."""

    address: str
    wait_seconds: float = 0.0


class Route:
    """The way of one request to the leader. One thread at a time."""

    def __init__(
        self,
        known: Iterable[str],
        leader: str | None = None,
        backoff: Backoff = Backoff(first_seconds=0.02, most_seconds=0.25),  # noqa: B008  a frozen value
    ) -> None:
        self._known = list(dict.fromkeys(known))
        if not self._known:
            raise ValueError("no coordinator is known")
        if leader is not None and leader not in self._known:
            self._known.append(leader)
        self._leader = leader
        self._backoff = backoff
        self._round = 0
        self._pauses = 0
        self._asked: set[str] = set()
        self._left_out: dict[str, int] = {}  # address -> the round in which it may be asked again

    def begin(self) -> Step:
        """Whom to ask first."""
        return Step(self._leader or self._known[0])

    def after(self, address: str, outcome: Outcome, hint: str | None, chance: float) -> Step:
        """The next step, after `address` ended with `outcome`.

        `hint`: the address that it named as the leader's, if any; `chance`: uniform in [0, 1).
        """
        if hint and hint not in self._known:
            self._known.append(hint)
        if outcome is Outcome.BUSY:
            return Step(address, self._pause(chance))
        self._asked.add(address)
        if outcome is Outcome.SILENT:
            self._left_out[address] = self._round + _ROUNDS_LEFT_OUT
        else:
            self._left_out.pop(address, None)
        if hint and self._may_ask(hint):
            return Step(hint)
        rest = [other for other in self._known if self._may_ask(other)]
        if rest:
            return Step(rest[0])
        return self._next_round(address, hint, chance)

    def may_ask(self, address: str) -> bool:
        """Whether `address`, which somebody else named, may be asked now; it belongs to those known from now on."""
        if address not in self._known:
            self._known.append(address)
        return self._may_ask(address)

    def _may_ask(self, address: str) -> bool:
        return address not in self._asked and self._left_out.get(address, 0) <= self._round

    def _next_round(self, last: str, hint: str | None, chance: float) -> Step:
        self._round += 1
        self._asked.clear()
        wait = self._pause(chance)
        if hint and self._may_ask(hint):
            return Step(hint, wait)
        start = self._known.index(last) + 1
        turn = self._known[start:] + self._known[:start]
        candidates = [address for address in turn if self._may_ask(address)]
        if candidates:
            return Step(candidates[0], wait)
        self._left_out.clear()
        return Step(turn[0], wait)

    def _pause(self, chance: float) -> float:
        self._pauses += 1
        return self._backoff.delay(self._pauses - 1, chance)
