"""Data of a chunk on its way past the page cache, by O_DIRECT.

1. The kernel wants memory, place and length aligned for that, and what comes from the network is not: each stream
   gathers its bytes in a *piece* of its own and writes it when it is full. What is left at the end and fills no
   page is written through the cache, as header and trailer are: the file is the same byte for byte.
2. Pieces are few and kept. A chunk for which there is none, that is small, or whose size nobody announced, is written
   through the cache.
3. A file system that refuses, when it is asked or at the first write, is not asked again; nothing is lost by it.
4. Nothing is durable by this. The sync at the seal is what it was, and flushes the device as well.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from common import log
from datanode.store.files import Files
from quorumfs import limits
from quorumfs.checksum import Buffer

PIECE_BYTES = limits.WRITE_FRAME_BYTES  # a client's message is one write, and one sleep
PIECES_MAX = 16
CHUNK_BYTES_MIN = 1 * limits.MIB
PAGE_BYTES = 4096  # no device wants more

# Nothing is taken while one is written.
assert PIECE_BYTES < limits.SLOWEST_BYTES_PER_SECOND * limits.STALL_SECONDS

_HUGE_PAGES = mmap.MADV_HUGEPAGE
_log = log.get(__name__)


class Pieces:
    """Aligned memory, lent to one stream each. Thread-safe."""

    def __init__(self, most: int = PIECES_MAX, make: Callable[[], memoryview] | None = None) -> None:
        self._left = most
        self._make = make or _aligned
        self._idle: list[memoryview] = []
        self._lock = threading.Lock()

    def borrow(self) -> memoryview | None:
        """PIECE_BYTES that begin at a multiple of that; None when all are lent, or when there is no memory for another
        one."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if self._left == 0:
                return None
            try:
                made = self._make()
            except (OSError, MemoryError):
                return None
            self._left -= 1
            return made

    def give_back(self, piece: memoryview) -> None:
        with self._lock:
            self._idle.append(piece)


class DirectWrites:
    """On one disk. Thread-safe."""

    def __init__(self, path: Path, files: Files, pieces: Pieces) -> None:
        self._path = path
        self._files = files
        self._pieces = pieces
        self._refused = False

    def begin(self, fd: int, start: int, size_bytes: int) -> DirectStream | None:
        """For a new file that gets so many bytes from `start` on, a multiple of PAGE_BYTES; None: through the cache."""
        if self._refused or size_bytes < CHUNK_BYTES_MIN:
            return None
        piece = self._pieces.borrow()
        if piece is None:
            return None
        try:
            self._files.bypass_cache(fd, True)
        except OSError as error:
            self._pieces.give_back(piece)
            self._refuse(error)
            return None
        return DirectStream(self._files, fd, start, piece, self._pieces, self._refuse)

    def _refuse(self, error: OSError) -> None:
        if not self._refused:
            _log.info("disk.not_direct", path=str(self._path), cause=str(error))
        self._refused = True


class DirectStream:
    """The data of one file, in order, by one thread."""

    def __init__(
        self,
        files: Files,
        fd: int,
        start: int,
        piece: memoryview,
        pieces: Pieces,
        refuse: Callable[[OSError], None],
    ) -> None:
        self._files = files
        self._fd = fd
        self._at = start
        self._pieces = pieces
        self._piece: memoryview | None = piece
        self._filled = 0
        self._bypasses = True
        self._refuse = refuse

    def append(self, data: Buffer) -> None:
        """Raises OSError."""
        assert self._piece is not None
        view = memoryview(data)
        while len(view):
            part = view[: PIECE_BYTES - self._filled]
            self._piece[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            view = view[len(part) :]
            if self._filled == PIECE_BYTES:
                self._put_out(self._piece)

    def finish(self) -> None:
        """All data has come: it is in the file, whose descriptor writes through the cache again. Raises OSError."""
        assert self._piece is not None
        whole = self._filled - self._filled % PAGE_BYTES
        rest = self._piece[whole : self._filled]
        if whole:
            self._put_out(self._piece[:whole])
        self._through_the_cache()
        if rest:
            self._put_out(rest)
        self.let_go()

    def let_go(self) -> None:
        """Nothing is written any more. May be called again."""
        piece, self._piece = self._piece, None
        if piece is not None:
            self._pieces.give_back(piece)

    def _put_out(self, data: memoryview) -> None:
        try:
            self._files.write(self._fd, data, self._at)
        except OSError as error:
            if error.errno != errno.EINVAL or not self._bypasses:
                raise
            self._refuse(error)
            self._through_the_cache()
            self._files.write(self._fd, data, self._at)
        self._at += len(data)
        self._filled = 0

    def _through_the_cache(self) -> None:
        if self._bypasses:
            self._files.bypass_cache(self._fd, False)
            self._bypasses = False


def _aligned() -> memoryview:
    """In huge pages where the kernel has some: fewer to pin, and a shorter list to hand to the device."""
    memory = mmap.mmap(-1, 2 * PIECE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them
        memory.madvise(_HUGE_PAGES)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % PIECE_BYTES
    return memoryview(memory)[start : start + PIECE_BYTES]
