"""`dfsctl node restart`: many nodes restarted in waves by a coordinator's agent, and watched from here."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import click

from dfsctl.agents import Agents, error_of
from dfsctl.errors import in_words
from dfsctl.fleet import choose_words, coordinators_agents, seconds_of, whom
from dfsctl.output import show, table, talk
from dfsctl.parallel import of_each
from dfsctl.shell import command, settings
from quorumfs.errors import NotFoundError, QuorumFSError, UnavailableError

PATH = "/v1/cluster/restart"
POLL_SECONDS = 0.5
LOST_SECONDS = 30.0  # so long an agent that was watched may be silent


@command("restart")
@click.argument("nodes", nargs=-1, metavar="[NODE...]")
@click.option(
    "--max-unavailable",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="So many datanodes of one failure domain may be away at once.",
)
@click.option(
    "--drain", metavar="DURATION", default="", help="Give each node's streams this long to end, as in 30s."
)
@click.option(
    "--wait",
    "patience",
    metavar="DURATION",
    default="2m",
    show_default=True,
    help="How long a node may take to be back.",
)
@click.option("--reason", default="", help="For the nodes' logs.")
@click.option("--no-watch", is_flag=True, help="Begin it, and do not wait for its end.")
@click.option("--stop", is_flag=True, help="Have the one under way begin no further wave.")
@click.option("--status", "only_status", is_flag=True, help="How the one under way, or the last one, stands.")
@whom
def restart(
    nodes: tuple[str, ...],
    max_unavailable: int,
    drain: str,
    patience: str,
    reason: str,
    no_watch: bool,
    stop: bool,
    only_status: bool,
    selector: str,
    everyone: bool,
) -> None:
    """Restart nodes in waves: followers first, then datanodes by failure domain, the leader last.

    Each is waited for; the first that does not come back ends it. Refused (exit code 10) when a quorum or the last
    copy of a chunk would go, and that does not pass.
    """
    given = settings()
    agents, addresses = given.agents(given), coordinators_agents(given)
    if stop or only_status:
        found = _find(agents, addresses)
        course = (
            agents.ask([found], "DELETE", PATH, {}).body if stop else agents.ask([found], "GET", PATH).body
        )
        show(given, course, lambda: _lines(course))
        return
    body: dict[str, Any] = {
        **choose_words(nodes, selector, everyone),
        "max_unavailable": max_unavailable,
        "wait_seconds": max(1.0, seconds_of(patience, "--wait")),
    }
    if drain:
        body["drain_seconds"] = seconds_of(drain, "--drain")
    if reason:
        body["reason"] = reason
    address, course = _begin(agents, addresses, body)
    if not no_watch:
        course = _watch(agents, address, course, lambda phase: talk(given, phase))
    show(given, course, lambda: _lines(course))
    if course["error"] is not None:
        error = error_of(course["error"])
        click.echo(in_words(error), err=True, nl=False)
        raise click.exceptions.Exit(int(error.exit_code))


def _begin(agents: Agents, addresses: list[str], body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """With the first agent that answers; its address is that of the course. Raises QuorumFSError."""
    failure: QuorumFSError | None = None
    for address in addresses:
        try:
            return address, agents.ask([address], "POST", PATH, body).body
        except UnavailableError as error:  # nothing was sent
            failure = error
    raise failure or UnavailableError("the cluster has told no address of a coordinator's agent")


def _find(agents: Agents, addresses: list[str]) -> str:
    """The agent that runs a rolling restart, or ran the latest."""
    known: dict[str, str] = {}
    failure: QuorumFSError | None = None
    for address, found in zip(addresses, of_each(addresses, lambda one: _course(agents, one)), strict=True):
        if isinstance(found, QuorumFSError):
            failure = found if failure is None or isinstance(failure, NotFoundError) else failure
            continue
        if found["state"] == "running":
            return address
        known[address] = found["started_at"]
    if not known:
        raise failure or UnavailableError("the cluster has told no address of a coordinator's agent")
    return max(known, key=lambda address: known[address])


def _course(agents: Agents, address: str) -> dict[str, Any] | QuorumFSError:
    """The one that this agent runs, or ran last."""
    try:
        course: dict[str, Any] = agents.ask([address], "GET", PATH).body
        return course
    except QuorumFSError as error:
        return error


def _watch(agents: Agents, address: str, course: dict[str, Any], told: Any) -> dict[str, Any]:
    """The course at its end. Raises what asking its agent fails with, when that lasts."""
    heard, phase = time.monotonic(), ""
    while course["state"] == "running":
        time.sleep(POLL_SECONDS)
        try:
            course = agents.ask([address], "GET", PATH).body
        except QuorumFSError:
            if time.monotonic() - heard > LOST_SECONDS:
                raise
            continue
        heard = time.monotonic()
        if course["phase"] != phase:
            phase = course["phase"]
            told(phase)
    return course


def _lines(course: dict[str, Any]) -> Iterable[str]:
    yield f"{course['state']}" + (f": {course['phase']}" if course["phase"] else "")
    yield from table(
        ("NODE", "STATE", "SECONDS"),
        ((one["node_id"], one["state"], one["seconds"]) for one in course["nodes"]),
    )
