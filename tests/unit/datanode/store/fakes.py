"""A file system that fails or dies on demand, over the real one; and a store on it."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datanode.store.chunks import ChunkStore
from datanode.store.direct import PAGE_BYTES, Pieces
from datanode.store.files import Files
from datanode.store.layout import Birth
from datanode.store.opening import NodeDisks, open_disks
from datanode.store.writer import ChunkInfo
from quorumfs.checksum import block_checksums, crc32c
from quorumfs.ids import ChunkId, UploadId
from quorumfs.limits import FRAME_BYTES

UPLOAD = UploadId(b"u" * 16)
BIRTH = Birth(1, 10, 1000)


class Killed(BaseException):
    """The process died here."""


class FlakyFiles(Files):
    """Raises `fail[name]` (an errno) from a call; dies before the `die_before`-th change to the disk."""

    def __init__(self) -> None:
        self.fail: dict[str, int] = {}
        self.die_before: int | None = None
        self.steps: list[str] = []
        self.dead = False
        self.available: int | None = None
        self.synced_directories: list[Path] = []

    def _step(self, name: str) -> None:
        if self.dead:
            raise Killed
        if name in self.fail:
            raise OSError(self.fail[name], os.strerror(self.fail[name]))
        if self.die_before is not None and len(self.steps) >= self.die_before:
            self.dead = True
            raise Killed
        self.steps.append(name)

    def create(self, path: Path) -> int:
        self._step("create")
        return super().create(path)

    def write(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        self._step("write")
        super().write(fd, data, offset)

    def read(self, fd: int, length: int, offset: int) -> bytes:
        if "read" in self.fail:
            raise OSError(self.fail["read"], "read failed")
        return super().read(fd, length, offset)

    def open_lock(self, path: Path, *, writable: bool = True) -> int:
        if writable and "lock" in self.fail:
            raise OSError(self.fail["lock"], os.strerror(self.fail["lock"]))
        return super().open_lock(path, writable=writable)

    def sync_data(self, fd: int) -> None:
        self._step("sync_data")
        super().sync_data(fd)

    def sync_directory(self, path: Path) -> None:
        self._step("sync_directory")
        self.synced_directories.append(path)
        super().sync_directory(path)

    def rename(self, old: Path, new: Path) -> None:
        self._step("rename")
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self._step("remove")
        super().remove(path)

    def space(self, path: Path) -> tuple[int, int]:
        total, available = super().space(path)
        return total, available if self.available is None else self.available


class PickyFiles(FlakyFiles):
    """Takes from a descriptor that bypasses the cache only what the strictest device takes, and keeps account."""

    def __init__(self) -> None:
        super().__init__()
        self.bypassing: set[int] = set()
        self.direct_bytes = 0
        self.asked = 0
        self.refuses = False

    def bypass_cache(self, fd: int, yes: bool) -> None:
        self._step("bypass_cache")
        self.asked += yes
        if self.refuses:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        (self.bypassing.add if yes else self.bypassing.remove)(fd)

    def write(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        if fd in self.bypassing:
            assert isinstance(data, memoryview)
            address = ctypes.addressof(ctypes.c_char.from_buffer(data))
            assert [one % PAGE_BYTES for one in (address, offset, len(data))] == [0, 0, 0]
            if "direct write" in self.fail:
                raise OSError(self.fail["direct write"], "a direct write failed")
            self.direct_bytes += len(data)
        super().write(fd, data, offset)

    def close(self, fd: int) -> None:
        self.bypassing.discard(fd)
        super().close(fd)


class ReadOnly(FlakyFiles):
    def __init__(self) -> None:
        super().__init__()
        self.fail = dict.fromkeys(("create", "write", "sync_data", "rename", "remove", "lock"), errno.EROFS)


@contextmanager
def opened(
    *paths: Path,
    files: Files | None = None,
    reserve_bytes: int = 0,
    history: int = 1,
    listed: bool = True,
    pieces: Pieces | None = None,
) -> Iterator[tuple[ChunkStore, NodeDisks]]:
    """`listed`: as a node is a moment after its start; else as it is when it begins to serve."""
    disks = open_disks(paths, reserve_bytes, files, pieces=pieces)
    try:
        store = ChunkStore(disks.disks, lambda: history)
        store.load()
        if listed:
            store.listing.finish()
        yield store, disks
    finally:
        disks.close()


def put(store: ChunkStore, chunk: ChunkId, data: bytes, birth: Birth = BIRTH) -> ChunkInfo:
    """Write and seal."""
    writer = store.begin(chunk, UPLOAD, birth, len(data))
    for offset in range(0, len(data), FRAME_BYTES):
        part = data[offset : offset + FRAME_BYTES]
        writer.append(offset, part, block_checksums(part))
    return writer.seal(len(data), crc32c(data))


def content(store: ChunkStore, chunk: ChunkId) -> bytes:
    """All data, verified as a reader does."""
    with store.open_reader(chunk) as reader:
        assert reader.first_bad(0, reader.length) is None
        return reader.read(0, reader.length)


def flip(path: Path, offset: int) -> None:
    """Turn one bit of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x40]))


def temporaries(path: Path) -> list[Path]:
    return list(path.rglob("*.tmp"))
