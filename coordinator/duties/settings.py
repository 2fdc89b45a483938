"""Brings what the leader's configuration says into the replicated settings, by which `apply` goes on every member.

The configurations of coordinators should be alike; where they are not, the leader's holds while it leads.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from common import log
from coordinator.duties.desk import Desk, failures
from coordinator.metadata import queries, settings
from quorumfs.v1 import entries_pb2 as e

RETRY_SECONDS = 0.1
REFUSED_SECONDS = 60.0
SETTLED_SECONDS = 3600.0

_log = log.get(__name__)


class Settings:
    """`wanted`: replicated keys with their values as this node is configured."""

    name = "settings"

    def __init__(self, desk: Desk, wanted: Mapping[str, int]) -> None:
        self._desk = desk
        self._wanted = wanted
        self._pause = RETRY_SECONDS

    def work(self) -> str:
        self._pause = RETRY_SECONDS
        changes = self._desk.look(self._differences)
        if changes is None:
            return "the cluster is not initialised yet"
        if not changes:
            self._pause = SETTLED_SECONDS
            return "the replicated settings are as configured"
        commands = [
            e.SystemCommand(set_setting=e.SetSetting(key=key, value=str(value)))
            for key, value in changes.items()
        ]
        refused = failures(self._desk.propose(commands))
        if refused:
            self._pause = REFUSED_SECONDS
            _log.error("settings.refused", reasons=refused)
            return f"refused: {'; '.join(refused)}"
        self._pause = SETTLED_SECONDS
        _log.info("settings.changed", **{key.replace(".", "_"): value for key, value in changes.items()})
        return f"changed {', '.join(changes)}"

    def _differences(self, tx: sqlite3.Connection) -> dict[str, int] | None:
        if queries.cluster_identity(tx) is None:
            return None
        held = settings.load(tx)
        return {key: value for key, value in self._wanted.items() if held[key] != value}

    def wait(self) -> float:
        return self._pause
