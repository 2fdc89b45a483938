"""Operations and questions as messages: one function per verb, pure. Paths are bytes here, already judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quorumfs import limits
from quorumfs.v1 import namespace_pb2 as pb

BATCH_ROOM_BYTES = limits.BATCH_BYTES_MAX - 64
"""What operations may take of a Batch."""


@dataclass(frozen=True, slots=True)
class NewFile:
    """What a new version of a file is to be. 0: the cluster's default.

    `if_absent` refuses an existing file; `expected_version` any other than this one (0: whatever is there).
    """

    path: bytes
    if_absent: bool = False
    expected_version: int = 0
    replication: int = 0
    mode: int = 0
    mtime_ns: int = 0


def ref(path: bytes) -> pb.Ref:
    return pb.Ref(path=path)


def put_file(new: NewFile, body: bytes, checksum: int) -> pb.Op:
    """A whole small file as one operation."""
    op = pb.Op()
    request = op.put_file  # field by field: half of what nested constructors cost
    request.ref.path = new.path
    if new.if_absent:
        request.if_absent = True
    if new.expected_version:
        request.expected_version = new.expected_version
    if new.replication:
        request.replication = new.replication
    if new.mode:
        request.mode = new.mode
    if new.mtime_ns:
        request.mtime_ns = new.mtime_ns
    if body:
        request.body = body
    if checksum:
        request.checksum = checksum
    return op


def put_packed(new: NewFile, packed: pb.Packed, checksum: int) -> pb.Op:
    """A whole small file whose bytes lie in a pack."""
    op = put_file(new, b"", checksum)
    op.put_file.packed.CopyFrom(packed)
    return op


def hand_in(upload: bytes, chunk: pb.SealedChunk) -> pb.Op:
    """A sealed chunk of an open upload, without extents."""
    return pb.Op(add_extents=pb.AddExtentsRequest(upload=upload, chunks=[chunk]))


def open_upload(new: NewFile, size_hint: int) -> pb.Op:
    return pb.Op(
        open_upload=pb.OpenUploadRequest(
            ref=ref(new.path),
            if_absent=new.if_absent,
            expected_version=new.expected_version,
            replication=new.replication,
            mode=new.mode,
            mtime_ns=new.mtime_ns,
            size_hint=size_hint,
        )
    )


def abort_upload(upload: bytes) -> pb.Op:
    return pb.Op(abort_upload=pb.AbortUploadRequest(upload=upload))


def mkdir(path: bytes, mode: int = 0, mtime_ns: int = 0, parents: bool = False) -> pb.Op:
    return pb.Op(mkdir=pb.MkdirRequest(ref=ref(path), mode=mode, mtime_ns=mtime_ns, parents=parents))


def delete(
    path: bytes,
    recursive: bool = False,
    purge: bool = False,
    expected_version: int = 0,
    missing_ok: bool = False,
) -> pb.Op:
    return pb.Op(
        delete=pb.DeleteRequest(
            ref=ref(path),
            recursive=recursive,
            purge=purge,
            expected_version=expected_version,
            missing_ok=missing_ok,
        )
    )


def rename(source: bytes, target: bytes, replace: bool = False) -> pb.Op:
    return pb.Op(rename=pb.RenameRequest(to=ref(target), replace=replace, **{"from": ref(source)}))


def symlink(path: bytes, target: bytes, mtime_ns: int | None = None, replace: bool = False) -> pb.Op:
    return pb.Op(symlink=pb.SymlinkRequest(ref=ref(path), target=target, mtime_ns=mtime_ns, replace=replace))


def clone(source: bytes, target: bytes, replace: bool = False) -> pb.Op:
    return pb.Op(clone=pb.CloneRequest(to=ref(target), replace=replace, **{"from": ref(source)}))


def set_attributes(
    path: bytes,
    mode: int | None = None,
    mtime_ns: int | None = None,
    replication: int | None = None,
    expected_version: int = 0,
) -> pb.Op:
    return pb.Op(
        set_attributes=pb.SetAttributesRequest(
            ref=ref(path),
            mode=mode,
            mtime_ns=mtime_ns,
            replication=replication,
            expected_version=expected_version,
        )
    )


def undelete(trash_id: int = 0, original_path: bytes = b"", to: bytes = b"", replace: bool = False) -> pb.Op:
    return pb.Op(
        undelete=pb.UndeleteRequest(
            trash_id=trash_id, original_path=original_path, to=ref(to) if to else None, replace=replace
        )
    )


def empty_trash(trash_id: int = 0, older_than_ms: int = 0) -> pb.Op:
    return pb.Op(empty_trash=pb.EmptyTrashRequest(trash_id=trash_id, older_than_ms=older_than_ms))


def layout_among(path: bytes) -> pb.ReadOp:
    """The layout of one file of many, links followed; a chunk that many of them share is told once in a message."""
    op = pb.ReadOp()
    request = op.layout  # field by field, as above
    request.ref.path = path
    request.follow = True
    request.new_chunks = True
    return op


def stat(path: bytes, follow: bool = True) -> pb.ReadOp:
    op = pb.ReadOp()
    request = op.stat  # field by field: half of what nested constructors cost
    request.ref.path = path
    if follow:
        request.follow = True
    return op


def messages(ops: Sequence[pb.Op]) -> list[tuple[list[pb.Op], int]]:
    """`ops` cut into what one Batch may hold, with their sizes."""
    parts: list[tuple[list[pb.Op], int]] = []
    part: list[pb.Op] = []
    size = 0
    for op in ops:
        op_size = op.ByteSize() + 4  # its tag and length
        if part and (len(part) == limits.BATCH_OPS_MAX or size + op_size > BATCH_ROOM_BYTES):
            parts.append((part, size))
            part, size = [], 0
        part.append(op)
        size += op_size
    if part:
        parts.append((part, size))
    return parts
