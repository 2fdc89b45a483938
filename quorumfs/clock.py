"""Time as an argument. Monotonic for durations and deadlines; wall time only to show or to stamp."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds; never goes back, and goes on while the machine is suspended; its zero means nothing."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970 as the machine believes; may jump."""
        ...


# Time that a suspended machine slept through has passed too. Where there is no such clock, the one there is.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    def monotonic(self) -> float:
        return time.clock_gettime(_STEADY)

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class ManualClock:
    """A clock that a test moves by hand."""

    def __init__(self, monotonic: float = 1000.0, wall_ms: int = 1_700_000_000_000) -> None:
        self.now = monotonic
        self.wall = wall_ms

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return self.wall

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.wall += int(seconds * 1000)
