"""Datanodes that just failed this client: avoided for a while, where there is a choice."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from quorumfs.clock import Clock, SystemClock
from quorumfs.limits import SUSPECT_NODE_SECONDS


class Suspects:
    """Node ids with the moment until which they are avoided. Any thread may call."""

    def __init__(self, clock: Clock | None = None, seconds: float = SUSPECT_NODE_SECONDS) -> None:
        self._clock = clock or SystemClock()
        self._seconds = seconds
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, node_ids: Iterable[str]) -> None:
        """These failed just now."""
        until = self._clock.monotonic() + self._seconds
        with self._lock:
            self._until.update(dict.fromkeys(node_ids, until))

    def clear(self, node_id: str) -> None:
        """This one works."""
        if node_id in self._until:
            with self._lock:
                self._until.pop(node_id, None)

    def current(self) -> frozenset[str]:
        """Who is to be avoided now."""
        if not self._until:
            return frozenset()
        now = self._clock.monotonic()
        with self._lock:
            self._until = {node: until for node, until in self._until.items() if until > now}
            return frozenset(self._until)
