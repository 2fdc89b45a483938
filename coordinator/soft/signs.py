"""Signs of life, and space that was promised a moment ago."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

K = TypeVar("K")

SIGNS_MAX = 200_000
PROMISE_SECONDS = 30.0


class Signs(Generic[K]):
    """When each key was last heard of. Bounded: the one that was silent longest makes room for a new one."""

    def __init__(self, most: int = SIGNS_MAX) -> None:
        self._most = most
        self._at: dict[K, float] = {}  # in the order of their last signs

    def note(self, key: K, now: float) -> None:
        self._at.pop(key, None)
        if len(self._at) >= self._most:
            del self._at[next(iter(self._at))]
        self._at[key] = now

    def take_silent(self, keys: Iterable[K], ttl_seconds: float, since: float, now: float) -> list[K]:
        """The keys without a sign for `ttl_seconds`, counted from `since` at the earliest; they are
        forgotten."""
        silent = [key for key in keys if now - max(since, self._at.get(key, since)) >= ttl_seconds]
        for key in silent:
            self._at.pop(key, None)
        return silent


class Promises:
    """Bytes given away to nodes whose next heartbeats will show it; kept by the second, so few."""

    def __init__(self) -> None:
        self._made: deque[tuple[float, dict[str, int]]] = deque()

    def add(self, node_ids: Iterable[str], size_bytes: int, now: float) -> None:
        until = math.floor(now) + PROMISE_SECONDS
        if not self._made or self._made[-1][0] != until:
            self._made.append((until, {}))
        made = self._made[-1][1]
        for node_id in node_ids:
            made[node_id] = made.get(node_id, 0) + size_bytes

    def sums(self, now: float) -> dict[str, int]:
        """Bytes per node that are still only promised."""
        while self._made and self._made[0][0] <= now:
            self._made.popleft()
        found: dict[str, int] = {}
        for _, made in self._made:
            for node_id, size_bytes in made.items():
                found[node_id] = found.get(node_id, 0) + size_bytes
        return found
