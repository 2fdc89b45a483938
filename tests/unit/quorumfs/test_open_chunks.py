"""Open files of chunks: verified reads, a bounded number of descriptors, none for ever."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

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
