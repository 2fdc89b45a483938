"""The bytes of the log: what is written can be read, and what was changed cannot."""

from __future__ import annotations

from random import Random

import pytest

from coordinator.consensus.records import (
    FRAME_HEAD_BYTES,
    SECTOR_BYTES,
    DamagedError,
    FrameBuilder,
    Header,
    Kind,
    decode_header,
    decode_last,
    decode_vote,
    encode_header,
    encode_last,
    encode_vote,
    find_frame,
    padded,
    read_frame,
    read_record,
    read_records,
    record_size,
)

SEED = 12345
HEADER = Header(b"j" * 16, 3, 65536, 77, 0xDEADBEEF)


def frame(sequence: int, *commands: bytes, seed: int = SEED, previous: int = 5) -> bytes:
    builder = FrameBuilder(seed)
    for index, command in enumerate(commands, start=10):
        builder.add(Kind.ENTRY, index, 2, command)
    return builder.finish(sequence, previous)[0]


def test_a_header_comes_back_and_names_its_chain() -> None:
    raw, crc = encode_header(HEADER)
    assert len(raw) == SECTOR_BYTES
    assert decode_header(raw + b"more") == (HEADER, crc)


def test_a_header_with_any_bit_flipped_is_refused() -> None:
    raw = encode_header(HEADER)[0]
    for at in range(SECTOR_BYTES):
        with pytest.raises(DamagedError):
            decode_header(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])
    with pytest.raises(DamagedError, match="no room"):
        decode_header(raw[:100])


def test_a_frame_comes_back_with_its_records_and_fills_whole_sectors() -> None:
    commands = (b"", b"x", b"y" * 700)
    raw = memoryview(frame(9, *commands))
    found = read_frame(raw, 0, SEED)
    assert found is not None
    assert (found.offset, found.end, found.sequence, found.previous) == (0, len(raw), 9, 5)
    assert len(raw) == padded(FRAME_HEAD_BYTES + sum(record_size(len(one)) for one in commands)) == 1024
    records = list(read_records(raw, found))
    assert [(one.kind, one.index, one.term, bytes(one.payload)) for one in records] == [
        (Kind.ENTRY, 10 + k, 2, command) for k, command in enumerate(commands)
    ]
    assert bytes(read_record(raw, records[2].offset).payload) == commands[2]


def test_a_builder_tells_where_each_record_will_be() -> None:
    builder = FrameBuilder(SEED)
    offsets = [builder.add(Kind.ENTRY, index, 1, b"c" * index) for index in (1, 2, 3)]
    raw = memoryview(builder.finish(1, 0)[0])
    assert [read_record(raw, offset).index for offset in offsets] == [1, 2, 3]
    assert not builder
    assert builder.bytes == FRAME_HEAD_BYTES


def test_a_frame_that_exactly_fills_its_sector_has_all_its_records() -> None:
    room = SECTOR_BYTES - FRAME_HEAD_BYTES - record_size(0)
    for size in (room, room - 1, room - record_size(0), room - record_size(0) + 1):
        raw = memoryview(frame(1, b"z" * size))
        found = read_frame(raw, 0, SEED)
        assert found is not None
        assert [len(one.payload) for one in read_records(raw, found)] == [size]


def test_a_frame_with_any_bit_flipped_is_no_frame() -> None:
    raw = frame(1, b"hello", b"world")
    random = Random(1)
    for at in range(len(raw)):
        damaged = bytearray(raw)
        damaged[at] ^= 1 << random.randrange(8)
        assert read_frame(memoryview(damaged), 0, SEED) is None
    assert read_frame(memoryview(raw)[:-1], 0, SEED) is None
    assert read_frame(memoryview(raw), 0, SEED + 1) is None


def test_a_later_frame_is_found_behind_damage_but_not_an_earlier_or_a_foreign_one() -> None:
    torn = bytearray(frame(4, b"x" * 1500))
    torn[600] ^= 1
    data = memoryview(bytes(torn) + frame(2, b"old") + frame(9, b"foreign", seed=6) + frame(6, b"new"))
    found = find_frame(data, 0, 4, SEED)
    assert found is not None
    assert found.sequence == 6
    assert find_frame(data, 0, 7, SEED) is None
    assert find_frame(data[:-1], 0, 4, SEED) is None


def test_a_record_that_was_changed_or_is_of_the_future_is_refused() -> None:
    raw = bytearray(frame(1, b"hello"))
    raw[FRAME_HEAD_BYTES + record_size(0)] ^= 1
    with pytest.raises(DamagedError, match="checksum"):
        read_record(memoryview(raw), FRAME_HEAD_BYTES)
    with pytest.raises(DamagedError, match="ends inside"):
        read_record(memoryview(raw), len(raw) - 3)
    builder = FrameBuilder(SEED)
    at = builder.add(99, 1, 1)  # type: ignore[arg-type]
    with pytest.raises(DamagedError, match="kind 99"):
        read_record(memoryview(builder.finish(1, 0)[0]), at)


def test_votes_and_last_indexes_come_back() -> None:
    assert [decode_vote(memoryview(encode_vote(one))) for one in (None, "c1", "ü")] == [None, "c1", "ü"]
    assert decode_last(memoryview(encode_last(2**40))) == 2**40
    with pytest.raises(ValueError, match="256 bytes"):
        encode_vote("c" * 256)
    with pytest.raises(ValueError, match="3 bytes"):
        decode_last(memoryview(b"abc"))
