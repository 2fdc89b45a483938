"""What the leader does by itself, as it tells it: `repair status`; and having it done at once: `repair now`."""

from __future__ import annotations

from typing import Any

from dfsctl import views
from dfsctl.output import pairs, show
from dfsctl.shell import command, settings
from dfsctl.watching import show_or_watch, watch_option
from quorumfs.v1 import admin_pb2


@command("status")
@watch_option
def repair_status(watch: float | None) -> None:
    """How many replicas are being made, and how many wait."""
    given = settings()
    with given.coordinator() as coordinator:

        def ask() -> dict[str, Any]:
            return views.repair(coordinator.control("Control.GetRepair", admin_pb2.GetRepairRequest()))

        show_or_watch(given, watch, ask, lambda data: pairs(data.items()))


@command("now")
def repair_now() -> None:
    """Look anew for what lacks replicas, and try again what rests after a failure."""
    given = settings()
    with given.coordinator() as coordinator:
        # Said twice it is the same: it may be sent again.
        answer = coordinator.control("Control.RunRepair", admin_pb2.RunRepairRequest(), repeatable=True)
        data = views.repair(answer)
    show(given, data, lambda: pairs(data.items()))
