"""A circuit per peer: who did not answer is left alone for a while, so that one stopped node costs a deadline now and
then, and not at every call. Pure but for the clock that is given to it.

closed -> (a call fails because the peer is silent) -> open: calls are refused at once -> (the pause is over) -> half
open: one call goes through and decides. The pauses grow with every failure in a row and have jitter. What a peer
refuses is an answer: it closes the circuit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from quorumfs.backoff import Backoff
from quorumfs.clock import Clock
from quorumfs.errors import Code, QuorumFSError, UnavailableError

PEERS_MAX = 10_000
PAUSES = Backoff(first_seconds=1.0, most_seconds=15.0)
_SILENT = frozenset({Code.UNAVAILABLE, Code.TIMED_OUT, Code.OUTCOME_UNKNOWN})


class Circuits:
    """Any thread may call. `chance` is uniform in [0, 1)."""

    def __init__(self, clock: Clock, chance: Callable[[], float]) -> None:
        self._clock = clock
        self._chance = chance
        self._lock = threading.Lock()
        self._open: dict[str, tuple[int, float]] = {}  # peer -> (failures in a row, until when)

    def admit(self, peer: str) -> None:
        """Before a call. Raises UnavailableError while the circuit is open; nothing was sent then."""
        with self._lock:
            failures, until = self._open.get(peer, (0, 0.0))
            now = self._clock.monotonic()
            if not failures:
                return
            if now < until:
                raise UnavailableError(
                    f"{peer} was not called",
                    cause=f"it did not answer {failures} times in a row",
                    next="wait",
                )
            self._open[peer] = failures, now + self._pause(failures)  # this one tries; the others wait for it

    def ended(self, peer: str, error: QuorumFSError | None) -> None:
        """After a call that was admitted: how it ended."""
        with self._lock:
            if error is None or error.code not in _SILENT:
                self._open.pop(peer, None)
                return
            failures = self._open.pop(peer, (0, 0.0))[0]
            if len(self._open) >= PEERS_MAX:
                del self._open[next(iter(self._open))]
            self._open[peer] = failures + 1, self._clock.monotonic() + self._pause(failures)

    def _pause(self, failures: int) -> float:
        return PAUSES.delay(failures, self._chance())
