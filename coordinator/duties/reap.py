"""Deletes for good what the trash has let go, a little per entry, and less while clients are busy."""

from __future__ import annotations

from common import log
from coordinator.duties.desk import Desk
from coordinator.metadata import queries
from quorumfs.v1 import entries_pb2 as e

INODES_PER_ENTRY = 500
BUSY_SECONDS = 0.02
IDLE_SECONDS = 5.0
FOREGROUND_SECONDS = 0.2

_log = log.get(__name__)


class Reap:
    """One entry per unit, so that no entry takes long and foreground traffic comes in between."""

    name = "reap"

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._more = False

    def work(self) -> str:
        now_ms = self._desk.consensus.cluster_ms()
        self._more = self._desk.look(lambda tx: queries.trash_is_due(tx, now_ms))
        if not self._more:
            return "nothing in the trash is due"
        command = e.SystemCommand(reap_trash=e.ReapTrash(limit=INODES_PER_ENTRY))
        (done,) = self._desk.propose([command])
        return f"deleted {done.number} inodes and extents"

    def wait(self) -> float:
        if not self._more:
            return IDLE_SECONDS
        return FOREGROUND_SECONDS if self._desk.consensus.status().queue_ops else BUSY_SECONDS
