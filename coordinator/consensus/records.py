"""The bytes of the Raft log: records, the frames that carry them, the header of a segment. Pure.

1. A *segment* is a file of a fixed size, full of zeros when it is made. Its first sector is the header; frames
   follow, each beginning at a sector (512 bytes) of its own, so that a torn write never reaches an earlier frame.
2. A *frame* is what one sync made durable: a head, then records, then zeros up to the next sector. Its checksum
   covers all of that, begins with the journal's random id, and goes into the head of the next frame: the frames of
   a journal are a chain, over the borders of segments too (the header carries the chain on). A frame of another
   journal never passes, nor do bytes that a client chose to look like one.
3. A *record* has a checksum of its own, for entries are read back one by one long after their frame was checked.

All numbers are little endian.

    header   magic 8s | format u32 | journal id 16s | segment u64 | bytes u64 | first sequence u64 | chain u32
             | zeros | CRC32C of the 508 bytes before u32
    frame    magic 4s | bytes u32 | sequence u64 | CRC32C of the previous frame u32 | CRC32C of this one u32
    record   CRC32C of the rest u32 | payload bytes u32 | kind u8 | index u64 | term u64 | payload
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, unique

from quorumfs.checksum import crc32c

FORMAT = 1
SECTOR_BYTES = 512
JOURNAL_ID_BYTES = 16
VOTE_BYTES_MAX = 255

_HEADER_MAGIC = b"QFSRLOG\0"
_HEADER = struct.Struct("<8sI16sQQQI")
_FRAME_MAGIC = b"QFRM"
_FRAME = struct.Struct("<4sIQI")  # without its own checksum
_RECORD = struct.Struct("<IBQQ")  # without its checksum
_CRC = struct.Struct("<I")
_LAST = struct.Struct("<Q")
_HEADER_CRC_AT = SECTOR_BYTES - _CRC.size
_PADDING = bytes(SECTOR_BYTES)

FRAME_HEAD_BYTES = _FRAME.size + _CRC.size
RECORD_HEAD_BYTES = _RECORD.size + _CRC.size


@unique
class Kind(IntEnum):
    """What a record does to the log. 0 is the padding behind the last record of a frame."""

    ENTRY = 1  # append (index, term, payload)
    TRUNCATE = 2  # index and all behind it are gone
    BASE = 3  # the log begins at (index, term), which it has
    RESET = 4  # the log is this one entry (index, term, payload), whatever it was
    HARD = 5  # term, and in the payload whom this member voted for in it
    START = 6  # of a segment's first frame: the log as it is here: base (index, term), the last index in the payload
    SEAL = 7  # the frame before was synced
    END = 8  # the frame before was synced, and a later segment exists


@dataclass(frozen=True, slots=True)
class Header:
    """Of a segment. `size` in bytes; `chain` is the checksum of the last frame of the segment before."""

    journal_id: bytes
    segment: int
    size: int
    first_sequence: int
    chain: int


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole frame: `end` is the offset of the next; `crc` what that must name."""

    offset: int
    end: int
    sequence: int
    previous: int
    crc: int


@dataclass(frozen=True, slots=True)
class Record:
    """`offset` from the beginning of the bytes that were read."""

    kind: Kind
    index: int
    term: int
    offset: int
    payload: memoryview


class DamagedError(Exception):
    """Bytes that are not what was written, at `offset`."""

    def __init__(self, offset: int, cause: str) -> None:
        super().__init__(cause)
        self.offset = offset
        self.cause = cause


