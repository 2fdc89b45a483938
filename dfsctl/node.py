"""`dfsctl node`: the nodes, as the leader knows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from dfsctl import views
from dfsctl.cluster import node_table
from dfsctl.output import pairs, show, size, table
from dfsctl.shell import command, settings
from quorumfs.errors import NotFoundError
from quorumfs.v1 import admin_pb2

DISK_HEADINGS = ("DISK", "PATH", "STATE", "USED", "FREE", "TOTAL", "CHUNKS", "QUARANTINE", "ERROR")


@command()
@click.option("-l", "--selector", default="", help="Only nodes that match, as in zone=a,disk in (ssd,nvme).")
@click.option("--stale", is_flag=True, help="Whatever a coordinator remembers; works without a leader.")
def ls(selector: str, stale: bool) -> None:
    """All nodes, or those that a selector matches."""
    given = settings()
    with given.coordinator() as coordinator:
        view = coordinator.cluster_view(selector, leader=not stale)
    nodes = sorted((views.node(one) for one in view.nodes), key=lambda one: (one["role"], one["node_id"]))
    show(given, nodes, lambda: node_table(nodes))


@command("show")
@click.argument("node_id", metavar="NODE")
def show_(node_id: str) -> None:
    """Everything about one node: addresses, disks, load, labels."""
    given = settings()
    with given.coordinator() as coordinator:
        view = coordinator.cluster_view()
    found = next((one for one in view.nodes if one.info.node_id == node_id), None)
    if found is None:
        known = ", ".join(sorted(one.info.node_id for one in view.nodes))
        raise NotFoundError(f"no node {node_id!r} in this cluster", cause=f"its nodes are {known}")
    data = views.node_in_full(found)
    show(
        given,
        data,
        lambda: _in_full(data),
    )


def _in_full(data: dict[str, Any]) -> Iterator[str]:
    yield from pairs((name, value) for name, value in data.items() if name != "disks")
    if data["disks"]:
        yield ""
        rows = (
            (
                one["disk_id"],
                one["path"],
                one["state"],
                size(one["used_bytes"]),
                size(one["free_bytes"]),
                size(one["total_bytes"]),
                one["chunks"],
                size(one["quarantined_bytes"]),
                one["error"],
            )
            for one in data["disks"]
        )
        yield from table(DISK_HEADINGS, rows)


@command()
@click.argument("node_id", metavar="NODE")
@click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE|KEY-...")
def label(node_id: str, changes: tuple[str, ...]) -> None:
    """Set labels (zone=a) and remove them (zone-)."""
    given = settings()
    labels, removed = _parse(changes)
    request = admin_pb2.SetNodeRequest(node_id=node_id, action="labels", labels=labels, remove_labels=removed)
    with given.coordinator() as coordinator:
        # Setting a label twice is setting it once: it may be sent again.
        coordinator.control("Control.SetNode", request, repeatable=True)
    data = {"node_id": node_id, "set": labels, "removed": removed}
    show(given, data, lambda: [f"{node_id}: {' '.join(changes)}"])


@command()
@click.argument("node_id", metavar="NODE")
def drain(node_id: str) -> None:
    """Give NODE nothing new; what it holds stays, and is read."""
    _set_intent(node_id, "drain")


@command()
@click.argument("node_id", metavar="NODE")
def undrain(node_id: str) -> None:
    """Use NODE again like any other."""
    _set_intent(node_id, "undrain")


def _set_intent(node_id: str, action: str) -> None:
    given = settings()
    request = admin_pb2.SetNodeRequest(node_id=node_id, action=action)
    with given.coordinator() as coordinator:
        # Said twice it is the same: it may be sent again.
        answer = coordinator.control("Control.SetNode", request, repeatable=True)
    data = {"node_id": node_id, "action": action, "detail": answer.detail}
    show(given, data, lambda: [answer.detail or f"{node_id}: {action}"])


@command()
@click.argument("node_id", metavar="NODE")
@click.option("--force", is_flag=True, help="Even if it counts as a place of replicas: they are lost.")
def forget(node_id: str, force: bool) -> None:
    """Strike NODE from the cluster. Refused (exit code 10) while it lives, or counts as a place of replicas."""
    given = settings()
    request = admin_pb2.ForgetNodeRequest(node_id=node_id, force=force)
    with given.coordinator() as coordinator:
        answer = coordinator.control("Control.ForgetNode", request)
    data = {"node_id": node_id, "detail": answer.detail}
    show(given, data, lambda: [answer.detail or f"{node_id} is forgotten"])


def _parse(changes: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    labels: dict[str, str] = {}
    removed: list[str] = []
    for change in changes:
        key, equals, value = change.partition("=")
        if equals and key:
            labels[key] = value
        elif change.endswith("-") and len(change) > 1:
            removed.append(change[:-1])
        else:
            raise click.UsageError(f"{change!r} is neither KEY=VALUE nor KEY-")
    return labels, removed
