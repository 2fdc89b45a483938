"""System calls on files and directories, behind one object, so that a test can let any of them fail.

Every method either does all of it or raises OSError. Nothing here decides anything.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

_SYNC_FILE_RANGE_WRITE = 2


class Files:
    """The operating system's own. Thread-safe: it keeps no state."""

    def create(self, path: Path) -> int:
        """A descriptor of a new file, for writing. Raises FileExistsError if it is there."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)

    def open_lock(self, path: Path, *, writable: bool = True) -> int:
        """A descriptor to lock; the file is made unless `writable` is False."""
        flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        return os.open(path, flags | os.O_CLOEXEC, 0o640)

    def open(self, path: Path) -> int:
        """A descriptor for reading. Never follows a link, never waits for a pipe's other end."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)

    def close(self, fd: int) -> None:
        os.close(fd)

    def bypass_cache(self, fd: int, yes: bool) -> None:
        """Whether writes by `fd` go past the page cache; they want aligned memory, offsets and lengths then. Raises
        OSError (EINVAL) where the file system has no such thing."""
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT if yes else flags & ~os.O_DIRECT)

    def write(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        """All of `data` at `offset`, however many calls that takes."""
        done = os.pwrite(fd, data, offset)
        if done == len(data):
            return
        view = memoryview(data)
        while done < len(data):
            written = os.pwrite(fd, view[done:], offset + done)
            if written == 0:
                raise OSError(errno.EIO, "a write of no bytes")
            done += written

    def read(self, fd: int, length: int, offset: int) -> bytes:
        """Up to `length` bytes at `offset`; fewer only at the end of the file."""
        data = os.pread(fd, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]
        missing = length - len(data)
        while missing:
            part = os.pread(fd, missing, offset + length - missing)
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def size_of(self, path: Path) -> int:
        return path.stat().st_size

    def inode_of(self, path: Path) -> int:
        """What tells this file from another one of the same name; 0 when it cannot be asked."""
        try:
            return path.stat(follow_symlinks=False).st_ino
        except OSError:
            return 0

    def sync_data(self, fd: int) -> None:
        """The data and what is needed to find it are on the disk on return."""
        os.fdatasync(fd)

    def start_writing_back(self, fd: int, offset: int, length: int) -> None:
        """A hint: begin to write these dirty pages, do not wait. Best effort by its nature."""
        if _sync_file_range is not None:
            _sync_file_range(fd, offset, length, _SYNC_FILE_RANGE_WRITE)

    def sync_directory(self, path: Path) -> None:
        """The names in `path` are on the disk on return."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        os.rename(old, new)  # noqa: PTH104  one system call, on the hot path

    def remove(self, path: Path) -> None:
        os.unlink(path)  # noqa: PTH108

    def names(self, path: Path) -> Iterator[str]:
        """The names in a directory, in no order, without asking for more than the names."""
        with os.scandir(path) as entries:
            for entry in entries:
                yield entry.name

    def space(self, path: Path) -> tuple[int, int]:
        """(total, available to us) in bytes of the file system that holds `path`."""
        found = os.statvfs(path)
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    def device_of(self, path: Path) -> int:
        """The number of the file system that holds `path`."""
        return path.stat().st_dev

    def overwrite(self, path: Path, content: bytes, offsets: Sequence[int]) -> None:
        """`content` at each of `offsets` of a file that is there, each durable before the next is begun.

        Takes no new room where the file has some. Raises FileNotFoundError.
        """
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            for offset in offsets:
                self.write(fd, content, offset)
                self.sync_data(fd)
        finally:
            os.close(fd)

    def replace_file(self, path: Path, content: bytes) -> None:
        """`path` holds `content`, durably, or still what it held before: never a part."""
        temporary = path.with_name(path.name + ".tmp")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            self.write(fd, content, 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        self.rename(temporary, path)
        self.sync_directory(path.parent)


def _find_sync_file_range() -> ctypes._NamedFuncPointer | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (OSError, AttributeError):
        return None  # another C library: the kernel writes back when it likes
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return function


_sync_file_range = _find_sync_file_range()
