"""Open files of chunks: verified reads, a bounded number of descriptors, none for ever."""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from ctypes import addressof, c_char
from pathlib import Path

import pytest

from quorumfs import open_chunks
from quorumfs.checksum import block_checksums
from quorumfs.clock import ManualClock
from quorumfs.companion import Companion, Work
from quorumfs.descriptors import Opened
from quorumfs.limits import BLOCK_BYTES, KIB, MIB
from quorumfs.open_chunks import BadBlockError, Key, OpenChunk, OpenChunks
from tests.support.shortage import no_more_threads

DATA = random.Random(3).randbytes(9 * MIB + 12_345)
SHARED_BYTES = 4 * MIB
BEFORE = 4096
IDLE_SECONDS = 60.0


class Shelf:
    """Files to open, and the descriptors that were opened of them."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "chunk"
        self.path.write_bytes(bytes(BEFORE) + DATA + b"trailer")
        self.clock = ManualClock()
        self.chunks = OpenChunks(self.clock, most=3, idle_seconds=IDLE_SECONDS)
        self.made: list[int] = []

    def make(self) -> tuple[int, Opened]:
        fd = os.open(self.path, os.O_RDONLY)
        self.made.append(fd)
        return fd, Opened(BEFORE, len(DATA), block_checksums(DATA))

    def touch(self, name: str) -> None:
        with self.chunks.use(key(name), self.make) as chunk:
            assert chunk is not None

    def still_open(self) -> int:
        return sum(is_open(fd) for fd in set(self.made))


def key(name: str) -> Key:
    return "d1:1", name.encode()


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path)
    yield made
    made.chunks.close()
    assert made.still_open() == 0


@pytest.fixture
def chunk(shelf: Shelf) -> Iterator[OpenChunk]:
    with shelf.chunks.use(key("a"), shelf.make) as opened:
        assert opened is not None
        yield opened


RANGES = [
    (0, len(DATA)),
    (0, BLOCK_BYTES),
    (MIB, MIB),
    (MIB, SHARED_BYTES - BLOCK_BYTES),
    (MIB, SHARED_BYTES),
    (9 * MIB, 12_345),
    (64 * KIB, 192 * KIB),
]


@pytest.mark.parametrize(("offset", "length"), RANGES)
def test_a_range_is_what_was_written(chunk: OpenChunk, offset: int, length: int) -> None:
    assert chunk.read(offset, length) == DATA[offset : offset + length]
    buffer = bytearray(length)
    chunk.read_into(memoryview(buffer), offset)
    assert buffer == DATA[offset : offset + length]


@pytest.mark.parametrize("place", [0, BLOCK_BYTES - 1, MIB, len(DATA) - 1])
def test_a_flipped_bit_is_never_given_away_and_its_block_is_named(
    shelf: Shelf, chunk: OpenChunk, place: int
) -> None:
    with shelf.path.open("r+b") as file:
        file.seek(BEFORE + place)
        file.write(bytes([DATA[place] ^ 1]))
    with pytest.raises(BadBlockError) as caught:
        chunk.read(0, len(DATA))
    assert caught.value.block == place // BLOCK_BYTES
    with pytest.raises(BadBlockError) as caught:
        chunk.read_into(memoryview(bytearray(len(DATA))), 0)
    assert caught.value.block == place // BLOCK_BYTES


PAGE_BYTES = 4 * KIB
SLOW_BEHIND_BYTES = 32


class Memory:
    """Memory that begins so many bytes behind a page, with some on both sides of it that are its owner's."""

    def __init__(self, behind_page: int, size: int) -> None:
        self._pages = mmap.mmap(-1, PAGE_BYTES + behind_page + size + PAGE_BYTES)
        self._start, self._stop = PAGE_BYTES + behind_page, PAGE_BYTES + behind_page + size
        self.view = memoryview(self._pages)[self._start : self._stop]

    def others_are_untouched(self) -> bool:
        before, behind = self._pages[: self._start], self._pages[self._stop :]
        return not any(before) and not any(behind)


