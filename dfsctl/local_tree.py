"""Trees on this machine: reads one to send it, and writes one without ever following a link.

Writing rules:
1. A directory of the tree is opened component by component with O_NOFOLLOW, from the root's descriptor on: a
   symbolic link anywhere below the root is refused, however it got there and whenever.
2. Files and links are made under a name of their own and then renamed: whoever looks sees the old one or the
   new one, and a link of that name is replaced, not followed.
3. Directories get their mode and time last, deepest first, because writing into them changes both.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dfsctl.errors import printable
from quorumfs.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    PathIsADirectoryError,
    PathNotADirectoryError,
)

Kind = Literal["file", "directory", "symlink"]
Parts = tuple[str, ...]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory or link; `parts` below the root, () for the root. Names may be undecodable."""

    parts: Parts
    kind: Kind
    mode: int
    mtime_ns: int
    size: int = 0
    target: str = ""


def walk(root: Path) -> list[Entry]:
    """All of a local tree, parents before children, links not followed below the root.

    Raises InvalidArgumentError that lists what can be no file of ours (sockets, pipes, devices); OSError.
    """
    found: list[Entry] = []
    special: list[str] = []
    waiting: list[tuple[Parts, str]] = [((), os.fspath(root))]
    while waiting:
        parts, path = waiting.pop()
        found.append(_entry(parts, "directory", Path(path).stat()))
        with os.scandir(path) as listing:
            inside = sorted(listing, key=lambda one: os.fsencode(one.name))
        below = []
        for one in inside:
            status = one.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                below.append(((*parts, one.name), one.path))
            elif stat.S_ISLNK(status.st_mode):
                target = os.readlink(one.path)  # noqa: PTH115  a Path would normalise the text of the target
                found.append(_entry((*parts, one.name), "symlink", status, target))
            elif stat.S_ISREG(status.st_mode):
                found.append(_entry((*parts, one.name), "file", status))
            else:
                special.append(printable(one.path))
        waiting += reversed(below)
    if special:
        raise InvalidArgumentError(
            "sockets, pipes and devices cannot be stored",
            cause=", ".join(special[:10]) + (f" and {len(special) - 10} more" if len(special) > 10 else ""),
            next="remove them, or put the other entries one by one; nothing was sent",
        )
    return found


def _entry(parts: Parts, kind: Kind, status: os.stat_result, target: str = "") -> Entry:
    return Entry(parts, kind, stat.S_IMODE(status.st_mode), status.st_mtime_ns, status.st_size, target)


class LocalTree:
    """A directory that a tree is written into. Several threads may write different files at once."""

    def __init__(self, root: Path, make: bool = True) -> None:
        """Open `root`, and make it (not its parents) if it is missing. Raises ConflictError, OSError."""
        self.root = root
        self.made = False
        if make:
            with contextlib.suppress(FileExistsError):
                root.mkdir(0o700)
                self.made = True
        try:
            self._fd = os.open(root, _DIRECTORY)
        except OSError as error:
            raise _not_a_directory(error, printable(str(root))) from error

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> LocalTree:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, Exception):  # after an interrupt threads may still hold it
            self.close()

    def make_directory(self, parts: Parts) -> None:
        """Make it, if it is not there. Raises PathNotADirectoryError when something else, or a link, is."""
        with self._parent(parts) as parent:
            with contextlib.suppress(FileExistsError):
                os.mkdir(parts[-1], 0o700, dir_fd=parent)
            os.close(self._open_directory(parent, parts))

    @contextmanager
    def place(self, parts: Parts) -> Iterator[str]:
        """A path that leads to `parts` while the block lasts, whatever is done to the tree meanwhile.

        To be written by a rename; the errors of the block name the entry as people know it.
        """
        with self._parent(parts) as parent:
            try:
                yield f"/proc/self/fd/{parent}/{parts[-1]}"
            except IsADirectoryError as error:
                raise self._in_the_way(parts) from error
            except OSError as error:
                error.filename, error.filename2 = self._shown(parts), None
                raise

    def make_link(self, parts: Parts, target: str, mtime_ns: int) -> None:
        """Make a link, or replace a file or link of that name. Raises PathIsADirectoryError, OSError."""
        with self._parent(parts) as parent:
            unfinished = f".quorumfs-{secrets.token_hex(8)}.part"
            os.symlink(target, unfinished, dir_fd=parent)
            try:
                os.utime(unfinished, ns=(mtime_ns, mtime_ns), dir_fd=parent, follow_symlinks=False)
                self._put_in_place(parent, unfinished, parts)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(unfinished, dir_fd=parent)
                raise

    def finish_directories(self, directories: Iterable[Entry]) -> None:
        """Set modes and times, children before their parents. Raises OSError."""
        for entry in sorted(directories, key=lambda one: len(one.parts), reverse=True):
            fd = self._walk_to(entry.parts)
            try:
                os.fchmod(fd, entry.mode)
                os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
            finally:
                os.close(fd)

    def _put_in_place(self, parent: int, unfinished: str, parts: Parts) -> None:
        try:
            os.rename(unfinished, parts[-1], src_dir_fd=parent, dst_dir_fd=parent)
        except (IsADirectoryError, NotADirectoryError) as error:
            raise self._in_the_way(parts) from error

    def _in_the_way(self, parts: Parts) -> PathIsADirectoryError:
        return PathIsADirectoryError(
            f"{self._shown(parts)} is a directory", cause="a file or link of that name was to be written"
        )

    @contextmanager
    def _parent(self, parts: Parts) -> Iterator[int]:
        fd = self._walk_to(parts[:-1])
        try:
            yield fd
        finally:
            os.close(fd)

    def _walk_to(self, parts: Parts) -> int:
        """A descriptor of the directory `parts`, which the caller closes."""
        fd = os.dup(self._fd)
        for count in range(1, len(parts) + 1):
            try:
                deeper = self._open_directory(fd, parts[:count])
            finally:
                os.close(fd)
            fd = deeper
        return fd

    def _open_directory(self, parent: int, parts: Parts) -> int:
        try:
            return os.open(parts[-1], _DIRECTORY, dir_fd=parent)
        except OSError as error:
            raise _not_a_directory(error, self._shown(parts)) from error

    def _shown(self, parts: Parts) -> str:
        return printable(str(self.root.joinpath(*parts)))


def _not_a_directory(error: OSError, shown: str) -> Exception:
    if error.errno not in (errno.ELOOP, errno.ENOTDIR):
        return error
    return PathNotADirectoryError(
        f"{shown} is not a directory",
        cause="a symbolic link or a file is there, and nothing is written through links",
        next="move it away, or choose another target",
    )


def safe_name(name: str) -> str:
    """A name that the cluster gave, if it can be that of a local entry. Raises InvalidArgumentError."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise InvalidArgumentError(f"{name!r} cannot be written", cause="it is no name of a file here")
    return name


def refuse_existing(target: Path) -> None:
    """Raises AlreadyExistsError when something of that name is there, a dangling link too."""
    if os.path.lexists(target):
        raise AlreadyExistsError(f"{printable(str(target))} exists already")
