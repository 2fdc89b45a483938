"""Files in memory that keep apart what a disk has and what only a cache has: a power cut loses the latter, in pieces.

1. Content is lost by sectors of 512 bytes, each for itself: it is as it was at the last sync, or as it was written, or
   torn between the two, or zeros, or garbage. A length that was not synced is the old or the new one.
2. Names are lost by operations: each creation, renaming and removal since the directory was synced happened or not.
3. A sync that fails leaves what it should have written in the cache, as if it were clean: a later sync does not write
   it, and `forget_cached` shows what the disk has. That is what Linux does.
4. `kill` is the end of the process only: the cache stays. After `crash` and `kill` all descriptors are dead, and all
   locks are free.

Deterministic by the given random source. `capacity_bytes` makes the disk full; `fail_next` lets one call fail.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

SECTOR_BYTES = 512


@dataclass
class Inode:
    """A file. `old` has the content, as of the last sync, of every sector written since."""

    data: bytearray = field(default_factory=bytearray)
    old: dict[int, bytes] = field(default_factory=dict)
    old_size: int = 0
    lost: set[int] = field(default_factory=set)  # sectors that a failed sync left behind
    locked: bool = False

    def write(self, data: bytes, offset: int) -> None:
        end = offset + len(data)
        for sector in range(offset // SECTOR_BYTES, -(-end // SECTOR_BYTES)):
            self.old.setdefault(sector, self.sector(sector))
            self.lost.discard(sector)
        if end > len(self.data):
            self.data.extend(bytes(end - len(self.data)))
        self.data[offset:end] = data

    def sector(self, number: int) -> bytes:
        start = number * SECTOR_BYTES
        return bytes(self.data[start : start + SECTOR_BYTES])

    def sync(self) -> None:
        self.old = {sector: before for sector, before in self.old.items() if sector in self.lost}
        self.old_size = len(self.data)

    def put(self, number: int, content: bytes) -> None:
        start = number * SECTOR_BYTES
        end = min(start + SECTOR_BYTES, len(self.data))
        self.data[start:end] = content.ljust(SECTOR_BYTES, b"\0")[: end - start]


Operation = Callable[[dict[str, Inode]], None]


@dataclass
class Directory:
    """`names` as a process sees them; `durable`, and the operations since, as the disk does."""

    names: dict[str, Inode] = field(default_factory=dict)
    durable: dict[str, Inode] = field(default_factory=dict)
    pending: list[Operation] = field(default_factory=list)

    def do(self, operation: Operation) -> None:
        operation(self.names)
        self.pending.append(operation)


CHANGES = frozenset({"make_directory", "create", "write", "sync_data", "rename", "remove", "sync_directory"})


class PowerCut(BaseException):
    """The machine lost power before this call; `crash` shows what is left."""


class FakeFiles:
    """The Protocol `Files` of coordinator.consensus.files, and the end of the world on demand."""

    def __init__(self, random: Random, capacity_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self.calls: Counter[str] = Counter()
        self.changes = 0
        self.die_before: int | None = None
        """Raise PowerCut instead of the change to the disk with this number (see `changes`)."""
        self.keeps: int | None = None
        """A power cut leaves so many sectors of each file that were not synced, the first; None: as chance has it."""
        self._random = random
        self._directories: dict[Path, Directory] = {Path("/"): Directory()}
        self._open: dict[int, Inode] = {}
        self._next_fd = 1000
        self._failures: dict[str, list[tuple[int, int]]] = {}

    # What a test does

    def fail_next(self, call: str, error: int, after: int = 0) -> None:
        """The call (`write`, `sync_data`, ...) after the next `after` ones raises OSError(`error`)."""
        self._failures.setdefault(call, []).append((self.calls[call] + after + 1, error))

    def kill(self) -> None:
        """The process ends; the operating system goes on."""
        for inode in self._open.values():
            inode.locked = False
        self._open.clear()
        self._failures.clear()
        self.die_before = None

    def crash(self) -> None:
        """The machine loses power. What comes back is durable."""
        self.kill()
        for directory in self._directories.values():
            for operation in directory.pending:
                if self._random.random() < 0.5:
                    operation(directory.durable)
            directory.names = dict(directory.durable)
            directory.pending.clear()
        for inode in {id(one): one for d in self._directories.values() for one in d.names.values()}.values():
            self._lose(inode)

    def _lose(self, inode: Inode) -> None:
        random = self._random
        fate = random.choice(("nothing", "everything", "some", "some"))
        if self.keeps is not None:
            fate = "nothing"
            for sector in sorted(inode.old)[self.keeps :]:
                inode.put(sector, inode.old[sector])
        for sector, before in inode.old.items():
            after = inode.sector(sector)
            if fate == "everything":
                inode.put(sector, before)
            elif fate == "some":
                inode.put(sector, self._remains(before.ljust(SECTOR_BYTES, b"\0"), after))
        if len(inode.data) > inode.old_size and fate != "nothing":
            del inode.data[random.choice((inode.old_size, len(inode.data))) :]
        inode.old.clear()
        inode.lost.clear()
        inode.old_size = len(inode.data)

    def _remains(self, before: bytes, after: bytes) -> bytes:
        random = self._random
        cut = random.randrange(SECTOR_BYTES + 1)
        match random.choice(("before", "after", "after", "torn", "zeros", "garbage")):
            case "before":
                return before
            case "torn":
                return after[:cut] + before[cut:]
            case "zeros":
                return bytes(SECTOR_BYTES)
            case "garbage":
                return random.randbytes(SECTOR_BYTES)
        return after

    def content(self, path: Path) -> bytearray:
        """The bytes of a file, to look at and to damage."""
        return self._inode(path).data

    def unlink(self, path: Path) -> None:
        """A file is lost, and stays so."""
        directory = self._directories[path.parent]
        del directory.names[path.name]
        directory.durable.pop(path.name, None)

    def used_bytes(self) -> int:
        return sum(len(one.data) for d in self._directories.values() for one in d.names.values())

    def open_descriptors(self) -> int:
        return len(self._open)

    # What the journal does

    def make_directory(self, path: Path) -> None:
        self._enter("make_directory")
        for one in (*reversed(path.parents), path):
            self._directories.setdefault(one, Directory())

    def names(self, path: Path) -> list[str]:
        self._enter("names")
        here = self._directory(path).names
        below = [one.name for one in self._directories if one.parent == path and one != path]
        return sorted([*here, *below])

    def create(self, path: Path) -> int:
        self._enter("create")
        directory = self._directory(path.parent)
        if path.name in directory.names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        inode, name = Inode(), path.name
        directory.do(lambda names: names.__setitem__(name, inode))
        return self._descriptor(inode)

    def open(self, path: Path) -> int:
        self._enter("open")
        return self._descriptor(self._inode(path))

    def open_locked(self, path: Path) -> int:
        self._enter("open_locked")
        directory, name = self._directory(path.parent), path.name
        inode = directory.names.get(name)
        if inode is None:
            inode = made = Inode()
            directory.do(lambda names: names.__setitem__(name, made))
        if inode.locked:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), str(path))
        inode.locked = True
        return self._descriptor(inode)

    def close(self, fd: int) -> None:
        self._file(fd).locked = False
        del self._open[fd]

    def size(self, fd: int) -> int:
        return len(self._file(fd).data)

    def read(self, fd: int, length: int, offset: int) -> bytes:
        self._enter("read")
        return bytes(self._file(fd).data[offset : offset + length])

    def write(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        inode, content = self._file(fd), bytes(data)
        try:
            self._enter("write")
            growth = max(0, offset + len(content) - len(inode.data))
            if (
                self.capacity_bytes is not None
                and growth
                and self.used_bytes() + growth > self.capacity_bytes
            ):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except (OSError, PowerCut):
            inode.write(content[: self._random.randrange(len(content) + 1)], offset)
            raise
        inode.write(content, offset)

    def sync_data(self, fd: int) -> None:
        inode = self._file(fd)
        try:
            self._enter("sync_data")
        except OSError:
            inode.lost.update(inode.old)
            raise
        inode.sync()

    def forget_cached(self, fd: int) -> None:
        inode = self._file(fd)
        for sector in inode.lost:
            inode.put(sector, inode.old.pop(sector))
        inode.lost.clear()

    def rename(self, old: Path, new: Path) -> None:
        self._enter("rename")
        inode, before, after = self._inode(old), old.name, new.name

        def move(names: dict[str, Inode]) -> None:
            names.pop(before, None)
            names[after] = inode

        self._directory(old.parent).do(move)

    def remove(self, path: Path) -> None:
        self._enter("remove")
        self._inode(path)
        name = path.name
        self._directory(path.parent).do(lambda names: names.pop(name, None) and None)

    def sync_directory(self, path: Path) -> None:
        self._enter("sync_directory")
        directory = self._directory(path)
        directory.durable = dict(directory.names)
        directory.pending.clear()

    # Inside

    def _enter(self, call: str) -> None:
        self.calls[call] += 1
        self.changes += call in CHANGES
        if self.die_before is not None and self.changes >= self.die_before:
            raise PowerCut
        for due in [one for one in self._failures.get(call, []) if one[0] == self.calls[call]]:
            self._failures[call].remove(due)
            raise OSError(due[1], os.strerror(due[1]))

    def _directory(self, path: Path) -> Directory:
        try:
            return self._directories[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None

    def _inode(self, path: Path) -> Inode:
        try:
            return self._directory(path.parent).names[path.name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None

    def _file(self, fd: int) -> Inode:
        try:
            return self._open[fd]
        except KeyError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def _descriptor(self, inode: Inode) -> int:
        self._next_fd += 1
        self._open[self._next_fd] = inode
        return self._next_fd
