"""Where bytes come from: every kind of source gives the same frames."""

from __future__ import annotations

import gzip
import io
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quorumfs.checksum import verify_blocks
from quorumfs.errors import PreconditionFailedError
from quorumfs.frames import decode_write
from quorumfs.limits import MIB, WRITE_FRAME_BYTES
from quorumfs.sources import BytesSource, FileSource, Source, StreamSource, open_source

DATA = random.Random(3).randbytes(3 * MIB + 12345)


class Dribble(io.RawIOBase):
    """A stream that gives little at a time."""

    def __init__(self, data: bytes, step: int = 70_001) -> None:
        self._inner, self._step = io.BytesIO(data), step

    def read(self, size: int = -1) -> bytes:
        return self._inner.read(min(size, self._step))


def content(source: Source, chunk_size: int) -> list[bytes]:
    """What the bodies carry, their frames checked."""
    chunks = []
    for body in source.bodies(chunk_size):
        for _ in range(2):  # any body can be sent again
            data = bytearray()
            for frame in body.frames():
                decoded = decode_write(frame.wire)
                assert decoded.offset == len(data)
                assert bytes(decoded.block_checksums) == frame.table
                assert verify_blocks(decoded.data, frame.table) is None
                assert len(decoded.data) == frame.length <= WRITE_FRAME_BYTES
                data += decoded.data
            assert len(data) == body.length > 0
        chunks.append(bytes(data))
    return chunks


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    return path


MAKERS: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda _: DATA,
    "bytearray": lambda _: bytearray(DATA),
    "view": lambda _: memoryview(DATA),
    "path": lambda path: path,
    "text path": str,
    "open file": lambda path: path.open("rb"),
    "unbuffered file": lambda path: path.open("rb", buffering=0),
    "BytesIO": lambda _: io.BytesIO(DATA),
    "stream": lambda _: Dribble(DATA),
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("chunk_size", [MIB, 2 * MIB, 64 * MIB])
def test_every_source_gives_its_content_in_chunks(kind: str, chunk_size: int, file: Path) -> None:
    given = MAKERS[kind](file)
    source, close = open_source(given)
    assert source.whole(1000) is None
    chunks = content(source, chunk_size)
    assert b"".join(chunks) == DATA
    assert all(len(chunk) == chunk_size for chunk in chunks[:-1])
    close()
    if hasattr(given, "close"):
        given.close()


@pytest.mark.parametrize("source", [BytesSource(b"small"), StreamSource(Dribble(b"small", 2))])
def test_a_small_source_is_given_whole(source: Source) -> None:
    assert source.whole(5) == b"small"


@pytest.mark.parametrize("size", [0, 1, MIB, 2 * MIB])
@pytest.mark.parametrize("kind", [BytesSource, lambda data: StreamSource(Dribble(data))])
def test_no_chunk_is_ever_empty(kind: Callable[[bytes], Source], size: int) -> None:
    source = kind(DATA[:size])
    assert b"".join(content(source, MIB)) == DATA[:size]


def test_a_file_object_is_read_from_where_it_stands(file: Path) -> None:
    with file.open("rb") as opened:
        opened.seek(3 * MIB)
        opened.read(1)  # leaves the descriptor elsewhere than the object
        source, _ = open_source(opened)
        assert source.size == 12344
        assert source.whole(20_000) == DATA[3 * MIB + 1 :]
    buffer = io.BytesIO(b"0123")
    buffer.read(2)
    source, close = open_source(buffer)
    assert source.whole(10) == b"23"
    close()


def test_a_decompressor_is_read_through_and_not_by_its_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"plain" * 1000))
    with gzip.open(path) as opened, io.BufferedReader(opened) as wrapped:  # type: ignore[type-var]  it reads
        source, _ = open_source(wrapped)
        assert not source.replayable
        assert source.whole(10_000) == b"plain" * 1000


def test_a_pipe_is_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(b"through"), daemon=True)
    writer.start()
    source, close = open_source(path)
    assert source.size is None
    assert source.whole(100) == b"through"
    close()
    writer.join(10)


def test_a_file_that_shrinks_while_it_is_read_is_refused(file: Path) -> None:
    fd = os.open(file, os.O_RDONLY)
    source = FileSource(fd)
    os.truncate(file, 100)
    with pytest.raises(PreconditionFailedError, match="changed"):
        content(source, MIB)
    with pytest.raises(PreconditionFailedError):
        source.whole(len(DATA))
    os.close(fd)


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        open_source(7)
    with pytest.raises(TypeError):
        open_source(io.StringIO("text"))
    with pytest.raises(FileNotFoundError):
        open_source(tmp_path / "missing")
    with pytest.raises(IsADirectoryError):
        open_source(tmp_path)


def test_a_text_stream_that_hides_is_found_out() -> None:
    class Text:
        def read(self, size: int) -> str:
            return "text"

    source, _ = open_source(Text())
    with pytest.raises(TypeError, match="binary"):
        source.whole(10)


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="proc(5) is Linux'")
def test_a_file_that_says_it_is_empty_but_is_not_is_read_to_its_end() -> None:
    version = Path("/proc/version")
    assert version.stat().st_size == 0
    source, close = open_source(version)
    assert source.whole(MIB) == version.read_bytes() != b""
    close()
    with version.open("rb") as file:
        source, _ = open_source(file)
        assert source.whole(MIB) == version.read_bytes()


def test_an_empty_file_can_be_sent_again(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    source, close = open_source(tmp_path / "empty")
    assert (source.size, source.replayable, source.whole(10)) == (0, True, b"")
    close()
