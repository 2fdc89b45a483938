"""What the leader does by itself, as it tells it: `repair status`."""

from __future__ import annotations

from dfsctl import views
from dfsctl.output import pairs, show
from dfsctl.shell import command, settings
from quorumfs.v1 import admin_pb2


@command("status")
def repair_status() -> None:
    """How many replicas are being made, and how many wait."""
    given = settings()
    with given.coordinator() as coordinator:
        data = views.repair(coordinator.control("Control.GetRepair", admin_pb2.GetRepairRequest()))
    show(given, data, lambda: pairs(data.items()))
