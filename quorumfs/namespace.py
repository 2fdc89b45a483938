"""The namespace's verbs over a Coordinator: one method per operation, values of the wire in and out.

Paths are bytes here, already judged. Every method raises the error of its result; changes happen exactly
once, or end as OutcomeUnknownError.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from quorumfs import limits, ops
from quorumfs.ops import NewFile
from quorumfs.rpc.status import raise_for
from quorumfs.v1 import namespace_pb2 as pb
from quorumfs.v1 import types_pb2


class Operations(Protocol):
    """What carries operations to the cluster: a Coordinator, or a test's fake."""

    def do(self, ops: Sequence[pb.Op], timeout: float | None = None) -> list[pb.Result]: ...

    def read(
        self, ops: Sequence[pb.ReadOp], consistency: pb.Consistency.ValueType = ...
    ) -> list[pb.ReadResult]: ...

    def keep_alive(self, uploads: Sequence[bytes]) -> list[bytes]: ...

    def report_replica(
        self, chunk: bytes, node_id: str, state: types_pb2.ReplicaState.ValueType, detail: str
    ) -> None: ...


class Namespace:
    """One method per operation. Any thread may call."""

    def __init__(self, operations: Operations) -> None:
        self.operations = operations

    # ---- changes -----------------------------------------------------------------------------------------

    def put_file(self, new: NewFile, body: bytes, checksum: int) -> pb.FileInfo:
        return self._do(ops.put_file(new, body, checksum)).info

    def open_upload(self, new: NewFile, size_hint: int = 0) -> pb.UploadInfo:
        return self._do(ops.open_upload(new, size_hint)).upload

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
        """Give an upload up; not tried for long, since it also expires by itself."""
        result = self.operations.do([ops.abort_upload(upload)], limits.RPC_DEADLINE_SECONDS)[0]
        raise_for(result.code, result.error)

    def mkdir(self, path: bytes, mode: int = 0, mtime_ns: int = 0, parents: bool = False) -> pb.FileInfo:
        return self._do(ops.mkdir(path, mode, mtime_ns, parents)).info

    def delete(
        self,
        path: bytes,
        recursive: bool = False,
        purge: bool = False,
        expected_version: int = 0,
        missing_ok: bool = False,
    ) -> pb.Removal:
        return self._do(ops.delete(path, recursive, purge, expected_version, missing_ok)).removal

    def rename(self, source: bytes, target: bytes, replace: bool = False) -> pb.FileInfo:
        return self._do(ops.rename(source, target, replace)).info

    def symlink(
        self, path: bytes, target: bytes, mtime_ns: int | None = None, replace: bool = False
    ) -> pb.FileInfo:
        return self._do(ops.symlink(path, target, mtime_ns, replace)).info

    def clone(self, source: bytes, target: bytes, replace: bool = False) -> pb.FileInfo:
        return self._do(ops.clone(source, target, replace)).info

    def set_attributes(
        self,
        path: bytes,
        mode: int | None = None,
        mtime_ns: int | None = None,
        replication: int | None = None,
        expected_version: int = 0,
    ) -> pb.FileInfo:
        return self._do(ops.set_attributes(path, mode, mtime_ns, replication, expected_version)).info

    def undelete(
        self, trash_id: int = 0, original_path: bytes = b"", to: bytes = b"", replace: bool = False
    ) -> pb.FileInfo:
        return self._do(ops.undelete(trash_id, original_path, to, replace)).info

    def empty_trash(self, trash_id: int = 0, older_than_ms: int = 0) -> int:
        """How many entries were removed."""
        return self._do(ops.empty_trash(trash_id, older_than_ms)).removal.removed

    # ---- reads -------------------------------------------------------------------------------------------

    def stat(self, path: bytes, follow: bool = True, stale: bool = False) -> pb.FileInfo:
        return self._read(ops.stat(path, follow), stale).info

    def list(
        self, path: bytes, stale: bool = False, page: int = limits.LIST_PAGE_DEFAULT
    ) -> Iterator[pb.FileInfo]:
        """The entries of a directory in byte order of their names, page by page."""
        after = b""
        while True:
            request = pb.ListRequest(ref=ops.ref(path), after=after, limit=page, follow=True)
            listing = self._read(pb.ReadOp(list=request), stale).listing
            yield from listing.entries
            after = listing.next
            if not after:
                return

    def layout(self, path: bytes, no_body: bool = False, stale: bool = False) -> pb.Layout:
        """The first page of a file's layout, links followed; `layout_of` gives the others."""
        request = pb.LayoutRequest(ref=ops.ref(path), follow=True, no_body=no_body)
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
