"""What the collection asks: pages of ids, of orphans, of what is condemned; counts; the story of one chunk.

Pages are bounded and begin after an id; each is one transaction's view. Nothing here decides: `commands/garbage.py`
does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from coordinator.metadata import lookup, settings, sparse, tree
from coordinator.metadata.commands.garbage import REMEMBERED_QUARANTINES
from coordinator.metadata.contents import CONDEMNED, FREE, IN_METADATA, OF_ANOTHER_LOG, RELEASED
from quorumfs.v1 import types_pb2 as t

REFERENCES_MAX = 100

_CANDIDATES = "SELECT chunk, since_ms FROM orphan WHERE condemned_index = 0 AND hold <= 0 AND chunk > ?"
_HOLDERS = (
    "SELECT node.node_id FROM replica JOIN node ON node.key = replica.node WHERE chunk = ? ORDER BY node_id"
)
_NEEDED = (
    "SELECT 1 FROM chunk WHERE id = ? AND state = 1 AND home = 0"
    " AND EXISTS (SELECT 1 FROM extent WHERE extent.chunk = chunk.id)"
    " AND (live = 0 OR EXISTS (SELECT 1 FROM replica JOIN node ON node.key = replica.node"
    f" WHERE replica.chunk = chunk.id AND node.node_id = ? AND replica.state <> {t.REPLICA_STATE_DELETING}))"
)
_PLACED = (
    "SELECT CASE WHEN state = 2 THEN 'condemned' WHEN upload IS NOT NULL THEN 'uploading'"
    " WHEN want > 0 THEN 'referenced' ELSE 'orphan' END AS kind,"
    " coalesce((SELECT disk_id FROM disk WHERE key = place), ''), sum(length), max(id)"
    " FROM (SELECT chunk.id, chunk.state, upload, want, length, replica.disk AS place"
    " FROM replica JOIN chunk ON chunk.id = replica.chunk"
    " WHERE node = (SELECT key FROM node WHERE node_id = ?) AND replica.state = ? AND replica.chunk > ?"
    " ORDER BY replica.chunk LIMIT ?) GROUP BY kind, place"
)
_QUARANTINED = (
    "SELECT length, since_index, since_ms, deleted_by, path, condemned_index,"
    " forgotten_wall_ms - (forgotten_ms - since_ms) FROM quarantined WHERE chunk = ?"
)
_ORPHAN = "SELECT since_index, since_ms, deleted_by, path, condemned_index, hold FROM orphan WHERE chunk = ?"


@dataclass(frozen=True, slots=True)
class Cluster:
    """What every cycle goes by, as of the log's `index`. Times in replicated milliseconds; `fork_index`: where the
    history began, 0 for the first."""

    index: int
    now_ms: int
    history: int
    grace_ms: int
    paused: bool
    cycle: int
    fork_index: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """`candidates`: orphans in their grace or past it. `unexplained`: orphans that no entry made and no operator has
    judged, in any state. `of_another_log`: those of `held` that this log never saw."""

    candidates: int
    condemned: int
    held: int
    unexplained: int
    of_another_log: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """A chunk and the nodes that may have it; `condemned_index` 0: it is not condemned. `released`: by an operator."""

    chunk: bytes
    condemned_index: int
    node_ids: tuple[str, ...]
    released: bool = False


@dataclass(frozen=True, slots=True)
class Placed:
    """A page of a node's replicas as the accounting sees it: bytes of content by what holds their chunks (referenced,
    uploading, orphan, condemned) and by the disk, "" when that is not known. `last`: the last chunk of the page, None
    when there was none."""

    lengths: Mapping[tuple[str, str], int]
    last: bytes | None


@dataclass(frozen=True, slots=True)
class Story:
    """All that the metadata can tell of a chunk. `state`: unknown, inline, uploading, referenced, orphan, condemned.
    One that is unknown may have been an orphan, and then lies in quarantine perhaps. `since_wall_ms`: of `since_ms`,
    where that was written down."""

    state: str
    now_ms: int
    grace_ms: int
    length: int = 0
    references: tuple[bytes, ...] = ()
    upload: bytes = b""
    nodes: tuple[str, ...] = ()
    deleted_by: str = ""
    last_path: bytes = b""
    since_index: int = 0
    since_ms: int = 0
    condemned_index: int = 0
    hold: int = 0
    live_bytes: int = 0
    paused: bool = False
    since_wall_ms: int = 0


def cluster(tx: sqlite3.Connection) -> Cluster | None:
    """None before the cluster is initialised."""
    index, now_ms = tx.execute("SELECT applied_index, cluster_ms FROM raft_state WHERE id = 1").fetchone()
    row = tx.execute("SELECT history, fork_index FROM cluster WHERE id = 1").fetchone()
    if row is None:
        return None
    history, fork_index = row
    held = settings.load(tx)
    return Cluster(
        index, now_ms, history, held["gc.grace_ms"], bool(held["gc.paused"]), held["gc.cycle"], fork_index
    )


def chunk_ids(tx: sqlite3.Connection, after: bytes, limit: int) -> list[bytes]:
    """Of every chunk that the metadata knows, whatever its state, in order."""
    rows = tx.execute("SELECT id FROM chunk WHERE id > ? ORDER BY id LIMIT ?", (after, limit))
    return [row[0] for row in rows]


def orphans(tx: sqlite3.Connection, after: bytes, limit: int) -> list[Held]:
    """In order, with who is known to hold them."""
    rows = tx.execute(
        "SELECT chunk, condemned_index, hold FROM orphan WHERE chunk > ? ORDER BY chunk LIMIT ?",
        (after, limit),
    ).fetchall()
    return [_held(tx, *row) for row in rows]


def condemned(tx: sqlite3.Connection, after: bytes, limit: int) -> list[Held]:
    """In order, with who may still hold them."""
    rows = tx.execute(
        "SELECT chunk, condemned_index, hold FROM orphan WHERE condemned_index > 0 AND chunk > ?"
        " ORDER BY chunk LIMIT ?",
        (after, limit),
    ).fetchall()
    return [_held(tx, *row) for row in rows]


def _held(tx: sqlite3.Connection, chunk: bytes, condemned_index: int, hold: int) -> Held:
    return Held(chunk, condemned_index, _nodes(tx, chunk), hold == RELEASED)


def needed(tx: sqlite3.Connection, chunks: Collection[bytes], node_id: str) -> list[bytes]:
    """Those of `chunks`, which a node has in quarantine, that files refer to and that it should have; or that nobody is
    said to have."""
    return [one for one in chunks if tx.execute(_NEEDED, (one, node_id)).fetchone() is not None]


def _nodes(tx: sqlite3.Connection, chunk: bytes) -> tuple[str, ...]:
    return tuple(row[0] for row in tx.execute(_HOLDERS, (chunk,)))


def due(tx: sqlite3.Connection, after: bytes, limit: int) -> list[bytes]:
    """Orphans whose grace is over, in order; up to `limit`."""
    now = cluster(tx)
    if now is None:
        return []
    rows = tx.execute(
        f"{_CANDIDATES} AND since_ms <= ? ORDER BY chunk LIMIT ?", (after, now.now_ms - now.grace_ms, limit)
    )
    return [row[0] for row in rows]


def candidates(tx: sqlite3.Connection, after: bytes, limit: int, *, held: bool) -> list[bytes]:
    """Orphans that are not condemned, in order: those that may be one day, or those that are `held`."""
    rows = tx.execute(
        "SELECT chunk FROM orphan WHERE condemned_index = 0 AND (hold > 0) = ? AND chunk > ?"
        " ORDER BY chunk LIMIT ?",
        (held, after, limit),
    )
    return [row[0] for row in rows]


def counts(tx: sqlite3.Connection) -> Counts:
    """All orphans are read: a tenth of a second for a million."""
    row = tx.execute(
        "SELECT coalesce(sum(condemned_index = 0 AND hold <= 0), 0), coalesce(sum(condemned_index > 0), 0),"
        " coalesce(sum(hold > 0), 0), coalesce(sum(path = x'' AND deleted_by = '' AND hold <> ?), 0),"
        " coalesce(sum(hold = ?), 0) FROM orphan",
        (OF_ANOTHER_LOG, OF_ANOTHER_LOG),
    ).fetchone()
    return Counts(*row)


def chunk_count(tx: sqlite3.Connection) -> int:
    (count,) = tx.execute("SELECT chunks FROM totals WHERE id = 1").fetchone()
    return int(count)


def placed(tx: sqlite3.Connection, node_id: str, after: bytes, limit: int) -> Placed:
    """A page of the sealed replicas that a node is said to have LIVE, summed up in the database itself: it holds up
    nobody who waits for the interpreter."""
    rows = tx.execute(_PLACED, (node_id, t.REPLICA_STATE_LIVE, after, limit)).fetchall()
    lengths = {(kind, disk_id): length for kind, disk_id, length, _ in rows}
    return Placed(lengths, max((last for *_, last in rows), default=None))


def story(tx: sqlite3.Connection, chunk: bytes) -> Story:
    now = cluster(tx)
    now_ms, grace_ms = (now.now_ms, now.grace_ms) if now is not None else (0, 0)
    row = tx.execute("SELECT state, home, upload, length FROM chunk WHERE id = ?", (chunk,)).fetchone()
    if row is None:
        return _quarantined(tx, chunk, Story("unknown", now_ms, grace_ms))
    state, home, upload, length = row
    orphan = tx.execute(_ORPHAN, (chunk,)).fetchone()
    word = "referenced"
    if home == IN_METADATA:
        word = "inline"
    elif state == CONDEMNED:
        word = "condemned"
    elif orphan is not None:
        word = "orphan"
    elif upload is not None:
        word = "uploading"
    told = Story(
        word,
        now_ms,
        grace_ms,
        length,
        _references(tx, chunk),
        upload or b"",
        _nodes(tx, chunk),
        live_bytes=sparse.live_bytes(tx, chunk),
        paused=now is not None and now.paused,
    )
    if orphan is None:
        return told
    since_index, since_ms, deleted_by, path, condemned_index, hold = orphan
    return replace(
        told,
        deleted_by=deleted_by,
        last_path=path,
        since_index=since_index,
        since_ms=since_ms,
        condemned_index=condemned_index,
        hold=hold,
    )


def _quarantined(tx: sqlite3.Connection, chunk: bytes, unknown: Story) -> Story:
    """With what is remembered of a chunk that was deleted."""
    row = tx.execute(_QUARANTINED, (chunk,)).fetchone()
    if row is None:
        return unknown
    length, since_index, since_ms, deleted_by, path, condemned_index, since_wall_ms = row
    return replace(
        unknown,
        length=length,
        since_index=since_index,
        since_ms=since_ms,
        deleted_by=deleted_by,
        last_path=path,
        condemned_index=condemned_index,
        since_wall_ms=max(0, since_wall_ms),
    )


def has_outlived(tx: sqlite3.Connection) -> bool:
    """Whether anything is remembered of chunks that have left the quarantine."""
    now = cluster(tx)
    if now is None:
        return False
    before = now.now_ms - REMEMBERED_QUARANTINES * settings.load(tx)["gc.quarantine_ms"]
    row = tx.execute("SELECT 1 FROM quarantined WHERE forgotten_ms <= ? LIMIT 1", (before,)).fetchone()
    return row is not None


def _references(tx: sqlite3.Connection, chunk: bytes) -> tuple[bytes, ...]:
    """Paths of the files, also those in the trash, that have an extent in the chunk: the first few."""
    rows = tx.execute(
        "SELECT DISTINCT version.inode FROM extent JOIN version ON version.id = extent.version"
        " WHERE extent.chunk = ? AND version.inode IS NOT NULL LIMIT ?",
        (chunk, REFERENCES_MAX),
    ).fetchall()
    return tuple(sorted(lookup.path_of(tx, tree.there(tx, row[0])) for row in rows))


def guard_of(story: Story) -> str:
    """What keeps the chunk from being condemned, or deleted once it is, in words; empty: nothing does."""
    match story.state:
        case "referenced" | "inline":
            return "files refer to it" if story.references else "something refers to it"
        case "uploading":
            return f"its upload {story.upload.hex()} is open"
        case "orphan" if story.hold == OF_ANOTHER_LOG:
            return "a log that this one has not seen may refer to it: dfsctl gc release when it may go"
        case "orphan" if story.hold > FREE:
            return "it was restored from quarantine: dfsctl gc release when it may go"
        case "orphan" if story.since_ms + story.grace_ms > story.now_ms:
            return "its grace is not over"
        case "orphan" | "condemned" if story.paused:
            return "the collection is paused: dfsctl gc resume"
        case _:
            return ""
