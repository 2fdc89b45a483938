"""Whether the loop that hears the nodes gets to work: what it did not hear meanwhile was not their silence."""

from __future__ import annotations

import math

from quorumfs.clock import Clock


class Turning:
    """`turned` is called on the loop, several times in `stuck_seconds`; `deaf_until` by any thread.

    The rest of a leader may run on while this loop stands still: a handler that blocks, or work of others before it.
    """

    def __init__(self, clock: Clock, stuck_seconds: float) -> None:
        self._clock = clock
        self._stuck_seconds = stuck_seconds
        self._turned_at = clock.monotonic()
        self._stood_until = -math.inf

    def turned(self) -> None:
        now = self._clock.monotonic()
        if now - self._turned_at > self._stuck_seconds:
            self._stood_until = now  # before the next line: who asks in between is told one or the other
        self._turned_at = now

    def age_seconds(self) -> float:
        """Since it turned last."""
        return self._clock.monotonic() - self._turned_at

    def deaf_until(self, now: float) -> float:
        """Until when nobody could be heard: `now` while it stands still, else when it last did."""
        return now if now - self._turned_at > self._stuck_seconds else self._stood_until
