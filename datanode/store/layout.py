"""The bytes of a chunk file: header, data, trailer. Pure; total on hostile bytes.

A sealed file, in this order:

    0                4096-byte header: who the chunk is, how long, its checksum; CRC32C in the last 4 bytes
    4096             the data, `length` bytes
    4096 + length    trailer: the CRC32C of every 64 KiB block of the data, the chunk id, its own CRC32C

1. Nothing is believed before its checksum holds: a header or trailer is decoded whole or refused.
2. Both carry the chunk id, so that the right bytes of another chunk (a misdirected write, a mixed-up name)
   are found as surely as a flipped bit.
3. The size of the file follows from the length; anything else is a torn file.
4. The header and the trailer are written at sealing. A file without a valid header was never acknowledged.

Numbers are little endian. A change of shape is a new `FORMAT`; old files stay readable.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from quorumfs import limits
from quorumfs.checksum import CHECKSUM_BYTES, block_count, compose, crc32c
from quorumfs.errors import IntegrityError
from quorumfs.ids import ChunkId, UploadId

FORMAT = 1
HEADER_BYTES = 4096
BLOCK_BYTES = limits.BLOCK_BYTES

_HEADER_MAGIC = b"QFSCHUNK"
_TRAILER_MAGIC = b"QFSTABLE"
# magic, format, block bytes, chunk, upload, birth (history, index, cluster_ms), length, checksum of the data
_HEADER = struct.Struct("<8sII16s16sQQQQI")
_TRAILER = struct.Struct("<8s16sI")  # magic, chunk, number of blocks; then the table, then the CRC
_CRC = struct.Struct("<I")
_CRC_AT = HEADER_BYTES - _CRC.size


@dataclass(frozen=True, slots=True)
class Birth:
    """When the coordinator allocated the chunk: its history, log index and replicated milliseconds."""

    history: int = 0
    index: int = 0
    cluster_ms: int = 0


@dataclass(frozen=True, slots=True)
class Header:
    """What a sealed file says of itself. `length` in bytes; `checksum` is the CRC32C of all data."""

    chunk: ChunkId
    upload: UploadId
    birth: Birth
    length: int
    checksum: int


def file_size(length: int) -> int:
    """The exact size in bytes of the sealed file of a chunk of `length` bytes."""
    return HEADER_BYTES + length + trailer_size(length)


def trailer_size(length: int) -> int:
    return _TRAILER.size + CHECKSUM_BYTES * block_count(length) + _CRC.size


def encode_header(header: Header) -> bytes:
    """The first 4096 bytes of the file."""
    fields = _HEADER.pack(
        _HEADER_MAGIC,
        FORMAT,
        BLOCK_BYTES,
        header.chunk,
        header.upload,
        header.birth.history,
        header.birth.index,
        header.birth.cluster_ms,
        header.length,
        header.checksum,
    )
    covered = fields.ljust(_CRC_AT, b"\0")
    return covered + _CRC.pack(crc32c(covered))


def decode_header(raw: bytes, chunk: ChunkId) -> Header:
    """The header of `chunk` from the first 4096 bytes of its file.

    Raises IntegrityError for bytes that are torn, damaged, of another chunk, or of an unknown format.
    """
    if len(raw) != HEADER_BYTES:
        raise _bad(chunk, f"the header has {len(raw)} of {HEADER_BYTES} bytes")
    if crc32c(raw[:_CRC_AT]) != _CRC.unpack_from(raw, _CRC_AT)[0]:
        raise _bad(chunk, "the header does not match its checksum")
    magic, format_, block_bytes, found, upload, history, index, cluster_ms, length, checksum = (
        _HEADER.unpack_from(raw)
    )
    if magic != _HEADER_MAGIC:
        raise _bad(chunk, "the file is not a chunk")
    if format_ != FORMAT or block_bytes != BLOCK_BYTES:
        raise _bad(chunk, f"format {format_} with blocks of {block_bytes} bytes is unknown here")
    if found != chunk:
        raise _bad(chunk, f"the file holds chunk {found.hex()}")
    if length > limits.CHUNK_SIZE_BYTES_MAX:
        raise _bad(chunk, f"a length of {length} bytes is impossible")
    return Header(chunk, UploadId(upload), Birth(history, index, cluster_ms), length, checksum)


def encode_trailer(chunk: ChunkId, table: bytes | bytearray) -> bytes:
    """What follows the data: `table` is 4 bytes (CRC32C) per block."""
    covered = _TRAILER.pack(_TRAILER_MAGIC, chunk, len(table) // CHECKSUM_BYTES) + table
    return covered + _CRC.pack(crc32c(covered))


def decode_trailer(raw: bytes, header: Header) -> bytes:
    """The block checksums of `header.chunk`, 4 bytes each, from the bytes behind its data.

    Raises IntegrityError unless they are whole, the chunk's own, and compose to the header's checksum.
    """
    chunk = header.chunk
    if len(raw) != trailer_size(header.length):
        raise _bad(chunk, f"the trailer has {len(raw)} of {trailer_size(header.length)} bytes")
    covered = raw[: -_CRC.size]
    if crc32c(covered) != _CRC.unpack_from(raw, len(covered))[0]:
        raise _bad(chunk, "the table of block checksums does not match its own checksum")
    magic, found, blocks = _TRAILER.unpack_from(covered)
    if magic != _TRAILER_MAGIC or found != chunk or blocks != block_count(header.length):
        raise _bad(chunk, "the table of block checksums belongs to another chunk")
    table = covered[_TRAILER.size :]
    if compose(table, header.length) != header.checksum:
        raise _bad(chunk, "the block checksums do not compose to the chunk's checksum")
    return table


def _bad(chunk: ChunkId, cause: str) -> IntegrityError:
    return IntegrityError(
        f"chunk {chunk.hex()} is damaged here",
        cause=cause,
        next="read another replica; this one is checked and replaced",
        ids={"chunk": chunk.hex()},
    )
