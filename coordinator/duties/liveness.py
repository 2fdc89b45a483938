"""Judges the datanodes by their heartbeats and tells when one changes state."""

from __future__ import annotations

from collections.abc import Callable

from common import log
from coordinator.decisions.liveness import Liveness
from coordinator.soft_state import SoftState, Transition

LOOK_SECONDS = 0.25

_log = log.get(__name__)


class LivenessDuty:
    """`changed` hears of each transition (metrics, events)."""

    name = "liveness"

    def __init__(self, soft: SoftState, changed: Callable[[Transition], None] = lambda change: None) -> None:
        self._soft = soft
        self._changed = changed

    def work(self) -> str:
        changes = self._soft.judge()
        for change in changes:
            self._tell(change)
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
        code = f"node_dead:{change.node_id}"
        if change.after is Liveness.DEAD:
            self._soft.withdraw(change.node_id)
            self._soft.raise_alarm(code, f"{change.node_id} is dead; its replicas are being replaced")
        elif change.after is Liveness.ALIVE:
            self._soft.clear_alarm(code)
        self._changed(change)

    def wait(self) -> float:
        return LOOK_SECONDS
