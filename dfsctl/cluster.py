"""The cluster as a whole: who leads, how it is, and how it is made."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dfsctl import views
from dfsctl.errors import raise_shown
from dfsctl.output import cell, pairs, show, size, table, time_of_ms
from dfsctl.shell import Settings, command, settings
from dfsctl.watching import show_or_watch, watch_option
from quorumfs.errors import InvalidArgumentError, QuorumFSError, UnavailableError
from quorumfs.v1 import admin_pb2, membership_pb2

if TYPE_CHECKING:
    from quorumfs.rpc.coordinator import Coordinator

_LOOK_SECONDS = 0.3  # of somebody that has just answered
NODE_HEADINGS = ("NODE", "ROLE", "STATE", "INTENT", "HEARTBEAT S", "GRPC", "HTTP", "VERSION", "LABELS")


@command()
def leader() -> None:
    """Who leads now, as the leader itself says it. Exit code 5 when nobody does."""
    given = settings()
    with given.coordinator() as coordinator:
        try:
            view = coordinator.leader_view()
        except UnavailableError as error:
            _show_without(given, error, {"leader": None, **_last_seen(coordinator)})
    data = {
        "leader": views.leader(view.leader),
        "term": view.term,
        "observed_by": view.observed_by,
        "observed_at": time_of_ms(view.observed_wall_ms),
    }
    show(
        given,
        data,
        lambda: [f"{view.leader.node_id}  {view.leader.grpc}  http {view.leader.http}  term {view.term}"],
    )


@command()
@watch_option
def status(watch: float | None) -> None:
    """The whole cluster at a glance. Without a leader: what a coordinator remembers, and exit code 5."""
    given = settings()
    with given.coordinator() as coordinator:
        if watch is not None:
            request = admin_pb2.GetClusterStatusRequest()
            show_or_watch(
                given,
                watch,
                lambda: views.status(coordinator.control("Control.GetClusterStatus", request)),
                _status_lines,
            )
            return
        try:
            answer = coordinator.control("Control.GetClusterStatus", admin_pb2.GetClusterStatusRequest())
        except UnavailableError as error:
            _show_without(given, error, _remembered(coordinator, error))
    data = views.status(answer)
    show(given, data, lambda: _status_lines(data))


@command()
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The cluster's secret, which every node has (mode 0600).",
)
@click.option("--make-secret", is_flag=True, help="Only make that file; copy it to every node, then init.")
@click.option("--complete", is_flag=True, help="Finish an init that was interrupted.")
def init(secret_file: Path, make_secret: bool, complete: bool) -> None:
    """Make a cluster of the coordinators that --coordinators, or QUORUMFS_COORDINATORS, names.

    They must all run, and be empty. The secret comes first (--make-secret): no node starts without it.
    """
    given = settings()
    if make_secret:
        _make_secret(given, secret_file)
        return
    coordinators = given.coordinators or os.environ.get("QUORUMFS_COORDINATORS", "")
    if not coordinators:
        raise click.UsageError(
            "--coordinators or QUORUMFS_COORDINATORS must name all of them: the cluster is made of these"
        )
    request = _found(given, coordinators, secret_file, complete)
    members = [
        {"node_id": one.node_id, "member_uuid": one.member_uuid, "raft": one.raft, "grpc": one.grpc}
        for one in request.members
    ]
    data = {"cluster_id": request.cluster_id, "history": request.history, "members": members}
    show(
        given,
        data,
        lambda: [f"cluster {request.cluster_id}", *(f"  {m['node_id']}  {m['grpc']}" for m in members)],
    )


def _make_secret(given: Settings, path: Path) -> None:
    from quorumfs.rpc.trust import write_secret

    write_secret(path)
    step = "copy it to every node (mode 0600, owned by the service's user), start them, then run cluster init"
    show(given, {"secret_file": str(path), "next": step}, lambda: [f"{path} made", step])


def _found(
    given: Settings, coordinators: str, secret_file: Path, complete: bool
) -> membership_pb2.GenesisRequest:
    from quorumfs.discovery import parse_addresses
    from quorumfs.local.genesis import Seat, found
    from quorumfs.rpc.trust import TrustedChannels, read_secret

    seats = [Seat(address) for address in parse_addresses(coordinators, "--coordinators")]
    if len(seats) % 2 == 0:
        raise InvalidArgumentError(
            f"{len(seats)} coordinators make no cluster",
            cause="an even number bears no more losses than the odd one below it",
        )
    channels = TrustedChannels(read_secret(secret_file), "dfsctl")
    try:
        return found(
            seats,
            channels,
            deadline_seconds=given.timeout_seconds or 10.0,
            wall_ms=time.time_ns() // 1_000_000,
            complete=complete,
        )
    finally:
        channels.close()


def _show_without(given: Settings, error: QuorumFSError, data: dict[str, Any]) -> None:
    """What is known without a leader, the error beside it; ends the command with the error's exit code."""
    if "coordinators" in data:  # shown already: the usual advice is to look at it
        error.next = "start the coordinators that do not answer, or see their logs; two of three must run"
    if given.as_json:
        show(given, {**data, "error": error.to_json()}, lambda: ())
    elif "coordinators" in data:
        show(given, data, lambda: _membership_lines(data))
    raise_shown(error)


