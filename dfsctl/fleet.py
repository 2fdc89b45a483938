"""`dfsctl node exec`, `shutdown`, `loglevel`, `logs`: nodes' agents, many at once, through a coordinator's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import urlencode

import click

from dfsctl.agents import Agents, Answer, error_of
from dfsctl.errors import in_words, printable
from dfsctl.output import cell, show, table
from dfsctl.parallel import of_each
from dfsctl.shell import Settings, command, settings
from quorumfs.errors import (
    InvalidArgumentError,
    NotFoundError,
    PartialError,
    QuorumFSError,
)
from quorumfs.v1 import membership_pb2, types_pb2

LEVELS = ("debug", "info", "warning", "error")
_UNIT_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

Decorated = Callable[..., Any]


def whom(function: Decorated) -> Decorated:
    """The ways to say which nodes are meant."""
    for option in (
        click.option("--all", "everyone", is_flag=True, help="Every node of the cluster."),
        click.option(
            "-l", "--selector", default="", help="Nodes that match, as in zone=a,disk in (ssd,nvme)."
        ),
    ):
        function = option(function)
    return function


@command("exec")
@click.argument("action", metavar="ACTION")
@click.argument("params", nargs=-1, metavar="[KEY=VALUE...]")
@click.option("-n", "--node", "nodes", multiple=True, metavar="NODE", help="This node; may be said again.")
@click.option(
    "--max-unavailable",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Of the nodes meant, so many may be away at once.",
)
@whom
def execute(
    action: str,
    params: tuple[str, ...],
    nodes: tuple[str, ...],
    max_unavailable: int,
    selector: str,
    everyone: bool,
) -> None:
    """Have nodes do ACTION: status, health, logs, log_level, labels, scrub, gc, drain, undrain, maintenance,
    end_maintenance, shutdown.
    Exit code 8 when only some did.

    KEYs: of logs level, since, grep; of log_level level, ttl_seconds, logger; of labels the labels (zone=a, canary-);
    of scrub action; of gc action, dry_run; of maintenance seconds; of shutdown mode, drain_seconds, reason."""
    _run(
        settings(),
        {
            **choose_words(nodes, selector, everyone, "-n NODE"),
            "action": action,
            "params": _params(action, params),
            "max_unavailable": max_unavailable,
        },
    )


@command("shutdown")
@click.argument("nodes", nargs=-1, metavar="[NODE...]")
@click.option("--drain", metavar="DURATION", default="", help="Give streams this long to end, as in 30s.")
@click.option("--fast", is_flag=True, help="Wait for no stream.")
@click.option("--reason", default="", help="For the node's log.")
@click.option(
    "--max-unavailable",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Of the nodes meant, so many may be away at once.",
)
@click.option("--force", is_flag=True, help="Ask each node itself, and nobody whether it is safe.")
@click.option("--cancel", is_flag=True, help="Call off a shutdown that still drains.")
@whom
def shutdown(
    nodes: tuple[str, ...],
    drain: str,
    fast: bool,
    reason: str,
    max_unavailable: int,
    force: bool,
    cancel: bool,
    selector: str,
    everyone: bool,
) -> None:
    """End nodes in order: they drain, hand the leadership over, and exit 0.

    Refused (exit code 10) when a quorum or the last copy of a chunk would go, or more than --max-unavailable be away.
    """
    if cancel:
        if drain or fast or reason or force:
            raise click.UsageError("--cancel goes with NODE..., -l or --all only")
        given = settings()
        _verdict(given, _each(given, choose_words(nodes, selector, everyone), "DELETE", "/shutdown", {}))
        return
    params: dict[str, Any] = {"mode": "fast" if fast else "graceful"}
    if drain:
        params["drain_seconds"] = seconds_of(drain, "--drain")
    if reason:
        params["reason"] = reason
    given = settings()
    if force:
        _verdict(given, _each(given, choose_words(nodes, selector, everyone), "POST", "/shutdown", params))
        return
    _run(
        given,
        {
            **choose_words(nodes, selector, everyone),
            "action": "shutdown",
            "params": params,
            "max_unavailable": max_unavailable,
        },
    )


@command("loglevel")
@click.argument("words", nargs=-1, metavar="[NODE...] [LEVEL]")
@click.option("--ttl", metavar="DURATION", default="", help="Go back by itself after so long, as in 10m.")
@click.option("--logger", default="", help="Of this logger only.")
@whom
def loglevel(words: tuple[str, ...], ttl: str, logger: str, selector: str, everyone: bool) -> None:
    """Read nodes' log level, or set it to LEVEL: debug, info, warning, error."""
    level = words[-1] if words and words[-1] in LEVELS else ""
    nodes = words[:-1] if level else words
    params: dict[str, Any] = {}
    if level:
        params = {"level": level, "logger": logger}
        if ttl:
            params["ttl_seconds"] = seconds_of(ttl, "--ttl")
    elif ttl or logger:
        raise click.UsageError(f"say a level: {', '.join(LEVELS)}")
    body = {**choose_words(nodes, selector, everyone), "action": "log_level", "params": params}
    try:
        _run(settings(), body, ("level", "ttl_seconds", "logger"))
    except NotFoundError as error:
        if level or not words or repr(words[-1]) not in error.message:
            raise
        raise InvalidArgumentError(
            f"{words[-1]!r} is neither a level nor a node",
            cause=error.cause,
            next=f"the levels are {', '.join(LEVELS)}",
        ) from error


