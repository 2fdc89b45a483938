"""The garbage collection: where it stands, a cycle by hand, one chunk explained, what is held and what was deleted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from dfsctl import views
from dfsctl.errors import raise_shown
from dfsctl.output import pairs, show, table
from dfsctl.shell import Settings, command, settings
from dfsctl.watching import show_or_watch, watch_option
from quorumfs.errors import (
    InvalidArgumentError,
    NotFoundError,
    PartialError,
    PreconditionFailedError,
    TimedOutError,
)
from quorumfs.ids import ID_BYTES
from quorumfs.v1 import admin_pb2

PAGE = 500
CHUNKS_PER_CALL = 500
RUN_SECONDS = 3600.0

chunks_argument = click.argument("chunks", metavar="CHUNK...", nargs=-1, required=True)
limit_option = click.option(
    "--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="At most so many."
)


@command("status")
@watch_option
def status(watch: float | None) -> None:
    """Where the collection stands, and what its last cycle did."""
    given = settings()
    with given.coordinator() as coordinator:

        def ask() -> dict[str, Any]:
            return views.gc(coordinator.control("Control.GetGc", admin_pb2.GetGcRequest()))

        show_or_watch(given, watch, ask, _lines)


def _lines(data: dict[str, Any]) -> list[str]:
    accounting = [one.values() for one in data["accounting"]]
    head = [name.removesuffix("_bytes").upper() for name in views.disk_classes(admin_pb2.DiskClasses())]
    rest = pairs((name, value) for name, value in data.items() if name != "accounting")
    return [*rest, *(table(head, map(list, accounting)) if accounting else [])]


@command("run")
@click.option("--dry-run", is_flag=True, help="Only say what it would do; change nothing.")
@click.option("--wait", is_flag=True, help="Until the cycle is over.")
def run(dry_run: bool, wait: bool) -> None:
    """Run a cycle now. Without --wait it is only begun; a dry run is always waited for."""
    given = settings()
    waits = wait or dry_run
    with given.coordinator() as coordinator:
        report = coordinator.control("Control.RunGc", admin_pb2.RunGcRequest(dry_run=dry_run))
        rounds = int(given.timeout_seconds or RUN_SECONDS) + 1
        while waits and report.outcome == "running" and rounds > 0:
            again = admin_pb2.RunGcRequest(dry_run=dry_run, wait=True, ticket=report.ticket)
            report = coordinator.control("Control.RunGc", again, repeatable=True)
            rounds -= 1
    if waits and report.outcome == "running":
        raise TimedOutError("the cycle is not over", next="dfsctl gc status shows how it goes on")
    if waits and report.outcome == "paused":
        raise PreconditionFailedError(
            "the cycle did not end: the collection was paused meanwhile", next="dfsctl gc resume; then again"
        )
    data = {**views.gc_report(report), "ticket": report.ticket}
    begun = "a cycle is begun; dfsctl gc status shows how it goes on, gc run --wait its end"
    show(given, data, lambda: [begun] if report.outcome == "running" else pairs(data.items()))


@command("pause")
def pause() -> None:
    """Condemn and delete nothing until `gc resume`, whoever leads."""
    _control(admin_pb2.ControlGcRequest(pause=True))


@command("resume")
def resume() -> None:
    """Go on collecting."""
    _control(admin_pb2.ControlGcRequest(resume=True))


def _control(request: admin_pb2.ControlGcRequest) -> None:
    given = settings()
    with given.coordinator() as coordinator:
        data = views.gc(coordinator.control("Control.ControlGc", request))
    show(given, data, lambda: _lines(data))


@command("candidates")
@click.option("--held", is_flag=True, help="Those that wait for an operator instead.")
@limit_option
def candidates(held: bool, limit: int) -> None:
    """Orphans that are not condemned yet, and the earliest time at which each can be."""
    given = settings()
    data = [views.chunk_story(one) for one in _listed(given, limit, held=held)[0]]
    rows = (
        (
            one["chunk"],
            one["length"],
            one["earliest_sweep_at"],
            ", ".join(one["last_referenced_by"]),
            one["held_by"],
        )
        for one in data
    )
    head = ("CHUNK", "BYTES", "EARLIEST", "LAST PATH", "HELD BY")
    show(given, data, lambda: table(head, rows))


@command("explain")
@click.argument("chunk", metavar="CHUNK")
def explain(chunk: str) -> None:
    """In what state a chunk is, what refers to it or did last, who has it, and what keeps it from going."""
    given = settings()
    request = admin_pb2.ExplainChunkRequest(chunk=_id_of(chunk))
    with given.coordinator() as coordinator:
        data = views.chunk_story(coordinator.control("Control.ExplainChunk", request))
    if data["state"] == "unknown":
        error = NotFoundError(
            f"chunk {data['chunk']} is unknown",
            cause="no table has it, and no datanode that answers",
            next="dfsctl locate shows the chunks of a file, dfsctl node ls which datanodes answer",
        )
        show(given, {**data, "error": error.to_json()}, lambda: ())
        raise_shown(error)
    show(given, data, lambda: pairs(_words(data)))


def _words(data: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, _text(value)) for name, value in data.items())


def _text(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return ", ".join(one if isinstance(one, str) else _sighting(one) for one in value)


def _sighting(one: dict[str, Any]) -> str:
    """Where a chunk was seen, and when."""
    return f"{one['node_id']}: {one['state']}" + (f" at {one['seen_at']}" if one["seen_at"] else "")


@command("release")
@click.argument("chunks", metavar="[CHUNK...]", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that are held.")
def release(chunks: tuple[str, ...], everything: bool) -> None:
    """End the hold of chunks: nobody needs them. Their grace begins now."""
    given = settings()
    if bool(chunks) == everything:
        raise InvalidArgumentError("name chunks, or say --all", next="dfsctl gc candidates --held")
    ids = [_id_of(one) for one in chunks]
    if everything:
        ids = [one.chunk for one in _listed(given, 10**9, held=True)[0]]
    _order(given, ids, release=True)


@command("ls")
@click.option("--node", "node_id", metavar="NODE", default="", help="Of this node only.")
@limit_option
def quarantine_ls(node_id: str, limit: int) -> None:
    """What datanodes have in quarantine, where, and what it was. Exit code 8 when a datanode did not tell."""
    given = settings()
    found, silent = _listed(given, limit, quarantined=True, node_id=node_id)
    data = [views.quarantined(one) for one in found]
    rows = (
        (
            one["chunk"],
            one["path"],
            one["deleted_by"],
            one["deleted_at_index"],
            one["since"],
            ", ".join(one["nodes"]),
        )
        for one in data
    )
    show(given, data, lambda: table(("CHUNK", "PATH", "DELETED BY", "AT INDEX", "SINCE", "NODES"), rows))
    if silent:
        error = PartialError(
            f"{', '.join(silent)} did not tell",
            cause="what lies in quarantine there is not in the list",
            next="dfsctl node ls shows whether they are there; then again",
        )
        raise_shown(error)


@command("restore")
@chunks_argument
def quarantine_restore(chunks: tuple[str, ...]) -> None:
    """Bring chunks back out of quarantine; they are held until `gc release`."""
    _order(settings(), [_id_of(one) for one in chunks], release=False)


def _order(given: Settings, ids: list[bytes], *, release: bool) -> None:
    details = []
    with given.coordinator() as coordinator:
        for first in range(0, len(ids), CHUNKS_PER_CALL):
            page = ids[first : first + CHUNKS_PER_CALL]
            request = admin_pb2.RestoreQuarantinedRequest(chunks=page, release=release)
            details.append(coordinator.control("Control.RestoreQuarantined", request).detail)
    show(given, {"chunks": len(ids), "details": details}, lambda: details or ["nothing is held"])


def _listed(given: Settings, limit: int, **fields: Any) -> tuple[list[admin_pb2.ChunkStory], list[str]]:
    """All pages, and the datanodes that told nothing for one of them."""
    found: list[admin_pb2.ChunkStory] = []
    silent: set[str] = set()
    after = b""
    with given.coordinator() as coordinator:
        while len(found) < limit:
            request = admin_pb2.ListCandidatesRequest(
                after=after, limit=min(PAGE, limit - len(found)), **fields
            )
            page = coordinator.control("Control.ListCandidates", request)
            found += page.chunks
            silent.update(page.silent_nodes)
            after = page.next
            if not after:
                break
    return found, sorted(silent)


def _id_of(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != ID_BYTES:
        raise InvalidArgumentError(
            f"{text[:64]!a} is no chunk id",
            cause=f"it is {2 * ID_BYTES} hex digits",
            next="dfsctl locate shows them",
        )
    return raw
