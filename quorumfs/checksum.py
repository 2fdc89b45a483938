"""CRC32C of bytes, of their 64 KiB blocks, and of what is put together from parts already checksummed.

1. A chunk carries one CRC32C per block of `BLOCK_BYTES` (the last may be short): a *table*, 4 bytes little
   endian each. The client makes it once, every hop verifies it, the datanode stores it beside the data.
2. The checksum of a whole is composed from its parts without touching the bytes again. A CRC is linear over
   GF(2): crc(A + B) = crc(A) * x**(8 * len(B)) + crc(B), modulo the polynomial, with the initial and final
   inversions cancelling out (Mark Adler's `crc32_combine` in zlib).
3. For the one length that matters, a full block, the multiplication is four table look-ups.

Two packages compute it, either will do. Both release the GIL for long data (awscrt from 16 KiB on, crc32c
from 32), so that checksums of frames run beside other threads. awscrt is required where it has wheels, Linux
on x86_64 and aarch64. Where both were measured, on one AMD EPYC, it went through 64 KiB to 1 MiB in a core's
cache at 44 to 49 GB/s and in memory at 15 to 18, crc32c at 23 to 28 and 11 to 13. Its price: twelve megabytes
installed instead of a quarter of one, and some 10 ms more of the quarter of a second in which a client is
imported. It takes no more memory of the process's own.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TypeAlias

from quorumfs.limits import BLOCK_BYTES

try:
    from awscrt.checksums import crc32c as _crc32c
except ImportError:
    from crc32c import crc32c as _crc32c

Buffer: TypeAlias = bytes | bytearray | memoryview

CHECKSUM_BYTES = 4

_POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected: bit 31 stands for x**0
_ONE = 1 << 31  # the polynomial 1
_X8 = 1 << 23  # the polynomial x**8: one byte of zeros


def crc32c(data: Buffer, value: int = 0) -> int:
    """CRC32C of `data`, going on from `value`, the checksum of what came before."""
    result: int = _crc32c(data, value)
    return result


def block_checksums(data: Buffer) -> bytes:
    """The table of `data`: one checksum for each 64 KiB block, 4 bytes little endian. Empty for no data."""
    length = len(data)
    if length <= BLOCK_BYTES:
        return struct.pack("<I", _crc32c(data)) if length else b""
    with memoryview(data) as view:
        sums = [_crc32c(view[start : start + BLOCK_BYTES]) for start in range(0, length, BLOCK_BYTES)]
    return struct.pack(f"<{len(sums)}I", *sums)


def block_count(length: int) -> int:
    """How many blocks `length` bytes have."""
    return -(-length // BLOCK_BYTES)


def verify_blocks(data: Buffer, table: Buffer) -> int | None:
    """The index of the first block of `data` that does not match `table`; None when all do.

    A table of another length than the data asks for is a mismatch too: of the first block that one of the
    two does not have.
    """
    made = block_checksums(data)
    if made == table:
        return None
    shared = min(len(made), len(table)) // CHECKSUM_BYTES
    for index in range(shared):
        at = index * CHECKSUM_BYTES
        if made[at : at + CHECKSUM_BYTES] != table[at : at + CHECKSUM_BYTES]:
            return index
    return shared


def combine(crc_a: int, crc_b: int, length_b: int) -> int:
    """The checksum of A + B from those of A and of B, where B has `length_b` bytes."""
    if length_b == BLOCK_BYTES:
        return _shift_block(crc_a) ^ crc_b
    return _multiply(_zeros(length_b), crc_a) ^ crc_b


def compose(table: Buffer, length: int) -> int:
    """The checksum of `length` bytes from the table of their blocks.

    Raises ValueError when the table is not as long as `length` bytes ask for.
    """
    sums = _sums(table, length)
    if not sums:
        return 0
    count = len(sums)
    low, second, third, high = _BLOCK_TABLES
    whole: int = sums[0] if count > 1 else 0
    for crc in sums[1:-1]:
        whole = (
            low[whole & 255] ^ second[whole >> 8 & 255] ^ third[whole >> 16 & 255] ^ high[whole >> 24] ^ crc
        )
    return combine(whole, sums[-1], length - (count - 1) * BLOCK_BYTES)


def prefixes(table: Buffer, length: int) -> list[int]:
    """The checksum of the first `n` blocks, for n = 0, 1, ...: the last one is that of all `length` bytes.

    Any run of blocks is then verified by one call: `crc32c(blocks m to n, prefixes[m]) == prefixes[n]`.
    Raises ValueError when the table is not as long as `length` bytes ask for.
    """
    sums = _sums(table, length)
    made = [0]
    for crc in sums[:-1]:
        made.append(_shift_block(made[-1]) ^ crc)
    if sums:
        made.append(combine(made[-1], sums[-1], length - (len(sums) - 1) * BLOCK_BYTES))
    return made


def _sums(table: Buffer, length: int) -> tuple[int, ...]:
    count = block_count(length)
    if len(table) != count * CHECKSUM_BYTES:
        raise ValueError(f"{length} bytes have {count} block checksums, not {len(table) / CHECKSUM_BYTES:g}")
    return struct.unpack(f"<{count}I", table)


def _shift_block(crc: int) -> int:
    """`crc` times x**(8 * BLOCK_BYTES): as if a block of zeros came after it."""
    low, second, third, high = _BLOCK_TABLES
    return low[crc & 255] ^ second[crc >> 8 & 255] ^ third[crc >> 16 & 255] ^ high[crc >> 24]


def _multiply(a: int, b: int) -> int:
    """The product of two polynomials over GF(2) modulo the CRC's, in reflected bit order."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = a << 1 & 0xFFFFFFFF
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


@lru_cache(maxsize=256)
def _zeros(length: int) -> int:
    """x**(8 * length): what `length` bytes of zeros multiply a checksum by. By repeated squaring."""
    if length < 0:
        raise ValueError("a length is not negative")
    result, square = _ONE, _X8
    while length:
        if length & 1:
            result = _multiply(square, result)
        square = _multiply(square, square)
        length >>= 1
    return result


def _tables(factor: int) -> tuple[tuple[int, ...], ...]:
    """For each byte of a checksum, lowest first: its 256 values times `factor`."""
    return tuple(tuple(_multiply(value << shift, factor) for value in range(256)) for shift in (0, 8, 16, 24))


_BLOCK_TABLES = _tables(_zeros(BLOCK_BYTES))
