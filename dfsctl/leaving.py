"""Nodes that leave: `node decommission` for good, `node maintenance` for a while."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import click

from dfsctl import views
from dfsctl.errors import printable
from dfsctl.output import pairs, show, size, talk
from dfsctl.shell import Settings, command, settings
from dfsctl.watching import show_or_watch, watch_option
from quorumfs.errors import NotFoundError, TimedOutError
from quorumfs.v1 import admin_pb2

LOOK_SECONDS = 1.0

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)?")
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class Duration(click.ParamType[float]):
    """`30m`, `2h`, `45` (seconds) as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = _DURATION.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no duration such as 45s, 30m, 2h or 1d", param, ctx)
        return float(found[1]) * _SECONDS[found[2] or ""]


@command()
@click.argument("node_id", metavar="[NODE]", default="")
@click.option(
    "--status", is_flag=True, help="How far it is, and what keeps it; without NODE, of all that leave."
)
@click.option("--cancel", is_flag=True, help="Use NODE again like any other.")
@click.option("--wait", is_flag=True, help="Until nothing is left on it.")
@watch_option
def decommission(node_id: str, status: bool, cancel: bool, wait: bool, watch: float | None) -> None:
    """Have everything that NODE holds copied to others; give it nothing new.

    When nothing is left it is decommissioned: stop it, then `node forget` strikes it from the cluster.
    """
    given = settings()
    if cancel and (status or wait):
        raise click.UsageError("--cancel stands alone")
    if watch is not None and (not status or wait):
        raise click.UsageError("--watch goes with --status")
    if not node_id and not status:
        raise click.UsageError("name a node")
    if not status:
        request = admin_pb2.SetNodeRequest(
            node_id=node_id, action="recommission" if cancel else "decommission"
        )
        with given.coordinator() as coordinator:
            # Said twice it is the same: it may be sent again.
            answer = coordinator.control("Control.SetNode", request, repeatable=True)
        if not wait:
            data = {"node_id": node_id, "action": request.action, "detail": answer.detail}
            show(given, data, lambda: [answer.detail or f"{node_id}: {request.action}"])
            return

    def ask() -> dict[str, Any] | list[dict[str, Any]]:
        found = _wait(given, node_id) if wait else _status(given, node_id)
        return found[0] if node_id else found

    show_or_watch(given, watch, ask, lambda data: _lines(data if isinstance(data, list) else [data]))


def _status(given: Settings, node_id: str) -> list[dict[str, Any]]:
    request = admin_pb2.GetDecommissionRequest(node_id=node_id)
    with given.coordinator() as coordinator:
        answer = coordinator.control("Control.GetDecommission", request)
    if node_id and not answer.nodes:
        raise NotFoundError(
            f"{node_id} is not being decommissioned", next=f"dfsctl node decommission {node_id} begins it"
        )
    return [views.decommission(one) for one in answer.nodes]


def _wait(given: Settings, node_id: str) -> list[dict[str, Any]]:
    """Look until nothing is left. Raises TimedOutError after --timeout."""
    until = time.monotonic() + given.timeout_seconds if given.timeout_seconds else None
    named: list[str] = []
    while True:
        found = _status(given, node_id)
        if all(one["intent"] == "decommissioned" for one in found):
            return found
        for one in found:
            talk(given, f"{one['node_id']}: {one['remaining_chunks']} chunks remain")
        blockers = [f"{one['node_id']}:{line}" for one in found for line in _blockers(one)]
        if blockers and blockers != named:  # who waits has to know that nothing moves, and why
            click.echo("\n".join(blockers), err=True)
        named = blockers
        if until is not None and time.monotonic() >= until:
            left = found[0]["remaining_chunks"] if found else 0
            raise TimedOutError(
                f"{node_id or 'a node'} is not decommissioned yet",
                cause=f"{left} chunks remain",
                next=f"dfsctl node decommission {node_id} --status names what keeps it",
            )
        time.sleep(LOOK_SECONDS)


def _lines(found: list[dict[str, Any]]) -> Iterator[str]:
    if not found:
        yield "no node is being decommissioned"
    for one in found:
        done = one["total_bytes"] - one["remaining_bytes"]
        rate, eta = one["bytes_per_second"], one["eta_seconds"]
        yield from pairs(
            [
                ("node", one["node_id"]),
                ("state", one["intent"]),
                ("remaining", f"{one['remaining_chunks']} chunks, {size(one['remaining_bytes'])}"),
                ("elsewhere", f"{size(done)} of {size(one['total_bytes'])}"),
                ("rate", None if rate is None else f"{size(int(rate))}/s"),
                ("eta", None if eta is None else f"{eta:.0f} s"),
                ("last copies", one["last_copies"]),
                ("unreadable", one["unreadable"]),
                ("being written", one["writing"]),
                ("blockers", len(one["blockers"])),
            ]
        )
        yield from (f" {line}" for line in _blockers(one))


def _blockers(one: dict[str, Any]) -> Iterator[str]:
    """What cannot move, and why."""
    for blocker in one["blockers"]:
        of = f" of {', '.join(map(printable, blocker['paths']))}" if blocker["paths"] else ""
        why = "; ".join(blocker["refusals"])
        yield f" chunk {blocker['chunk']}{of}: {blocker['reason']}{f' ({why})' if why else ''}"


@command()
@click.argument("node_id", metavar="NODE")
@click.option("--for", "seconds", type=Duration(), metavar="TIME", help="How long at most: 45s, 30m, 2h, 1d.")
@click.option("--end", is_flag=True, help="It is over.")
def maintenance(node_id: str, seconds: float | None, end: bool) -> None:
    """Let NODE be away for a while: nothing new goes there, and what it holds is not copied because of its silence.

    It ends by itself when the time is over. Only chunks that nobody else has are copied.
    """
    if end == (seconds is not None):
        raise click.UsageError("either --for TIME or --end")
    given = settings()
    action = "end_maintenance" if end else "maintenance"
    request = admin_pb2.SetNodeRequest(node_id=node_id, action=action, seconds=seconds or 0.0)
    with given.coordinator() as coordinator:
        # Said twice it begins anew, or has ended already: it may be sent again.
        answer = coordinator.control("Control.SetNode", request, repeatable=True)
    data = {"node_id": node_id, "action": action, "detail": answer.detail}
    show(given, data, lambda: [answer.detail or f"{node_id}: {action}"])
