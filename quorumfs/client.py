"""`Client`: the library's face. Files in and out, the namespace, the trash; any thread may call.

    with Client("127.0.0.1:7400,127.0.0.1:7410") as fs:
        fs.put("local.bin", "/data/a.bin")

Paths are absolute ("/data/x"). Errors of the cluster are classes of `quorumfs.errors`; errors of local files
stay OSError. A failover of the cluster costs time, not an error.
"""

from __future__ import annotations

import builtins
import io
import os
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, BinaryIO, Literal, TypeAlias, overload

from quorumfs import limits, paths
from quorumfs.checksum import Buffer, crc32c
from quorumfs.discovery import TOKEN_VARIABLE, find_coordinators
from quorumfs.download import OpenedFile, of_one_version
from quorumfs.errors import (
    AlreadyExistsError,
    IntegrityError,
    Leader,
    NotFoundError,
    PartialError,
    QuorumFSError,
)
from quorumfs.files import BUFFER_BYTES, QuorumReader, QuorumWriter, TextWriter
from quorumfs.get_many import Got, ManyReader
from quorumfs.keepalive import KeepAlive
from quorumfs.local_file import NewLocalFile, attributes_of
from quorumfs.namespace import Namespace
from quorumfs.nearness import ZONE_VARIABLE, Nearness
from quorumfs.ops import NewFile
from quorumfs.put_many import ManyFiles
from quorumfs.put_together import PutTogether
from quorumfs.read_chunk import ChunkReader
from quorumfs.rpc.channels import Channels, ChannelSource
from quorumfs.rpc.coordinator import Coordinator
from quorumfs.short_circuit import SHORT_CIRCUIT_VARIABLE, ShortCircuit, wanted
from quorumfs.sources import open_source
from quorumfs.suspects import Suspects
from quorumfs.upload import Progress, Uploader
from quorumfs.v1 import admin_pb2
from quorumfs.values import (
    FileStatus,
    Location,
    SpaceStatus,
    TrashItem,
    file_status,
    location,
    space_status,
    text,
    trash_item,
)
from quorumfs.watchdog import Watchdog

RemotePath: TypeAlias = str | bytes | os.PathLike[str]
LocalPath: TypeAlias = str | os.PathLike[str]


