"""Keeps replicated time going: a Tick entry when something waits for a deadline and no other entry came."""

from __future__ import annotations

from coordinator.duties.desk import Desk
from coordinator.metadata import queries
from quorumfs.limits import TICK_INTERVAL_MS
from quorumfs.v1 import entries_pb2 as e

LOOK_SECONDS = TICK_INTERVAL_MS / 1000 / 2


class Tick:
    """Looks twice per interval: an index that did not move since the last look means nothing told the
    time."""

    name = "tick"

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._seen_index = -1

    def work(self) -> str:
        index = self._desk.look(queries.applied_index)
        moved, self._seen_index = index != self._seen_index, index
        if moved:
            return "entries tell the time"
        if self._desk.look(queries.pending_deadline) is None:
            return "nothing waits for a deadline"
        self._desk.propose([e.SystemCommand(tick=e.Tick())])
        return "told the time"

    def wait(self) -> float:
        return LOOK_SECONDS
