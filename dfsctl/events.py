"""`dfsctl events`: what happened to the cluster, as each coordinator saw it, in the order of time."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import click

from dfsctl.errors import in_words, printable
from dfsctl.fleet import seconds_of
from dfsctl.output import show, time_of_ms
from dfsctl.parallel import NODE_SECONDS, of_each
from dfsctl.shell import command, settings
from quorumfs.errors import Exit, NoLeaderError, PartialError, QuorumFSError
from quorumfs.rpc.coordinator import Coordinator
from quorumfs.v1 import admin_pb2, membership_pb2, types_pb2

FOLLOW_SECONDS = 365 * 86_400.0
AGAIN_SECONDS = 1.0
REMEMBERED_MAX = 20_000  # events of a coordinator; its log keeps fewer records


@command("events")
@click.option("-f", "--follow", is_flag=True, help="Go on as it happens; with -o json a line of JSON each.")
@click.option("--since", default="", metavar="DURATION", help="Not older than this, as in 15m.")
@click.option("--kind", default="", metavar="WORD", help="Only kinds that begin with this, as in node or gc.")
@click.option("--from", "observer", default="", metavar="NODE", help="Only what this coordinator saw.")
def events(follow: bool, since: str, kind: str, observer: str) -> None:
    """What happened to the cluster, as its coordinators saw it since each began."""
    given = settings()
    since_ms = int((time.time() - seconds_of(since, "--since")) * 1000) if since else 0

    def wanted(event: admin_pb2.Event) -> bool:
        return event.wall_ms >= since_ms and event.kind.startswith(kind)

    with given.coordinator() as coordinator:
        asked = _coordinators(coordinator, observer)
        if follow:
            for event in _follow(coordinator, asked):
                if wanted(event):
                    click.echo(json.dumps(_json(event)) if given.as_json else _line(event))
            return
        found, failures = _present(coordinator, asked)
    told = sorted(filter(wanted, found), key=lambda event: (event.wall_ms, event.node_id, event.id))
    show(given, [_json(one) for one in told], lambda: map(_line, told))
    _fail(failures, len(asked))


def _coordinators(coordinator: Coordinator, observer: str) -> list[membership_pb2.NodeInfo]:
    view = coordinator.cluster_view(leader=False)
    there = [one.info for one in view.nodes if one.info.role == types_pb2.NODE_ROLE_COORDINATOR]
    chosen = [one for one in there if observer in ("", one.node_id)]
    if not chosen:
        names = ", ".join(one.node_id for one in there)
        raise click.BadParameter(
            f"there is no coordinator {observer!r}; there are {names}", param_hint="--from"
        )
    return chosen


def _present(
    coordinator: Coordinator, asked: Sequence[membership_pb2.NodeInfo]
) -> tuple[list[admin_pb2.Event], dict[str, QuorumFSError]]:
    failures: dict[str, QuorumFSError] = {}

    def ask(one: membership_pb2.NodeInfo) -> list[admin_pb2.Event]:
        request = admin_pb2.ListEventsRequest()
        try:
            return list(coordinator.stream("Control.ListEvents", request, NODE_SECONDS, address=one.grpc))
        except QuorumFSError as error:
            failures[one.node_id] = error
            return []

    return [event for told in of_each(asked, ask) for event in told], failures


class News:
    """Which of a coordinator's events have not been told yet. It begins to count anew with its process, so that an id
    alone names no event; the moment beside it does."""

    def __init__(self, remembered_max: int = REMEMBERED_MAX) -> None:
        self._remembered_max = remembered_max
        self._told: OrderedDict[int, int] = OrderedDict()

    def take(self, event: admin_pb2.Event) -> bool:
        """Whether it is news; from now on it is not."""
        if self._told.get(event.id) == event.wall_ms:
            return False
        self._told[event.id] = event.wall_ms
        self._told.move_to_end(event.id)
        while len(self._told) > self._remembered_max:
            self._told.popitem(last=False)
        return True


def _follow(coordinator: Coordinator, asked: list[membership_pb2.NodeInfo]) -> Iterator[admin_pb2.Event]:
    """Of all of them at once; one that does not answer is asked again, and said on stderr. Raises the refusal when all
    of them refuse: that does not pass."""
    told: queue.SimpleQueue[tuple[str, admin_pb2.Event | QuorumFSError]] = queue.SimpleQueue()
    ended = threading.Event()

    def keep(node: membership_pb2.NodeInfo) -> None:
        news = News()
        while not ended.is_set():
            request = admin_pb2.ListEventsRequest(follow=True)
            try:
                stream = coordinator.stream("Control.ListEvents", request, FOLLOW_SECONDS, address=node.grpc)
                for event in filter(news.take, stream):
                    told.put((node.node_id, event))
            except QuorumFSError as error:
                told.put((node.node_id, error))
            ended.wait(AGAIN_SECONDS)

    for one in asked:
        threading.Thread(target=keep, args=(one,), name=f"events-{one.node_id}", daemon=True).start()
    silent: dict[str, QuorumFSError] = {}
    try:
        while True:
            node_id, found = told.get()
            if isinstance(found, QuorumFSError):
                before = silent.get(node_id)
                if before is None or before.code is not found.code:
                    _say_silent(node_id, found)
                silent[node_id] = found
                if len(silent) == len(asked) and all(map(_is_denied, silent.values())):
                    raise found
                continue
            silent.pop(node_id, None)
            yield found
    finally:
        ended.set()


def _say_silent(node_id: str, error: QuorumFSError) -> None:
    click.echo(printable(f"-- {node_id} does not tell, and is asked again: {error}"), err=True)


def _is_denied(error: QuorumFSError) -> bool:
    return error.exit_code is Exit.DENIED


def _fail(failures: dict[str, QuorumFSError], asked: int) -> None:
    if not failures:
        return
    names, first = ", ".join(sorted(failures)), next(iter(failures.values()))
    denied = next(filter(_is_denied, failures.values()), None)
    error: QuorumFSError
    if len(failures) < asked:
        error = PartialError(f"{names} did not tell", cause=str(denied or first))
    else:
        error = denied or NoLeaderError(f"{names} did not tell", cause=str(first))
    click.echo(in_words(error), err=True, nl=False)
    raise click.exceptions.Exit(int(error.exit_code))


def _json(event: admin_pb2.Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "time": time_of_ms(event.wall_ms),
        "kind": event.kind,
        "node_id": event.node_id,
        "message": event.message,
        "fields": dict(event.fields),
    }


def _line(event: admin_pb2.Event) -> str:
    return printable(f"{time_of_ms(event.wall_ms)}  {event.node_id}  {event.kind:22}  {event.message}")
