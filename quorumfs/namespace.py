"""The namespace's verbs over a Coordinator: one method per operation, values of the wire in and out.

Paths are bytes here, already judged. Every method raises the error of its result; changes happen exactly
once, or end as OutcomeUnknownError.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from quorumfs import limits
from quorumfs.rpc.status import raise_for
from quorumfs.v1 import namespace_pb2 as pb
from quorumfs.v1 import types_pb2


class Operations(Protocol):
    """What carries operations to the cluster: a Coordinator, or a test's fake."""

    def do(self, ops: Sequence[pb.Op]) -> list[pb.Result]: ...

    def read(
        self, ops: Sequence[pb.ReadOp], consistency: pb.Consistency.ValueType = ...
    ) -> list[pb.ReadResult]: ...

    def keep_alive(self, uploads: Sequence[bytes]) -> list[bytes]: ...

    def report_replica(
        self, chunk: bytes, node_id: str, state: types_pb2.ReplicaState.ValueType, detail: str
    ) -> None: ...


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


def put_file_op(new: NewFile, body: bytes, checksum: int) -> pb.Op:
    """A whole small file as one operation."""
    return pb.Op(
        put_file=pb.PutFileRequest(
            ref=ref(new.path),
            if_absent=new.if_absent,
            expected_version=new.expected_version,
            replication=new.replication,
            mode=new.mode,
            mtime_ns=new.mtime_ns,
            body=body,
            checksum=checksum,
        )
    )


