"""Alive, suspect, dead, returning: what the ages of heartbeats say. Pure.

Theory of operation
1. Silence is counted from the last heartbeat or from the beginning of this leadership, whichever is later:
   a new leader knows no heartbeats, and gives everybody the full time to report before it calls anyone
   dead. So a failover, or a restart of everything, starts no repair storm.
2. suspect after `suspect_seconds` of silence: no new data goes there. dead after `dead_seconds`: its replicas
   count as lost and repair begins.
3. A node that comes back from dead is *returning* until it has been heard for `suspect_seconds` without a
   gap: a flapping node gets no new data and does not stop the repair of its chunks by one heartbeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


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


@dataclass(frozen=True, slots=True)
class Signs:
    """What the leader knows of one node. Monotonic seconds; `last_heard` None: never in this leadership."""

    last_heard: float | None
    heard_since: float | None = None  # beginning of the present unbroken run of heartbeats
    was: Liveness = Liveness.ALIVE


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
    return Liveness.SUSPECT if silence >= timing.suspect_seconds else Liveness.ALIVE


def _coming_back(signs: Signs, timing: Timing, silence: float, now: float) -> Liveness:
    if signs.last_heard is None or silence >= timing.suspect_seconds:
        return Liveness.DEAD
    since = signs.last_heard if signs.heard_since is None else signs.heard_since
    return Liveness.ALIVE if now - since >= timing.suspect_seconds else Liveness.RETURNING