def padded(size: int) -> int:
    """`size` up to whole sectors."""
    return -(-size // SECTOR_BYTES) * SECTOR_BYTES


def record_size(payload_bytes: int) -> int:
    return RECORD_HEAD_BYTES + payload_bytes


# Segments


def encode_header(header: Header) -> tuple[bytes, int]:
    """The first sector of a segment, and what its first frame must name as the previous."""
    fields = _HEADER.pack(
        _HEADER_MAGIC,
        FORMAT,
        header.journal_id,
        header.segment,
        header.size,
        header.first_sequence,
        header.chain,
    )
    covered = fields.ljust(_HEADER_CRC_AT, b"\0")
    crc = crc32c(covered)
    return covered + _CRC.pack(crc), crc


def decode_header(raw: bytes) -> tuple[Header, int]:
    """The header from the beginning of a segment, and its checksum. Raises DamagedError."""
    if len(raw) < SECTOR_BYTES:
        raise DamagedError(0, f"the file has {len(raw)} bytes: no room for a header")
    (crc,) = _CRC.unpack_from(raw, _HEADER_CRC_AT)
    if crc32c(raw[:_HEADER_CRC_AT]) != crc:
        raise DamagedError(0, "the header does not match its checksum")
    magic, format_, journal_id, segment, size, first_sequence, chain = _HEADER.unpack_from(raw)
    if magic != _HEADER_MAGIC:
        raise DamagedError(0, "the file is no segment of a Raft log")
    if format_ != FORMAT:
        raise DamagedError(0, f"format {format_} is of another version; this one knows {FORMAT}")
    return Header(journal_id, segment, size, first_sequence, chain), crc


# Frames


class FrameBuilder:
    """Gathers records and makes one frame of them. `seed` is the checksum of the journal's id."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._clear()

    def _clear(self) -> None:
        self._pieces: list[bytes] = []
        self._crc = self._seed
        self.bytes = FRAME_HEAD_BYTES

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def add(self, kind: Kind, index: int, term: int, payload: bytes = b"") -> int:
        """The offset of the record from the beginning of the frame."""
        offset, size = self.bytes, len(payload)
        fields = _RECORD.pack(size, kind, index, term)
        head = _CRC.pack(crc32c(payload, crc32c(fields))) + fields
        self._crc = crc32c(payload, crc32c(head, self._crc))
        self._pieces += (head, payload)
        self.bytes = offset + RECORD_HEAD_BYTES + size
        return offset

    def finish(self, sequence: int, previous: int) -> tuple[bytes, int]:
        """The frame, and its checksum; the builder is empty again."""
        size = padded(self.bytes)
        padding = _PADDING[: size - self.bytes]
        head = _FRAME.pack(_FRAME_MAGIC, size, sequence, previous)
        crc = crc32c(head, crc32c(padding, self._crc))
        frame = b"".join((head, _CRC.pack(crc), *self._pieces, padding))
        self._clear()
        return frame, crc


def read_frame(data: memoryview, offset: int, seed: int) -> Frame | None:
    """The frame at `offset`, if there is one whose own checksum holds."""
    if offset + FRAME_HEAD_BYTES > len(data):
        return None
    magic, size, sequence, previous = _FRAME.unpack_from(data, offset)
    end = offset + size
    if magic != _FRAME_MAGIC or size % SECTOR_BYTES or not offset < end <= len(data):
        return None
    (crc,) = _CRC.unpack_from(data, offset + _FRAME.size)
    body = crc32c(data[offset + FRAME_HEAD_BYTES : end], seed)
    if crc32c(data[offset : offset + _FRAME.size], body) != crc:
        return None
    return Frame(offset, end, sequence, previous, crc)


def find_frame(data: memoryview, offset: int, sequence: int, seed: int) -> Frame | None:
    """The first whole frame at or behind `offset` that is numbered `sequence` or higher."""
    for at in range(offset, len(data) - FRAME_HEAD_BYTES, SECTOR_BYTES):
        if data[at : at + 4] == _FRAME_MAGIC:
            frame = read_frame(data, at, seed)
            if frame is not None and frame.sequence >= sequence:
                return frame
    return None


# Records


def read_records(data: memoryview, frame: Frame) -> Iterator[Record]:
    """The records of a whole frame. Raises DamagedError: the frame's writer was broken."""
    offset = frame.offset + FRAME_HEAD_BYTES
    while offset + RECORD_HEAD_BYTES <= frame.end and data[offset + 8]:
        record = read_record(data, offset)
        yield record
        offset += RECORD_HEAD_BYTES + len(record.payload)


def read_record(data: memoryview, offset: int) -> Record:
    """The record at `offset`. Raises DamagedError."""
    if offset + RECORD_HEAD_BYTES > len(data):
        raise DamagedError(offset, "the file ends inside a record")
    (crc,) = _CRC.unpack_from(data, offset)
    size, kind, index, term = _RECORD.unpack_from(data, offset + _CRC.size)
    end = offset + RECORD_HEAD_BYTES + size
    if end > len(data) or crc32c(data[offset + _CRC.size : end]) != crc:
        raise DamagedError(offset, "a record does not match its checksum")
    try:
        return Record(Kind(kind), index, term, offset, data[offset + RECORD_HEAD_BYTES : end])
    except ValueError:
        raise DamagedError(offset, f"a record of kind {kind} is not known to this version") from None


def encode_last(index: int) -> bytes:
    """The payload of a START record."""
    return _LAST.pack(index)


def decode_last(payload: memoryview) -> int:
    if len(payload) != _LAST.size:
        raise ValueError(f"a START record with {len(payload)} bytes")
    index: int = _LAST.unpack(payload)[0]
    return index


def encode_vote(voted_for: str | None) -> bytes:
    """The payload of a HARD record; at most VOTE_BYTES_MAX. Raises ValueError."""
    raw = (voted_for or "").encode()
    if len(raw) > VOTE_BYTES_MAX:
        raise ValueError(f"a node id of {len(raw)} bytes")
    return raw


def decode_vote(payload: memoryview) -> str | None:
    return bytes(payload).decode() or None
