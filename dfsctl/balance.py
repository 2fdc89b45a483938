"""Balancing: replicas move from fuller datanodes to emptier ones."""

from __future__ import annotations

from typing import Any

import click

from dfsctl import views
from dfsctl.output import pairs, show, table
from dfsctl.shell import command, settings
from dfsctl.watching import show_or_watch, watch_option
from quorumfs.v1 import admin_pb2

throttle_option = click.option(
    "--throttle", type=click.IntRange(min=1), metavar="BYTES", help="Most bytes per second, from now on."
)


@command("plan")
def plan() -> None:
    """What would be moved as things are, and how full each node is. Changes nothing."""
    given = settings()
    with given.coordinator() as coordinator:
        answer = coordinator.control("Control.GetBalance", admin_pb2.GetBalanceRequest(plan=True))
        data = views.balance_plan(answer)

    def lines() -> list[str]:
        rows = ([one["chunk"], one["length"], one["source"], one["destination"]] for one in data["moves"])
        return [
            *pairs((name, value) for name, value in data.items() if name not in ("nodes", "moves")),
            *_nodes(data),
            *(table(("CHUNK", "BYTES", "FROM", "TO"), rows) if data["moves"] else []),
        ]

    show(given, data, lines)


@command("start")
@throttle_option
@click.option(
    "--threshold",
    type=click.IntRange(1, 50),
    metavar="PERCENT",
    help="How far from the mean a node may be.",
)
def start(throttle: int | None, threshold: int | None) -> None:
    """Move replicas until no node is much fuller or emptier than the mean, whoever leads."""
    _control("start", throttle, threshold)


@command("pause")
def pause() -> None:
    """Begin no move until `balance resume`, whoever leads."""
    _control("pause", None)


@command("resume")
@throttle_option
def resume(throttle: int | None) -> None:
    """Go on moving."""
    _control("resume", throttle)


@command("status")
@watch_option
def status(watch: float | None) -> None:
    """Whether it runs, what it did, and how full each node is."""
    given = settings()
    with given.coordinator() as coordinator:

        def ask() -> dict[str, Any]:
            return views.balance(coordinator.control("Control.GetBalance", admin_pb2.GetBalanceRequest()))

        show_or_watch(given, watch, ask, _lines)


def _control(action: str, throttle: int | None, threshold: int | None = None) -> None:
    given = settings()
    request = admin_pb2.ControlBalanceRequest(
        action=action, bytes_per_second=throttle or 0, threshold_percent=threshold or 0
    )
    with given.coordinator() as coordinator:
        data = views.balance(coordinator.control("Control.ControlBalance", request))
    show(given, data, lambda: _lines(data))


def _lines(data: dict[str, Any]) -> list[str]:
    return [*pairs((name, value) for name, value in data.items() if name != "nodes"), *_nodes(data)]


def _nodes(data: dict[str, Any]) -> list[str]:
    return table(("NODE", "USED", "ROOM", "SHARE", "TAKES PART"), (one.values() for one in data["nodes"]))