class Namespace:
    """One method per operation. Any thread may call."""

    def __init__(self, operations: Operations) -> None:
        self.operations = operations

    # ---- changes -----------------------------------------------------------------------------------------

    def put_file(self, new: NewFile, body: bytes, checksum: int) -> pb.FileInfo:
        return self._do(put_file_op(new, body, checksum)).info

    def open_upload(self, new: NewFile, size_hint: int = 0) -> pb.UploadInfo:
        request = pb.OpenUploadRequest(
            ref=ref(new.path),
            if_absent=new.if_absent,
            expected_version=new.expected_version,
            replication=new.replication,
            mode=new.mode,
            mtime_ns=new.mtime_ns,
            size_hint=size_hint,
        )
        return self._do(pb.Op(open_upload=request)).upload

    def allocate(
        self,
        upload: bytes,
        count: int = 1,
        size_hint: int = 0,
        exclude: Sequence[str] = (),
        near_host: str = "",
    ) -> list[pb.AllocatedChunk]:
        request = pb.AllocateRequest(
            upload=upload, count=count, size_hint=size_hint, exclude=exclude, near_host=near_host
        )
        return list(self._do(pb.Op(allocate=request)).allocation.chunks)

    def add_extents(
        self, upload: bytes, chunks: Sequence[pb.SealedChunk], extents: Sequence[types_pb2.Extent]
    ) -> None:
        self._do(pb.Op(add_extents=pb.AddExtentsRequest(upload=upload, chunks=chunks, extents=extents)))

    def commit(
        self,
        upload: bytes,
        size: int,
        checksum: int,
        chunks: Sequence[pb.SealedChunk] = (),
        extents: Sequence[types_pb2.Extent] = (),
        mtime_ns: int = 0,
    ) -> pb.FileInfo:
        request = pb.CommitUploadRequest(
            upload=upload, size=size, checksum=checksum, chunks=chunks, extents=extents, mtime_ns=mtime_ns
        )
        return self._do(pb.Op(commit_upload=request)).info

    def abort(self, upload: bytes) -> None:
        self._do(pb.Op(abort_upload=pb.AbortUploadRequest(upload=upload)))

    def mkdir(self, path: bytes, mode: int = 0, mtime_ns: int = 0, parents: bool = False) -> pb.FileInfo:
        request = pb.MkdirRequest(ref=ref(path), mode=mode, mtime_ns=mtime_ns, parents=parents)
        return self._do(pb.Op(mkdir=request)).info

    def delete(
        self,
        path: bytes,
        recursive: bool = False,
        purge: bool = False,
        expected_version: int = 0,
        missing_ok: bool = False,
    ) -> pb.Removal:
        request = pb.DeleteRequest(
            ref=ref(path),
            recursive=recursive,
            purge=purge,
            expected_version=expected_version,
            missing_ok=missing_ok,
        )
        return self._do(pb.Op(delete=request)).removal

    def rename(self, source: bytes, target: bytes, replace: bool = False) -> pb.FileInfo:
        request = pb.RenameRequest(to=ref(target), replace=replace, **{"from": ref(source)})
        return self._do(pb.Op(rename=request)).info

    def symlink(self, path: bytes, target: bytes, mtime_ns: int = 0, replace: bool = False) -> pb.FileInfo:
        request = pb.SymlinkRequest(ref=ref(path), target=target, mtime_ns=mtime_ns, replace=replace)
        return self._do(pb.Op(symlink=request)).info

    def clone(self, source: bytes, target: bytes, replace: bool = False) -> pb.FileInfo:
        request = pb.CloneRequest(to=ref(target), replace=replace, **{"from": ref(source)})
        return self._do(pb.Op(clone=request)).info

    def set_attributes(
        self,
        path: bytes,
        mode: int | None = None,
        mtime_ns: int | None = None,
        replication: int | None = None,
        expected_version: int = 0,
    ) -> pb.FileInfo:
        request = pb.SetAttributesRequest(
            ref=ref(path),
            mode=mode,
            mtime_ns=mtime_ns,
            replication=replication,
            expected_version=expected_version,
        )
        return self._do(pb.Op(set_attributes=request)).info

    def undelete(
        self, trash_id: int = 0, original_path: bytes = b"", to: bytes = b"", replace: bool = False
    ) -> pb.FileInfo:
        request = pb.UndeleteRequest(
            trash_id=trash_id, original_path=original_path, to=ref(to) if to else None, replace=replace
        )
        return self._do(pb.Op(undelete=request)).info

    def empty_trash(self, trash_id: int = 0, older_than_ms: int = 0) -> int:
        """How many entries were removed."""
        request = pb.EmptyTrashRequest(trash_id=trash_id, older_than_ms=older_than_ms)
        return self._do(pb.Op(empty_trash=request)).removal.removed

    # ---- reads -------------------------------------------------------------------------------------------

    def stat(self, path: bytes, follow: bool = True, stale: bool = False) -> pb.FileInfo:
        return self._read(pb.ReadOp(stat=pb.StatRequest(ref=ref(path), follow=follow)), stale).info

    def list(
        self, path: bytes, stale: bool = False, page: int = limits.LIST_PAGE_DEFAULT
    ) -> Iterator[pb.FileInfo]:
        """The entries of a directory in byte order of their names, page by page."""
        after = b""
        while True:
            request = pb.ListRequest(ref=ref(path), after=after, limit=page, follow=True)
            listing = self._read(pb.ReadOp(list=request), stale).listing
            yield from listing.entries
            after = listing.next
            if not after:
                return

    def layout(self, path: bytes, no_body: bool = False, stale: bool = False) -> pb.Layout:
        """The first page of a file's layout, links followed; `layout_of` gives the others."""
        request = pb.LayoutRequest(ref=ref(path), follow=True, no_body=no_body)
        return self._read(pb.ReadOp(layout=request), stale).layout

    def layout_of(
        self, inode: int, version: int, offset: int = 0, length: int = 0, no_body: bool = False
    ) -> pb.Layout:
        """A page of the layout of exactly this version, even if it was replaced meanwhile."""
        request = pb.LayoutRequest(
            inode=inode, version=version, offset=offset, length=length, no_body=no_body
        )
        return self._read(pb.ReadOp(layout=request), False).layout

    def list_trash(self, page: int = limits.LIST_PAGE_DEFAULT) -> Iterator[pb.TrashEntry]:
        after = 0
        while True:
            request = pb.ListTrashRequest(after=after, limit=page)
            listing = self._read(pb.ReadOp(list_trash=request), False).trash
            yield from listing.entries
            after = listing.next
            if not after:
                return

    def statfs(self, stale: bool = False) -> pb.FsInfo:
        return self._read(pb.ReadOp(stat_fs=pb.StatFsRequest()), stale).fs

    def _do(self, op: pb.Op) -> pb.Result:
        result = self.operations.do([op])[0]
        raise_for(result.code, result.error)
        return result

    def _read(self, op: pb.ReadOp, stale: bool) -> pb.ReadResult:
        consistency = pb.CONSISTENCY_STALE if stale else pb.CONSISTENCY_LINEARIZABLE
        result = self.operations.read([op], consistency)[0]
        raise_for(result.code, result.error)
        return result