def _last_seen(coordinator: Coordinator) -> dict[str, Any]:
    """Term and observer from a coordinator that answered, if one did."""
    nothing = {"term": None, "observed_by": None, "observed_at": None}
    if coordinator.answering is None:  # the whole patience went into asking them
        return nothing
    try:
        view: admin_pb2.LeaderView = coordinator.control(
            "Admin.GetLeader",
            admin_pb2.GetLeaderRequest(),
            address=coordinator.answering,
            deadline=_LOOK_SECONDS,
        )
    except QuorumFSError:  # it does not answer any more: the caller reports the first error
        return nothing
    return {
        "term": view.term,
        "observed_by": view.observed_by,
        "observed_at": time_of_ms(view.observed_wall_ms),
    }


def _remembered(coordinator: Coordinator, error: QuorumFSError) -> dict[str, Any]:
    unknown = dict.fromkeys(("capacity", "files", "directories", "chunks", "gc"))
    if coordinator.answering is None:
        raise error
    try:
        view = coordinator.call(
            "Membership.GetCluster",
            membership_pb2.GetClusterRequest(),
            address=coordinator.answering,
            deadline=_LOOK_SECONDS,
        )
    except QuorumFSError:  # none answers at all: the first error says it better
        raise error from None
    return {**views.membership(view), "leader": None, **unknown, "alarms": []}


def _status_lines(data: dict[str, Any]) -> Iterable[str]:
    chunks, room = data["chunks"], data["capacity"]
    yield from _membership_lines(data)
    yield ""
    yield from pairs(
        [
            ("room", _room(room)),
            ("files", data["files"]),
            ("chunks", chunks["total"]),
            ("under-replicated", chunks["under_replicated"]),
            ("missing", chunks["missing"]),
            ("corrupt", chunks["corrupt"]),
        ]
    )
    for alarm in data["alarms"]:
        yield f"ALARM {cell(alarm['code'])}: {cell(alarm['message'])} (since {cell(alarm['since'])})"


def _room(room: dict[str, int]) -> str:
    if not room["total_bytes"]:
        return "not known: this leader has heard no datanode's disk yet"
    return f"{size(room['free_bytes'])} free of {size(room['total_bytes'])}"


def _membership_lines(data: dict[str, Any]) -> Iterable[str]:
    leads = data["leader"]["node_id"] if data["leader"] else "nobody"
    yield f"cluster {cell(data['cluster_id'])}, term {data['term']}, leader {leads}"
    yield ""
    yield from node_table([*data["coordinators"], *data["datanodes"]])


def node_table(nodes: Iterable[dict[str, Any]]) -> list[str]:
    """Nodes for people."""
    rows = (
        (
            one["node_id"],
            one["role"],
            one["state"] if _is_known(one) else "unknown",
            one["intent"]
            if one["maintenance_seconds"] is None
            else f"{one['intent']}, {one['maintenance_seconds']:.0f} s left",
            one["heartbeat_age_seconds"] if _is_known(one) else None,
            one["grpc"],
            one["http"],
            one["version"],
            one["labels"],
        )
        for one in nodes
    )
    return table(NODE_HEADINGS, rows)


def _is_known(node: dict[str, Any]) -> bool:
    """Whether who tells it has heard the node: a coordinator that does not lead hears no datanodes."""
    return bool(node["state"] != "unspecified")
