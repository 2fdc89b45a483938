"""Why a chunk cannot be moved off a node that leaves, and how long the rest takes. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from coordinator.decisions.liveness import Liveness
from coordinator.decisions.placement import Candidate, Refusal, Wanted, refusal_rule

RATE_SECONDS = 60.0
RATE_SECONDS_MIN = 2.0


def refusals(candidates: Mapping[str, Candidate], live: Collection[str], length: int) -> list[Refusal]:
    """Why no node takes one more replica: of each, the rule that excludes it. Empty when one can.

    `live`: nodes with a good replica. As repair decides, but for the work that nodes have now; a damaged replica is
    replaced where it is.
    """
    wanted = Wanted(1, 1, length)
    found: list[Refusal] = []
    for node_id in sorted(candidates):
        node = candidates[node_id]
        rule = "it has a good replica already" if node_id in live else refusal_rule(node, wanted)
        if not rule and node.liveness is not Liveness.ALIVE:
            rule = f"{node.liveness.value}: gets no copies"
        if not rule:
            return []
        found.append(Refusal(node_id, rule))
    return found


@dataclass(frozen=True, slots=True)
class Sample:
    at: float
    remaining_bytes: int


class Rate:
    """How fast the bytes that remain get fewer, over the last RATE_SECONDS. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()

    def note(self, at: float, remaining_bytes: int) -> None:
        self._samples.append(Sample(at, remaining_bytes))
        while len(self._samples) > 2 and self._samples[1].at <= at - RATE_SECONDS:
            self._samples.popleft()

    def bytes_per_second(self) -> float | None:
        """None: not measured for long enough. 0: nothing moves."""
        return rate_of(tuple(self._samples))


def rate_of(samples: Sequence[Sample]) -> float | None:
    if not samples or samples[-1].at - samples[0].at < RATE_SECONDS_MIN:
        return None
    moved = samples[0].remaining_bytes - samples[-1].remaining_bytes
    return max(0.0, moved / (samples[-1].at - samples[0].at))


def eta_seconds(remaining_bytes: int, bytes_per_second: float | None) -> float | None:
    """None: nobody can tell, for nothing moves, or it was not measured yet."""
    if not remaining_bytes:
        return 0.0
    return remaining_bytes / bytes_per_second if bytes_per_second else None
