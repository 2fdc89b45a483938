"""Uploads: a file that is being built out of chunks, and appears only at its commit.

1. Open reserves a version; Allocate makes chunk ids, replicated before bytes flow, so that GC can protect
   them; AddExtents and Commit hand in what is sealed. Each of them renews the upload's time.
2. The conditions under which it was opened are checked again at the commit: the tree went on meanwhile.
3. The commit flips one pointer, whatever the size. What the upload allocated and does not use is garbage.
"""

from __future__ import annotations

from coordinator.metadata import contents, tree
from coordinator.metadata.commands import sealing
from coordinator.metadata.commands.files import (
    MODE_KEPT,
    check_target,
    checked_mode,
    checked_replication,
    publish,
    target_inode,
)
from coordinator.metadata.commands.sealing import FILE_BYTES_MAX, Open
from coordinator.metadata.contents import Last
from coordinator.metadata.context import Context
from coordinator.metadata.places import Place, former_place, place_of, place_under
from coordinator.metadata.tree import FILE, Inode
from quorumfs.errors import BusyError, InvalidArgumentError, NoPlacementError, TooLargeError, UploadGoneError
from quorumfs.ids import ID_BYTES
from quorumfs.limits import ALLOCATE_CHUNKS_MAX
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t

NUMBER_MAX = 2**63 - 1

