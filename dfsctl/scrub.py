"""The scrubber of the datanodes: how far it is, and at what pace it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dfsctl.output import show, size, table
from dfsctl.parallel import NODE_SECONDS, of_each
from dfsctl.shell import command, settings
from quorumfs.errors import NotFoundError, QuorumFSError
from quorumfs.v1 import admin_pb2, membership_pb2, types_pb2

if TYPE_CHECKING:
    from quorumfs.rpc.coordinator import Coordinator

_HEADINGS = ("NODE", "STATE", "ROUND", "PROGRESS", "READ", "CORRUPT", "PACE", "ERROR")

nodes_argument = click.argument("node_ids", metavar="[NODE...]", nargs=-1)


@command("status")
@nodes_argument
def status(node_ids: tuple[str, ...]) -> None:
    """How far each datanode is, or those named, as they say it themselves."""
    given = settings()
    with given.coordinator() as coordinator:
        view = coordinator.cluster_view(leader=False)
        data = of_each(_chosen(view, node_ids), lambda one: _status(coordinator, one.info))
    rows = (
        (
            one["node_id"],
            one["state"],
            one["round"],
            None if one["progress"] is None else f"{100 * one['progress']:.0f} %",
            None if one["size_bytes"] is None else size(one["size_bytes"]),
            one["corrupt"],
            None if one["bytes_per_second"] is None else f"{size(int(one['bytes_per_second']))}/s",
            one["error"],
        )
        for one in data
    )
    show(given, data, lambda: table(_HEADINGS, rows))


@command("start")
@nodes_argument
@click.option(
    "--rate",
    type=click.IntRange(min=1),
    metavar="BYTES",
    help="Read so many bytes a second; else as the configuration says.",
)
def start(node_ids: tuple[str, ...], rate: int | None) -> None:
    """Have datanodes read on from where they are, all of them or those named."""
    _order(admin_pb2.ControlScrubRequest(node_ids=node_ids, bytes_per_second=rate or 0), "start")


@command("stop")
@nodes_argument
def stop(node_ids: tuple[str, ...]) -> None:
    """Have datanodes read nothing until `scrub start`, or until they start anew."""
    _order(admin_pb2.ControlScrubRequest(node_ids=node_ids, stop=True), "stop")


def _order(request: admin_pb2.ControlScrubRequest, action: str) -> None:
    given = settings()
    with given.coordinator() as coordinator:
        # Said twice it is the same: it may be sent again.
        answer = coordinator.control("Control.ControlScrub", request, repeatable=True)
    show(given, {"action": action, "detail": answer.detail}, lambda: [answer.detail])


def _chosen(view: membership_pb2.ClusterView, node_ids: tuple[str, ...]) -> list[membership_pb2.NodeView]:
    """The datanodes that were named, or all of them. Raises NotFoundError."""
    there = {one.info.node_id: one for one in view.nodes if one.info.role == types_pb2.NODE_ROLE_DATANODE}
    for node_id in node_ids:
        if node_id not in there:
            raise NotFoundError(
                f"no datanode {node_id!r} in this cluster", cause=f"there are {', '.join(sorted(there))}"
            )
    return [there[one] for one in sorted(node_ids or there)]


def _status(coordinator: Coordinator, info: membership_pb2.NodeInfo) -> dict[str, Any]:
    try:
        told = coordinator.control(
            "Admin.GetStatus", admin_pb2.GetStatusRequest(), address=info.grpc, deadline=NODE_SECONDS
        ).scrub
    except QuorumFSError as error:
        unknown = dict.fromkeys(("round", "progress", "size_bytes", "corrupt", "bytes_per_second"))
        return {"node_id": info.node_id, "state": "unknown", **unknown, "error": str(error)}
    return {
        "node_id": info.node_id,
        "state": "stopped" if told.stopped else "running",
        "round": told.round,
        "progress": round(told.progress, 3),
        "size_bytes": told.bytes,
        "corrupt": told.corrupt,
        "bytes_per_second": round(told.bytes_per_second, 1),
        "error": None,
    }
