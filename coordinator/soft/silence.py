"""Who is silent and for how long, as far as this leader could hear anybody.

1. Silence counts from the last heartbeat, or from the beginning of the leadership, or since this process listens:
   whichever is latest. Who was stopped, or did not get to work, or only did not get to listen, has heard nobody
   meanwhile: that was not the nodes' silence.
2. What follows from it decides `coordinator.decisions.liveness`; here is what it has to know of each node.

Nothing here locks: soft state does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from coordinator.decisions.liveness import Liveness, Signs, Timing, judge, silence_seconds
from quorumfs.clock import Clock

FLAP_GAP_SECONDS_MIN = 1.0


@dataclass(slots=True)
class Heard:
    """What was heard of one node, and what followed."""

    last_heard: float | None = None
    heard_since: float | None = None
    was: Liveness = Liveness.ALIVE
    lapses: int = 0

    def pulse(self, timing: Timing, now: float) -> None:
        """A heartbeat came."""
        gap = max(timing.suspect_seconds, FLAP_GAP_SECONDS_MIN)
        if self.last_heard is None or now - self.last_heard >= gap or self.heard_since is None:
            self.heard_since = now
            self.lapses += self.was in (Liveness.SUSPECT, Liveness.DEAD)
        elif self.lapses and now - self.heard_since >= timing.calm_seconds:
            self.lapses = 0
        self.last_heard = now


class Silence:
    """Of one leadership, or of none. `deaf_until`: given the time, until when nobody could be heard (see `Turning`)."""

    def __init__(self, clock: Clock, timing: Timing, deaf_until: Callable[[float], float]) -> None:
        self._clock = clock
        self.timing = timing
        self._deaf_until = deaf_until
        self.leading_since: float | None = None
        self._awake_at: float | None = None  # when a node was heard last, or looked at
        self._listening_since = 0.0
        self._suspect_at = self._dead_at = math.inf  # the first of those that are not

    def begin(self) -> None:
        self.leading_since = self._awake_at = self._clock.monotonic()

    def awake(self, now: float) -> None:
        """This process gets to work. Whoever looks first finds out that it did not: repair may wake up before the duty
        that judges."""
        if self._awake_at is not None and now - self._awake_at > self.timing.suspect_seconds:
            self._listening_since = now
        self._listening_since = max(self._listening_since, self._deaf_until(now))
        self._awake_at = now

    def now(self) -> tuple[float, float]:
        """The time, and since when silence counts: for one look at any number of nodes."""
        now = self._clock.monotonic()
        self.awake(now)
        return now, now if self.leading_since is None else max(self.leading_since, self._listening_since)

    def judge(self, node: Heard, now: float, since: float) -> tuple[Liveness, float]:
        """How a node is, and the seconds of its silence."""
        if node.was is Liveness.ALIVE and node.last_heard is not None and node.last_heard >= since:
            silence = now - node.last_heard
            if 0 <= silence < self.timing.suspect_seconds:
                return Liveness.ALIVE, silence  # of nearly all, nearly always: thousands of times a second
        signs = Signs(node.last_heard, node.heard_since, node.was, node.lapses)
        return judge(signs, self.timing, since, now), silence_seconds(signs, since, now)

    def expect(self, now: float, alive: float, suspect: float) -> None:
        """The longest silences now, of those that are alive and of those that are suspect; -inf: there are none."""
        self._suspect_at = now + self.timing.suspect_seconds - alive
        self._dead_at = now + self.timing.dead_seconds - suspect

    def seconds_until_change(self) -> float:
        """Until the first of them is suspect, or dead, if it is not heard until then."""
        return min(self._suspect_at, self._dead_at) - self._clock.monotonic()

    def seconds_until_death(self) -> float:
        """Until the first of those that are suspect is dead, if it is not heard until then."""
        return self._dead_at - self._clock.monotonic()
