"""What the library answers with: frozen values, made from the wire. Loads no gRPC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from quorumfs.v1 import namespace_pb2, types_pb2

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class FileType(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


_TYPES = {
    types_pb2.INODE_TYPE_FILE: FileType.FILE,
    types_pb2.INODE_TYPE_DIRECTORY: FileType.DIRECTORY,
    types_pb2.INODE_TYPE_SYMLINK: FileType.SYMLINK,
}
_new_tuple = tuple.__new__  # as NamedTuple does it, without its function between
_FILE = FileType.FILE  # an enumeration's attribute costs more than all numbers of a status


class FileStatus(NamedTuple):
    """A file, directory or symbolic link as the namespace knows it. A tuple, because thousands are made a second.

    `mode`: permission bits. `checksum`: CRC32C of the content (files). `version` grows with every change of
    the content. `target`: of a link; bytes of it that are no UTF-8 stand as surrogates, as in os.readlink.
    `modified_ns`: since 1970, as it was set; `modified` rounds it.
    """

    path: str
    name: str
    type: FileType
    size_bytes: int
    mode: int
    modified_ns: int
    replication: int
    id: int
    version: int
    checksum: int
    target: str = ""

    @property
    def modified(self) -> datetime:
        """When the content was last changed, or what the writer said; UTC."""
        return _EPOCH + timedelta(microseconds=self.modified_ns // 1000)

    @property
    def is_file(self) -> bool:
        return self.type is FileType.FILE

    @property
    def is_directory(self) -> bool:
        return self.type is FileType.DIRECTORY

    @property
    def is_symlink(self) -> bool:
        return self.type is FileType.SYMLINK


@dataclass(frozen=True, slots=True)
class ReplicaPlace:
    """One replica of a chunk: on which node, in which state ("live", "pending", "corrupt", "missing")."""

    node_id: str
    grpc: str
    http: str
    disk_id: str
    state: str
    host: str
    zone: str


@dataclass(frozen=True, slots=True)
class Location:
    """Where `length` bytes at `offset` of a file lie. `inline`: in the metadata, without replicas."""

    offset: int
    length: int
    chunk: str  # 32 hexadecimal digits
    chunk_offset: int
    chunk_length: int
    chunk_checksum: int  # CRC32C of the whole chunk
    inline: bool
    replicas: tuple[ReplicaPlace, ...]


@dataclass(frozen=True, slots=True)
class TrashItem:
    trash_id: int
    path: str  # where it was
    status: FileStatus
    deleted: datetime
    expires_in_seconds: float
    deleted_by: str


@dataclass(frozen=True, slots=True)
class SpaceStatus:
    """Counts of the whole cluster, and the bytes on its datanodes' disks."""

    files: int
    directories: int
    chunks: int
    logical_bytes: int
    inline_bytes: int
    total_bytes: int
    used_bytes: int
    free_bytes: int


def file_status(info: namespace_pb2.FileInfo, path: bytes = b"") -> FileStatus:
    """The value of a FileInfo. `path` is used when the answer does not say where it was found."""
    where = info.path or path
    name = info.name or where.rsplit(b"/", 1)[-1]
    target = info.target
    return _new_tuple(
        FileStatus,
        (
            where.decode("utf-8", "replace"),
            name.decode("utf-8", "replace"),
            _TYPES.get(info.type, _FILE),
            info.size,
            info.mode,
            info.mtime_ns,
            info.replication,
            info.id,
            info.version,
            info.checksum,
            target.decode("utf-8", "surrogateescape") if target else "",
        ),
    )


def trash_item(entry: namespace_pb2.TrashEntry) -> TrashItem:
    return TrashItem(
        trash_id=entry.trash_id,
        path=text(entry.path),
        status=file_status(entry.info, entry.path),
        deleted=_EPOCH + timedelta(milliseconds=entry.deleted_wall_ms),
        expires_in_seconds=entry.expires_in_ms / 1000,
        deleted_by=entry.deleted_by,
    )


def space_status(info: namespace_pb2.FsInfo) -> SpaceStatus:
    return SpaceStatus(
        files=info.files,
        directories=info.directories,
        chunks=info.chunks,
        logical_bytes=info.logical_bytes,
        inline_bytes=info.inline_bytes,
        total_bytes=info.total_bytes,
        used_bytes=info.used_bytes,
        free_bytes=info.free_bytes,
    )


def location(extent: types_pb2.Extent, chunk: namespace_pb2.ChunkLocation) -> Location:
    return Location(
        offset=extent.offset,
        length=extent.length,
        chunk=extent.chunk.hex(),
        chunk_offset=extent.chunk_offset,
        chunk_length=chunk.length,
        chunk_checksum=chunk.checksum,
        inline=chunk.inline,
        replicas=tuple(
            ReplicaPlace(
                node_id=replica.node_id,
                grpc=replica.grpc,
                http=replica.http,
                disk_id=replica.disk_id,
                state=types_pb2.ReplicaState.Name(replica.state).removeprefix("REPLICA_STATE_").lower(),
                host=replica.host,
                zone=replica.zone,
            )
            for replica in chunk.replicas
        ),
    )


def text(raw: bytes) -> str:
    """A name of the namespace as text. Names are UTF-8; what is not shows as replacement characters."""
    return raw.decode("utf-8", "replace")
