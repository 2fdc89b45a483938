"""Chunks whose files this process has open for itself, read and verified here; a bounded number, not for ever.

1. A sealed chunk never changes: a descriptor stays right when its file is deleted, only its space is not free
   before the descriptor is closed. So one that is not used for OPEN_CHUNK_IDLE_SECONDS is closed.
2. Bytes are verified where they lie, before they are given away. One CRC32C goes over a piece, on from the
   checksum of what is before it in the chunk: the same strength as block by block, and fewer calls.
3. Steps of 4 MiB are shared with a second thread where there is a second core (companion.py). Of less, its wake-ups
   take what it saves: of 1 MiB all of it, and several processes that read at the same time are slowed down.
4. Memory a few bytes behind the place that the bytes have in their page of the file is the worst to copy to: the
   processor takes each load for one that waits for the store before it, as their addresses end in the same 12 bits.
   malloc puts what is large just there, 16 bytes behind a page. Such memory is filled further on and moved back.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from ctypes import addressof, c_char, memmove
from functools import partial
from types import TracebackType

from quorumfs import limits
from quorumfs.checksum import CHECKSUM_BYTES, crc32c, prefixes, verify_blocks
from quorumfs.clock import Clock, SystemClock
from quorumfs.companion import Companion
from quorumfs.descriptors import Opened

_BLOCK = limits.BLOCK_BYTES
_PIECE_BYTES = 16 * _BLOCK  # read and then verified: of more, little is in a core's own cache between the two
_SHARED_BYTES = 64 * _BLOCK  # at a time: of another size, what is learned of one would not serve the next
_PAGE_BYTES = 4 * limits.KIB
_BEHIND_BYTES = 32 if os.uname().machine == "x86_64" else 0  # fewer are slow, where it was measured
_APART_BYTES = 64  # so much further on, of what is at least a block: of less, it takes what it saves

Key = tuple[str, bytes]
"""The address of a datanode, and a chunk."""


class BadBlockError(Exception):
    """The file does not hold the chunk's bytes. `block`: the first one that does not match its checksum."""

    def __init__(self, block: int) -> None:
        super().__init__(f"block {block} does not match its checksum")
        self.block = block


