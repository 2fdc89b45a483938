"""Ends what has had its time: uploads and sessions without a sign of life, maintenance of nodes. By entries; nobody's
local clock decides."""

from __future__ import annotations

from common import log
from coordinator.duties.desk import Desk
from coordinator.metadata import queries
from coordinator.soft_state import SoftState, node_table
from quorumfs.v1 import entries_pb2 as e

PER_ENTRY = 1000
EXAMINED_MAX = 200_000
LOOK_SECONDS_MAX = 10.0
LOOK_SECONDS_MIN = 0.2

_log = log.get(__name__)


class Expiry:
    """An upload or session ends when its deadline in replicated time is past AND this leader has itself
    seen no sign of life of it for a whole time to live: a new leader gives everything its full time again."""

    name = "expiry"

    def __init__(
        self, desk: Desk, soft: SoftState, upload_ttl_seconds: float, session_ttl_seconds: float
    ) -> None:
        self._desk = desk
        self._soft = soft
        self._upload_ttl_seconds = upload_ttl_seconds
        self._session_ttl_seconds = session_ttl_seconds

    def work(self) -> str:
        """All that are past are looked at: those that live on by their signs alone must not hide the others."""
        now_ms = self._desk.consensus.cluster_ms()
        past = self._desk.look(lambda tx: queries.open_uploads_past(tx, now_ms, EXAMINED_MAX))
        uploads = self._soft.lifeless_uploads(past, self._upload_ttl_seconds)[:PER_ENTRY]
        old = self._desk.look(lambda tx: queries.sessions_past(tx, now_ms, EXAMINED_MAX))
        sessions = self._soft.lifeless_sessions(old, self._session_ttl_seconds)[:PER_ENTRY]
        nodes = self._desk.look(lambda tx: queries.maintenance_past(tx, now_ms))
        commands = []
        if uploads:
            commands.append(e.SystemCommand(expire_uploads=e.ExpireUploads(uploads=uploads)))
        if sessions:
            commands.append(e.SystemCommand(expire_sessions=e.ExpireSessions(sessions=sessions)))
        if nodes:
            commands.append(e.SystemCommand(end_maintenance=e.EndMaintenance(node_ids=nodes)))
        if not commands:
            return "nothing to expire"
        self._desk.propose(commands)
        if nodes:
            self._soft.set_known(self._desk.look(node_table))
        _log.info("expiry.done", uploads=len(uploads), sessions=len(sessions), maintenance=len(nodes))
        return (
            f"ended {len(uploads)} uploads, {len(sessions)} sessions, the maintenance of {len(nodes)} nodes"
        )

    def wait(self) -> float:
        shortest = min(self._upload_ttl_seconds, self._session_ttl_seconds)
        return max(LOOK_SECONDS_MIN, min(LOOK_SECONDS_MAX, shortest / 4))
