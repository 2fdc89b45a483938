"""`dfsctl verify`: every replica of a file, read and checked by the node that holds it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from dfsctl.errors import in_words, printable
from dfsctl.output import show, table
from dfsctl.parallel import NODE_SECONDS, for_each, of_each
from dfsctl.remote import clean, walk
from dfsctl.shell import command, settings
from quorumfs.backoff import Backoff
from quorumfs.errors import (
    BusyError,
    ChunkNotFoundError,
    IntegrityError,
    InvalidArgumentError,
    PartialError,
    QuorumFSError,
    TimedOutError,
    UnavailableError,
)

if TYPE_CHECKING:
    from quorumfs import Client
    from quorumfs.values import Location, ReplicaPlace

_ASK_SECONDS = 120.0  # a node reads the whole chunk before it answers
_BUSY_TRIES = 8
_BUSY = Backoff(first_seconds=0.05, most_seconds=1.0)
_HEADINGS = ("PATH", "CHUNK", "NODE", "PROBLEM", "DETAIL")


@dataclass(frozen=True, slots=True)
class Check:
    """One replica to be checked; without a place: a chunk in the metadata, or one that has no replica."""

    path: str
    extent: Location
    place: ReplicaPlace | None

    @property
    def key(self) -> tuple[str, str]:
        """What is checked: many small files may share it."""
        return self.extent.chunk, self.place.node_id if self.place else ""


Known = dict[tuple[str, str], tuple[str, str] | None]
"""Of every replica that was checked: (problem, detail), None when it is good."""

Silent = dict[str, str]
"""Of every node that was asked whether it is there: why it is not; empty when it is."""


@command()
@click.argument("path", metavar="REMOTE")
@click.option("-r", "--recursive", is_flag=True, help="All files below a directory.")
def verify(path: str, recursive: bool) -> None:
    """Have every replica of a file read and checked where it lies.

    Exit code 9 when one is corrupt or missing, 8 when one could not be checked.
    """
    given = settings()
    where = clean(path)
    with given.client() as client:
        status = client.stat(where)
        if status.is_directory and not recursive:
            raise InvalidArgumentError(
                f"{printable(where)} is a directory", next="add -r to verify all files below it"
            )
        files = [one for one in walk(client, where) if one.is_file] if status.is_directory else [status]
        problems: list[dict[str, Any]] = []
        known: Known = {}
        silent: Silent = {}
        for one in files:
            checks = list(_checks(one.path, client.locate(one.path)))
            _look_for(client, checks, silent)
            problems += _problems(client, checks, known, silent)
    data = {
        "path": where,
        "ok": not problems,
        "files": len(files),
        "size_bytes": sum(one.size_bytes for one in files),
        "replicas": len(known),
        "problems": problems,
    }
    show(given, data, lambda: _lines(data))
    error = _verdict(where, problems)
    if error is not None:  # the answer stays a report; the verdict is in words and in the exit code
        click.echo(in_words(error), err=True, nl=False)
        raise click.exceptions.Exit(int(error.exit_code))


def _checks(path: str, extents: Iterable[Location]) -> Iterator[Check]:
    """What has to be asked: every replica of every chunk once."""
    seen: set[str] = set()
    for extent in extents:
        if extent.chunk in seen:
            continue
        seen.add(extent.chunk)
        for place in extent.replicas:
            yield Check(path, extent, place)
        if not extent.replicas:
            yield Check(path, extent, None)


def _look_for(client: Client, checks: list[Check], silent: Silent) -> None:
    """Whether the nodes are there, each asked once: reading a chunk may take long, so that it tells nothing."""
    places = {check.place.node_id: check.place.grpc for check in checks if check.place is not None}
    new = [(node_id, grpc) for node_id, grpc in places.items() if node_id not in silent]

    def ask(node: tuple[str, str]) -> str:
        from quorumfs.v1 import admin_pb2

        request = admin_pb2.GetHealthRequest()
        try:
            client.coordinator.call("Admin.GetHealth", request, NODE_SECONDS, address=node[1])
        except (UnavailableError, TimedOutError) as error:
            return str(error)
        except QuorumFSError:
            pass  # it answers
        return ""

    if new:
        silent.update(zip((node_id for node_id, _ in new), of_each(new, ask), strict=True))


def _problems(client: Client, checks: list[Check], known: Known, silent: Silent) -> list[dict[str, Any]]:
    """What is wrong, in the order of `checks`. What is in `known` is not asked again."""

    def one(check: Check) -> None:
        known[check.key] = _judge(client, check, silent)

    for_each([check for check in checks if check.key not in known], one, lambda check: check.path)
    return [
        {
            "path": check.path,
            "chunk": check.extent.chunk,
            "node_id": check.place.node_id if check.place else None,
            "problem": problem[0],
            "detail": problem[1],
        }
        for check in checks
        if (problem := known[check.key]) is not None
    ]


def _judge(client: Client, check: Check, silent: Silent) -> tuple[str, str] | None:
    """(problem, detail): corrupt, missing, unchecked; None when the replica is good."""
    if check.place is None and not check.extent.inline:
        return "missing", "the leader knows of no replica"
    if check.place is not None and check.place.state == "missing":
        return "missing", "the leader knows it as missing"
    if check.place is not None and silent.get(check.place.node_id):
        return "unchecked", silent[check.place.node_id]
    try:
        if check.place is None:
            client.read_bytes(check.path)  # a small file, whose body the reader checks
            return None
        answer = _ask(client, check.place, check.extent.chunk)
    except ChunkNotFoundError as error:
        return "missing", str(error)
    except IntegrityError as error:
        return "corrupt", str(error)
    except QuorumFSError as error:
        return "unchecked", str(error)
    if not answer.ok:
        return "corrupt", f"{answer.detail} (first at byte {answer.first_bad_offset})"
    if (answer.length, answer.checksum) != (check.extent.chunk_length, check.extent.chunk_checksum):
        return "corrupt", f"{answer.length} bytes, checksum {answer.checksum:08x}: another chunk's content"
    return None


def _ask(client: Client, place: ReplicaPlace, chunk: str) -> Any:
    from quorumfs.v1 import chunks_pb2

    request = chunks_pb2.VerifyChunkRequest(chunk=bytes.fromhex(chunk))
    for attempt in range(_BUSY_TRIES):
        try:
            return client.coordinator.call("Chunks.Verify", request, _ASK_SECONDS, address=place.grpc)
        except BusyError:
            if attempt == _BUSY_TRIES - 1:
                raise
            time.sleep(_BUSY.delay(attempt, random.random()))
    raise AssertionError("the last try returns or raises")


def _verdict(path: str, problems: list[dict[str, Any]]) -> QuorumFSError | None:
    bad = sum(one["problem"] != "unchecked" for one in problems)
    if bad:
        return IntegrityError(
            f"{bad} replicas below {printable(path)} are corrupt or missing",
            next="their nodes have reported them and repair replaces them (dfsctl repair status); "
            "a chunk without any good replica is lost",
        )
    if problems:
        return PartialError(
            f"{len(problems)} replicas could not be checked", cause=str(problems[0]["detail"])
        )
    return None


def _lines(data: dict[str, Any]) -> Iterator[str]:
    if data["problems"]:
        rows = ((p["path"], p["chunk"], p["node_id"], p["problem"], p["detail"]) for p in data["problems"])
        yield from table(_HEADINGS, rows)
    yield (
        f"{data['files']} files, {data['replicas']} replicas: "
        + (f"{len(data['problems'])} problems" if data["problems"] else "all good")
    )
