"""Signs of life, and space that was promised a moment ago."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

K = TypeVar("K")

SIGNS_MAX = 200_000
PROMISE_SECONDS = 30.0


class Signs(Generic[K]):
    """When each key was last heard of. Bounded: beyond that a newcomer's sign is not kept, which only means
    that it has one time to live from the beginning of the leadership."""

    def __init__(self) -> None:
        self._at: dict[K, float] = {}

    def note(self, key: K, now: float) -> None:
        if key in self._at or len(self._at) < SIGNS_MAX:
            self._at[key] = now

    def take_silent(self, keys: Iterable[K], ttl_seconds: float, since: float, now: float) -> list[K]:
        """The keys without a sign for `ttl_seconds`, counted from `since` at the earliest; they are
        forgotten."""
        silent = [key for key in keys if now - max(since, self._at.get(key, since)) >= ttl_seconds]
        for key in silent:
            self._at.pop(key, None)
        return silent


class Promises:
    """Bytes given away to nodes whose next heartbeats will show it."""

    def __init__(self) -> None:
        self._made: deque[tuple[float, str, int]] = deque()

    def add(self, node_ids: Iterable[str], size_bytes: int, now: float) -> None:
        self._made.extend((now + PROMISE_SECONDS, node_id, size_bytes) for node_id in node_ids)

    def sums(self, now: float) -> dict[str, int]:
        """Bytes per node that are still only promised."""
        while self._made and self._made[0][0] <= now:
            self._made.popleft()
        found: dict[str, int] = {}
        for _, node_id, size_bytes in self._made:
            found[node_id] = found.get(node_id, 0) + size_bytes
        return found
