"""Alive, suspect, dead, returning: what the ages of heartbeats say. Pure.

Theory of operation
1. Silence is counted from the last heartbeat or from the beginning of this leadership, whichever is later:
   a new leader knows no heartbeats, and gives everybody the full time to report before it calls anyone
   dead. So a failover, or a restart of everything, starts no repair storm.
2. suspect after `suspect_seconds` of silence: no new data goes there. dead after `dead_seconds`: its replicas
   count as lost and repair begins. What is configured is the latest: `with_margin` judges a little sooner.
3. A node that comes back from dead is *returning* until it has been heard for `suspect_seconds` without a
   gap: a flapping node gets no new data and does not stop the repair of its chunks by one heartbeat.
4. A suspect node is alive with its next heartbeat, the first time. From the second lapse on it must have been heard
   without a gap for `suspect_seconds`, twice as long after each further lapse, up to `dead_seconds`; so must one
   that comes back from dead. CALM_DEADS times `dead_seconds` without a gap, and its lapses are forgotten.
5. While the leader itself could hear nobody (then `leading_since` moves on) nobody falls silent. Nor does a dead node
   come back by that, nor a returning one go on: they have to be heard.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

CALM_DEADS = 4
MARGIN_SHARE = 0.1
MARGIN_SECONDS_MAX = 0.5


class Liveness(Enum):
    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    RETURNING = "returning"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds."""

    suspect_seconds: float
    dead_seconds: float

    @property
    def calm_seconds(self) -> float:
        """Of heartbeats without a gap, until a node's lapses are forgotten."""
        return CALM_DEADS * self.dead_seconds

    def hold_seconds(self, lapses: int) -> float:
        """How long a node that fell silent so often must be heard without a gap to be alive again."""
        if lapses <= 1:
            return 0.0
        return min(self.suspect_seconds * 2.0 ** min(lapses - 2, 16), self.dead_seconds)


def with_margin(suspect_seconds: float, dead_seconds: float, heartbeat_seconds: float) -> Timing:
    """By which a node is called suspect, and the repair of its chunks begins, within these seconds of its last sign of
    life: a tenth less, at most MARGIN_SECONDS_MAX, and never more than half of what a heartbeat may be late."""

    def less(seconds: float) -> float:
        return seconds - min(MARGIN_SHARE * seconds, MARGIN_SECONDS_MAX, (seconds - heartbeat_seconds) / 2)

    return Timing(less(suspect_seconds), less(dead_seconds))


@dataclass(frozen=True, slots=True)
class Signs:
    """What the leader knows of one node. Monotonic seconds; `last_heard` None: never in this leadership."""

    last_heard: float | None
    heard_since: float | None = None  # beginning of the present unbroken run of heartbeats
    was: Liveness = Liveness.ALIVE
    lapses: int = 0  # how often it was heard again after it had been suspect or dead


def silence_seconds(signs: Signs, leading_since: float, now: float) -> float:
    """How long nothing was heard, as far as this leader can tell."""
    last = leading_since if signs.last_heard is None else max(signs.last_heard, leading_since)
    return max(0.0, now - last)


def judge(signs: Signs, timing: Timing, leading_since: float, now: float) -> Liveness:
    """The node's state now, from its signs and from the state it had."""
    silence = silence_seconds(signs, leading_since, now)
    if silence >= timing.dead_seconds:
        return Liveness.DEAD
    if signs.was in (Liveness.DEAD, Liveness.RETURNING):
        return _coming_back(signs, timing, silence, now)
    if silence >= timing.suspect_seconds:
        return Liveness.SUSPECT
    held_back = signs.was is Liveness.SUSPECT and _heard_for(signs, now) < timing.hold_seconds(signs.lapses)
    return Liveness.SUSPECT if held_back else Liveness.ALIVE


def _coming_back(signs: Signs, timing: Timing, silence: float, now: float) -> Liveness:
    if signs.last_heard is None or silence >= timing.suspect_seconds:
        return Liveness.DEAD
    if now - signs.last_heard >= timing.suspect_seconds:
        return signs.was
    hold = max(timing.suspect_seconds, timing.hold_seconds(signs.lapses))
    return Liveness.ALIVE if _heard_for(signs, now) >= hold else Liveness.RETURNING


def _heard_for(signs: Signs, now: float) -> float:
    """Seconds since the present run of heartbeats began."""
    since = signs.last_heard if signs.heard_since is None else signs.heard_since
    return 0.0 if since is None else now - since
