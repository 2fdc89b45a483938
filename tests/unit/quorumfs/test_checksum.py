"""Checksums against brute force: by bytes, never by our own composition."""

from __future__ import annotations

import importlib.util
import random
import struct
import sys
import time
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumfs.checksum import (
    block_checksums,
    block_count,
    combine,
    compose,
    crc32c,
    prefixes,
    verify_blocks,
)
from quorumfs.limits import BLOCK_BYTES


def slow_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def table_of(data: bytes) -> bytes:
    blocks = [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]
    return b"".join(struct.pack("<I", crc32c(block)) for block in blocks)


def some_bytes(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def test_the_check_value_of_the_catalogue_comes_out() -> None:
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("package", ["awscrt.checksums", "crc32c"])
def test_each_package_that_may_compute_it_takes_every_buffer_and_goes_on_from_a_value(package: str) -> None:
    compute = pytest.importorskip(package).crc32c
    data = some_bytes(3 * BLOCK_BYTES)
    whole = crc32c(data)
    for buffer in (data, bytearray(data), memoryview(data), memoryview(bytearray(data))):
        assert compute(buffer) == compute(buffer[100:], compute(buffer[:100], 0)) == whole
    assert (compute(b""), compute(b"", 7)) == (0, 7)


def loaded_beside(awscrt: ModuleType | None, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as it is where `awscrt` is installed, or where nothing of the name is."""
    monkeypatch.setitem(sys.modules, "awscrt", awscrt)
    monkeypatch.setitem(sys.modules, "awscrt.checksums", awscrt)
    spec = importlib.util.find_spec("quorumfs.checksum")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_faster_package_computes_it_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    faster = ModuleType("awscrt.checksums")
    faster.crc32c = lambda data, value=0: 4711  # type: ignore[attr-defined]  a module made here
    assert loaded_beside(faster, monkeypatch).crc32c(b"123456789") == 4711
    assert loaded_beside(None, monkeypatch).crc32c(b"123456789") == 0xE3069283


@given(st.binary(max_size=200))
def test_it_is_the_castagnoli_crc_bit_by_bit(data: bytes) -> None:
    assert crc32c(data) == slow_crc32c(data)


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_going_on_from_a_checksum_is_the_checksum_of_both(a: bytes, b: bytes) -> None:
    assert crc32c(b, crc32c(a)) == crc32c(a + b)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_combined_checksums_are_those_of_the_concatenation(a: bytes, b: bytes) -> None:
    assert combine(crc32c(a), crc32c(b), len(b)) == crc32c(a + b)


@pytest.mark.parametrize(
    "length", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES, 1 << 20]
)
def test_combining_works_for_every_length_of_the_second_part(length: int) -> None:
    a, b = some_bytes(1000), some_bytes(length, 2)
    assert combine(crc32c(a), crc32c(b), length) == crc32c(a + b)


@pytest.mark.parametrize(
    "length", [0, 1, 100, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES, 5 * BLOCK_BYTES - 7]
)
@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_a_table_holds_one_checksum_per_block_and_composes_to_the_whole(length: int, wrap: type) -> None:
    data = some_bytes(length)
    table = block_checksums(wrap(data))
    assert table == table_of(data)
    assert len(table) == 4 * block_count(length)
    assert compose(table, length) == crc32c(data)
    assert verify_blocks(wrap(data), memoryview(table)) is None


@pytest.mark.parametrize(
    "length", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES, 200_000]
)
def test_any_run_of_blocks_is_verified_from_the_checksums_of_what_is_before_it(length: int) -> None:
    data = random.Random(length).randbytes(length)
    sums = prefixes(block_checksums(data), length)
    assert sums[-1] == crc32c(data)
    assert len(sums) == block_count(length) + 1
    for first in range(len(sums)):
        for behind in range(first, len(sums)):
            run = data[first * BLOCK_BYTES : behind * BLOCK_BYTES]
            assert crc32c(run, sums[first]) == sums[behind]


@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_flipped_bit_is_found_in_its_block(block: int) -> None:
    data = bytearray(some_bytes(2 * BLOCK_BYTES + 10))
    table = block_checksums(data)
    data[block * BLOCK_BYTES + 9] ^= 4
    assert verify_blocks(data, table) == block


def test_a_table_that_is_too_short_or_too_long_is_a_mismatch() -> None:
    data = some_bytes(2 * BLOCK_BYTES)
    table = block_checksums(data)
    assert verify_blocks(data, table[:4]) == 1
    assert verify_blocks(data, table + b"\0\0\0\0") == 2
    assert verify_blocks(data, table[:7]) == 1
    assert verify_blocks(b"", b"\0\0\0\0") == 0


def test_composing_refuses_a_table_of_another_length() -> None:
    with pytest.raises(ValueError, match="block checksums"):
        compose(b"\0" * 8, BLOCK_BYTES)


def test_one_gibibyte_is_composed_in_well_under_a_tenth_of_a_second() -> None:
    count = (1 << 30) // BLOCK_BYTES
    table = some_bytes(4 * count)
    taken = []
    for _ in range(5):
        begun = time.perf_counter()
        compose(table, 1 << 30)
        taken.append(time.perf_counter() - begun)
    assert min(taken) < 0.1
