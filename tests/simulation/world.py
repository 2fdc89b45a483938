"""Virtual time: what happens next, in which order, and the story of what happened. Knows nothing of Raft.

Everything that is random in a run comes from `random`, and everything that happens is an event here; so one seed
is one history, on every machine. `digest` covers the history: two runs of a seed must agree in it.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

STORY_LINES = 300


class Violation(AssertionError):  # noqa: N818  what it is, not what went wrong with the test
    """A promise that did not hold."""


class World:
    """`now` in seconds of true time, which nobody inside can read."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 0.0
        self.random = Random(f"world {seed}")
        self.story: deque[str] = deque(maxlen=STORY_LINES)
        self.steps = 0
        self._digest = hashlib.blake2b(digest_size=16)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def stream(self, name: str) -> Random:
        """A source of chance of its own, so that one consumer does not disturb another."""
        return Random(f"{name} {self.seed}")

    def at(self, when: float, action: Callable[..., None], *arguments: Any) -> None:
        """Have `action` called at a time; at the same time in the order of these calls."""
        self._count += 1
        heapq.heappush(self._events, (max(when, self.now), self._count, action, arguments))

    def after(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        self.at(self.now + seconds, action, *arguments)

    def run_until(self, when: float) -> None:
        """Let everything happen that is due before `when`."""
        events = self._events
        while events and events[0][0] <= when:
            self.now, _, action, arguments = heapq.heappop(events)
            self.steps += 1
            action(*arguments)
        self.now = max(self.now, when)

    def tell(self, who: str, what: str, **facts: Any) -> None:
        """A line of the story."""
        shown = " ".join(f"{key}={value}" for key, value in facts.items())
        line = f"{self.now:9.4f} {who:4} {what} {shown}".rstrip()
        self.story.append(line)
        self._digest.update(line.encode())

    def trace(self, *parts: bytes) -> None:
        """Something that happened and is not told, only covered by the digest."""
        for part in parts:
            self._digest.update(part)

    def digest(self) -> str:
        return self._digest.hexdigest()