class OpenChunk:
    """One open file. Any number of threads may read; OpenChunks closes it."""

    def __init__(self, fd: int, opened: Opened, companion: Companion | None = None) -> None:
        self.length = opened.length
        self.users = 1
        self.used_at = 0.0
        self.kept = True
        self._fd = fd
        self._data_offset = opened.data_offset
        self._table = opened.table
        self._prefixes = prefixes(opened.table, opened.length)
        self._companion = companion

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill `view` with the verified bytes at `offset`; both ends are blocks' or the chunk's.

        Raises BadBlockError (`view` then holds bytes that nobody may see), OSError.
        """
        if len(view) <= _PIECE_BYTES:
            self._fill(view, offset)
            return
        for at in range(0, len(view), _SHARED_BYTES):
            step = view[at : at + _SHARED_BYTES]
            size, companion = len(step), self._companion
            work = partial(self._fill_pieces, step, offset + at)
            if size < _SHARED_BYTES or companion is None or not companion.share(work, size, _BLOCK):
                work(0, size)

    def read(self, offset: int, length: int) -> bytes:
        """The verified bytes at `offset`, like `read_into`."""
        data = os.pread(self._fd, length, self._data_offset + offset)
        if len(data) == length:
            self._check(data, offset)
            return data
        buffer = bytearray(length)
        self._fill(memoryview(buffer), offset)
        return bytes(buffer)

    def close(self) -> None:
        os.close(self._fd)

    def _fill_pieces(self, view: memoryview, offset: int, start: int, stop: int) -> None:
        for at in range(start, stop, _PIECE_BYTES):
            self._fill(view[at : min(at + _PIECE_BYTES, stop)], offset + at)

    def _fill(self, view: memoryview, offset: int) -> None:
        at, position = 0, self._data_offset + offset
        if len(view) >= _BLOCK:
            address = addressof(c_char.from_buffer(view))
            if _is_close_behind(address, position):
                at = _fill_apart(self._fd, view, address, position)
        while at < len(view):
            count = os.preadv(self._fd, [view[at:]], position + at)
            if not count:
                raise BadBlockError((offset + at) // _BLOCK)
            at += count
        self._check(view, offset)

    def _check(self, data: memoryview | bytes, offset: int) -> None:
        first, behind = offset // _BLOCK, -(-(offset + len(data)) // _BLOCK)
        if crc32c(data, self._prefixes[first]) != self._prefixes[behind]:
            table = self._table[first * CHECKSUM_BYTES : behind * CHECKSUM_BYTES]
            raise BadBlockError(first + (verify_blocks(data, table) or 0))


class OpenChunks:
    """The open files of a client. Any thread may call."""

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        most: int = limits.OPEN_CHUNKS_MAX,
        idle_seconds: float = limits.OPEN_CHUNK_IDLE_SECONDS,
    ) -> None:
        self._clock = clock or SystemClock()
        self._most = most
        self._idle_seconds = idle_seconds
        self._chunks: OrderedDict[Key, OpenChunk] = OrderedDict()  # the one used last comes last
        self._opening = 0
        self._lock = threading.RLock()  # taken again, where a reader that is forgotten gives back its chunk
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._closed = False
        self._companion = Companion() if len(os.sched_getaffinity(0)) > 1 else None

    def __len__(self) -> int:
        return len(self._chunks)

    def use(self, key: Key, make: Callable[[], tuple[int, Opened] | None]) -> Use:
        """For a with-statement: the open chunk `key`, opened by `make` if it is not; None: `make` gave none, or no
        place is free."""
        return Use(self, key, make)

    def take(self, key: Key, make: Callable[[], tuple[int, Opened] | None]) -> OpenChunk | None:
        """What `use` gives; to be given back."""
        with self._lock:
            chunk = self._chunks.get(key)
            if chunk is not None:
                self._chunks.move_to_end(key)
                chunk.users += 1
        return chunk or self._add(key, make)

    def give_back(self, chunk: OpenChunk) -> None:
        with self._lock:
            chunk.users -= 1
            chunk.used_at = self._clock.monotonic()
            if not chunk.users and not chunk.kept:
                chunk.close()

    def drop(self, key: Key) -> None:
        """Do not use this file again; it is closed when nobody reads it any more."""
        with self._changed:
            chunk = self._chunks.pop(key, None)
            if chunk is not None:
                self._let_go(chunk)

    def sweep(self) -> float | None:
        """Close what has been idle for too long; seconds until the next one will have been, None: none is open."""
        with self._changed:
            now = self._clock.monotonic()
            for key, chunk in list(self._chunks.items()):
                if not chunk.users and now - chunk.used_at >= self._idle_seconds:
                    self._let_go(self._chunks.pop(key))
            left = [chunk.used_at for chunk in self._chunks.values() if not chunk.users]
            if not self._chunks:
                return None
            return min(left, default=now) + self._idle_seconds - now

    def close(self) -> None:
        """Close all that nobody reads, the others when they are given back. May be called again."""
        with self._changed:
            self._closed = True
            if self._companion is not None:
                self._companion.close()
            while self._chunks:
                self._let_go(self._chunks.popitem()[1])
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _add(self, key: Key, make: Callable[[], tuple[int, Opened] | None]) -> OpenChunk | None:
        if not self._reserve():
            return None
        made: tuple[int, Opened] | None = None
        try:
            made = make()
        finally:
            with self._changed:
                self._opening -= 1
                chunk = OpenChunk(*made, self._companion) if made else None
                if chunk is not None:
                    self._keep(key, chunk)
        return chunk

    def _reserve(self) -> bool:
        """A place for one more, the one that was not used for longest making room; False if all are in use."""
        with self._changed:
            if self._closed:
                return False
            if len(self._chunks) + self._opening >= self._most:
                idle = next((key for key, chunk in self._chunks.items() if not chunk.users), None)
                if idle is None:
                    return False
                self._let_go(self._chunks.pop(idle))
            self._opening += 1
            return True

    def _keep(self, key: Key, chunk: OpenChunk) -> None:
        if self._closed or key in self._chunks or not self._swept():  # another thread was faster, for one
            chunk.kept = False  # it serves once
            return
        self._chunks[key] = chunk

    def _swept(self) -> bool:
        """Whether there is a thread that will close what is kept."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="quorumfs-open-chunks", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads
                return False
            self._thread = thread
        return True

    def _let_go(self, chunk: OpenChunk) -> None:
        chunk.kept = False
        if not chunk.users:
            chunk.close()

    def _run(self) -> None:
        """Sweeps while something is open."""
        while True:
            seconds = self.sweep()
            with self._changed:
                if self._closed or not self._chunks:
                    self._thread = None
                    return
                self._changed.wait(seconds)


class Use:
    """One use of an open chunk. No generator: entering and leaving one takes as long as reading some blocks."""

    __slots__ = ("_chunk", "_chunks", "_key", "_make")

    def __init__(self, chunks: OpenChunks, key: Key, make: Callable[[], tuple[int, Opened] | None]) -> None:
        self._chunks = chunks
        self._key = key
        self._make = make
        self._chunk: OpenChunk | None = None

    def __enter__(self) -> OpenChunk | None:
        self._chunk = self._chunks.take(self._key, self._make)
        return self._chunk

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._chunk is not None:
            self._chunks.give_back(self._chunk)


def _is_close_behind(address: int, position: int) -> bool:
    """Whether memory at `address` is slow to copy to what is at `position` of a file."""
    return 0 < (address - position) % _PAGE_BYTES < _BEHIND_BYTES


def _fill_apart(fd: int, view: memoryview, address: int, position: int) -> int:
    """Fill `view`, which begins at `address`, by way of its bytes further on: how many, all or none."""
    rest = bytearray(_APART_BYTES)
    if os.preadv(fd, [view[_APART_BYTES:], rest], position) < len(view):
        return 0
    memmove(address, address + _APART_BYTES, len(view) - _APART_BYTES)  # lets go of the GIL
    view[-_APART_BYTES:] = rest
    return len(view)
