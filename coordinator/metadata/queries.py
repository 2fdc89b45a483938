"""Questions to the state: what clients ask, and what services and duties want to know. Reads only.

`answer` is total: a refusal is a result with a code. Everything is one transaction's view; pages are bounded.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from coordinator.metadata import layouts, listings, lookup, settings
from coordinator.metadata.context import detail_of
from coordinator.metadata.departures import Held as Held
from coordinator.metadata.departures import held as held
from coordinator.metadata.departures import moving as moving
from coordinator.metadata.listings import info
from coordinator.metadata.replicas import Apart as Apart
from coordinator.metadata.replicas import ChunkCounts as ChunkCounts
from coordinator.metadata.replicas import ChunkRow as ChunkRow
from coordinator.metadata.replicas import DamagedChunk as DamagedChunk
from coordinator.metadata.replicas import FailedDisk as FailedDisk
from coordinator.metadata.replicas import Gone as Gone
from coordinator.metadata.replicas import LostDisk as LostDisk
from coordinator.metadata.replicas import NodeRow as NodeRow
from coordinator.metadata.replicas import ReplicaRow as ReplicaRow
from coordinator.metadata.replicas import a_lost_chunk as a_lost_chunk
from coordinator.metadata.replicas import chunk_counts as chunk_counts
from coordinator.metadata.replicas import chunk_rows as chunk_rows
from coordinator.metadata.replicas import chunks_on as chunks_on
from coordinator.metadata.replicas import damaged_chunks as damaged_chunks
from coordinator.metadata.replicas import endangered_chunks as endangered_chunks
from coordinator.metadata.replicas import healed_elsewhere as healed_elsewhere
from coordinator.metadata.replicas import node_row as node_row
from coordinator.metadata.replicas import node_rows as node_rows
from coordinator.metadata.replicas import replicas_of as replicas_of
from coordinator.metadata.replicas import unplaced as unplaced
from coordinator.metadata.replicas import wanting_chunks as wanting_chunks
from coordinator.metadata.tree import FILE, SYMLINK
from quorumfs.errors import FormatTooNewError, QuorumFSError, UploadGoneError
from quorumfs.ids import ID_BYTES
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t

SESSION_MAX = 2**63 - 1

_UPLOAD = "SELECT replication, chunk_size_bytes, deadline_ms, min_replicas FROM upload WHERE id = ?"
_CHILD = (
    "SELECT inode.id, type, mode, mtime_ns, inode.version, replication, target, changed_wall_ms,"
    " version.size, version.checksum, dentry.name FROM dentry"
    " JOIN inode ON inode.id = dentry.inode"
    " LEFT JOIN version ON version.id = inode.version AND inode.type = 1"
    " WHERE dentry.parent = ? AND dentry.name = ?"
)
_INFO_COLUMNS = 11
_INFO_BYTES = 128  # a FileInfo takes less, but for its name, path and target
_NAMES_AT_ONCE = 64
_FEW_NAMES = 8  # these cost less one by one
_CHILDREN = _CHILD.replace("dentry.name = ?", f"dentry.name IN ({', '.join('?' * _NAMES_AT_ONCE)})")
_CHILD_AND_EXTENTS = (
    _CHILD.replace(
        " FROM dentry",
        ", extent.file_offset, extent.length, extent.chunk, extent.chunk_offset FROM dentry",
    ).replace(" WHERE", " LEFT JOIN extent ON extent.version = version.id WHERE")
    + " LIMIT 2"
)
_TOTALS = "SELECT files, directories, chunks, logical_bytes, inline_bytes FROM totals WHERE id = 1"
_SESSION_END = (
    "ttl_ms + max(opened_ms, coalesce((SELECT max(used_ms) FROM slot WHERE slot.session = session.id), 0))"
)


def answer(tx: sqlite3.Connection, op: n.ReadOp) -> n.ReadResult:
    """The answer to one question; refusals are codes."""
    kind = op.WhichOneof("op")
    try:
        if kind is None:
            raise FormatTooNewError("a question of a kind unknown here")
        return _ANSWERS[kind](tx, getattr(op, kind))
    except QuorumFSError as error:
        return _refusal(error)


def _refusal(error: QuorumFSError) -> n.ReadResult:
    return n.ReadResult(code=t.ErrorCode.ValueType(error.code), error=detail_of(error))


def answer_among(
    tx: sqlite3.Connection,
    op: n.ReadOp,
    directories: lookup.Directories,
    packs: layouts.Packs,
    result: n.ReadResult,
) -> bool:
    """Put what `answer` gives into the empty `result`; whether that is all, and lacks nothing only a leader knows.

    `directories`, `packs`: what earlier questions of `tx` have found; a directory in which much is asked for, and a
    chunk of many files, is looked up once."""
    kind = op.WhichOneof("op")
    if kind == "stat":
        request = op.stat
        if not _tell_in_known(tx, request, directories, result.info):
            _stat_anywhere(tx, request, directories, result)
        return True
    if kind != "layout":
        result.CopyFrom(answer(tx, op))
        return False
    try:
        _layout_among(tx, op.layout, directories, packs, result.layout)
    except QuorumFSError as error:
        result.CopyFrom(_refusal(error))
    return False


def _layout_among(
    tx: sqlite3.Connection,
    request: n.LayoutRequest,
    directories: lookup.Directories,
    packs: layouts.Packs,
    found: n.Layout,
) -> None:
    if not request.inode and _layout_in_known(tx, request, directories, packs, found):
        return
    found.CopyFrom(layouts.layout(tx, request, packs))
    if not request.inode:
        lookup.learn(directories, request.ref, found.info.parent, found.info.path)


def _layout_in_known(
    tx: sqlite3.Connection,
    request: n.LayoutRequest,
    directories: lookup.Directories,
    packs: layouts.Packs,
    found: n.Layout,
) -> bool:
    """Whether it was a file in a known directory: then `found` is its layout. Most are small: one row tells all."""
    parts = lookup.parted(request.ref)
    directory = directories.get(parts[1]) if parts is not None else None
    if parts is None or directory is None:
        return False
    path, _, name = parts
    rows = tx.execute(_CHILD_AND_EXTENTS, (directory, bytearray(name))).fetchall()
    if not rows or rows[0][1] != FILE:
        return False
    row = rows[0]
    _tell(found.info, row[:_INFO_COLUMNS], directory, path)
    if len(rows) > 1 or request.offset or request.length:
        layouts.fill(tx, request, found, packs)
    elif row[_INFO_COLUMNS + 2] is not None:
        layouts.fill_with(tx, request, found, packs, row[_INFO_COLUMNS:])
    return True


def _stat_anywhere(
    tx: sqlite3.Connection, request: n.StatRequest, directories: lookup.Directories, result: n.ReadResult
) -> None:
    try:
        inode, path = lookup.locate(tx, request.ref, follow=request.follow)
    except QuorumFSError as error:
        result.CopyFrom(_refusal(error))
    else:
        lookup.learn(directories, request.ref, inode.parent, path)
        result.info.CopyFrom(info(tx, inode, path))


def _tell_in_known(
    tx: sqlite3.Connection,
    request: n.StatRequest,
    directories: lookup.Directories,
    info: n.FileInfo,
) -> bool:
    """Whether it was a name in a known directory, and no link to be followed: then `info` tells it."""
    parts = lookup.parted(request.ref)
    if parts is None:
        return False
    path, above, name = parts
    directory = directories.get(above)
    if directory is None:
        return False
    row = tx.execute(_CHILD, (directory, bytearray(name))).fetchone()  # bytes would be looked at for adapters
    if row is None:  # why, or that no file can have such a name, is said by the long way
        return False
    if row[1] == SYMLINK and request.follow:
        return False
    _tell(info, row, directory, path)
    return True


def stat_all(
    tx: sqlite3.Connection, requests: Sequence[n.StatRequest], add: Callable[[], n.ReadResult], room: int
) -> int:
    """Put what `answer` gives for each of `requests` into a result of `add`, until `room` bytes are filled; returns how
    many were told. Names in one directory are looked up together, at half the cost."""
    directories: lookup.Directories = {}
    places = [_place(tx, request, directories) for request in requests]
    names: dict[int, list[bytearray | None]] = {}
    for place in places:
        if isinstance(place, tuple):
            names.setdefault(place[0], []).append(bytearray(place[2]))
    rows = {directory: _children(tx, directory, wanted) for directory, wanted in names.items()}
    for number, (request, place) in enumerate(zip(requests, places, strict=True)):
        if room <= 0:
            return number
        one = add()
        if isinstance(place, tuple):
            directory, path, name = place
            row = rows[directory].get(name)
            if row is not None and not (row[1] == SYMLINK and request.follow):
                _tell(one.info, row, directory, path)
                room -= _INFO_BYTES + len(path) + len(name) + len(row[6] or b"")
                continue
            _stat_anywhere(tx, request, directories, one)
        else:
            one.CopyFrom(place)
        room -= one.ByteSize()
    return len(requests)


def _place(
    tx: sqlite3.Connection, request: n.StatRequest, directories: lookup.Directories
) -> tuple[int, bytes, bytes] | n.ReadResult:
    """A known directory, the whole path, and the name in it; else the answer."""
    parts = lookup.parted(request.ref)
    if parts is not None:
        path, above, name = parts
        directory = directories.get(above)
        if directory is not None:
            return directory, path, name
    found = n.ReadResult()
    _stat_anywhere(tx, request, directories, found)
    return found


def _children(
    tx: sqlite3.Connection, directory: int, names: list[bytearray | None]
) -> dict[bytes, tuple[Any, ...]]:
    """The rows of _CHILD for those of `names` that are there."""
    found: dict[bytes, tuple[Any, ...]] = {}
    for at in range(0, len(names), _NAMES_AT_ONCE):
        part = names[at : at + _NAMES_AT_ONCE]
        if len(part) < _FEW_NAMES:
            rows = [row for name in part for row in tx.execute(_CHILD, (directory, name))]
        else:
            part += [None] * (_NAMES_AT_ONCE - len(part))  # NULL is no name
            rows = tx.execute(_CHILDREN, (directory, *part)).fetchall()
        for row in rows:
            found[row[-1]] = row
    return found


def _tell(info: n.FileInfo, row: tuple[Any, ...], directory: int, path: bytes) -> None:
    """What a row of _CHILD tells."""
    number, kind, mode, mtime_ns, version, replication, target, changed_wall_ms, size, checksum, name = row
    info.id = number  # like tree.tell; here every microsecond is one of each stat
    info.type = kind
    info.name = name
    info.mode = mode
    info.mtime_ns = mtime_ns
    info.replication = replication
    info.version = version
    if size is not None:
        info.size = size
        info.checksum = checksum
    if target:
        info.target = target
    info.changed_wall_ms = changed_wall_ms
    info.parent = directory
    info.path = path


def _stat(tx: sqlite3.Connection, request: n.StatRequest) -> n.ReadResult:
    inode, path = lookup.locate(tx, request.ref, follow=request.follow)
    return n.ReadResult(info=info(tx, inode, path))


def _list(tx: sqlite3.Connection, request: n.ListRequest) -> n.ReadResult:
    return n.ReadResult(listing=listings.page(tx, request))


def _layout(tx: sqlite3.Connection, request: n.LayoutRequest) -> n.ReadResult:
    return n.ReadResult(layout=layouts.layout(tx, request))


def _list_trash(tx: sqlite3.Connection, request: n.ListTrashRequest) -> n.ReadResult:
    return n.ReadResult(trash=listings.trash_page(tx, request))


def _stat_fs(tx: sqlite3.Connection, request: n.StatFsRequest) -> n.ReadResult:
    files, directories, chunks, logical_bytes, inline_bytes = tx.execute(_TOTALS).fetchone()
    found = n.FsInfo(
        files=files,
        directories=directories,
        chunks=chunks,
        logical_bytes=logical_bytes,
        inline_bytes=inline_bytes,
    )
    return n.ReadResult(fs=found)


def _get_upload(tx: sqlite3.Connection, request: n.GetUploadRequest) -> n.ReadResult:
    row = tx.execute(_UPLOAD, (request.upload,)).fetchone()
    if row is None:
        raise UploadGoneError(
            f"upload {request.upload[:ID_BYTES].hex()} is not open", cause="it ended, or never was"
        )
    replication, chunk_size_bytes, deadline_ms, min_replicas = row
    found = n.UploadInfo(
        upload=request.upload,
        replication=replication,
        chunk_size_bytes=chunk_size_bytes,
        deadline_cluster_ms=deadline_ms,
        min_replicas=min_replicas,
    )
    return n.ReadResult(upload=found)


_ANSWERS: Mapping[str, Callable[[sqlite3.Connection, Any], n.ReadResult]] = {
    "stat": _stat,
    "list": _list,
    "layout": _layout,
    "list_trash": _list_trash,
    "stat_fs": _stat_fs,
    "get_upload": _get_upload,
}


# What services and duties want to know


def applied_index(tx: sqlite3.Connection) -> int:
    (index,) = tx.execute("SELECT applied_index FROM raft_state WHERE id = 1").fetchone()
    return int(index)


def cluster_identity(tx: sqlite3.Connection) -> tuple[str, int] | None:
    """(cluster id, history); None before the cluster is initialised."""
    row = tx.execute("SELECT cluster_id, history FROM cluster WHERE id = 1").fetchone()
    return None if row is None else (str(row[0]), int(row[1]))


def members(tx: sqlite3.Connection) -> list[m.Member]:
    """Of the Raft group, as of the last entry applied; none before the cluster is initialised."""
    return [m.Member.FromString(row[0]) for row in tx.execute("SELECT member FROM member ORDER BY node_id")]


def pending_deadline(tx: sqlite3.Connection) -> int | None:
    """A replicated time (ms) at or before the next at which something is due; None when nothing waits."""
    held = settings.load(tx)
    (earliest,) = tx.execute(
        "SELECT min(due) FROM ("
        " SELECT min(deadline_ms) AS due FROM upload"
        " UNION ALL SELECT min(opened_ms + ttl_ms) FROM session"
        " UNION ALL SELECT min(deleted_ms) FROM trash WHERE purged = 1"
        " UNION ALL SELECT min(deleted_ms) + ? FROM trash WHERE purged = 0"
        " UNION ALL SELECT min(since_ms) + ? FROM orphan WHERE condemned_index = 0 AND hold <= 0"
        " UNION ALL SELECT min(expires_ms) FROM token WHERE revoked = 0"
        " AND expires_ms > (SELECT cluster_ms FROM raft_state WHERE id = 1)"
        " UNION ALL SELECT min(maintenance_until_ms) FROM node WHERE maintenance_until_ms > 0)",
        (held["trash.retention_ms"], held["gc.grace_ms"]),
    ).fetchone()
    return None if earliest is None else int(earliest)


def open_uploads(tx: sqlite3.Connection, uploads: Iterable[bytes]) -> set[bytes]:
    """Those of `uploads` that are open."""
    known = "SELECT 1 FROM upload WHERE id = ?"
    return {one for one in uploads if tx.execute(known, (one,)).fetchone() is not None}


def is_session(tx: sqlite3.Connection, session: int) -> bool:
    """Whether a session of this number is open."""
    if not 0 < session <= SESSION_MAX:
        return False
    return tx.execute("SELECT 1 FROM session WHERE id = ?", (session,)).fetchone() is not None


def open_uploads_past(tx: sqlite3.Connection, now_ms: int, limit: int) -> list[bytes]:
    """Open uploads whose deadline has passed; the leader may know of later signs of life."""
    rows = tx.execute(
        "SELECT id FROM upload WHERE deadline_ms <= ? ORDER BY deadline_ms, id LIMIT ?", (now_ms, limit)
    )
    return [row[0] for row in rows]


def sessions_past(tx: sqlite3.Connection, now_ms: int, limit: int) -> list[int]:
    """Sessions without a batch for their time; the leader may know of later signs of life."""
    rows = tx.execute(
        f"SELECT id FROM session WHERE opened_ms + ttl_ms <= ?1 AND {_SESSION_END} <= ?1 ORDER BY id LIMIT ?2",
        (now_ms, limit),
    )
    return [int(row[0]) for row in rows]


def maintenance_past(tx: sqlite3.Connection, now_ms: int) -> list[str]:
    """Nodes whose maintenance was to last until now at the longest."""
    rows = tx.execute(
        "SELECT node_id FROM node WHERE maintenance_until_ms BETWEEN 1 AND ? ORDER BY node_id", (now_ms,)
    )
    return [str(row[0]) for row in rows]


def trash_is_due(tx: sqlite3.Connection, now_ms: int) -> bool:
    """Whether something in the trash is to be reaped: purged by hand, or past its retention."""
    retention_ms = settings.load(tx)["trash.retention_ms"]
    row = tx.execute(
        "SELECT 1 FROM trash WHERE purged = 1"
        " UNION ALL SELECT 1 FROM trash WHERE id <= (SELECT purged_through FROM totals WHERE id = 1)"
        " UNION ALL SELECT 1 FROM trash WHERE purged = 0 AND deleted_ms <= ? LIMIT 1",
        (now_ms - retention_ms,),
    ).fetchone()
    return row is not None