class Disk:
    """Reads for `open_chunks`; notes how many bytes behind the file's place in a page they were put."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, at_first: int | None = None) -> None:
        self._preadv = os.preadv
        self._at_first = at_first  # so many bytes are read by the first call
        self.behind: list[int] = []
        monkeypatch.setattr(open_chunks, "_BEHIND_BYTES", SLOW_BEHIND_BYTES)
        monkeypatch.setattr(os, "preadv", self.preadv)

    def preadv(self, fd: int, buffers: list[memoryview], position: int) -> int:
        self.behind.append((addressof(c_char.from_buffer(buffers[0])) - position) % PAGE_BYTES)
        most, self._at_first = self._at_first, None
        return self._preadv(fd, buffers if most is None else [memoryview(buffers[0])[:most]], position)


@pytest.mark.parametrize("length", [BLOCK_BYTES, MIB, SHARED_BYTES])
def test_nothing_is_read_to_where_it_is_slow_and_it_is_what_was_written(
    chunk: OpenChunk, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    disk = Disk(monkeypatch)
    for behind_page in (0, 1, 8, 16, 24, 31, 32, 33, 48, PAGE_BYTES - 1):
        memory = Memory(behind_page, length)
        chunk.read_into(memory.view, MIB)
        assert memory.view == DATA[MIB : MIB + length], behind_page
        assert memory.others_are_untouched(), behind_page
        assert not [behind for behind in disk.behind if 0 < behind < SLOW_BEHIND_BYTES], behind_page
    assert disk.behind


def test_where_it_is_slow_depends_on_the_place_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, disk = tmp_path / "chunk", Disk(monkeypatch)
    path.write_bytes(bytes(100) + DATA[:MIB])
    chunk = OpenChunk(os.open(path, os.O_RDONLY), Opened(100, MIB, block_checksums(DATA[:MIB])))
    for behind_page in (16, 100, 116):
        memory = Memory(behind_page, MIB)
        chunk.read_into(memory.view, 0)
        assert memory.view == DATA[:MIB]
    chunk.close()
    assert disk.behind == [PAGE_BYTES - 84, 0, 16 + 64]


@pytest.mark.parametrize("at_first", [1, 5_000, MIB - 64, MIB - 1])
def test_a_read_that_gave_less_is_gone_on_with(
    chunk: OpenChunk, monkeypatch: pytest.MonkeyPatch, at_first: int
) -> None:
    for behind_page in (0, 16):
        Disk(monkeypatch, at_first=at_first)
        memory = Memory(behind_page, MIB)
        chunk.read_into(memory.view, 0)
        assert memory.view == DATA[:MIB]
        assert memory.others_are_untouched()
        monkeypatch.undo()


def test_memory_that_nobody_may_write_to_is_refused(chunk: OpenChunk) -> None:
    for length in (12_345, MIB):
        kept = bytes(length)
        with pytest.raises((TypeError, BufferError)):
            chunk.read_into(memoryview(kept), len(DATA) - 12_345 if length < BLOCK_BYTES else 0)
        assert not any(kept)


class Pair(Companion):
    """Tells how often it was shared with."""

    times = 0

    def share(self, work: Work, size: int, grain: int) -> bool:
        self.times += 1
        return super().share(work, size, grain)


@pytest.fixture
def pair(chunk: OpenChunk) -> Iterator[Pair]:
    """Shares what `chunk` reads."""
    made = Pair()
    chunk._companion = made
    yield made
    made.close()


@pytest.mark.parametrize(("offset", "length"), RANGES)
def test_a_long_range_is_read_by_two_threads_and_a_short_one_by_its_own(
    chunk: OpenChunk, pair: Pair, offset: int, length: int
) -> None:
    buffer = bytearray(length)
    chunk.read_into(memoryview(buffer), offset)
    assert buffer == DATA[offset : offset + length]
    assert pair.times == length // SHARED_BYTES


@pytest.mark.parametrize(
    ("bad", "steps"),
    [
        ([0], 1),
        ([MIB], 1),
        ([SHARED_BYTES - 1], 1),
        ([0, SHARED_BYTES - 1], 1),
        ([SHARED_BYTES], 2),
        ([len(DATA) - 1], 2),
    ],
)
def test_of_what_two_threads_read_the_first_bad_block_is_named(
    shelf: Shelf, chunk: OpenChunk, pair: Pair, bad: list[int], steps: int
) -> None:
    damaged = bytearray(DATA)
    for place in bad:
        damaged[place] ^= 1
    with shelf.path.open("r+b") as file:
        file.seek(BEFORE)
        file.write(damaged)
    with pytest.raises(BadBlockError) as caught:
        chunk.read_into(memoryview(bytearray(len(DATA))), 0)
    assert (pair.times, caught.value.block) == (steps, bad[0] // BLOCK_BYTES)


@pytest.mark.parametrize("bad", [None, 0, SHARED_BYTES - 1])
def test_memory_that_was_read_into_is_its_owners_alone_again(
    shelf: Shelf, chunk: OpenChunk, pair: Pair, bad: int | None
) -> None:
    if bad is not None:
        with shelf.path.open("r+b") as file:
            file.seek(BEFORE + bad)
            file.write(bytes([DATA[bad] ^ 1]))
    for _ in range(50):
        buffer = bytearray(SHARED_BYTES)
        with suppress(BadBlockError):
            chunk.read_into(memoryview(buffer), 0)
        buffer.clear()  # refused, BufferError, as long as somebody has a view of it
    assert pair.times == 50


def test_a_file_that_was_cut_off_is_a_bad_block(shelf: Shelf, chunk: OpenChunk) -> None:
    os.truncate(shelf.path, BEFORE + MIB + 5)
    with pytest.raises(BadBlockError):
        chunk.read(MIB, MIB)
    with pytest.raises(BadBlockError):
        chunk.read_into(memoryview(bytearray(len(DATA))), 0)
    assert chunk.read(0, MIB) == DATA[:MIB]


def test_a_file_that_was_deleted_is_read_to_its_end(shelf: Shelf, chunk: OpenChunk) -> None:
    shelf.path.unlink()
    assert chunk.read(0, len(DATA)) == DATA


def test_a_chunk_is_opened_once(shelf: Shelf) -> None:
    for _ in range(3):
        shelf.touch("a")
    assert len(shelf.made) == 1


def test_there_are_never_more_than_so_many_the_oldest_makes_room(shelf: Shelf) -> None:
    for name in "abcd":
        shelf.touch(name)
    assert (len(shelf.chunks), shelf.still_open()) == (3, 3)
    shelf.touch("d")
    assert len(shelf.made) == 4
    shelf.touch("a")
    assert len(shelf.made) == 5


def test_with_all_in_use_there_is_none(shelf: Shelf) -> None:
    with ExitStack() as stack:
        for name in "abc":
            stack.enter_context(shelf.chunks.use(key(name), shelf.make))
        assert stack.enter_context(shelf.chunks.use(key("d"), shelf.make)) is None
    shelf.touch("d")


def test_what_could_not_be_opened_takes_no_place(shelf: Shelf) -> None:
    def fail() -> tuple[int, Opened]:
        raise OSError("no")

    for _ in range(5):
        with shelf.chunks.use(key("a"), lambda: None) as opened:
            assert opened is None
        with pytest.raises(OSError, match="no"), shelf.chunks.use(key("a"), fail):
            pass
    for name in "abc":
        shelf.touch(name)
    assert len(shelf.chunks) == 3


def test_an_idle_one_is_closed_in_time_and_a_used_one_is_not(shelf: Shelf) -> None:
    shelf.touch("a")
    with shelf.chunks.use(key("b"), shelf.make) as used:
        shelf.clock.advance(IDLE_SECONDS)
        shelf.chunks.sweep()
        assert (len(shelf.chunks), shelf.still_open()) == (1, 1)
        assert used is not None
        assert used.read(0, 10 * BLOCK_BYTES) == DATA[: 10 * BLOCK_BYTES]
    shelf.clock.advance(IDLE_SECONDS - 1)
    assert shelf.chunks.sweep() == pytest.approx(1)
    shelf.clock.advance(1)
    assert shelf.chunks.sweep() is None
    assert shelf.still_open() == 0


def test_one_that_is_dropped_while_it_is_read_is_closed_afterwards(shelf: Shelf) -> None:
    with shelf.chunks.use(key("a"), shelf.make) as opened:
        shelf.chunks.drop(key("a"))
        assert opened is not None
        assert opened.read(0, BLOCK_BYTES) == DATA[:BLOCK_BYTES]
    assert shelf.still_open() == 0


def test_two_threads_that_open_the_same_chunk_leave_one_descriptor(shelf: Shelf) -> None:
    def make_twice() -> tuple[int, Opened]:
        shelf.touch("a")  # somebody else was faster
        return shelf.make()

    with shelf.chunks.use(key("a"), make_twice) as opened:
        assert opened is not None
        assert opened.read(0, BLOCK_BYTES) == DATA[:BLOCK_BYTES]
    assert (len(shelf.chunks), shelf.still_open()) == (1, 1)


def test_after_the_end_nothing_is_opened(shelf: Shelf) -> None:
    shelf.chunks.close()
    with shelf.chunks.use(key("a"), shelf.make) as opened:
        assert opened is None


def test_after_the_end_no_second_thread_reads(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    chunks = OpenChunks(shelf.clock)
    assert chunks._companion is not None
    chunks.close()
    assert not chunks._companion.share(lambda start, stop: None, SHARED_BYTES, BLOCK_BYTES)


def test_a_file_that_no_thread_would_close_serves_once(shelf: Shelf) -> None:
    with no_more_threads("quorumfs-open-chunks"):
        with shelf.chunks.use(key("a"), shelf.make) as chunk:
            assert chunk is not None
            assert chunk.read(0, BLOCK_BYTES) == DATA[:BLOCK_BYTES]
        assert shelf.still_open() == 0
    shelf.touch("a")
    assert (len(shelf.chunks), shelf.still_open()) == (1, 1)
