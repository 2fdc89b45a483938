"""Who is to blame when a row of datanodes breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from quorumfs import store_chunk
from quorumfs.checksum import block_checksums, crc32c
from quorumfs.clock import ManualClock
from quorumfs.errors import Code
from quorumfs.frames import decode_write, encode_frame, encode_open
from quorumfs.limits import SEAL_SECONDS, SLOWEST_BYTES_PER_SECOND, WRITE_STALL_SECONDS
from quorumfs.sources import Frame
from quorumfs.store_chunk import Tally, _Sending, blamed
from quorumfs.v1 import chunks_pb2, types_pb2

ROW = ("d1", "d2", "d3")
GOOD = None
CUT = Code.UNAVAILABLE  # cut off, given up, or not reached: the code is the same


def acks(*codes: Code | None) -> list[types_pb2.ReplicaAck]:
    return [
        types_pb2.ReplicaAck(node_id=node, durable=True)
        if code is None
        else types_pb2.ReplicaAck(
            node_id=node, error=types_pb2.ErrorDetail(code=types_pb2.ErrorCode.ValueType(code))
        )
        for node, code in zip(ROW, codes, strict=False)
    ]


@pytest.mark.parametrize(
    ("codes", "guilty"),
    [
        ((GOOD, GOOD, GOOD), set()),
        ((GOOD, CUT, CUT), {"d2"}),  # not reached; d3 stood behind it
        ((GOOD, GOOD, CUT), {"d3"}),
        ((CUT, Code.TIMED_OUT, CUT), {"d2"}),  # d1 gave up, d3 was cut off
        ((GOOD, Code.TIMED_OUT, CUT), {"d2"}),
        ((Code.NO_SPACE, GOOD, GOOD), {"d1"}),  # it relays for the others
        ((Code.NO_SPACE, CUT, CUT), {"d1", "d2"}),
        ((GOOD, Code.NO_SPACE, GOOD), {"d2"}),
        ((GOOD, Code.NO_SPACE, Code.NO_SPACE), {"d2", "d3"}),
        ((CUT, CUT, CUT), {"d2"}),
        ((GOOD, GOOD), {"d3"}),  # the row did not say what became of it
        ((), {"d1"}),
    ],
)
def test_only_who_broke_the_row_is_to_blame(codes: tuple[Code | None, ...], guilty: set[str]) -> None:
    assert blamed(ROW, acks(*codes)) == guilty


class Frames:
    """A body of frames of 64 KiB. `between` is called before each, as a source that has to be waited for."""

    length = 64 * 65536

    def __init__(self, between: Callable[[], object] = lambda: None) -> None:
        self._between = between

    def frames(self) -> Iterator[Frame]:
        for _ in range(64):
            self._between()
            yield Frame(b"x", b"\0\0\0\0", 65536)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    made = ManualClock()
    monkeypatch.setattr(store_chunk.time, "monotonic", made.monotonic)
    return made


def test_a_head_that_drips_just_below_its_patience_is_given_up_all_the_same(clock: ManualClock) -> None:
    sending = _Sending(b"open", Frames(), Tally(None), 3)
    taken = 0
    for _ in sending:
        clock.advance(WRITE_STALL_SECONDS * 0.9)  # until the next is taken
        taken += 1
        if sending.drips:
            break
    assert taken <= 4
    assert not sending.ended


class OneFrame:
    """A body of one frame, or one that cannot be read."""

    length = 65536

    def __init__(self, error: OSError | None = None) -> None:
        self._error = error

    def frames(self) -> Iterator[Frame]:
        if self._error is not None:
            raise self._error
        data = b"x" * self.length
        table = block_checksums(data)
        yield Frame(encode_frame(0, data, table), table, self.length)


def test_a_chunk_of_one_frame_is_one_message_with_its_opening_and_its_end(clock: ManualClock) -> None:
    told: list[int] = []
    opened = chunks_pb2.WriteOpen(chunk=b"c" * 16, min_replicas=2)
    sending = _Sending(encode_open(opened), OneFrame(), Tally(told.append), 3)
    (message,) = sending
    whole = decode_write(message)
    assert (whole.open, whole.offset, bytes(whole.data)) == (opened, 0, b"x" * 65536)
    assert whole.end == chunks_pb2.WriteEnd(length=65536, checksum=crc32c(b"x" * 65536))
    assert (sending.taken, sending.ended, sending.length, told) == (1, True, 65536, [65536])
    assert chunks_pb2.WriteRequest.FromString(message).end == whole.end


def test_one_message_that_nobody_takes_is_waited_for_no_longer_than_a_frame(clock: ManualClock) -> None:
    sending = _Sending(b"", OneFrame(), Tally(None), 3)
    messages = iter(sending)
    next(messages)
    assert sending.ended  # the answer may come before gRPC asks for more
    assert sending.patience_seconds == WRITE_STALL_SECONDS
    assert next(messages, None) is None
    assert sending.patience_seconds == SEAL_SECONDS


def test_a_source_that_fails_its_only_frame_sends_nothing(clock: ManualClock) -> None:
    error = OSError(5, "Input/output error")
    sending = _Sending(b"", OneFrame(error), Tally(None), 3)
    assert list(sending) == []
    assert not sending.ended
    with pytest.raises(OSError, match="Input/output"):
        sending.check()


def test_a_head_that_takes_enough_and_a_slow_source_are_not_given_up(clock: ManualClock) -> None:
    slow_source = Frames(lambda: clock.advance(WRITE_STALL_SECONDS))
    sending = _Sending(b"open", slow_source, Tally(None), 3)
    for _ in sending:
        clock.advance(65536 / SLOWEST_BYTES_PER_SECOND)
        assert not sending.drips
    assert sending.ended
