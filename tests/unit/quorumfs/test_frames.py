"""Frames by hand against protobuf, both ways, and against hostile bytes."""

from __future__ import annotations

import contextlib

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from quorumfs.errors import InvalidArgumentError
from quorumfs.frames import WriteFrame, decode_frame, decode_write, encode_end, encode_frame, encode_open
from quorumfs.v1 import chunks_pb2

uint64 = st.integers(0, (1 << 64) - 1)
offsets = uint64 | st.integers(0, 1 << 30)
payloads = st.binary(max_size=400)
opens = st.builds(
    chunks_pb2.WriteOpen,
    chunk=st.binary(max_size=20),
    upload=st.binary(max_size=20),
    cluster_id=st.text(max_size=10),
    min_replicas=st.integers(0, 5),
    size_hint=uint64,
)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


fields = st.one_of(
    payloads.map(lambda body: b"\x0a" + varint(len(body)) + body),
    payloads.map(lambda body: b"\x22" + varint(len(body)) + body),
    uint64.map(lambda value: b"\x18" + varint(value)),
    opens.map(lambda m: b"\x42" + varint(m.ByteSize()) + m.SerializeToString()),
    st.builds(chunks_pb2.WriteEnd, length=uint64, checksum=st.integers(0, (1 << 32) - 1)).map(
        lambda m: b"\x4a" + varint(m.ByteSize()) + m.SerializeToString()
    ),
    # unknown fields of every wire type, and known numbers with a foreign wire type
    st.tuples(st.integers(10, 1 << 28), uint64).map(lambda p: varint(p[0] << 3) + varint(p[1])),
    st.tuples(st.integers(10, 1 << 28), payloads).map(
        lambda p: varint(p[0] << 3 | 2) + varint(len(p[1])) + p[1]
    ),
    st.binary(min_size=8, max_size=8).map(lambda body: varint(20 << 3 | 1) + body),
    st.binary(min_size=4, max_size=4).map(lambda body: varint(3 << 3 | 5) + body),
    uint64.map(lambda value: b"\x08" + varint(value)),
)


def agrees(mine: WriteFrame, theirs: chunks_pb2.WriteRequest) -> bool:
    return (
        mine.offset == theirs.offset
        and bytes(mine.data) == theirs.data
        and bytes(mine.block_checksums) == theirs.block_checksums
        and (mine.open is not None) == theirs.HasField("open")
        and (mine.end is not None) == theirs.HasField("end")
        and (mine.open is None or mine.open == theirs.open)
        and (mine.end is None or mine.end == theirs.end)
    )


@given(offsets, payloads, payloads)
def test_protobuf_reads_what_is_encoded_by_hand(offset: int, data: bytes, table: bytes) -> None:
    raw = encode_frame(offset, memoryview(data), memoryview(table))
    frame = chunks_pb2.Frame.FromString(raw)
    assert (frame.offset, frame.data, frame.block_checksums) == (offset, data, table)
    assert agrees(decode_write(raw), chunks_pb2.WriteRequest.FromString(raw))


@given(offsets, payloads, payloads, st.none() | opens)
def test_what_protobuf_encodes_is_read_by_hand(
    offset: int, data: bytes, table: bytes, opened: chunks_pb2.WriteOpen | None
) -> None:
    message = chunks_pb2.WriteRequest(offset=offset, data=data, block_checksums=table, open=opened)
    assert agrees(decode_write(message.SerializeToString()), message)


@given(opens)
def test_an_opening_survives_both_ways(opened: chunks_pb2.WriteOpen) -> None:
    raw = encode_open(opened)
    assert decode_write(raw).open == opened
    assert chunks_pb2.WriteRequest.FromString(raw).open == opened


@given(uint64, st.integers(0, (1 << 32) - 1))
def test_an_end_survives_both_ways(length: int, checksum: int) -> None:
    raw = encode_end(length, checksum)
    end = decode_write(raw).end
    assert end is not None
    assert (end.length, end.checksum) == (length, checksum)
    assert chunks_pb2.WriteRequest.FromString(raw).end == end


@given(st.lists(fields, max_size=8))
def test_fields_in_any_order_repeated_or_unknown_are_read_as_protobuf_reads_them(parts: list[bytes]) -> None:
    raw = b"".join(parts)
    assert agrees(decode_write(raw), chunks_pb2.WriteRequest.FromString(raw))


@given(
    st.binary(max_size=60)
    | st.lists(fields, max_size=3)
    .map(b"".join)
    .flatmap(lambda raw: st.integers(0, len(raw)).map(lambda cut: raw[:cut]))
)
@example(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(b"\x19")
@example(b"\x00\x00")
@example(b"\x42\x01\xff")
def test_hostile_bytes_are_refused_and_nothing_else_comes_out(raw: bytes) -> None:
    for decode in (decode_write, decode_frame):
        with contextlib.suppress(InvalidArgumentError):
            decode(raw)
    try:
        mine = decode_write(raw)
    except InvalidArgumentError:
        return
    assert agrees(mine, chunks_pb2.WriteRequest.FromString(raw)), "protobuf would read something else"


@given(st.binary(max_size=60))
def test_what_protobuf_refuses_is_refused(raw: bytes) -> None:
    try:
        chunks_pb2.WriteRequest.FromString(raw)
    except DecodeError:
        with pytest.raises(InvalidArgumentError):
            decode_write(raw)


def test_the_payload_is_a_view_and_not_a_copy() -> None:
    raw = bytearray(encode_frame(0, b"abc", b""))
    frame = decode_frame(raw)
    raw[-1:] = b"X"
    assert bytes(frame.data) == b"abX"


def test_a_read_has_no_opening() -> None:
    raw = encode_open(chunks_pb2.WriteOpen(chunk=b"x"))
    assert decode_frame(raw).open is None
