"""When a late answer is worth a second question (Dean and Barroso, The Tail at Scale, 2013). Sends nothing.

1. Late is what takes longer than nearly all answers so far: the smoothed time of an answer and eight times its
   smoothed deviation, as TCP reckons its time-outs (RFC 6298), within bounds.
2. Every stream earns a twentieth of a hedge, and a hedge asks for no more than the rest of one stream: they add
   no more than 5 % to the load, also when everything is slow because there is too much of it.
"""

from __future__ import annotations

import threading

from quorumfs.limits import HEDGE_SECONDS_MAX, HEDGE_SECONDS_MIN

HEDGES_PER_STREAM = 0.05
_HEDGES_KEPT = 2.0  # in hand: enough for a client that reads one file
_FIRST_SECONDS = 0.25
_GAIN = 1 / 8
_DEVIATION_GAIN = 1 / 4
_DEVIATIONS = 8


class Hedging:
    """One client's. Any thread may call."""

    def __init__(self) -> None:
        self._mean: float | None = None
        self._deviation = 0.0
        self._kept = _HEDGES_KEPT
        self._lock = threading.Lock()

    def answered(self, seconds: float) -> None:
        """An answer took so long."""
        mean = self._mean
        if mean is None:
            self._mean, self._deviation = seconds, seconds / 2
            return
        self._deviation += _DEVIATION_GAIN * (abs(seconds - mean) - self._deviation)
        self._mean = mean + _GAIN * (seconds - mean)

    def delay_seconds(self) -> float:
        """After how long an answer is late."""
        if self._mean is None:
            return _FIRST_SECONDS
        return min(HEDGE_SECONDS_MAX, max(HEDGE_SECONDS_MIN, self._mean + _DEVIATIONS * self._deviation))

    def opened(self) -> None:
        """A stream was opened that is no hedge."""
        with self._lock:
            self._kept = min(_HEDGES_KEPT, self._kept + HEDGES_PER_STREAM)

    def spend(self) -> bool:
        """Whether a hedge may be sent now; it is then counted."""
        with self._lock:
            if self._kept < 1:
                return False
            self._kept -= 1
            return True
