"""`dfsctl top`: what every node is doing now: two looks at each agent's metrics, and what grew in between."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from dfsctl.agents import Agents
from dfsctl.output import show, size, table
from dfsctl.parallel import of_each
from dfsctl.shell import command, settings
from dfsctl.watching import CLEAR
from quorumfs.errors import QuorumFSError
from quorumfs.v1 import membership_pb2, types_pb2

LOOK_SECONDS = 2.0  # an agent answers by then, whatever hangs
ALIVE_SECONDS = 0.7  # one that hangs itself costs both looks so long
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)", re.MULTILINE)
_CODE = re.compile(r'code="OK"')


@dataclass(frozen=True, slots=True)
class Look:
    """A node's figures at a moment; `error`: why there are none."""

    at: float
    figures: Mapping[str, float]
    error: str = ""


@command("top")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Between looks.",
)
@click.option("--watch", is_flag=True, help="Go on until interrupted; with -o json a line of JSON each time.")
@click.option("-l", "--selector", default="", help="Nodes that match, as in zone=a.")
def top(interval: float, watch: bool, selector: str) -> None:
    """What every node is doing: CPU, memory, calls, bytes in and out, streams, the busiest first."""
    given = settings()
    agents = Agents(min(given.timeout_seconds or LOOK_SECONDS, LOOK_SECONDS), ALIVE_SECONDS)
    with given.coordinator() as coordinator:
        nodes = list(coordinator.cluster_view(selector, leader=False).nodes)
        before = look_at(agents, nodes)
        while True:
            time.sleep(interval)
            after = look_at(agents, nodes)
            told = [_line(node, before[k], after[k]) for k, node in enumerate(nodes)]
            if not watch:
                break
            if given.as_json:
                click.echo(json.dumps(told))
            else:
                click.echo((CLEAR if sys.stdout.isatty() else "") + "\n".join(_table(told)))
            before = after
    show(given, told, lambda: _table(told))


def look_at(agents: Agents, nodes: Sequence[membership_pb2.NodeView]) -> list[Look]:
    """All of them at once: one that hangs holds up nobody."""

    def one(node: membership_pb2.NodeView) -> Look:
        try:
            answer = agents.ask([node.info.http], "GET", "/metrics")
        except QuorumFSError as error:
            return Look(time.monotonic(), {}, str(error))
        return Look(time.monotonic(), totals(str(answer.body)))

    return of_each(nodes, one)


def totals(text: str) -> dict[str, float]:
    """Prometheus' text: each metric's sum over its labels; of calls also those that failed, as `failed`."""
    found: dict[str, float] = {}
    for name, labels, value in _SAMPLE.findall(text):
        amount = float(value)
        found[name] = found.get(name, 0.0) + amount
        if name == "quorumfs_rpc_handled_total" and not _CODE.search(labels):
            found["failed"] = found.get("failed", 0.0) + amount
    return found


def _line(node: membership_pb2.NodeView, before: Look, after: Look) -> dict[str, Any]:
    rate = _rates(before, after)
    error = after.error or (
        "" if after.figures.get("quorumfs_node_up", 1.0) else "the node does not answer its agent"
    )
    return {
        "node_id": node.info.node_id,
        "role": "coordinator" if node.info.role == types_pb2.NODE_ROLE_COORDINATOR else "datanode",
        "leads": bool(after.figures.get("quorumfs_raft_is_leader")),
        "cpu_fraction": rate("process_cpu_seconds_total"),
        "rss_bytes": _whole(after.figures.get("process_resident_memory_bytes")),
        "calls_per_second": rate("quorumfs_rpc_handled_total"),
        "failures_per_second": rate("failed", 0.0),
        "entries_per_second": rate("quorumfs_raft_commit_index"),
        "received_bytes_per_second": rate("quorumfs_received_bytes_total"),
        "sent_bytes_per_second": rate("quorumfs_sent_bytes_total"),
        "streams": _whole(after.figures.get("quorumfs_streams")),
        "error": error or None,
    }


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _rates(before: Look, after: Look) -> Callable[..., float | None]:
    """What a figure grew by in a second; None where it is not known at both looks, or the node began anew."""
    seconds = max(1e-9, after.at - before.at)

    def rate(name: str, absent: float | None = None) -> float | None:
        if not before.figures or not after.figures:
            return None
        was, now = before.figures.get(name, absent), after.figures.get(name, absent)
        return None if was is None or now is None or now < was else round((now - was) / seconds, 3)

    return rate


def _table(told: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    busiest = sorted(told, key=lambda one: (-(one["cpu_fraction"] or 0.0), one["node_id"]))
    headings = (
        "NODE",
        "ROLE",
        "CPU",
        "MEMORY",
        "CALLS/s",
        "FAILED/s",
        "ENTRIES/s",
        "IN/s",
        "OUT/s",
        "STREAMS",
        "ERROR",
    )
    return table(
        headings,
        (
            (
                one["node_id"],
                "leader" if one["leads"] else one["role"],
                None if one["cpu_fraction"] is None else f"{100 * one['cpu_fraction']:.0f} %",
                _bytes(one["rss_bytes"]),
                one["calls_per_second"],
                one["failures_per_second"],
                one["entries_per_second"],
                _bytes(one["received_bytes_per_second"]),
                _bytes(one["sent_bytes_per_second"]),
                one["streams"],
                one["error"],
            )
            for one in busiest
        ),
    )


def _bytes(value: float | None) -> str | None:
    return None if value is None else size(int(value))
