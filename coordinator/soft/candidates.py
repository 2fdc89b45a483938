"""A datanode as placement, repair and balancing see it."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.decisions.liveness import Liveness
from coordinator.decisions.placement import DECOMMISSIONED, DECOMMISSIONING, IN_MAINTENANCE, Candidate
from coordinator.soft.values import KnownNode
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

INTENT_NAMES: dict[int, str] = {
    t.NODE_INTENT_NORMAL: "normal",
    t.NODE_INTENT_DRAINING: "draining",
    t.NODE_INTENT_DECOMMISSIONING: DECOMMISSIONING,
    t.NODE_INTENT_DECOMMISSIONED: DECOMMISSIONED,
    t.NODE_INTENT_MAINTENANCE: IN_MAINTENANCE,
}


def candidate(
    known: KnownNode,
    liveness: Liveness,
    silence_seconds: float,
    *,
    heard: bool,
    disks: Sequence[t.DiskInfo],
    load: m.NodeLoad,
    promised_bytes: int,
) -> Candidate:
    """`disks` and `load`: of its last heartbeat; `promised_bytes`: given away since, and not seen in these yet."""
    usable = [disk for disk in disks if disk.state in ("", "ok")]
    broken = [f"{disk.path or disk.disk_id} is {disk.state}" for disk in disks if disk not in usable]
    labels = known.info.labels
    return Candidate(
        node_id=known.info.node_id,
        liveness=liveness,
        intent=INTENT_NAMES.get(known.intent, "of an unknown intent"),
        heard=heard,
        heartbeat_age_seconds=silence_seconds,
        free_bytes=max(0, sum(disk.free_bytes for disk in usable) - promised_bytes),
        used_bytes=sum(disk.used_bytes for disk in disks if disk.state in ("", "ok", "full")),
        largest_free_bytes=max((disk.free_bytes for disk in usable), default=0),
        disk_trouble=", ".join(broken) if disks and not usable else "",
        write_streams=load.write_streams,
        zone=labels.get("zone", ""),
        rack=labels.get("rack", ""),
        host=labels.get("host", "") or known.info.host,
    )
