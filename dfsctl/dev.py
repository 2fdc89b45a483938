"""`dfsctl dev`: a cluster on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import click

from dfsctl.output import show, table, talk
from dfsctl.shell import Settings, dev_command, settings
from quorumfs.errors import NotFoundError
from quorumfs.local import faults
from quorumfs.local.cluster import READY_SECONDS, STOP_SECONDS, Asked, DevCluster
from quorumfs.local.config_text import parse_labels, parse_overrides
from quorumfs.local.layout import Kind
from quorumfs.local.pointer import current_directory, default_directory

node_argument = click.argument("node_id", metavar="NODE")
sidecar_option = click.option("--sidecar", is_flag=True, help="The node's sidecar instead of the node.")


def cluster_to_start(given: Settings) -> DevCluster:
    """That of --dir, else the last one started, else the default one."""
    return DevCluster(given.directory or current_directory() or default_directory())


def cluster_at_hand(given: Settings) -> DevCluster:
    """That of --dir, else the last one started. Raises NotFoundError when there is none."""
    directory = given.directory or current_directory()
    if directory is None and (default_directory() / "cluster.json").is_file():
        directory = default_directory()
    if directory is None:
        raise NotFoundError("no local cluster was started", next="dfsctl dev up, or give --dir")
    cluster = DevCluster(directory)
    cluster.layout()
    return cluster


@dev_command()
@click.option("--coordinators", "coordinator_count", type=int, help="How many; odd (default: 3).")
@click.option("--datanodes", type=int, help="How many (default: 3).")
@click.option("--base-port", type=int, help="Node k listens on this + 10k (default: 7400).")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting, as gc.grace_seconds=5.",
)
@click.option(
    "--label", "labels", multiple=True, metavar="KEY=A,B,...", help="Spread labels over the datanodes."
)
@click.option(
    "--wait", "wait_seconds", type=float, default=READY_SECONDS, help="Seconds until it must be ready."
)
def up(
    coordinator_count: int | None,
    datanodes: int | None,
    base_port: int | None,
    overrides: tuple[str, ...],
    labels: tuple[str, ...],
    wait_seconds: float,
) -> None:
    """Start a cluster, make it if it is new, and wait until it is ready. Again is harmless."""
    given = settings()
    cluster = cluster_to_start(given)
    began = time.monotonic()
    cluster.up(
        Asked(coordinator_count, datanodes, base_port, parse_overrides(overrides), parse_labels(labels)),
        deadline_seconds=wait_seconds,
        say=lambda line: talk(given, line),
        warn=lambda line: click.echo(f"dfsctl: {line}", err=True),
    )
    found = {**cluster.status(), "ready_seconds": round(time.monotonic() - began, 3)}
    show(given, found, lambda: [*describe(found), *next_steps(found)])


@dev_command()
@click.option("--purge", is_flag=True, help="Remove its files as well, with all that was stored.")
@click.option("--wait", "wait_seconds", type=float, default=STOP_SECONDS, help="Seconds before SIGKILL.")
def down(purge: bool, wait_seconds: float) -> None:
    """Stop every process: sidecars, datanodes, coordinators. Harmless when none runs."""
    given = settings()
    directory = given.directory or current_directory() or default_directory()
    if not DevCluster(directory).exists:
        show(
            given,
            {"dir": str(directory), "killed": [], "purged": False},
            lambda: ["no local cluster is there"],
        )
        return
    killed = [spec.name for spec in DevCluster(directory).down(purge=purge, deadline_seconds=wait_seconds)]
    data = {"dir": str(directory), "killed": killed, "purged": purge}
    show(
        given, data, lambda: [f"{directory}: down{', its files removed' if purge else ''}", *_forced(killed)]
    )


@dev_command()
def status() -> None:
    """Every process of the cluster and how it is."""
    given = settings()
    found = cluster_at_hand(given).status()
    show(given, found, lambda: describe(found))


@dev_command()
@node_argument
@sidecar_option
def kill(node_id: str, sidecar: bool) -> None:
    """SIGKILL: gone without a word."""
    _act(node_id, sidecar, lambda cluster, kind: cluster.kill(node_id, kind))


@dev_command()
@node_argument
@sidecar_option
def stop(node_id: str, sidecar: bool) -> None:
    """SIGTERM: it hands over what it holds and ends; SIGKILL after a while."""
    _act(node_id, sidecar, lambda cluster, kind: cluster.stop(node_id, kind))


@dev_command()
@node_argument
@sidecar_option
def start(node_id: str, sidecar: bool) -> None:
    """Start it again. Says so when its other process does not run."""
    _act(node_id, sidecar, lambda cluster, kind: cluster.start(node_id, kind))
    other: Kind = "node" if sidecar else "sidecar"
    state = _process(cluster_at_hand(settings()), node_id, other)["state"]
    if state != "running":
        named, switch = ("its sidecar", " --sidecar") if other == "sidecar" else ("the node itself", "")
        click.echo(f"dfsctl: {named} is {state}: dfsctl dev start {node_id}{switch} starts it", err=True)


@dev_command()
@node_argument
@sidecar_option
def pause(node_id: str, sidecar: bool) -> None:
    """SIGSTOP: it hangs, with its connections open."""
    _act(node_id, sidecar, lambda cluster, kind: cluster.pause(node_id, kind))


@dev_command()
@node_argument
@sidecar_option
def resume(node_id: str, sidecar: bool) -> None:
    """SIGCONT."""
    _act(node_id, sidecar, lambda cluster, kind: cluster.resume(node_id, kind))


@dev_command("partition")
@click.argument("nodes", metavar="NODE...", nargs=-1, required=True)
def partition(nodes: tuple[str, ...]) -> None:
    """Cut nodes off from all others, both ways. The cluster must run with dev.faults (up --set dev.faults=true)."""
    given = settings()
    _show_sides(given, faults.partition(cluster_at_hand(given), nodes))


@dev_command("heal")
def heal() -> None:
    """End the partition: everybody reaches everybody again."""
    given = settings()
    _show_sides(given, faults.heal(cluster_at_hand(given)))


def _show_sides(given: Settings, sides: list[list[str]]) -> None:
    show(given, {"sides": sides}, lambda: [" | ".join(", ".join(side) for side in sides)])


def _act(node_id: str, sidecar: bool, action: Callable[[DevCluster, Kind], Any]) -> None:
    given = settings()
    cluster = cluster_at_hand(given)
    kind: Kind = "sidecar" if sidecar else "node"
    action(cluster, kind)
    now = _process(cluster, node_id, kind)
    show(given, now, lambda: [f"{node_id}{' (sidecar)' if sidecar else ''}: {now['state']}"])


def _process(cluster: DevCluster, node_id: str, kind: Kind) -> dict[str, Any]:
    processes: list[dict[str, Any]] = cluster.status()["processes"]
    return next(one for one in processes if (one["node_id"], one["kind"]) == (node_id, kind))


def describe(found: dict[str, Any]) -> list[str]:
    """A cluster's processes as a table."""
    rows = (
        (p["node_id"], p["role"], p["kind"], p["state"], p["pid"], _ports(p["ports"]), p["log"])
        for p in found["processes"]
    )
    head = ("NODE", "ROLE", "KIND", "STATE", "PID", "PORTS", "LOG")
    return [f"cluster in {found['dir']}", *table(head, rows)]


def next_steps(found: dict[str, Any]) -> Iterable[str]:
    first = next(p for p in found["processes"] if p["kind"] == "sidecar")
    yield ""
    yield f"coordinators  {found['coordinators']}"
    yield f"management    http://127.0.0.1:{first['ports']['http']}/health"
    yield "next          dfsctl put FILE /name; dfsctl ls -l /; dfsctl leader; dfsctl dev kill c1"


def _ports(ports: dict[str, int]) -> str:
    return " ".join(f"{service}:{port}" for service, port in ports.items())


def _forced(killed: list[str]) -> list[str]:
    return [f"killed, because they did not end: {', '.join(killed)}"] if killed else []
