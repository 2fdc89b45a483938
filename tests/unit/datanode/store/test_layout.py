from __future__ import annotations

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datanode.store import layout
from datanode.store.layout import Birth, Header
from quorumfs.checksum import block_checksums, crc32c
from quorumfs.errors import IntegrityError
from quorumfs.ids import ChunkId, UploadId

CHUNK = ChunkId(b"c" * 16)
DATA = random.Random(1).randbytes(200_000)
HEADER = Header(CHUNK, UploadId(b"u" * 16), Birth(3, 2**40, 2**50), len(DATA), crc32c(DATA))


@given(
    history=st.integers(0, 2**64 - 1),
    index=st.integers(0, 2**64 - 1),
    length=st.integers(0, 2**30),
    checksum=st.integers(0, 2**32 - 1),
    chunk=st.binary(min_size=16, max_size=16),
)
def test_a_header_comes_back_as_it_was(
    history: int, index: int, length: int, checksum: int, chunk: bytes
) -> None:
    header = Header(ChunkId(chunk), UploadId(b"u" * 16), Birth(history, index, 5), length, checksum)
    raw = layout.encode_header(header)
    assert len(raw) == layout.HEADER_BYTES
    assert layout.decode_header(raw, ChunkId(chunk)) == header


def test_where_operators_find_the_data_and_when_the_chunk_was_allocated() -> None:
    raw = layout.encode_header(HEADER) + DATA + layout.encode_trailer(CHUNK, block_checksums(DATA))
    assert raw[4096:][: HEADER.length] == DATA
    assert int.from_bytes(raw[56:64], "little") == HEADER.birth.index


def test_a_trailer_gives_the_table_back() -> None:
    table = block_checksums(DATA)
    raw = layout.encode_trailer(CHUNK, table)
    assert len(raw) == layout.trailer_size(len(DATA))
    assert layout.decode_trailer(raw, HEADER) == table


@given(at=st.integers(0, layout.HEADER_BYTES - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_of_a_header_is_found(at: int, bit: int) -> None:
    raw = bytearray(layout.encode_header(HEADER))
    raw[at] ^= 1 << bit
    with pytest.raises(IntegrityError):
        layout.decode_header(bytes(raw), CHUNK)


@given(bit=st.integers(0, layout.trailer_size(len(DATA)) * 8 - 1))
def test_any_flipped_bit_of_a_trailer_is_found(bit: int) -> None:
    raw = bytearray(layout.encode_trailer(CHUNK, block_checksums(DATA)))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(IntegrityError):
        layout.decode_trailer(bytes(raw), HEADER)


@given(st.binary(max_size=5000))
def test_hostile_bytes_are_refused_and_nothing_else_happens(raw: bytes) -> None:
    with pytest.raises(IntegrityError):
        layout.decode_header(raw, CHUNK)
    with pytest.raises(IntegrityError):
        layout.decode_trailer(raw, HEADER)


def test_the_right_bytes_of_another_chunk_are_refused() -> None:
    other = ChunkId(b"d" * 16)
    with pytest.raises(IntegrityError, match="holds chunk"):
        layout.decode_header(layout.encode_header(HEADER), other)
    with pytest.raises(IntegrityError, match="another chunk"):
        layout.decode_trailer(layout.encode_trailer(other, block_checksums(DATA)), HEADER)


def test_a_table_that_is_whole_but_of_other_data_is_refused() -> None:
    with pytest.raises(IntegrityError, match="compose"):
        layout.decode_trailer(layout.encode_trailer(CHUNK, block_checksums(os.urandom(200_000))), HEADER)


def test_the_size_of_a_file_follows_from_the_length() -> None:
    assert layout.file_size(0) == 4096 + 28 + 4
    assert layout.file_size(65536) == 4096 + 65536 + 28 + 4 + 4
    assert layout.file_size(65537) == 4096 + 65537 + 28 + 8 + 4
