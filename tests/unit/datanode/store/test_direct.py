"""Data past the page cache: the file is the same as ever, and nothing is lost by it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from datanode.store import direct
from datanode.store.chunks import ChunkStore
from datanode.store.direct import PAGE_BYTES, PIECE_BYTES, Pieces
from datanode.store.files import Files
from datanode.store.layout import HEADER_BYTES
from datanode.store.writer import ChunkInfo, ChunkWriter
from quorumfs.checksum import block_checksums, crc32c
from quorumfs.errors import NoSpaceError, QuorumFSError, UnavailableError
from quorumfs.ids import ChunkId
from quorumfs.limits import BLOCK_BYTES, FRAME_BYTES, FRAME_BYTES_MAX, WRITE_FRAME_BYTES
from tests.unit.datanode.store.fakes import (
    BIRTH,
    UPLOAD,
    Killed,
    PickyFiles,
    content,
    opened,
    put,
    temporaries,
)

CHUNK, OTHER, THIRD = ChunkId(b"c" * 16), ChunkId(b"o" * 16), ChunkId(b"t" * 16)
SMALLEST = 2 * PIECE_BYTES
DATA = random.Random(1).randbytes(SMALLEST + 3 * BLOCK_BYTES + 77)


@pytest.fixture(autouse=True)
def chunks_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "CHUNK_BYTES_MIN", SMALLEST)


@contextlib.contextmanager
def store_on(path: Path, files: Files, pieces: Pieces | None = None) -> Iterator[ChunkStore]:
    with opened(path, files=files, pieces=pieces or Pieces()) as (store, _):
        yield store


def begin(store: ChunkStore, data: bytes, chunk: ChunkId = CHUNK) -> ChunkWriter:
    return store.begin(chunk, UPLOAD, BIRTH, len(data), read_soon=False)


def put_away(
    store: ChunkStore, data: bytes, chunk: ChunkId = CHUNK, frame_bytes: int = FRAME_BYTES
) -> ChunkInfo:
    """Write and seal what nobody will read soon."""
    writer = begin(store, data, chunk)
    try:
        for offset in range(0, len(data), frame_bytes):
            part = data[offset : offset + frame_bytes]
            writer.append(offset, part, block_checksums(part))
        return writer.seal(len(data), crc32c(data))
    finally:
        writer.abort()


@pytest.mark.parametrize("frame_bytes", [BLOCK_BYTES, 5 * BLOCK_BYTES, FRAME_BYTES, FRAME_BYTES_MAX])
@pytest.mark.parametrize(
    "beyond", [0, 1, PAGE_BYTES, PAGE_BYTES + 1, PIECE_BYTES - 1, PIECE_BYTES, BLOCK_BYTES]
)
def test_a_file_written_past_the_cache_is_the_same_byte_for_byte(
    tmp_path: Path, beyond: int, frame_bytes: int
) -> None:
    data = random.Random(beyond).randbytes(SMALLEST + beyond)
    files = PickyFiles()
    with store_on(tmp_path / "direct", files) as store:
        written = Path(put_away(store, data, frame_bytes=frame_bytes).file).read_bytes()
        assert content(store, CHUNK) == data
    assert files.direct_bytes == len(data) - len(data) % PAGE_BYTES
    assert files.bypassing == set()
    with opened(tmp_path / "cached") as (store, _):
        assert written == Path(put(store, CHUNK, data).file).read_bytes()


def test_the_real_file_system_takes_it_or_is_let_be(tmp_path: Path) -> None:
    with store_on(tmp_path, Files()) as store:
        put_away(store, DATA)
        assert content(store, CHUNK) == DATA


def test_what_is_read_soon_or_small_or_of_unknown_size_goes_through_the_cache(tmp_path: Path) -> None:
    files = PickyFiles()
    with store_on(tmp_path, files) as store:
        put(store, CHUNK, DATA)
        put_away(store, DATA[: SMALLEST - 1], OTHER)
        writer = store.begin(THIRD, UPLOAD, BIRTH, read_soon=False)
        writer.append(0, DATA[:FRAME_BYTES], block_checksums(DATA[:FRAME_BYTES]))
        writer.abort()
    assert files.asked == 0


def test_what_is_read_soon_goes_past_the_cache_as_well_where_the_operator_says_so(tmp_path: Path) -> None:
    files = PickyFiles()
    with store_on(tmp_path, files) as first:
        store = ChunkStore(first.disks, all_direct=True)
        put(store, CHUNK, DATA)
        assert content(store, CHUNK) == DATA
    assert files.asked == 1


@pytest.mark.parametrize("at_the_first_write", [False, True])
def test_a_file_system_that_refuses_is_asked_once_and_written_through_the_cache(
    tmp_path: Path, at_the_first_write: bool
) -> None:
    files = PickyFiles()
    if at_the_first_write:
        files.fail["direct write"] = errno.EINVAL
    else:
        files.refuses = True
    with store_on(tmp_path, files) as store:
        for chunk in (CHUNK, OTHER):
            put_away(store, DATA, chunk)
            assert content(store, chunk) == DATA
        assert store.disks[0].health() == ("ok", "")
    assert (files.asked, files.direct_bytes) == (1, 0)


@pytest.mark.parametrize(
    ("number", "error", "state"),
    [(errno.ENOSPC, NoSpaceError, "ok"), (errno.EIO, UnavailableError, "failed")],
)
def test_a_direct_write_that_fails_is_told_like_any_other_and_leaves_nothing(
    tmp_path: Path, number: int, error: type[QuorumFSError], state: str
) -> None:
    files, pieces = PickyFiles(), Pieces(1)
    files.fail["direct write"] = number
    with store_on(tmp_path, files, pieces) as store:
        with pytest.raises(error):
            put_away(store, DATA)
        assert store.disks[0].health()[0] == state
        assert (len(store), temporaries(tmp_path)) == (0, [])
        assert pieces.borrow() is not None


def test_a_chunk_for_which_there_is_no_piece_goes_through_the_cache(tmp_path: Path) -> None:
    files = PickyFiles()
    with store_on(tmp_path, files, Pieces(1)) as store:
        first = begin(store, DATA)
        put_away(store, DATA, OTHER)
        assert files.asked == 1
        first.abort()
        put_away(store, DATA, THIRD)
        assert files.asked == 2
        assert content(store, OTHER) == content(store, THIRD) == DATA


def test_a_chunk_for_which_there_is_no_memory_goes_through_the_cache(tmp_path: Path) -> None:
    files = PickyFiles()

    def none_left() -> memoryview:
        raise OSError(errno.ENOMEM, "no memory")

    with store_on(tmp_path, files, Pieces(make=none_left)) as store:
        put_away(store, DATA)
        assert content(store, CHUNK) == DATA
    assert files.asked == 0


def test_a_message_of_a_client_is_one_write(tmp_path: Path) -> None:
    files = PickyFiles()
    with store_on(tmp_path, files) as store:
        writer = begin(store, DATA[: 2 * WRITE_FRAME_BYTES])
        for offset in (0, WRITE_FRAME_BYTES):
            writes = files.steps.count("write")
            part = DATA[offset : offset + WRITE_FRAME_BYTES]
            writer.append(offset, part, block_checksums(part))
            assert files.steps.count("write") - writes == 1
        writer.abort()
    assert files.direct_bytes == 2 * WRITE_FRAME_BYTES


@pytest.mark.parametrize("advice", [mmap.MADV_HUGEPAGE, 9999])
def test_memory_can_be_huge_pages_and_need_not_be(advice: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "_HUGE_PAGES", advice)
    piece = Pieces().borrow()
    assert piece is not None
    assert ctypes.addressof(ctypes.c_char.from_buffer(piece)) % PIECE_BYTES == 0
    piece[:] = b"x" * PIECE_BYTES


def test_memory_is_used_again_and_begins_at_a_page() -> None:
    pieces = Pieces(2)
    first, second = pieces.borrow(), pieces.borrow()
    assert pieces.borrow() is None
    assert first is not None
    assert second is not None
    assert len(first) == PIECE_BYTES
    assert HEADER_BYTES % PAGE_BYTES == PIECE_BYTES % PAGE_BYTES == 0
    pieces.give_back(first)
    assert pieces.borrow() is first


def test_a_chunk_is_whole_or_absent_wherever_the_process_dies_past_the_cache(tmp_path: Path) -> None:
    data = DATA[: 2 * PIECE_BYTES + 5 * PAGE_BYTES + 7]
    acknowledged, steps = False, 0
    while not acknowledged:
        root = tmp_path / str(steps)
        with opened(root):
            pass
        files = PickyFiles()
        with contextlib.suppress(Killed), store_on(root, files) as store:
            files.die_before = len(files.steps) + steps
            put_away(store, data)
            acknowledged = True
        assert files.direct_bytes or steps < 4
        with opened(root) as (store, _):
            assert temporaries(root) == []
            assert CHUNK in store or not acknowledged
            if CHUNK in store:
                assert content(store, CHUNK) == data
        steps += 1
    assert steps > 10  # create, there, three pieces, back, rest, trailer, header, sync, rename, sync