_COLUMNS = (
    "id, version, parent, name, if_absent, expected_version, base_version, replication, min_replicas,"
    " chunk_size_bytes, mode, mtime_ns, deadline_ms"
)
_OPEN = (
    f"INSERT INTO upload ({_COLUMNS}, opened_index, principal)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_READ = f"SELECT {_COLUMNS} FROM upload WHERE id = ?"


def open_upload(context: Context, request: n.OpenUploadRequest) -> n.Result:
    place = place_of(context, request.ref)
    old = tree.child(context.tx, place.parent, place.name)
    check_target(old, place, request.if_absent, request.expected_version)
    replication = checked_replication(context, request.replication)
    base = old.version if request.from_current and old is not None and old.type == FILE else 0
    mode = checked_mode(request.mode) if request.mode else MODE_KEPT
    _ = context.history  # its end wants it: refused before anything is written
    upload = Open(
        id=context.derived_id(0),
        version=contents.new_version(context, None, 0, 0),
        parent=place.parent,
        name=place.name,
        if_absent=int(request.if_absent),
        expected_version=request.expected_version,
        base_version=base,
        replication=replication,
        min_replicas=min(context.setting("data.min_replicas"), replication),
        chunk_size_bytes=context.setting("data.chunk_size_bytes"),
        mode=mode,
        mtime_ns=request.mtime_ns,
        deadline_ms=context.now_ms + context.setting("upload.ttl_ms"),
    )
    context.execute(_OPEN, (*upload, context.index, context.principal))
    return n.Result(code=t.ERROR_CODE_OK, upload=_info(upload))


def allocate(context: Context, request: n.AllocateRequest) -> n.Result:
    """New chunk ids with the nodes that the leader chose. Raises NoPlacementError without a choice."""
    upload = _open(context, request.upload)
    if not 1 <= request.count <= ALLOCATE_CHUNKS_MAX:
        raise InvalidArgumentError(
            f"{request.count} chunks cannot be allocated at once", cause=f"1 to {ALLOCATE_CHUNKS_MAX}"
        )
    placements = _placements(context, request.count)
    birth = t.ChunkBirth(history=context.history, index=context.index, cluster_ms=context.now_ms)
    chunks = []
    for k, nodes in enumerate(placements):
        chunk = context.derived_id(k)
        contents.new_upload_chunk(context, chunk, upload.id, upload.replication)
        for key, _ in nodes:
            context.execute(
                "INSERT INTO replica (chunk, node, disk, state) VALUES (?, ?, 0, ?)",
                (chunk, key, t.REPLICA_STATE_PENDING),
            )
        chunks.append(n.AllocatedChunk(chunk=chunk, birth=birth, replicas=[one for _, one in nodes]))
    _renew(context, upload)
    return n.Result(code=t.ERROR_CODE_OK, allocation=n.Allocation(chunks=chunks))


def _placements(context: Context, count: int) -> list[list[tuple[int, t.NodeAddress]]]:
    """Of each chunk the nodes, with their keys, in pipeline order."""
    choice = context.choices.get(context.op)
    if choice is None or len(choice.placements) < count:
        raise NoPlacementError("no nodes were chosen for these chunks")
    known: dict[str, tuple[int, t.NodeAddress]] = {}
    found = []
    for placement in choice.placements[:count]:
        ids = list(dict.fromkeys(placement.node_ids))
        for node_id in ids:
            if node_id not in known:
                known[node_id] = _datanode(context, node_id)
        if not ids:
            raise NoPlacementError("no nodes were chosen for one of these chunks")
        found.append([known[node_id] for node_id in ids])
    return found


def _datanode(context: Context, node_id: str) -> tuple[int, t.NodeAddress]:
    row = context.execute(
        "SELECT key, info FROM node WHERE node_id = ? AND role = ?", (node_id, t.NODE_ROLE_DATANODE)
    ).fetchone()
    if row is None:
        raise NoPlacementError(f"{node_id[:63]!a} was chosen, and is no datanode any more", next="ask again")
    info = m.NodeInfo.FromString(row[1])
    return row[0], t.NodeAddress(node_id=node_id, grpc=info.grpc, http=info.http)


def add_extents(context: Context, request: n.AddExtentsRequest) -> n.Result:
    """Hand in sealed chunks and extents; wants a savepoint."""
    upload = _open(context, request.upload)
    sealing.take_chunks(context, upload, request.chunks)
    sealing.take_extents(context, upload, request.extents)
    return n.Result(code=t.ERROR_CODE_OK, upload=_info(_renew(context, upload)))


def commit_upload(context: Context, request: n.CommitUploadRequest) -> n.Result:
    """Make the upload a file; wants a savepoint. Raises also what `check_target` raises, NotFoundError when
    its directory is gone, BusyError."""
    upload = _open(context, request.upload)
    sealing.take_chunks(context, upload, request.chunks)
    sealing.take_extents(context, upload, request.extents)
    if request.size > FILE_BYTES_MAX:
        raise TooLargeError(f"no file has {request.size} bytes")
    context.spend(_rows(context, upload))
    sealing.check_whole(context, upload, request.size, request.checksum)
    place = place_under(context, upload.parent, upload.name)
    old = tree.child(context.tx, place.parent, place.name)
    check_target(old, place, bool(upload.if_absent), upload.expected_version)
    inode = target_inode(context, old)
    context.execute(
        "UPDATE version SET inode = ?, size = ?, checksum = ?, created_index = ? WHERE id = ?",
        (inode, request.size, request.checksum, context.index, upload.version),
    )
    context.execute(
        "UPDATE chunk SET want = ?1 WHERE want < ?1 AND id IN (SELECT chunk FROM extent WHERE version = ?2)",
        (upload.replication, upload.version),
    )
    _close(context, upload, place)
    file = Inode(
        inode,
        FILE,
        place.parent,
        place.name,
        upload.mode,
        request.mtime_ns or upload.mtime_ns,
        upload.version,
        upload.replication,
        None,
        0,
    )
    return publish(context, place, old, file, request.size, request.checksum)


def abort_upload(context: Context, request: n.AbortUploadRequest) -> n.Result:
    """Raises BusyError."""
    upload = _open(context, request.upload)
    context.spend(_rows(context, upload))
    _abort(context, upload)
    return n.Result(code=t.ERROR_CODE_OK)


def expire(context: Context, command: e.ExpireUploads) -> int:
    """End those uploads whose time is over as of this entry; how many. One may have been renewed meanwhile, and what
    is too much for an entry is left to the next."""
    ended = 0
    for upload_id in command.uploads:
        row = context.execute(_READ, (upload_id,)).fetchone()
        if row is None:
            continue
        upload = Open(*row)
        if upload.deadline_ms <= context.now_ms:
            try:
                context.spend(_rows(context, upload))
            except BusyError:
                break
            _abort(context, upload)
            ended += 1
    return ended


def _open(context: Context, upload_id: bytes) -> Open:
    row = context.execute(_READ, (upload_id,)).fetchone() if len(upload_id) == ID_BYTES else None
    if row is None:
        raise UploadGoneError(
            f"upload {upload_id[:ID_BYTES].hex() or '(none)'} is not open",
            cause="it was committed, aborted, or had no sign of life for too long",
        )
    return Open(*row)


def _rows(context: Context, upload: Open) -> int:
    """Of how many extents and chunks an upload consists."""
    (extents,) = context.execute(
        "SELECT count(*) FROM extent WHERE version = ?", (upload.version,)
    ).fetchone()
    (chunks,) = context.execute("SELECT count(*) FROM chunk WHERE upload = ?", (upload.id,)).fetchone()
    return int(extents + chunks)


def _renew(context: Context, upload: Open) -> Open:
    deadline_ms = max(upload.deadline_ms, context.now_ms + context.setting("upload.ttl_ms"))
    context.execute("UPDATE upload SET deadline_ms = ? WHERE id = ?", (deadline_ms, upload.id))
    return upload._replace(deadline_ms=deadline_ms)


def _abort(context: Context, upload: Open) -> None:
    place = former_place(context, upload.parent, upload.name)
    last = Last(place.path, context.principal)
    contents.drop_version(context, upload.version, last)
    _close(context, upload, place)


def _close(context: Context, upload: Open, place: Place) -> None:
    contents.release_upload(context, upload.id, Last(place.path, context.principal))
    context.execute("DELETE FROM upload WHERE id = ?", (upload.id,))


def _info(upload: Open) -> n.UploadInfo:
    return n.UploadInfo(
        upload=upload.id,
        replication=upload.replication,
        chunk_size_bytes=upload.chunk_size_bytes,
        deadline_cluster_ms=upload.deadline_ms,
        min_replicas=upload.min_replicas,
    )
