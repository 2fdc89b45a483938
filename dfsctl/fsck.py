"""`dfsctl fsck`: what the metadata says against what the datanodes have, both ways."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import click

from dfsctl import views
from dfsctl.errors import in_words
from dfsctl.output import show, size, table, talk
from dfsctl.parallel import of_each
from dfsctl.shell import command, settings
from quorumfs.errors import IntegrityError, PartialError, QuorumFSError
from quorumfs.v1 import admin_pb2, membership_pb2, types_pb2

if TYPE_CHECKING:
    from quorumfs.rpc.coordinator import Coordinator

PAGE = 1000
LISTED_MAX = 1000  # of each kind and node


@command("fsck")
@click.option(
    "--quick", is_flag=True, help="Only what the metadata says; do not list what the datanodes have."
)
@click.option(
    "--limit",
    type=click.IntRange(0, 1000),
    default=100,
    show_default=True,
    help="Name so many lacking chunks.",
)
def fsck(quick: bool, limit: int) -> None:
    """Compare the metadata with what lies on every datanode, both ways, and tell how well all chunks are kept.

    Nothing is deleted: replicas that are not where they should be are verified by their node and then made anew; strays
    are left to the garbage collection. Exit code 9 when a chunk cannot be read, or a replica is not where it should be;
    8 when only a node could not be compared.
    """
    given = settings()
    with given.coordinator() as coordinator:
        view = coordinator.cluster_view()
        with ThreadPoolExecutor(1, thread_name_prefix="durability") as beside:
            request = admin_pb2.GetDurabilityRequest(problems=limit)
            counted = beside.submit(coordinator.control, "Control.GetDurability", request)
            nodes = [] if quick else _nodes(coordinator, view, lambda line: talk(given, line))
            data = views.durability(counted.result())
    data["nodes"] = nodes
    data["ok"] = not (data["missing"] or any(one["missing_total"] or one["error"] for one in nodes))
    show(given, data, lambda: _lines(data, quick))
    error = _verdict(data)
    if error is not None:  # the answer stays a report; the verdict is in words and in the exit code
        click.echo(in_words(error), err=True, nl=False)
        raise click.exceptions.Exit(int(error.exit_code))


def _nodes(coordinator: Coordinator, view: membership_pb2.ClusterView, say: Any) -> list[dict[str, Any]]:
    """Every datanode, compared page by page, several at once: one that hangs holds up nobody."""
    ids = sorted(one.info.node_id for one in view.nodes if one.info.role == types_pb2.NODE_ROLE_DATANODE)
    say(f"comparing {', '.join(ids)}")
    return of_each(ids, lambda node_id: _node(coordinator, node_id))


def _node(coordinator: Coordinator, node_id: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "node_id": node_id,
        "error": None,
        "listed": 0,
        "recorded": 0,
        **{f"{kind}_total": 0 for kind in ("missing", "strays", "unrecorded")},
        **{kind: [] for kind in ("missing", "strays", "unrecorded")},
    }
    after = b""
    while True:
        request = admin_pb2.ExamineNodeRequest(node_id=node_id, after=after, limit=PAGE)
        try:
            # It may order a verification twice, which is as good as once.
            page = coordinator.control("Control.ExamineNode", request, repeatable=True)
        except QuorumFSError as error:
            found["error"] = str(error)
            return found
        found["listed"] += page.listed
        found["recorded"] += page.recorded
        for kind, chunks in (
            ("missing", page.missing),
            ("strays", page.strays),
            ("unrecorded", page.unrecorded),
        ):
            found[f"{kind}_total"] += len(chunks)
            room = LISTED_MAX - len(found[kind])
            found[kind] += [chunk.hex() for chunk in chunks[:room]]
        after = page.next
        if not after:
            return found


def _verdict(data: dict[str, Any]) -> IntegrityError | PartialError | None:
    misplaced = sum(one["missing_total"] for one in data["nodes"])
    unchecked = [f"{one['node_id']}: {one['error']}" for one in data["nodes"] if one["error"]]
    if data["missing"] or misplaced:
        return IntegrityError(
            f"{data['missing']} chunks have no readable replica, {misplaced} replicas are not where they should be",
            next="dfsctl repair status shows what is being made anew; dfsctl gc explain CHUNK tells all of one",
        )
    if unchecked:
        return PartialError(f"{len(unchecked)} datanodes could not be compared", cause="; ".join(unchecked))
    return None


def _lines(data: dict[str, Any], quick: bool) -> Iterator[str]:
    chunks = data["chunks"]
    yield f"{chunks} chunks on datanodes, {data['inline_chunks']} in the metadata"
    yield f"{data['under_replicated']} have fewer replicas than they want, {data['missing']} have none that can be read"
    if chunks:
        yield ""
        yield from table(("WANT", "READABLE", "CHUNKS", "BYTES"), _rows(data["copies"], "live"))
        for kind in ("zones", "racks", "hosts"):
            yield ""
            yield from table(("WANT", kind.upper(), "CHUNKS", "BYTES"), _rows(data[kind], "number"))
    if data["problems"]:
        yield ""
        rows = (
            (
                one["chunk"],
                one["want"],
                ", ".join(one["live"]),
                ", ".join(one["others"]),
                ", ".join(one["paths"]),
            )
            for one in data["problems"]
        )
        yield from table(("CHUNK", "WANT", "READABLE ON", "NOT ON", "FILES"), rows)
    if not quick:
        yield ""
        head = ("NODE", "LISTED", "RECORDED", "MISSING", "STRAYS", "UNRECORDED", "ERROR")
        yield from table(
            head,
            (
                (
                    one["node_id"],
                    one["listed"],
                    one["recorded"],
                    one["missing_total"],
                    one["strays_total"],
                    one["unrecorded_total"],
                    one["error"],
                )
                for one in data["nodes"]
            ),
        )


def _rows(kept: Iterable[dict[str, Any]], name: str) -> Iterator[tuple[Any, ...]]:
    return ((one["want"], one[name], one["chunks"], size(one["size_bytes"])) for one in kept)