class Client:
    """A connection to one cluster. See the module for an example.

    `coordinators`: "host:port,..." or a sequence; without it QUORUMFS_COORDINATORS, client.toml, a cluster
    running on this machine. `timeout`: seconds a metadata operation may take, failover included. `token`:
    for operators' calls; without it QUORUMFS_TOKEN. `channels` stay the caller's own, with their
    credentials. `short_circuit`: whether chunks on this machine are read from the disk; without it
    QUORUMFS_SHORT_CIRCUIT, else yes. `zone`: the label of nodes near this machine; without it QUORUMFS_ZONE, else
    that of the datanodes on it. `fail_fast`: the first contact does not wait for an election when nobody has led
    for long, nor for coordinators to be started. Nothing is sent before the first call. It belongs to the process
    that made it: in a child made by fork() every call raises PreconditionFailedError, and the parent's goes on.
    """

    def __init__(
        self,
        coordinators: str | Sequence[str] | None = None,
        *,
        timeout: float = limits.CLIENT_DEADLINE_SECONDS,
        token: str | None = None,
        channels: ChannelSource | None = None,
        short_circuit: bool | None = None,
        zone: str | None = None,
        fail_fast: bool = False,
    ) -> None:
        addresses = find_coordinators(coordinators)
        self._owns_channels = channels is None
        self._channels: ChannelSource = Channels() if channels is None else channels
        self.coordinator = Coordinator(
            addresses,
            self._channels,
            timeout=timeout,
            token=token or os.environ.get(TOKEN_VARIABLE),
            fail_fast=fail_fast,
        )
        self.namespace = Namespace(self.coordinator)
        self._suspects = Suspects()
        self._watchdog = Watchdog()
        self._keep_alive = KeepAlive(self.coordinator.keep_alive)
        nearness = Nearness(socket.gethostname(), os.environ.get(ZONE_VARIABLE, "") if zone is None else zone)
        self._short_circuit = (
            ShortCircuit(self._channels, host=nearness.host)
            if wanted(short_circuit, os.environ.get(SHORT_CIRCUIT_VARIABLE, ""))
            else None
        )
        self._reader = ChunkReader(
            self._channels,
            self._suspects,
            self._watchdog,
            self.coordinator.report_replica,
            nearness=nearness,
            local_files=self._short_circuit,
        )
        self._uploader = Uploader(
            self.namespace, self._channels, self._suspects, self._keep_alive, self.cluster_id
        )
        self._together = PutTogether(self._uploader, self.namespace)
        self._cluster_id = ""
        self._closed = threading.Event()
        self._pid = os.getpid()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the threads and connections of this client. Calls under way fail. May be called again."""
        if self._closed.is_set() or os.getpid() != self._pid:
            return  # in a fork the connections are the parent's, and ending them would never end
        self._closed.set()
        self._together.finish()
        self.coordinator.close()
        if self._owns_channels:
            self._channels.close()
        if self._short_circuit is not None:
            self._short_circuit.close()
        self._keep_alive.close()
        self._together.close()
        self._watchdog.close()

    # ---- whole files -------------------------------------------------------------------------------------

    def put(
        self,
        source: LocalPath | BinaryIO | Buffer,
        path: RemotePath,
        *,
        if_absent: bool = False,
        expected_version: int = 0,
        replication: int = 0,
        mode: int | None = None,
        modified_ns: int | None = None,
        progress: Progress | None = None,
    ) -> FileStatus:
        """Store a local file, a binary file object or bytes as `path`; durable and visible on return.

        Replaces what is there, atomically, unless `if_absent` (AlreadyExistsError) or `expected_version`
        forbid it. Mode and time are those of a local file, unless given. Parents are not made. Small files that several
        threads put at the same time share a chunk, and fail together when its datanodes do.
        """
        target = remote_path(path)
        opened, close = open_source(source)
        try:
            own_mode, own_time = attributes_of(source)
            new = NewFile(
                target,
                if_absent=if_absent,
                expected_version=expected_version,
                replication=replication,
                mode=own_mode if mode is None else mode,
                mtime_ns=own_time if modified_ns is None else modified_ns,
            )
            return file_status(self._uploader.upload(opened, new, progress, self._together), target)
        finally:
            close()

    def get(
        self, path: RemotePath, target: LocalPath, *, fsync: bool = False, progress: Progress | None = None
    ) -> FileStatus:
        """Fetch `path` into the local file `target`, which is replaced at the end, whole and verified.

        Mode and time of modification come along. `fsync`: durable on return. Raises NotFoundError,
        IntegrityError, UnavailableError; OSError of the local file.
        """
        source = remote_path(path)
        return of_one_version(
            partial(self._open, source),
            lambda opened: self._get_once(opened, source, target, fsync, progress),
        )

    def read_bytes(self, path: RemotePath) -> bytes:
        """The whole content, of one version."""
        return of_one_version(partial(self._open, remote_path(path)), OpenedFile.read_whole)

    def write_bytes(
        self,
        path: RemotePath,
        data: Buffer,
        *,
        if_absent: bool = False,
        expected_version: int = 0,
        mode: int = 0,
    ) -> FileStatus:
        """Store `data` as `path`, atomically; durable and visible on return. TypeError: text is no bytes."""
        return self.put(
            memoryview(data),
            path,
            if_absent=if_absent,
            expected_version=expected_version,
            mode=mode,
            modified_ns=0,
        )

    def read_text(self, path: RemotePath, encoding: str = "utf-8") -> str:
        return self.read_bytes(path).decode(encoding)

    def write_text(
        self, path: RemotePath, text: str, encoding: str = "utf-8", *, if_absent: bool = False
    ) -> FileStatus:
        return self.write_bytes(path, text.encode(encoding), if_absent=if_absent)

    def put_many(
        self,
        files: Mapping[str, Buffer | LocalPath] | Iterable[tuple[RemotePath, Buffer | LocalPath]],
        *,
        if_absent: bool = False,
        replication: int = 0,
        failed: dict[str, QuorumFSError | OSError] | None = None,
        stored: dict[str, FileStatus] | None = None,
        progress: Progress | None = None,
    ) -> dict[str, FileStatus]:
        """Store many files, small ones hundreds per chunk and log entry; each appears whole, not all at once.

        What is to be stored is bytes or a local file, which brings its mode and time. A few packs are in memory
        at a time, however many files are given. Returns path -> status. When some fail the others are stored
        all the same, and PartialError names the failures (`ids`: path -> reason); or, when `failed` is given,
        they are put into it, by path, and nothing is raised for them.
        What concerns them all (NoLeaderError, OutcomeUnknownError, an error of `files` itself) is raised and ends it:
        then `stored` and `failed`, if given, hold the account of all files that were taken until then.
        """
        given = files.items() if isinstance(files, Mapping) else files
        many = ManyFiles(self._uploader, self.namespace, self._keep_alive, progress, stored, failed)
        many.put(
            (NewFile(remote_path(name), if_absent=if_absent, replication=replication), data)
            for name, data in given
        )
        return many.check() if failed is None else many.stored

    def get_many(
        self, files: Iterable[RemotePath], *, failed: dict[str, QuorumFSError] | None = None
    ) -> dict[str, bytes]:
        """The contents of many files, verified; neighbours in a pack are read together.

        Returns path -> content. When some cannot be read PartialError names them (`ids`: path -> reason); or,
        when `failed` is given, they are put into it, by path. `iterate_many` for more than memory holds.
        """
        errors: dict[str, QuorumFSError] = {} if failed is None else failed
        found = {text(got.path): got.content for got in self._read_many(files, errors)}
        if failed is None and errors:
            first = [f"{name}: {error}" for name, error in list(errors.items())[:3]]
            raise PartialError(
                f"{len(errors)} of {len(errors) + len(found)} files could not be read",
                cause="; ".join(first),
                ids={name: str(error) for name, error in errors.items()},
            )
        return found

    def iterate_many(
        self, files: Iterable[RemotePath], *, failed: dict[str, QuorumFSError]
    ) -> Iterator[tuple[str, FileStatus, bytes]]:
        """(path as given, status, content) of many files, as they come in; failures are put into `failed`.

        A few megabytes are read ahead, besides what is large itself. Close the iterator to give up early.
        """
        for got in self._read_many(files, failed):
            yield text(got.path), file_status(got.info, got.path), got.content

    def _read_many(self, files: Iterable[RemotePath], failed: dict[str, QuorumFSError]) -> Iterator[Got]:
        for got in ManyReader(self.namespace, self._reader).read(map(remote_path, files)):
            if got.error is None:
                yield got
            else:
                failed[text(got.path)] = got.error

    # ---- file objects ------------------------------------------------------------------------------------

    @overload
    def open(
        self,
        path: RemotePath,
        mode: Literal["rb"] = ...,
        *,
        buffering: int = ...,
    ) -> io.BufferedReader: ...

    @overload
    def open(self, path: RemotePath, mode: Literal["wb", "xb"]) -> QuorumWriter: ...

    @overload
    def open(
        self,
        path: RemotePath,
        mode: str,
        *,
        encoding: str | None = ...,
        errors: str | None = ...,
        newline: str | None = ...,
        buffering: int = ...,
    ) -> Any: ...

    def open(
        self,
        path: RemotePath,
        mode: str = "rb",
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        buffering: int = BUFFER_BYTES,
    ) -> Any:
        """A file object: "rb", "r" to read; "wb", "w" to replace; "xb", "x" to make a new one.

        What is written becomes visible at the close, whole; an exception inside the with-block leaves what
        was there. `buffering` of readers: bytes; 0 gives the raw QuorumReader, as the built-in open does.
        Raises ValueError for other modes.
        """
        kind = mode.replace("t", "").replace("b", "")
        if kind not in ("r", "w", "x") or ("b" in mode and "t" in mode):
            raise ValueError(f"mode {mode!r} is not one of r, w, x with b or t")
        where = remote_path(path)
        if kind == "r":
            opened = self._open(where)
            raw = QuorumReader(opened, file_status(opened.info, where))
            if buffering == 0 and "b" in mode:
                return raw
            reader = io.BufferedReader(raw, buffering if buffering > 1 else BUFFER_BYTES)
            return reader if "b" in mode else io.TextIOWrapper(reader, encoding or "utf-8", errors, newline)
        writer = self._writer(where, if_absent=kind == "x")
        return writer if "b" in mode else TextWriter(writer, encoding or "utf-8", errors, newline)

    # ---- the namespace -----------------------------------------------------------------------------------

    def stat(self, path: RemotePath, *, follow: bool = True, stale: bool = False) -> FileStatus:
        """What `path` is. `follow`: of a link, what it leads to. `stale`: any coordinator may answer."""
        where = remote_path(path)
        return file_status(self.namespace.stat(where, follow, stale), where)

    def exists(self, path: RemotePath) -> bool:
        """Whether something is at `path`; a link that leads nowhere is nothing."""
        try:
            self.stat(path)
        except NotFoundError:
            return False
        return True

    def list(self, path: RemotePath = "/", *, stale: bool = False) -> list[FileStatus]:
        """The entries of a directory, in byte order of their names."""
        return [*self.iterate(path, stale=stale)]

    def iterate(self, path: RemotePath = "/", *, stale: bool = False) -> Iterator[FileStatus]:
        """Like `list`, page by page, for large directories."""
        where = remote_path(path)
        prefix = where.rstrip(b"/") + b"/"
        for info in self.namespace.list(where, stale):
            yield file_status(info, prefix + info.name)

    def mkdir(
        self, path: RemotePath, *, parents: bool = False, mode: int = 0, modified_ns: int = 0
    ) -> FileStatus:
        """Make a directory. `parents`: with what is missing above it, and an existing one is fine."""
        where = remote_path(path)
        return file_status(self.namespace.mkdir(where, mode, modified_ns, parents), where)

    def makedirs(self, path: RemotePath) -> FileStatus:
        """`mkdir` with `parents`."""
        return self.mkdir(path, parents=True)

    def rename(self, source: RemotePath, target: RemotePath, *, replace: bool = False) -> FileStatus:
        """Move a file or tree, atomically. `replace`: what is at `target` goes to the trash."""
        where = remote_path(target)
        return file_status(self.namespace.rename(remote_path(source), where, replace), where)

    def delete(
        self,
        path: RemotePath,
        *,
        recursive: bool = False,
        purge: bool = False,
        missing_ok: bool = False,
    ) -> int:
        """Move a file, link or tree to the trash; returns its trash id (0: none). `purge`: past the trash."""
        removal = self.namespace.delete(remote_path(path), recursive, purge, missing_ok=missing_ok)
        return removal.trash_id

    def copy(self, source: RemotePath, target: RemotePath, *, replace: bool = False) -> FileStatus:
        """Copy a file within the cluster: the copy shares its chunks, no byte moves."""
        where = remote_path(target)
        return file_status(self.namespace.clone(remote_path(source), where, replace), where)

    def symlink(
        self,
        target: str | bytes,
        path: RemotePath,
        *,
        modified_ns: int | None = None,
        replace: bool = False,
    ) -> FileStatus:
        """Make `path` a symbolic link to `target`, like os.symlink. `modified_ns`: None is now."""
        where = remote_path(path)
        raw = link_target(target)
        return file_status(self.namespace.symlink(where, raw, modified_ns, replace), where)

    def set_attributes(
        self,
        path: RemotePath,
        *,
        mode: int | None = None,
        modified_ns: int | None = None,
        replication: int | None = None,
        expected_version: int = 0,
    ) -> FileStatus:
        """Change what is given, leave the rest."""
        where = remote_path(path)
        info = self.namespace.set_attributes(where, mode, modified_ns, replication, expected_version)
        return file_status(info, where)

    def locate(self, path: RemotePath) -> builtins.list[Location]:
        """Where the bytes lie: one Location per extent, in file order."""
        layout = self.namespace.layout(remote_path(path), no_body=True)
        info, found = layout.info, []
        while True:
            chunks = {chunk.chunk: chunk for chunk in layout.chunks}
            found += [location(extent, chunks[extent.chunk]) for extent in layout.extents]
            if not layout.next_offset:
                return found
            layout = self.namespace.layout_of(info.id, info.version, layout.next_offset, no_body=True)

    def statfs(self, *, stale: bool = False) -> SpaceStatus:
        """Counts and space of the cluster."""
        return space_status(self.namespace.statfs(stale))

    # ---- the trash ---------------------------------------------------------------------------------------

    def list_trash(self) -> Iterator[TrashItem]:
        """What was deleted or replaced, oldest first, page by page."""
        return map(trash_item, self.namespace.list_trash())

    def undelete(
        self,
        path: RemotePath | None = None,
        *,
        trash_id: int = 0,
        to: RemotePath | None = None,
        replace: bool = False,
    ) -> FileStatus:
        """Bring back the newest deleted at `path`, or the entry `trash_id`; where it was, or to `to`."""
        original = b"" if path is None else remote_path(path)
        target = b"" if to is None else remote_path(to)
        return file_status(self.namespace.undelete(trash_id, original, target, replace), target or original)

    def empty_trash(self, *, trash_id: int = 0, older_than_seconds: float = 0) -> int:
        """Remove one entry, or all older than this; returns how many. Only GC's grace is left to them."""
        return self.namespace.empty_trash(trash_id, int(older_than_seconds * 1000))

    # ---- the cluster -------------------------------------------------------------------------------------

    def leader(self) -> Leader:
        """Who leads, as it says itself. Raises NoLeaderError."""
        return self.coordinator.leader()

    def status(self) -> admin_pb2.ClusterStatus:
        """The leader's view of the cluster, as it comes over the wire."""
        status: admin_pb2.ClusterStatus = self.coordinator.control(
            "Control.GetClusterStatus", admin_pb2.GetClusterStatusRequest()
        )
        return status

    def cluster_id(self) -> str:
        """The cluster's UUID, asked for once; empty while no coordinator tells it."""
        if not self._cluster_id:
            try:
                self._cluster_id = self.coordinator.cluster_view(leader=False).cluster_id
            except QuorumFSError:
                return ""  # datanodes check it when it is there; the commit decides anyway
        return self._cluster_id

    # ---- inside ------------------------------------------------------------------------------------------

    def _open(self, path: bytes) -> OpenedFile:
        return OpenedFile(self.namespace, self._reader, path)

    def _get_once(
        self, opened: OpenedFile, source: bytes, target: LocalPath, fsync: bool, progress: Progress | None
    ) -> FileStatus:
        with NewLocalFile(target) as file:
            checksum = self._fetch(opened, file, progress)
            if checksum != opened.info.checksum:
                raise IntegrityError(
                    f"{paths.show(source)} does not match its checksum",
                    cause=f"{checksum:08x} was read, {opened.info.checksum:08x} was stored",
                )
            file.publish(opened.info.mode, opened.info.mtime_ns, fsync)
        return file_status(opened.info, source)

    def _fetch(self, opened: OpenedFile, file: NewLocalFile, progress: Progress | None) -> int:
        """Write all of `opened` into `file`; the checksum of what was written."""
        checksum = done = 0
        for data in opened.read(0):
            file.write(data)
            checksum = crc32c(data, checksum)
            done += len(data)
            if progress:
                progress(done)
        return checksum

    def _writer(self, path: bytes, if_absent: bool) -> QuorumWriter:
        if if_absent:
            self._refuse_existing(path)
        new = NewFile(path, if_absent=if_absent)
        return QuorumWriter(
            paths.show(path), lambda source: file_status(self._uploader.upload(source, new), path)
        )

    def _refuse_existing(self, path: bytes) -> None:
        """Say at the opening what the commit would say; it is the commit that decides."""
        try:
            self.namespace.stat(path, follow=False)
        except NotFoundError:
            return
        raise AlreadyExistsError(f"{paths.show(path)} exists already")


def remote_path(path: RemotePath) -> bytes:
    """The path as it travels. Raises InvalidPathError."""
    return paths.absolute(path if isinstance(path, str) else os.fspath(path))


def link_target(target: str | bytes) -> bytes:
    """A link's target as it travels: byte for byte what os.readlink gave."""
    return target if isinstance(target, bytes) else target.encode("utf-8", "surrogateescape")
