"""One question, many who want the answer: at most one is asking at any time, the others share what it gets.

Without this, every visitor of a hung node would hold a thread until a deadline, and thirty monitors would be
thirty questions to a busy one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from quorumfs.clock import Clock
from quorumfs.errors import BusyError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sample(Generic[T]):
    """An answer and when it came: `answered_at` monotonic seconds, `wall_ms` to show."""

    value: T
    answered_at: float
    wall_ms: int

    def age_seconds(self, now: float) -> float:
        return max(0.0, now - self.answered_at)


class Shared(Generic[T]):
    """Any thread may call. `ask` returns a value whatever happens: a failure is a value too."""

    def __init__(self, ask: Callable[[], T], clock: Clock) -> None:
        self._ask = ask
        self._clock = clock
        self._changed = threading.Condition()
        self._asking = False
        self._sample: Sample[T] | None = None

    def latest(self) -> Sample[T] | None:
        """The last answer, however old; None before the first. Never waits."""
        with self._changed:
            return self._sample

    def fresh(self, max_age_seconds: float, wait_seconds: float) -> Sample[T]:
        """An answer that came at most `max_age_seconds` before this call, or after it.

        Waits for whoever is asking already, else asks in this thread. When the other one takes longer than
        `wait_seconds`, the last answer is returned although it is older; without any BusyError is raised.
        """
        needed = self._clock.monotonic() - max_age_seconds
        with self._changed:
            while True:
                if self._sample is not None and self._sample.answered_at >= needed:
                    return self._sample
                if not self._asking:
                    self._asking = True
                    break
                if not self._changed.wait(wait_seconds):
                    return self._stale()
        return self._ask_once()

    def _ask_once(self) -> Sample[T]:
        answer: Sample[T] | None = None
        try:
            value = self._ask()
            answer = Sample(value, self._clock.monotonic(), self._clock.wall_ms())
            return answer
        finally:
            with self._changed:
                self._asking = False
                if answer is not None:
                    self._sample = answer
                self._changed.notify_all()

    def _stale(self) -> Sample[T]:
        if self._sample is None:
            raise BusyError(
                "the node has not been asked yet",
                cause="the first question is still waiting for its answer",
                next="try again in a second",
            )
        return self._sample
