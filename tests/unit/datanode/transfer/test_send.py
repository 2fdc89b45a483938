"""Ranges of a chunk go out: whole blocks, bounded frames, and a place that is given back."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datanode.store.chunks import ChunkStore
from datanode.transfer.admission import Gate
from datanode.transfer.meter import Meter
from datanode.transfer.send import Sender, aligned_range
from datanode.transfer.watch import StreamWatch
from quorumfs.checksum import verify_blocks
from quorumfs.errors import BusyError, ChunkNotFoundError, IntegrityError, InvalidArgumentError
from quorumfs.frames import decode_frame
from quorumfs.ids import ChunkId
from quorumfs.limits import BLOCK_BYTES, FRAME_BYTES_MAX, MIB
from quorumfs.v1.chunks_pb2 import ReadChunkRequest
from tests.unit.datanode.store.fakes import opened, put

CHUNK = ChunkId(b"c" * 16)
DATA = random.Random(1).randbytes(2 * MIB + 5)


def sender(store: ChunkStore, most: int = 4) -> tuple[Sender, Gate]:
    gate = Gate("reads", most)
    return Sender(store, gate, StreamWatch(), Meter()), gate


def ask(**fields: int) -> ReadChunkRequest:
    return ReadChunkRequest(chunk=CHUNK, **fields)


@given(
    offset=st.integers(0, 2**64 - 1),
    length=st.integers(0, 2**64 - 1),
    frame_bytes=st.integers(0, 2**32 - 1),
    size=st.integers(0, 2**30),
)
def test_a_range_covers_what_is_asked_for_in_whole_blocks_or_is_refused(
    offset: int, length: int, frame_bytes: int, size: int
) -> None:
    try:
        found = aligned_range(ask(offset=offset, length=length, frame_bytes=frame_bytes), size)
    except InvalidArgumentError:
        assert offset > size or frame_bytes % BLOCK_BYTES or frame_bytes > FRAME_BYTES_MAX
        return
    assert found.start <= offset
    assert min(size, offset + (length or size)) <= found.end <= size
    assert found.start % BLOCK_BYTES == 0
    assert found.end % BLOCK_BYTES == 0 or found.end == size
    assert 0 < found.step <= FRAME_BYTES_MAX


def test_the_bytes_and_their_stored_checksums_come_out_as_they_went_in(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        put(store, CHUNK, DATA)
        out, gate = sender(store)
        frames = [decode_frame(raw) for raw in out.send(ask(offset=MIB + 5), lambda: None)]
        assert frames[0].offset == MIB
        assert all(verify_blocks(frame.data, frame.block_checksums) is None for frame in frames)
        assert b"".join(bytes(frame.data) for frame in frames) == DATA[MIB:]
        assert gate.inside == 0


def test_a_reader_that_goes_away_gives_its_place_back(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        put(store, CHUNK, DATA)
        out, gate = sender(store, 1)
        stream = out.send(ask(), lambda: None)
        next(stream)
        with pytest.raises(BusyError):
            next(out.send(ask(), lambda: None))
        stream.close()  # type: ignore[attr-defined]  # as gRPC does by letting go of it
        assert gate.inside == 0
        next(out.send(ask(), lambda: None))


def test_a_replica_that_cannot_be_believed_becomes_a_suspect(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        path = Path(put(store, CHUNK, DATA).file)
        out, gate = sender(store)
        stream = out.send(ask(), lambda: None)
        next(stream)
        os.truncate(path, 4096 + MIB)
        with pytest.raises(IntegrityError):
            list(stream)
        assert store.take_suspect() == CHUNK
        with pytest.raises(ChunkNotFoundError):
            next(out.send(ReadChunkRequest(chunk=b"x" * 16), lambda: None))
        with pytest.raises(InvalidArgumentError):
            next(out.send(ReadChunkRequest(chunk=b"short"), lambda: None))
        assert gate.inside == 0


def test_a_frame_is_counted_though_its_reader_ends_the_call_with_it(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        put(store, CHUNK, DATA)
        meter = Meter()
        frames = Sender(store, Gate("reads", 1), StreamWatch(), meter).send(
            ask(length=BLOCK_BYTES), lambda: None
        )
        frame = next(frames)
        frames.close()
        assert meter.counts().sent_bytes == len(frame)
