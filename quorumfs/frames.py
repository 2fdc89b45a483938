"""The hot messages of the data plane, `WriteRequest` and `Frame` of chunks.proto, coded by hand.

1. What these functions make, protobuf reads, and the other way round (a property test holds it). Protobuf
   itself copies the payload once more in each direction, which costs a quarter of the throughput.
2. Small fields first, `data` last: a frame is one join of a short head and the payload.
3. Decoding takes the fields in any order, the last of a repeated scalar wins, unknown fields are skipped,
   every length is checked before it is believed. `data` and `block_checksums` are views into the message:
   no copy, and they keep the whole message alive.
4. Nothing but InvalidArgumentError comes out of hostile bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from quorumfs.checksum import Buffer
from quorumfs.errors import InvalidArgumentError
from quorumfs.v1 import chunks_pb2
from quorumfs.varint import varint

# Tags: field number << 3 | wire type
_DATA = 1 << 3 | 2
_OFFSET = 3 << 3 | 0
_BLOCK_CHECKSUMS = 4 << 3 | 2
_OPEN = 8 << 3 | 2
_END = 9 << 3 | 2

_UINT64_MAX = (1 << 64) - 1
_TAG_MAX = (1 << 32) - 1
_EMPTY = memoryview(b"")


@dataclass(frozen=True, slots=True)
class WriteFrame:
    """One message of a chunk's stream. A frame of a read has neither `open` nor `end`.

    `data` and `block_checksums` are views into the received message.
    """

    offset: int
    data: memoryview
    block_checksums: memoryview
    open: chunks_pb2.WriteOpen | None = None
    end: chunks_pb2.WriteEnd | None = None


def encode_frame(offset: int, data: Buffer, block_checksums: Buffer) -> bytes:
    """A `Frame`, which is also a `WriteRequest` that carries data. One copy of `data`."""
    return b"".join(
        (
            b"\x18",
            varint(offset),
            b"\x22",
            varint(len(block_checksums)),
            block_checksums,
            b"\x0a",
            varint(len(data)),
            data,
        )
    )


def encode_open(message: chunks_pb2.WriteOpen) -> bytes:
    """A `WriteRequest` that opens a chunk."""
    body = message.SerializeToString()
    return b"\x42" + varint(len(body)) + body


def encode_end(length: int, checksum: int) -> bytes:
    """A `WriteRequest` that ends a chunk of `length` bytes with the CRC32C `checksum`."""
    body = b"\x08" + varint(length) + b"\x15" + checksum.to_bytes(4, "little")
    return b"\x4a" + varint(len(body)) + body


def decode_write(raw: Buffer) -> WriteFrame:
    """The `WriteRequest` that `raw` spells. Raises InvalidArgumentError."""
    return _decode(raw, writes=True)


def decode_frame(raw: Buffer) -> WriteFrame:
    """The `Frame` that `raw` spells; `open` and `end` are None. Raises InvalidArgumentError."""
    return _decode(raw, writes=False)


def _decode(raw: Buffer, *, writes: bool) -> WriteFrame:
    view = memoryview(raw)
    size = len(view)
    at = offset = 0
    data = checksums = _EMPTY
    opened: bytes | None = None
    ended: bytes | None = None
    while at < size:
        tag, at = _read_varint(view, at, size)
        match tag & 7:
            case 2:
                length, at = _read_varint(view, at, size)
                if length > size - at:
                    raise _refused(f"a field of {length} bytes where {size - at} are left")
                field = view[at : at + length]
                at += length
                if tag == _DATA:
                    data = field
                elif tag == _BLOCK_CHECKSUMS:
                    checksums = field
                elif writes and tag == _OPEN:
                    # Protobuf merges a message that comes twice; merging is concatenation.
                    opened = (opened or b"") + bytes(field)
                elif writes and tag == _END:
                    ended = (ended or b"") + bytes(field)
            case 0:
                value, at = _read_varint(view, at, size)
                if tag == _OFFSET:
                    offset = value
            case 1:
                at += 8
            case 5:
                at += 4
            case other:
                raise _refused(f"wire type {other}")
        if tag >> 3 == 0 or tag > _TAG_MAX:
            raise _refused(f"field tag {tag}")
    if at != size:
        raise _refused(f"it ends {at - size} bytes too early")
    return WriteFrame(offset, data, checksums, _parse_open(opened), _parse_end(ended))


def _parse_open(body: bytes | None) -> chunks_pb2.WriteOpen | None:
    if body is None:
        return None
    try:
        return chunks_pb2.WriteOpen.FromString(body)
    except DecodeError as error:
        raise _refused(f"its `open`: {error}")


def _parse_end(body: bytes | None) -> chunks_pb2.WriteEnd | None:
    if body is None:
        return None
    try:
        return chunks_pb2.WriteEnd.FromString(body)
    except DecodeError as error:
        raise _refused(f"its `end`: {error}")


def _read_varint(view: memoryview, at: int, size: int) -> tuple[int, int]:
    """The varint at `at` and where the next byte stands; at most 10 bytes, cut to 64 bits like protobuf."""
    value = shift = 0
    for place in range(at, min(at + 10, size)):
        byte = view[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _UINT64_MAX, place + 1
        shift += 7
    raise _refused("a number that does not end")


def _refused(cause: str) -> InvalidArgumentError:
    return InvalidArgumentError("a chunk's frame cannot be read", cause=cause)
