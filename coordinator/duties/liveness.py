"""Judges the datanodes by their heartbeats and tells when one changes state, or loses a disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from common import log
from coordinator.decisions.liveness import Liveness
from coordinator.metadata.queries import LostDisk
from coordinator.soft_state import SoftState, Transition
from quorumfs.v1 import types_pb2 as t

LOOK_SECONDS = 0.25
LOOK_SECONDS_MIN = 0.02
FOLLOWS: Mapping[int, str] = {
    t.NODE_INTENT_MAINTENANCE: "it is in maintenance",
    t.NODE_INTENT_DECOMMISSIONED: "nothing on it is needed: dfsctl node forget strikes it",
}
"""What follows from the death of a node of which an operator has said something."""

_log = log.get(__name__)


class LivenessDuty:
    """`changed` hears of each transition (metrics, events)."""

    name = "liveness"

    def __init__(self, soft: SoftState, changed: Callable[[Transition], None] = lambda change: None) -> None:
        self._soft = soft
        self._changed = changed
        self._alarmed: set[str] = set()
        self._lost: set[LostDisk] = set()

    def work(self) -> str:
        changes = self._soft.judge()
        for change in changes:
            self._tell(change)
        for node_id in [one for one in self._alarmed if self._soft.known_as(one) is None]:  # forgotten since
            self._clear(node_id)
        self._tell_disks()
        if not changes:
            return "nothing changed"
        return ", ".join(f"{one.node_id} is {one.after.value}" for one in changes)

    def _tell(self, change: Transition) -> None:
        tell = _log.warning if change.after in (Liveness.DEAD, Liveness.SUSPECT) else _log.info
        tell(
            f"node.{change.after.value}",
            node=change.node_id,
            before=change.before.value,
            silence_seconds=round(change.silence_seconds, 3),
        )
        if change.after is Liveness.DEAD:
            self._soft.withdraw(change.node_id)
            self._raise(change.node_id)
        elif change.after is Liveness.ALIVE:
            self._clear(change.node_id)
        self._changed(change)

    def _raise(self, node_id: str) -> None:
        node = self._soft.known_as(node_id)
        follows = FOLLOWS.get(node.intent if node is not None else 0, "its replicas are being replaced")
        how = (
            "sends no heartbeats, though it answers when it is asked: it is cut off"
            if self._soft.is_cut_off(node_id)
            else "is dead"
        )
        self._soft.raise_alarm(f"node_dead:{node_id}", f"{node_id} {how}; {follows}")
        self._alarmed.add(node_id)

    def _tell_disks(self) -> None:
        lost = {one for one in self._soft.gone() if isinstance(one, LostDisk)}
        for one in sorted(lost - self._lost):
            what = f"disk {one.disk_id} of {one.node_id} failed or was taken out; its replicas are being replaced"
            self._soft.raise_alarm(_disk_alarm(one), what)
            _log.warning("disk.lost", node=one.node_id, disk=one.disk_id)
        for one in sorted(self._lost - lost):
            self._soft.clear_alarm(_disk_alarm(one))
            _log.info("disk.back", node=one.node_id, disk=one.disk_id)
        self._lost = lost

    def _clear(self, node_id: str) -> None:
        self._soft.clear_alarm(f"node_dead:{node_id}")
        self._alarmed.discard(node_id)

    def wait(self) -> float:
        """Until somebody's silence is long enough, when that is sooner than the next look."""
        return max(LOOK_SECONDS_MIN, min(LOOK_SECONDS, self._soft.seconds_until_change()))


def _disk_alarm(disk: LostDisk) -> str:
    return f"disk_lost:{disk.node_id}/{disk.disk_id}"