@command("logs")
@click.argument("nodes", nargs=-1, metavar="[NODE...]")
@click.option("--level", type=click.Choice(LEVELS), default="debug", help="This level and above.")
@click.option("--since", default="", metavar="WHEN", help="90s, 5m, 2h, 1d (ago), or an RFC 3339 time.")
@click.option("--grep", default="", help="Only records that contain this text.")
@click.option("-f", "--follow", is_flag=True, help="Go on as records come; one node.")
@whom
def logs(
    nodes: tuple[str, ...],
    level: str,
    since: str,
    grep: str,
    follow: bool,
    selector: str,
    everyone: bool,
) -> None:
    """What nodes logged lately, of several in the order of time. With --follow lines of JSON for -o json."""
    given = settings()
    meant = choose_words(nodes, selector, everyone)
    asked = {key: value for key, value in (("level", level), ("since", since), ("grep", grep)) if value}
    if follow:
        _follow(given, meant, asked)
        return
    results = _each(given, meant, "GET", "/logs/stream?" + urlencode({**asked, "follow": "0"}), None)
    records = sorted(
        (
            {"node_id": one["node_id"], **line}
            for one in results
            for line in one["result"] or ()
            if "remark" not in line
        ),
        key=lambda record: str(record.get("ts", "")),
    )
    show(given, records, lambda: map(_line, records))
    _fail(results)


def _follow(given: Settings, meant: dict[str, Any], asked: dict[str, str]) -> None:
    found = _choose(given, meant)
    if len(found) != 1:
        raise InvalidArgumentError("--follow is for one node", cause=f"{len(found)} are meant")
    path = "/logs/stream?" + urlencode({**asked, "follow": "1"})
    for record in given.agents(given).follow(found[0].info.http, path):
        if given.as_json:
            click.echo(json.dumps(record))
        elif "remark" in record:
            click.echo(printable(f"-- {json.dumps(record)}"), err=True)
        else:
            click.echo(_line(record))


_HEAD = ("ts", "node_id", "level", "event")
_QUIET = (*_HEAD, "id", "role", "logger")


def _line(record: dict[str, Any]) -> str:
    head = [str(record[key]) for key in _HEAD if record.get(key)]
    rest = [f"{key}={value}" for key, value in record.items() if key not in _QUIET and value != ""]
    return printable("  ".join([*head, " ".join(rest)]).rstrip())


def _run(given: Settings, body: dict[str, Any], columns: Sequence[str] = ()) -> None:
    """Through a coordinator's agent, whichever answers."""
    answer = given.agents(given).ask(coordinators_agents(given), "POST", "/v1/cluster/exec", body)
    _verdict(given, answer.body["results"], columns)


def coordinators_agents(given: Settings) -> list[str]:
    """The addresses of coordinators' agents, the leader's first."""
    view = _view(given)
    addresses = [one.info.http for one in view.nodes if one.info.role == types_pb2.NODE_ROLE_COORDINATOR]
    leader = [view.leader.http] if view.leader.http else []
    return list(dict.fromkeys([*leader, *addresses]))


