"""How long to wait before the next try: exponential with full jitter, bounded, pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays for tries 0, 1, 2, ...: uniform in [half, whole] of min(first * factor**n, most). Seconds."""

    first_seconds: float = 0.02
    most_seconds: float = 1.0
    factor: float = 2.0

    def delay(self, attempt: int, chance: float) -> float:
        """Seconds before try number `attempt` + 1; `chance` is uniform in [0, 1)."""
        ceiling: float = min(self.most_seconds, self.first_seconds * self.factor ** min(attempt, 30))
        return ceiling * (0.5 + 0.5 * chance)
