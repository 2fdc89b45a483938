"""One data directory: its lock, its identity, its room, its health, and the names of its files.

    <path>/disk.json                      who owns it (identity.py)
    <path>/disks.json                     which other disks the node has, and where (mounts.py)
    <path>/lock                           held while a process uses it
    <path>/node.state                     fencing and counters (fence.py); a copy on every disk
    <path>/holds-2.log                    deletes that are void (holds.py); holds.log: those of versions before
    <path>/scrub.json                     how far the scrubber has come
    <path>/answer                         a few bytes, written again and again: whether the disk answers
    <path>/chunks/ab/ab..32 hex digits    a sealed chunk
    <path>/chunks/ab/....tmp              a chunk that is being written; removed at start
    <path>/quarantine/<hex>.<index>.<history>  a chunk deleted by the condemnation of that index of that history
    <path>/quarantine/corrupt/<hex>       a replica whose bytes are wrong, kept for a look
    <path>/quarantine/corrupt/<hex>.<index>.<history>  the same, when its chunk was deleted since

A disk is `ok`, `full`, `read_only` or `failed`. One that failed takes no new chunk until the node is started
again; what can still be read from it is served. A failed fsync is never tried again: what it was to make
durable may be gone from the cache.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

from common import log
from datanode.store import identity
from datanode.store.direct import DirectWrites, Pieces
from datanode.store.files import Files
from datanode.store.identity import DiskIdentity
from quorumfs.errors import (
    BusyError,
    IntegrityError,
    NoSpaceError,
    PreconditionFailedError,
    QuorumFSError,
    UnavailableError,
)
from quorumfs.ids import ChunkId

TEMPORARY = ".tmp"
ANSWER, ANSWER_BYTES = "answer", b"answers\n"
READ_ERRORS_MAX = 3  # chunks that could not be read before the whole disk counts as failed

_FULL = (errno.ENOSPC, errno.EDQUOT)
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # the process is short of something; the disk is well
# What has a chunk's name is something else than a file.
_NO_FILE = (errno.EISDIR, errno.ELOOP, errno.ESPIPE, errno.ENXIO, errno.ENODEV)
_log = log.get(__name__)


class Disk:
    """A data directory in use. Thread-safe."""

    def __init__(
        self, path: Path, files: Files, reserve_bytes: int = 0, pieces: Pieces | None = None
    ) -> None:
        """`pieces`: memory for writes past the page cache; None: there are none."""
        self.path = path
        self.files = files
        self.direct = None if pieces is None else DirectWrites(path, files, pieces)
        self.identity: DiskIdentity | None = None
        self._reserve_bytes = reserve_bytes
        self._lock = threading.Lock()
        self._lock_fd: int | None = None
        self._state = "ok"
        self._error = ""
        self._promised_bytes = 0
        self._unreadable: set[ChunkId] = set()
        self._directories = GroupSync(files)
        self.took: Callable[[str, float], None] = lambda what, seconds: None
        """Told how long the disk took: to `sync` a chunk, to `write` its end with the sync, to `read` its beginning."""

    # Opening

    def open(self) -> None:
        """Take the lock and read who owns the disk (`identity` is None for a new one).

        A disk that cannot be used is marked failed. Raises PreconditionFailedError when another process
        holds it: that is never the disk's fault.
        """
        try:
            self._make_directory()
            self._take_lock()
            self._clear_temporary_records()
            self.identity = self._read_identity()
        except OSError as error:
            self.fail(f"it cannot be opened: {error}")
        except QuorumFSError as error:
            if isinstance(error, PreconditionFailedError):
                raise
            self.fail(str(error))

    def adopt(self, owner: DiskIdentity) -> None:
        """Write who owns this disk from now on, and make its directories. Durable on return."""
        try:
            for directory in (self.chunks, self.quarantine, self.corrupt):
                directory.mkdir(exist_ok=True)
            there = set(self.files.names(self.chunks))  # one directory to read, not 256 to ask for
            for shard in map(self.shard_path, range(256)):
                if shard.name not in there:
                    shard.mkdir()
            for directory in (self.chunks, self.quarantine, self.path):
                self.files.sync_directory(directory)
            if self.identity != owner:
                self.files.replace_file(self.path / identity.FILE, identity.encode(owner))
            self.identity = owner
        except OSError as error:
            if error.errno == errno.EROFS and self.identity is not None:
                self._set_state("read_only", str(error))
            else:
                self.fail(f"its directories cannot be made: {error}")

    def close(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _make_directory(self) -> None:
        """A name that is only in a parent's cache would be lost with all that was acknowledged below it."""
        missing = [one for one in (self.path, *self.path.parents) if not one.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        for made in missing:
            self.files.sync_directory(made.parent)

    def _take_lock(self) -> None:
        try:
            fd = self.files.open_lock(self.path / "lock")
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            fd = self.files.open_lock(self.path / "lock", writable=False)
            self._set_state("read_only", f"{error.strerror} ({self.path})")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise PreconditionFailedError(
                f"the data directory {self.path} is in use",
                cause="another process holds its lock",
                next="stop that process, or give this node a directory of its own (storage.data_dirs)",
            ) from None
        self._lock_fd = fd

    def _clear_temporary_records(self) -> None:
        if self._state != "ok":
            return
        for name in list(self.files.names(self.path)):
            if name.endswith(TEMPORARY):
                self.files.remove(self.path / name)

    def _read_identity(self) -> DiskIdentity | None:
        path = self.path / identity.FILE
        try:
            return identity.decode(path.read_bytes(), path)
        except FileNotFoundError:
            if self.chunks.is_dir() and next(self._chunk_files(), None) is not None:
                raise IntegrityError(
                    f"{path} is missing beside chunks",
                    next="put it back from a copy, or empty the directory if its chunks are not needed",
                ) from None
            return None

    def _chunk_files(self) -> Iterator[str]:
        for shard in self.files.names(self.chunks):
            yield from self.files.names(self.chunks / shard)

    # Names

    @property
    def chunks(self) -> Path:
        return self.path / "chunks"

    @property
    def quarantine(self) -> Path:
        return self.path / "quarantine"

    @property
    def corrupt(self) -> Path:
        return self.path / "quarantine" / "corrupt"

    @property
    def disk_id(self) -> str:
        return self.identity.disk_id if self.identity else ""

    def shard(self, chunk: ChunkId) -> Path:
        return self.shard_path(chunk[0])

    def shard_path(self, shard: int) -> Path:
        return self.chunks / f"{shard:02x}"

    def chunk_path(self, chunk: ChunkId) -> Path:
        return self.shard(chunk) / chunk.hex()

    def quarantine_path(self, chunk: ChunkId, condemn_index: int, history: int) -> Path:
        """`history` 0: as versions before named it, who did not write it down."""
        number = f".{history}" if history else ""
        return self.quarantine / f"{chunk.hex()}.{condemn_index}{number}"

    def corrupt_path(self, chunk: ChunkId, condemn_index: int | None = None, history: int = 0) -> Path:
        """`condemn_index` None: its chunk is not known to be deleted."""
        return self.corrupt / (
            chunk.hex() if condemn_index is None else f"{chunk.hex()}.{condemn_index}.{history}"
        )

    # Room

    def space(self) -> tuple[int, int]:
        """(total, free for new chunks) in bytes; free is what there is, less the reserve and the promised."""
        total, available = self._space()
        return total, max(0, available - self._promised_bytes)

    def _space(self) -> tuple[int, int]:
        """(total, available above the reserve) in bytes."""
        try:
            total, available = self.files.space(self.path)
        except OSError as error:
            self.fail(f"its free space cannot be asked: {error}")
            return 0, 0
        return total, available - self._reserve_bytes

    def device(self) -> object:
        """The same for all directories on one file system; of a disk that cannot be used, nobody else's."""
        try:
            return self.files.device_of(self.path) if self.usable else self
        except OSError:
            return self

    def promise(self, size_bytes: int) -> None:
        """Keep room for a chunk being written. Raises NoSpaceError when there is too little."""
        _, available = self._space()
        with self._lock:
            free = available - self._promised_bytes
            if free < size_bytes:
                raise NoSpaceError(
                    f"no room on {self.path}",
                    cause=f"{size_bytes} bytes are needed, {max(0, free)} are free above the reserve",
                )
            self._promised_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        with self._lock:
            self._promised_bytes -= size_bytes

    # Health

    @property
    def usable(self) -> bool:
        """Whether what lies here may be read."""
        return self.identity is not None

    @property
    def writable(self) -> bool:
        return self.identity is not None and self._state == "ok"

    def health(self) -> tuple[str, str]:
        """(state, reason): ok, read_only or failed. Whether it is `full` the room says."""
        with self._lock:
            return self._state, self._error

    def fail(self, reason: str) -> None:
        self._set_state("failed", reason)

    def refuse(self, reason: str) -> None:
        """This disk is not ours: nothing on it is read or written."""
        self.identity = None
        self.fail(reason)

    def answer(self) -> str:
        """Have the device do something durable, and say what it did, in a word; what that tells of the disk is
        remembered. May take for ever: only for a thread that nobody waits for."""
        if not self.writable:
            self.files.space(self.path)
            return "tells its room"
        try:
            try:
                self.files.overwrite(self.path / ANSWER, ANSWER_BYTES, [0])
            except FileNotFoundError:
                self.files.replace_file(self.path / ANSWER, ANSWER_BYTES)
        except OSError as error:
            return f"says: {self.translate(error, 'asking whether the disk answers').cause}"
        return "answers"

    def translate(self, error: OSError, what: str) -> QuorumFSError:
        """The error of this house for `error` met while writing; remembers what it says about the disk."""
        cause = f"{error.strerror or error} ({self.path})"
        if error.errno in _FULL:
            return NoSpaceError(f"{what}: no space", cause=cause)
        if is_shortage(error):
            return BusyError(f"{what}: the node is short of resources", cause=cause)
        if error.errno == errno.EROFS:
            self._set_state("read_only", cause)
        else:
            self.fail(cause)
        return UnavailableError(
            f"{what}: the disk failed", cause=cause, next="write to another node; this disk is reported"
        )

    def translate_read(self, error: OSError, chunk: ChunkId) -> QuorumFSError:
        """The same for reading: one bad sector condemns a chunk, several of them the disk. A directory or a link in a
        chunk's place says nothing of the disk."""
        if is_shortage(error):
            return BusyError("the node is short of resources", cause=str(error))
        if error.errno not in _NO_FILE:
            self._note_unreadable(error, chunk)
        return IntegrityError(
            f"chunk {chunk.hex()} cannot be read here",
            cause=f"{error.strerror or error} ({self.path})",
            next="read another replica; this one is checked and replaced",
            ids={"chunk": chunk.hex()},
        )

    def _note_unreadable(self, error: OSError, chunk: ChunkId) -> None:
        with self._lock:
            if len(self._unreadable) < READ_ERRORS_MAX:
                self._unreadable.add(chunk)
            failing = len(self._unreadable) >= READ_ERRORS_MAX
        if failing:
            self.fail(f"{READ_ERRORS_MAX} chunks could not be read, the last: {error}")

    def sync_directory(self, path: Path) -> None:
        """The names in `path` are durable on return. One fsync for all who wait for it. Raises OSError."""
        self._directories.sync(path)

    def _set_state(self, state: str, reason: str) -> None:
        with self._lock:
            if self._state in ("failed", state):
                return
            self._state, self._error = state, reason
        _log.error(f"disk.{state}", path=str(self.path), disk_id=self.disk_id, cause=reason)


def is_shortage(error: OSError) -> bool:
    """Whether it says that this process is short of something, and nothing of the disk."""
    return error.errno in _OURS


class GroupSync:
    """One fsync of a directory for all threads that wait for it."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._gathering: dict[Path, Future[None]] = {}
        self._turns: dict[Path, threading.Lock] = {}

    def sync(self, path: Path) -> None:
        """Returns when an fsync of `path` that began after this call is done. Raises its OSError."""
        with self._lock:
            joined = self._gathering.get(path)
            if joined is None:
                mine: Future[None] = Future()
                self._gathering[path] = mine
                turn = self._turns.setdefault(path, threading.Lock())
        if joined is not None:
            joined.result()
            return
        with turn:
            with self._lock:
                del self._gathering[path]  # who comes from here on waits for the next one
            try:
                self._files.sync_directory(path)
            except BaseException as error:
                mine.set_exception(error)
                raise
            mine.set_result(None)