def _each(
    given: Settings, meant: dict[str, Any], method: str, path: str, body: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """Ask every node's own agent, all at once; no leader is needed."""
    agents = given.agents(given)
    return of_each(_choose(given, meant), lambda node: _one(agents, node, method, path, body))


def _one(
    agents: Agents, node: membership_pb2.NodeView, method: str, path: str, body: dict[str, Any] | None
) -> dict[str, Any]:
    made: dict[str, Any] = {
        "node_id": node.info.node_id,
        "ok": True,
        "status": 200,
        "result": None,
        "error": None,
    }
    try:
        if path.startswith("/logs/stream"):
            return {**made, "result": list(agents.follow(node.info.http, path))}
        answer: Answer = agents.ask([node.info.http], method, path, body)
    except QuorumFSError as error:
        return {**made, "ok": False, "status": None, "error": error.to_json()}
    return {**made, "status": answer.status, "result": answer.body}


def _view(given: Settings) -> membership_pb2.ClusterView:
    """The membership as any coordinator knows it: agents have their own way to the leader."""
    with given.coordinator() as coordinator:
        return coordinator.cluster_view(leader=False)


def _choose(given: Settings, meant: dict[str, Any]) -> list[membership_pb2.NodeView]:
    with given.coordinator() as coordinator:
        view = coordinator.cluster_view(meant.get("selector", ""), leader=False)
    by_id = {one.info.node_id: one for one in view.nodes}
    wanted = meant.get("nodes") or sorted(by_id)
    unknown = sorted(set(wanted) - by_id.keys())
    if unknown or not wanted:
        raise NotFoundError(
            f"there is no node {unknown[0]!r}" if unknown else "no node matches",
            cause=f"there are {', '.join(sorted(by_id)) or 'none'}",
            next="dfsctl node ls",
        )
    return [by_id[one] for one in wanted]


def choose_words(
    nodes: Sequence[str], selector: str, everyone: bool, named_by: str = "NODE..."
) -> dict[str, Any]:
    """Whom a command means, as agents take it. Raises InvalidArgumentError unless it is said in exactly one way."""
    said = [bool(nodes), bool(selector.strip()), everyone]
    if sum(said) != 1:
        raise InvalidArgumentError(
            "say which nodes are meant, in one way", next=f"give {named_by}, or -l SELECTOR, or --all"
        )
    if nodes:
        return {"nodes": list(dict.fromkeys(nodes))}
    return {"all": True} if everyone else {"selector": selector}


def _verdict(given: Settings, results: list[dict[str, Any]], columns: Sequence[str] = ()) -> None:
    """Print what came of it, and end with the exit code that says how much of it went well."""
    show(given, {"results": results}, lambda: _lines(results, columns))
    _fail(results)


def _fail(results: list[dict[str, Any]]) -> None:
    failed = [one for one in results if not one["ok"]]
    if not failed:
        return
    error = error_of(failed[0]["error"])
    if len(failed) < len(results):
        names = ", ".join(one["node_id"] for one in failed)
        error = PartialError(
            f"{len(failed)} of {len(results)} nodes did not do it: {names}", cause=str(error)
        )
    click.echo(in_words(error), err=True, nl=False)
    raise click.exceptions.Exit(int(error.exit_code))


def _lines(results: list[dict[str, Any]], columns: Sequence[str]) -> Iterable[str]:
    if columns:
        head = ("NODE", *(column.upper() for column in columns), "ERROR")
        return table(head, ([one["node_id"], *_fields(one, columns), _why(one)] for one in results))
    return table(
        ("NODE", "OK", "RESULT"), ((one["node_id"], one["ok"], _why(one) or _short(one)) for one in results)
    )


def _fields(one: dict[str, Any], columns: Sequence[str]) -> list[Any]:
    result = one["result"] if isinstance(one["result"], dict) and one["ok"] else {}
    return [result.get(column) for column in columns]


def _why(one: dict[str, Any]) -> str:
    return "" if one["ok"] else str(error_of(one["error"]))


def _short(one: dict[str, Any]) -> str:
    result = one["result"]
    if isinstance(result, dict):
        shown = {
            key: value
            for key, value in result.items()
            if not isinstance(value, dict | list) and key != "node_id"
        }
        return "  ".join(
            f"{key}={cell(value)}" for key, value in list(shown.items())[:8] if value not in (None, "")
        )
    return cell(result)


def _params(action: str, words: tuple[str, ...]) -> dict[str, Any]:
    """KEY=VALUE as an action takes it; a value that is JSON is taken as such. Of labels: zone=a, canary-."""
    params: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if equals and key:
            params[key] = text if action == "labels" else _value(text)
        elif action == "labels" and word.endswith("-") and len(word) > 1:
            params[word[:-1]] = None
        else:
            raise click.UsageError(f"{word!r} is not KEY=VALUE")
    return {"labels": params} if action == "labels" else params


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def seconds_of(text: str, option: str) -> float:
    """Of a duration such as 90s, 10m, 2h."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNIT_SECONDS else (text, "s")
    try:
        seconds = float(number) * _UNIT_SECONDS[unit]
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise click.BadParameter(f"{text!r} is no duration such as 90s, 10m, 2h", param_hint=option)
    return seconds
