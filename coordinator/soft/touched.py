"""Replicas that nodes deleted, or brought back, on an order a moment ago: what was said of them before is void."""

from __future__ import annotations

import math
from collections.abc import Iterable

TOUCHED_MAX = 100_000


class Touched:
    """When it was done. Bounded: what was touched first is forgotten first, and then doubted by its time alone."""

    def __init__(self, most: int = TOUCHED_MAX) -> None:
        self._most = most
        self._at: dict[tuple[str, bytes], float] = {}  # in order of time
        self._forgotten_at = -math.inf

    def note(self, node_id: str, chunks: Iterable[bytes], now: float) -> None:
        for chunk in chunks:
            self._at.pop((node_id, chunk), None)
            if len(self._at) >= self._most:
                self._forgotten_at = self._at.pop(next(iter(self._at)))
            self._at[node_id, chunk] = now

    def since(self, node_id: str, chunk: bytes, since: float) -> bool:
        """Whether it was done at that time or later, as far as anybody can tell."""
        return self._at.get((node_id, chunk), self._forgotten_at) >= since
