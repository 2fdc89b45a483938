"""The few system calls that consensus makes on files, as a Protocol, and what their failures mean here.

Nothing here decides anything, and nothing else below `consensus` opens a file of the journal or the identity. A
simulation brings its own `Files`, one that loses what was not synced.

What a failure means:
1. A disk that is full (`StorageFull`): nothing was changed; there may be room again.
2. Anything else that a write or a sync answers (`StorageFailure`): what was to become durable may be gone from the
   page cache although a second fsync would succeed. It is never tried again; the process ends.
3. Bytes that are not those that were written (`CorruptJournal`): the member may not go on from them, neither as if
   they were whole nor as if they were absent. The remedy is to fetch the state from the others.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from quorumfs.errors import PreconditionFailedError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""No room on the disk, or none for us."""

SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""The process or the machine is short of something for a while; the disk is well."""


class SickStorage(Exception):  # noqa: N818  says what is, not what went wrong
    """This member's disk cannot be trusted any more. The process must end; the others go on."""

    def __init__(self, message: str, *, cause: str, next: str) -> None:  # noqa: A002  the field's name everywhere
        super().__init__(f"{message}: {cause}; {next}")
        self.message = message
        self.cause = cause
        self.next = next


class StorageFailure(SickStorage):
    """A write or a sync failed: nobody knows what the disk holds of it. Never retried."""

    def __init__(self, message: str, error: OSError) -> None:
        super().__init__(
            message,
            cause=error.strerror or str(error),
            next="check the disk, then start this node again; if it was replaced, `dfsctl raft rejoin`",
        )
        self.errno = error.errno


class CorruptJournal(SickStorage):
    """The log does not hold what was written to it. `file` and `offset` say where that shows."""

    def __init__(self, file: Path, offset: int, cause: str) -> None:
        super().__init__(
            f"the Raft log is damaged at {file}, offset {offset}",
            cause=cause,
            next="check the disk, then let `dfsctl raft rejoin` refetch the state from the other members",
        )
        self.file = file
        self.offset = offset


class StorageFull(Exception):  # noqa: N818
    """There is no room on the disk. Nothing was changed; the same may be tried again once there is room."""

    def __init__(self, message: str, *, cause: str = "the disk is full") -> None:
        self.message = message
        self.cause = cause
        self.next = "free space on the coordinator's disk; it goes on by itself"
        super().__init__(f"{message}: {cause}; {self.next}")


def translated(error: OSError, message: str) -> StorageFull | StorageFailure:
    """What `error` means for whoever tried what `message` says failed."""
    if error.errno in FULL:
        return StorageFull(message, cause=error.strerror or str(error))
    return StorageFailure(message, error)


class Files(Protocol):
    """Every method does all of it or raises OSError. Thread-safe. Offsets and lengths in bytes."""

    def make_directory(self, path: Path) -> None:
        """`path` is a directory, and will be after a power cut; missing parents are made too."""
        ...

    def names(self, path: Path) -> list[str]:
        """The names in a directory, sorted."""
        ...

    def create(self, path: Path) -> int:
        """A descriptor of a new empty file, to read and write. Raises FileExistsError if it is there."""
        ...

    def open(self, path: Path) -> int:
        """A descriptor of a file, to read and write. Raises FileNotFoundError."""
        ...

    def open_locked(self, path: Path) -> int:
        """Like `open`, made if missing, and held by this descriptor alone. Raises BlockingIOError if it is not."""
        ...

    def close(self, fd: int) -> None: ...

    def size(self, fd: int) -> int: ...

    def read(self, fd: int, length: int, offset: int) -> bytes:
        """Up to `length` bytes; fewer only at the end of the file."""
        ...

    def write(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None: ...

    def sync_data(self, fd: int) -> None:
        """The content of the file, and what is needed to find it, is on the disk on return."""
        ...

    def forget_cached(self, fd: int) -> None:
        """Let the next read of what has been synced come from the disk. A hint; never fails."""
        ...

    def rename(self, old: Path, new: Path) -> None: ...

    def remove(self, path: Path) -> None: ...

    def sync_directory(self, path: Path) -> None:
        """The names in `path` are on the disk on return."""
        ...


class RealFiles:
    """The operating system's own. Keeps no state."""

    def make_directory(self, path: Path) -> None:
        if not path.is_dir():
            self.make_directory(path.parent)
            path.mkdir(mode=0o750, exist_ok=True)
            self.sync_directory(path.parent)
            return
        with suppress(PermissionError):  # a parent that only others may list: who made it has synced it
            self.sync_directory(path.parent)

    def names(self, path: Path) -> list[str]:
        return sorted(os.listdir(path))  # noqa: PTH208  names, not paths

    def create(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def open(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def open_locked(self, path: Path) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return fd

    def close(self, fd: int) -> None:
        os.close(fd)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def read(self, fd: int, length: int, offset: int) -> bytes:
        data = os.pread(fd, length, offset)
        if len(data) == length or not data:
            return data
        parts, missing = [data], length - len(data)
        while missing and (part := os.pread(fd, missing, offset + length - missing)):
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def write(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        done = os.pwrite(fd, data, offset)
        if done == len(data):
            return
        view = memoryview(data)
        while done < len(data):
            written = os.pwrite(fd, view[done:], offset + done)
            if written == 0:
                raise OSError(errno.EIO, "a write of no bytes")
            done += written

    def sync_data(self, fd: int) -> None:
        os.fdatasync(fd)

    def forget_cached(self, fd: int) -> None:
        with suppress(OSError):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def rename(self, old: Path, new: Path) -> None:
        os.rename(old, new)  # noqa: PTH104  one system call

    def remove(self, path: Path) -> None:
        os.unlink(path)  # noqa: PTH108

    def sync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class DirectoryLock:
    """Held by one process at a time. Raises PreconditionFailedError when another has it, OSError."""

    def __init__(self, directory: Path, files: Files) -> None:
        self._files = files
        try:
            self._fd: int | None = files.open_locked(directory / "lock")
        except BlockingIOError:
            raise PreconditionFailedError(
                f"the directory {directory} is in use",
                cause="another process holds its lock",
                next="stop that process, or give this node a directory of its own (node.data_dir)",
            ) from None

    def release(self) -> None:
        """Again is harmless."""
        if self._fd is not None:
            self._files.close(self._fd)
            self._fd = None
