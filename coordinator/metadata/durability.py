"""How well chunks are kept: how many copies can be read, on how many failure domains; and one node's replicas as the
metadata has them. Pages of chunks, each one transaction's view, some milliseconds for some thousands."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from coordinator.metadata.contents import ALLOCATED, CONDEMNED, IN_METADATA
from coordinator.metadata.replicas import LIVE, Gone, LostDisk

_PAGE_END = "SELECT max(id), count(*) FROM (SELECT id FROM chunk WHERE id > ? ORDER BY id LIMIT ?)"


@dataclass(frozen=True, slots=True)
class Domains:
    """Where a node is. An empty one is shared with nobody."""

    zone: str = ""
    rack: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """Chunks that want `want` replicas and have `live` readable ones, in so many zones, racks and hosts."""

    want: int
    live: int
    zones: int
    racks: int
    hosts: int


@dataclass(frozen=True, slots=True)
class Page:
    """How many chunks, and bytes, are kept how; `lacking`: the first with fewer readable replicas than they want.
    `inline`: chunks whose home is the metadata. `after`: where the next page begins; empty: this was the last."""

    kept: Mapping[Kept, tuple[int, int]]
    inline: tuple[int, int]
    lacking: Sequence[bytes]
    after: bytes


def page(
    tx: sqlite3.Connection,
    after: bytes,
    limit: int,
    gone: Gone,
    domains: Mapping[str, Domains],
    lacking_max: int,
) -> Page:
    """The next `limit` chunks behind `after`; garbage wants nothing, and does not count."""
    last, count = tx.execute(_PAGE_END, (after, limit)).fetchone()
    if not count:
        return Page({}, (0, 0), (), b"")
    nodes, disks = _keys(tx, gone)
    per_chunk = (
        f"WITH place (node, zone, rack, host) AS (VALUES {_places(tx, domains)})"
        " SELECT chunk.id AS id, want, length, count(r.node) AS live, count(DISTINCT zone) AS zones,"
        " count(DISTINCT rack) AS racks, count(DISTINCT host) AS hosts FROM chunk"
        f" LEFT JOIN replica AS r ON r.chunk = chunk.id AND r.state = {int(LIVE)}"
        f" AND r.node NOT IN ({nodes}) AND r.disk NOT IN ({disks}) LEFT JOIN place ON place.node = r.node"
        " WHERE chunk.id > ? AND chunk.id <= ? AND chunk.state = 1 AND home = 0 AND want > 0 GROUP BY chunk.id"
    )
    rows = tx.execute(
        f"SELECT want, live, zones, racks, hosts, count(*), sum(length) FROM ({per_chunk}) GROUP BY 1, 2, 3, 4, 5",
        (after, last),
    )
    kept = {Kept(*row[:5]): (row[5], row[6]) for row in rows}
    lacking: list[bytes] = []
    if lacking_max > 0 and any(one.live < one.want for one in kept):
        found = tx.execute(
            f"SELECT id FROM ({per_chunk}) WHERE live < want ORDER BY live, id LIMIT ?",
            (after, last, lacking_max),
        )
        lacking = [row[0] for row in found]
    inline = tx.execute(
        "SELECT count(*), coalesce(sum(length), 0) FROM chunk WHERE id > ? AND id <= ? AND home = ? AND want > 0",
        (after, last, IN_METADATA),
    ).fetchone()
    return Page(kept, inline, lacking, last if count == limit else b"")


def recorded(
    tx: sqlite3.Connection, node_id: str, after: bytes, through: bytes | None, limit: int
) -> list[bytes]:
    """Sealed chunks that lie on the node by the metadata, in order: after `after`, up to `through` (None: the end)."""
    rows = tx.execute(
        "SELECT replica.chunk FROM replica JOIN chunk ON chunk.id = replica.chunk"
        " WHERE node = (SELECT key FROM node WHERE node_id = ?) AND replica.state = ? AND replica.chunk > ?"
        " AND (? IS NULL OR replica.chunk <= ?) AND chunk.state <> ? ORDER BY replica.chunk LIMIT ?",
        (node_id, LIVE, after, through, through, ALLOCATED, limit),
    )
    return [row[0] for row in rows]


def strangers(tx: sqlite3.Connection, node_id: str, chunks: Iterable[bytes]) -> tuple[set[bytes], set[bytes]]:
    """Of chunks that lie on the node: those that no table knows, and those that are known and have no replica there.

    What an open upload may be writing, and what is condemned, is neither.
    """
    unknown: set[bytes] = set()
    unrecorded: set[bytes] = set()
    for chunk in chunks:
        row = tx.execute("SELECT state, upload IS NOT NULL FROM chunk WHERE id = ?", (chunk,)).fetchone()
        if row is None:
            unknown.add(chunk)
            continue
        state, under_way = row
        if under_way or state in (ALLOCATED, CONDEMNED):
            continue
        there = tx.execute(
            "SELECT 1 FROM replica WHERE chunk = ? AND node = (SELECT key FROM node WHERE node_id = ?)",
            (chunk, node_id),
        ).fetchone()
        if there is None:
            unrecorded.add(chunk)
    return unknown, unrecorded


def _places(tx: sqlite3.Connection, domains: Mapping[str, Domains]) -> str:
    """Rows of (node, zone, rack, host), all of them numbers: equal where the domain is shared."""
    rows = []
    numbers: dict[tuple[str, ...], int] = {}

    def number(*domain: str) -> int:
        return numbers.setdefault(domain, len(numbers) + 1)

    for key, node_id in tx.execute("SELECT key, node_id FROM node"):
        of = domains.get(node_id, Domains())
        own = "" if all((of.zone, of.rack, of.host)) else f"/{node_id}"
        zone = number("zone", of.zone or own)
        rack = number("rack", of.zone, of.rack or own)
        host = number("host", of.host or own)
        rows.append(f"({int(key)}, {zone}, {rack}, {host})")
    return ", ".join(rows) or "(0, 0, 0, 0)"


def _keys(tx: sqlite3.Connection, gone: Collection[str | LostDisk]) -> tuple[str, str]:
    """The numbers of nodes and of disks that are gone, as SQL lists them."""
    nodes = [
        tx.execute("SELECT key FROM node WHERE node_id = ?", (one,)).fetchone()
        for one in gone
        if not isinstance(one, LostDisk)
    ]
    disks = [
        tx.execute(
            "SELECT disk.key FROM disk JOIN node ON node.key = disk.node WHERE node_id = ? AND disk_id = ?",
            one,
        ).fetchone()
        for one in gone
        if isinstance(one, LostDisk)
    ]
    return (
        ", ".join(str(int(row[0])) for row in nodes if row),
        ", ".join(str(int(row[0])) for row in disks if row),
    )
