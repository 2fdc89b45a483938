"""What may be proposed: limits, and nothing that an older member does not know."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.services.intake import (
    ALLOCATED_CHUNKS_MAX,
    admit,
    admit_read,
    parse_batch,
    parse_read,
    refuse_unknown,
    ttl_seconds,
)
from quorumfs.errors import FormatTooNewError, InvalidArgumentError, TooLargeError
from quorumfs.limits import ALLOCATE_CHUNKS_MAX, BATCH_BYTES_MAX, BATCH_OPS_MAX, EXTENTS_BYTES_MAX
from quorumfs.v1 import namespace_pb2 as n


def mkdir(path: bytes = b"/x") -> n.Op:
    return n.Op(mkdir=n.MkdirRequest(ref=n.Ref(path=path)))


def check(batch: n.Batch) -> None:
    raw = batch.SerializeToString()
    admit(raw, parse_batch(raw))


@given(st.binary(max_size=200))
def test_hostile_bytes_are_refused_or_admitted_but_never_crash(raw: bytes) -> None:
    try:
        admit(raw, parse_batch(raw))
    except (InvalidArgumentError, TooLargeError, FormatTooNewError):
        pass
    try:
        admit_read(raw, parse_read(raw))
    except (InvalidArgumentError, TooLargeError, FormatTooNewError):
        pass


def test_an_ordinary_batch_is_admitted_and_its_allocations_are_found() -> None:
    allocate = n.Op(allocate=n.AllocateRequest(upload=b"u" * 16, count=2))
    batch = n.Batch(ops=[mkdir(), allocate, mkdir(), allocate])
    raw = batch.SerializeToString()
    admitted = admit(raw, parse_batch(raw))
    assert admitted.raw == raw
    assert [number for number, _ in admitted.allocations] == [1, 3]


def test_a_batch_without_operations_is_refused() -> None:
    with pytest.raises(InvalidArgumentError):
        check(n.Batch(session=3))


def test_a_batch_of_too_many_operations_is_refused() -> None:
    check(n.Batch(ops=[mkdir()] * BATCH_OPS_MAX))
    with pytest.raises(TooLargeError):
        check(n.Batch(ops=[mkdir()] * (BATCH_OPS_MAX + 1)))


def test_a_batch_of_too_many_bytes_is_refused() -> None:
    with pytest.raises(TooLargeError):
        check(n.Batch(ops=[n.Op(put_file=n.PutFileRequest(body=b"x" * BATCH_BYTES_MAX))]))


def test_extents_beyond_their_limit_are_refused() -> None:
    extents = n.Op(add_extents=n.AddExtentsRequest(upload=b"u" * (EXTENTS_BYTES_MAX + 1)))
    with pytest.raises(TooLargeError):
        check(n.Batch(ops=[extents]))


def test_an_operation_of_a_newer_version_is_refused() -> None:
    newer_op = bytes([(99 << 3 | 2) & 0x7F | 0x80, 99 << 3 >> 7, 0])  # field 99, empty
    raw = n.Batch(ops=[mkdir()]).SerializeToString() + bytes([5 << 3 | 2, len(newer_op)]) + newer_op
    with pytest.raises(FormatTooNewError):
        admit(raw, parse_batch(raw))


def test_a_field_of_a_newer_version_is_refused_at_any_depth() -> None:
    ref = n.Ref(path=b"/x").SerializeToString() + bytes([15 << 3 | 2, 1, 0])
    raw_mkdir = bytes([1 << 3 | 2, len(ref)]) + ref
    batch = n.Batch(ops=[n.Op(mkdir=n.MkdirRequest.FromString(raw_mkdir))])
    with pytest.raises(FormatTooNewError):
        refuse_unknown(batch)


def test_a_batch_waits_no_longer_than_it_allows() -> None:
    raw = n.Batch(ops=[mkdir()], ttl_ms=700).SerializeToString()
    assert ttl_seconds(parse_batch(raw), None) == 0.7
    assert ttl_seconds(parse_batch(raw), 0.2) == 0.2
    raw = n.Batch(ops=[mkdir()]).SerializeToString()
    assert ttl_seconds(parse_batch(raw), None) == 5.0
    assert ttl_seconds(parse_batch(raw), 60.0) == 5.0


def test_a_batch_allocates_a_bounded_number_of_chunks() -> None:
    most = ALLOCATED_CHUNKS_MAX // ALLOCATE_CHUNKS_MAX
    full = n.Op(allocate=n.AllocateRequest(upload=b"u" * 16, count=ALLOCATE_CHUNKS_MAX))
    beyond = n.Op(allocate=n.AllocateRequest(upload=b"u" * 16, count=2**32 - 1))  # refused by itself
    check(n.Batch(ops=[full] * most))
    check(n.Batch(ops=[full] * (most - 1) + [beyond]))
    with pytest.raises(TooLargeError, match="too many chunks"):
        check(n.Batch(ops=[full] * (most + 1)))
