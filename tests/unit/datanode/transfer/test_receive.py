"""A chunk comes in, message by message: what is kept, passed on, answered, and what is left of it."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from datanode.store import direct
from datanode.store.chunks import ChunkStore
from datanode.store.direct import Pieces
from datanode.transfer.admission import Gate
from datanode.transfer.forward import QUEUED_BYTES, Forward
from datanode.transfer.meter import Meter
from datanode.transfer.receive import MESSAGE_BYTES_MAX, SILENCE_SECONDS_MAX, Receiver
from datanode.transfer.watch import StreamWatch
from quorumfs import limits
from quorumfs.checksum import block_checksums
from quorumfs.errors import (
    BusyError,
    Code,
    IntegrityError,
    InvalidArgumentError,
    TooLargeError,
    UnavailableError,
)
from quorumfs.frames import decode_write, encode_frame, encode_open
from quorumfs.ids import ChunkId
from quorumfs.limits import BLOCK_BYTES, GIB, MIB
from quorumfs.v1.chunks_pb2 import WriteOpen, WriteResponse
from tests.unit.datanode.store.fakes import FlakyFiles, PickyFiles, content, opened, temporaries
from tests.unit.datanode.transfer.rows import (
    CHUNK,
    Row,
    RowChannels,
    address,
    ending,
    frames,
    opening,
    until,
)

DATA = random.Random(1).randbytes(3 * MIB + 77)
SMALL = DATA[: 3 * BLOCK_BYTES + 77]  # one frame


class Stream:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def time_remaining(self) -> float | None:
        return 30.0


class Node:
    """A receiver over a store, with a row behind it."""

    def __init__(self, store: ChunkStore, row: Row | None = None) -> None:
        self.store = store
        self.gate = Gate("writes", 2)
        self.watch = StreamWatch()
        self.meter = Meter()
        self.row = row or Row()
        self.receiver = Receiver(
            "d1", lambda: "", store, RowChannels(self.row), self.gate, self.watch, self.meter
        )

    def take(self, messages: Iterable[bytes]) -> WriteResponse:
        return self.receiver.receive(iter(messages), Stream())


def durable(answer: WriteResponse) -> list[tuple[str, bool]]:
    return [(ack.node_id, ack.durable) for ack in answer.replicas]


def test_every_message_goes_on_as_it_came_and_all_are_acknowledged(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        node = Node(store, Row("d2", "d3"))
        messages = [opening("d2", "d3", min_replicas=2), *frames(DATA), ending(DATA)]
        assert durable(node.take(messages)) == [("d1", True), ("d2", True), ("d3", True)]
        first, *rest = node.row.taken
        assert rest == messages[1:]
        passed = decode_write(first).open
        assert passed is not None
        assert [one.node_id for one in passed.pipeline] == ["d3"]
        assert content(store, ChunkId(CHUNK)) == DATA
        assert node.meter.counts().sealed == 1


def test_a_row_that_fails_in_the_middle_lets_enough_others_finish(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        node = Node(store, Row("d2", takes=2, fails=True))

        def messages() -> Iterator[bytes]:
            yield opening("d2", min_replicas=1)
            yield from frames(DATA)[:1]
            assert node.row.ended.wait(10)
            yield from frames(DATA)[1:]
            yield ending(DATA)

        answer = node.take(messages())
        assert durable(answer) == [("d1", True), ("d2", False)]
        assert answer.replicas[1].error.code == Code.UNAVAILABLE
        assert content(store, ChunkId(CHUNK)) == DATA
        assert node.meter.counts().rows_lost == 1


def test_a_row_that_fails_ends_a_write_that_needs_it_and_nothing_is_left(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        node = Node(store, Row("d2", takes=1, fails=True))

        def messages() -> Iterator[bytes]:
            yield opening("d2", min_replicas=2)
            assert node.row.ended.wait(10)
            yield from frames(DATA)
            raise AssertionError("the rest is not asked for")

        assert durable(node.take(messages())) == [("d1", False), ("d2", False)]
        assert (len(store), temporaries(tmp_path)) == (0, [])


def test_a_full_disk_makes_the_node_a_relay(tmp_path: Path) -> None:
    files = FlakyFiles()
    files.available = GIB
    with opened(tmp_path, files=files) as (store, _):
        node = Node(store, Row("d2", "d3"))

        def messages() -> Iterator[bytes]:
            yield opening("d2", "d3", min_replicas=2)
            yield frames(DATA)[0]
            files.fail["write"] = 28
            yield from frames(DATA)[1:]
            yield ending(DATA)

        answer = node.take(messages())
        assert durable(answer) == [("d1", False), ("d2", True), ("d3", True)]
        assert answer.replicas[0].error.code == Code.NO_SPACE
        assert temporaries(tmp_path) == []
        assert store.disks[0].space()[1] == GIB  # the promise was given back


@pytest.mark.parametrize("step", ["create", "write", "sync_data", "rename", "sync_directory"])
def test_no_room_at_any_step_is_said_in_the_answer_and_leaves_nothing(tmp_path: Path, step: str) -> None:
    files = FlakyFiles()
    with opened(tmp_path, files=files) as (store, _):
        node = Node(store)
        files.fail[step] = 28
        answer = node.take([opening(), *frames(DATA), ending(DATA)])
        assert durable(answer) == [("d1", False)]
        assert answer.replicas[0].error.code == Code.NO_SPACE
        files.fail.clear()
        assert (len(store), temporaries(tmp_path), node.gate.inside) == (0, [], 0)
        assert store.usage()[0].state == "ok"


def test_a_row_that_takes_nothing_is_dropped_after_a_while_and_what_waits_is_bounded() -> None:
    row = Row("d2", takes=1)
    forward = Forward(RowChannels(row), [address("d2")], opening(), 30.0, stall_seconds=0.1)
    message = frames(DATA)[0]
    pushed = 0
    while forward.alive:
        forward.push(message)
        pushed += 1
    assert pushed * len(message) <= QUEUED_BYTES + 2 * len(message)
    assert row.cancelled
    (ack,) = forward.acks(1.0)
    assert ack.error.code == Code.TIMED_OUT


def test_a_row_that_drips_just_below_its_patience_is_dropped_all_the_same() -> None:
    """A message each 0.05 s of 0.1 s: never silent for long, and never through with the chunk."""
    row = Row("d2", pause_seconds=0.05)
    message = frames(DATA)[0]
    forward = Forward(
        RowChannels(row),
        [address("d2")],
        opening(),
        30.0,
        stall_seconds=0.1,
        bytes_per_second=len(message) / 0.03,
    )
    pushed = 0
    while forward.alive and pushed < 100:
        forward.push(message)
        pushed += 1
    assert pushed < 20
    assert row.cancelled
    (ack,) = forward.acks(1.0)
    assert (ack.error.code, "in all" in ack.error.cause) == (Code.TIMED_OUT, True)


def test_a_row_waits_for_a_slow_sender_and_is_not_to_blame() -> None:
    row = Row("d2")
    pause = threading.Event()
    message = frames(DATA)[0]
    forward = Forward(
        RowChannels(row),
        [address("d2")],
        opening(),
        30.0,
        stall_seconds=0.05,
        bytes_per_second=len(message) / 0.001,
    )
    for _ in range(8):
        forward.push(message)
        pause.wait(0.03)
    assert forward.alive
    forward.cancel()


def test_a_row_that_never_answers_is_waited_for_only_so_long() -> None:
    row = Row("d2", "d3", answers=False)
    forward = Forward(RowChannels(row), [address("d2"), address("d3")], opening(), 30.0)
    first, second = forward.acks(0.05)
    assert first.error.code == Code.TIMED_OUT
    assert second.error.code == Code.UNAVAILABLE
    assert row.cancelled


def in_one(*behind: str, data: bytes = SMALL, min_replicas: int = 1) -> bytes:
    """A chunk of one frame with its opening and its end."""
    return b"".join((opening(*behind, min_replicas=min_replicas), *frames(data), ending(data)))


def test_a_chunk_in_one_message_goes_on_in_one_and_all_are_acknowledged(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        node = Node(store, Row("d2", "d3"))
        answer = node.take([in_one("d2", "d3", min_replicas=2)])
        assert durable(answer) == [("d1", True), ("d2", True), ("d3", True)]
        (passed,) = node.row.taken
        assert passed == in_one("d3", min_replicas=1)
        assert content(store, ChunkId(CHUNK)) == SMALL
        counts = node.meter.counts()
        assert (counts.sealed, counts.received_bytes) == (1, len(in_one("d2", "d3", min_replicas=2)))


def test_an_empty_chunk_in_one_message_is_a_chunk(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        assert durable(Node(store).take([in_one(data=b"")])) == [("d1", True)]
        assert content(store, ChunkId(CHUNK)) == b""


@pytest.mark.parametrize("takes", [0, 1])
def test_a_row_that_fails_a_chunk_in_one_message_leaves_this_nodes_replica(
    tmp_path: Path, takes: int
) -> None:
    with opened(tmp_path) as (store, _):
        node = Node(store, Row("d2", "d3", takes=takes, fails=True))
        answer = node.take([in_one("d2", "d3", min_replicas=1)])
        assert durable(answer) == [("d1", True), ("d2", False), ("d3", False)]
        assert content(store, ChunkId(CHUNK)) == SMALL
        assert node.meter.counts().rows_lost == 1


def test_a_chunk_in_one_message_that_needs_a_row_out_of_reach_is_given_up(tmp_path: Path) -> None:
    class Nobody(RowChannels):
        def get(self, address: str) -> Any:
            raise UnavailableError("closed")

    with opened(tmp_path) as (store, _):
        node = Node(store)
        node.receiver._channels = Nobody(node.row)
        assert durable(node.take([in_one("d2", min_replicas=2)])) == [("d1", False), ("d2", False)]
        assert (len(store), temporaries(tmp_path), node.gate.inside) == (0, [], 0)


@pytest.mark.parametrize("step", ["create", "write", "sync_data", "rename", "sync_directory"])
def test_a_node_without_room_passes_a_chunk_in_one_message_on(tmp_path: Path, step: str) -> None:
    files = FlakyFiles()
    with opened(tmp_path, files=files) as (store, _):
        node = Node(store, Row("d2", "d3"))
        files.fail[step] = 28
        answer = node.take([in_one("d2", "d3", min_replicas=2)])
        assert durable(answer) == [("d1", False), ("d2", True), ("d3", True)]
        assert answer.replicas[0].error.code == Code.NO_SPACE
        files.fail.clear()
        assert (len(store), temporaries(tmp_path), node.gate.inside) == (0, [], 0)
        passed = decode_write(node.row.taken[0]).open
        assert passed is not None
        assert passed.min_replicas == (2 if step in ("create", "write") else 1)


def damaged(data: bytes) -> bytes:
    return encode_frame(0, data, b"\0" * len(block_checksums(data)))


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (opening("d2") + damaged(SMALL) + ending(SMALL), IntegrityError),
        (opening("d2") + frames(SMALL)[0] + ending(SMALL + b"x"), IntegrityError),
        (opening("d2") + frames(SMALL)[0] + ending(SMALL[:-1] + b"x"), IntegrityError),
        (
            opening("d2") + encode_frame(BLOCK_BYTES, b"x", block_checksums(b"x")) + ending(b"x"),
            InvalidArgumentError,
        ),
        (opening("d2") + ending(SMALL), IntegrityError),
    ],
    ids=range(5),
)
def test_a_hostile_chunk_in_one_message_fails_the_call_and_leaves_nothing(
    tmp_path: Path, message: bytes, error: type[Exception]
) -> None:
    files = FlakyFiles()
    files.available = GIB
    with opened(tmp_path, files=files) as (store, _):
        node = Node(store, Row("d2", takes=1))
        with pytest.raises(error):
            node.take([message])
        assert (len(store), temporaries(tmp_path), node.gate.inside) == (0, [], 0)
        assert store.disks[0].space()[1] == GIB
        assert node.meter.counts().write_failures == 1


def test_blocks_that_do_not_match_are_not_passed_on_in_one_message(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        node = Node(store, Row("d2"))
        with pytest.raises(IntegrityError):
            node.take([opening("d2") + damaged(SMALL) + ending(SMALL)])
        assert node.row.taken == []


def test_a_sender_that_breaks_off_leaves_nothing_here_or_behind(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        node = Node(store, Row("d2"))
        with pytest.raises(InvalidArgumentError, match="not ended"):
            node.take([opening("d2"), *frames(DATA)])
        assert (len(store), temporaries(tmp_path), node.gate.inside) == (0, [], 0)
        assert node.row.cancelled
        assert node.meter.counts().write_failures == 1


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"\xff\xff\xff", InvalidArgumentError),
        (b"", InvalidArgumentError),
        (opening(), InvalidArgumentError),
        (encode_frame(BLOCK_BYTES, b"x", block_checksums(b"x")), InvalidArgumentError),
        (encode_frame(0, b"x", b"\0\0\0\0"), IntegrityError),
        (encode_frame(0, b"x", b""), IntegrityError),
        (encode_frame(0, b"x", b"\0" * 4000), IntegrityError),
        (encode_frame(1 << 63, b"x", block_checksums(b"x")), InvalidArgumentError),
        (b"x" * (MESSAGE_BYTES_MAX + 1), TooLargeError),
        (ending(DATA), IntegrityError),
    ],
    ids=range(10),
)
def test_a_hostile_message_fails_the_call_and_leaves_nothing(
    tmp_path: Path, message: bytes, error: type[Exception]
) -> None:
    files = FlakyFiles()
    files.available = GIB
    with opened(tmp_path, files=files) as (store, _):
        node = Node(store)
        with pytest.raises(error):
            node.take([opening(), message, message])
        assert (len(store), temporaries(tmp_path), node.gate.inside) == (0, [], 0)
        assert store.disks[0].space()[1] == GIB  # the promise was given back


def test_writes_beyond_the_limit_read_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        node = Node(store)
        with node.gate.enter(), node.gate.enter(), pytest.raises(BusyError):
            node.take(iter(lambda: pytest.fail("nothing may be read"), None))


def test_a_slow_sync_is_not_taken_for_a_silent_sender(tmp_path: Path) -> None:
    syncing, may_end = threading.Event(), threading.Event()

    class Slow(FlakyFiles):
        def sync_data(self, fd: int) -> None:
            syncing.set()
            may_end.wait(20)
            super().sync_data(fd)

    with opened(tmp_path, files=Slow()) as (store, _):
        node, stream, answers = Node(store), Stream(), []
        messages = iter([opening(), *frames(DATA), ending(DATA)])
        thread = threading.Thread(target=lambda: answers.append(node.receiver.receive(messages, stream)))
        thread.start()
        assert syncing.wait(10)
        for one in list(node.watch._streams):
            one.moved_at -= 60
        assert node.watch.scan() == 0
        may_end.set()
        thread.join(10)
        until(lambda: bool(answers))
        assert durable(answers[0]) == [("d1", True)]
        assert not stream.cancelled


def test_a_longer_row_is_waited_for_longer_as_its_nodes_wait_for_each_other() -> None:
    patience = []
    for names in (("d2",), ("d2", "d3"), ("d2", "d3", "d4")):
        forward = Forward(RowChannels(Row(*names)), [address(name) for name in names], opening(), 30.0)
        patience.append(forward._stall_seconds)
        forward.cancel()
    assert patience[0] + 1 <= patience[1]
    assert patience[1] + 1 <= patience[2]


def test_a_row_that_takes_nothing_is_not_the_senders_silence(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        names = [f"d{k}" for k in range(2, limits.REPLICATION_MAX + 1)]
        node, allowed = Node(store, Row(*names)), []

        def messages() -> Iterator[bytes]:
            yield opening(*names)
            (watched,) = node.watch._streams
            allowed.append(watched.allowed_seconds)
            yield from (*frames(DATA), ending(DATA))

        node.take(messages())
        assert allowed[0] >= SILENCE_SECONDS_MAX + limits.stall_seconds(len(names))


def test_a_row_that_cannot_even_be_begun_leaves_nothing(tmp_path: Path) -> None:
    files = FlakyFiles()
    files.available = GIB
    with opened(tmp_path, files=files) as (store, _):
        node = Node(store)

        def no_more_threads(*_: object, **__: object) -> Row:
            raise RuntimeError("can't start new thread")

        node.row.future = no_more_threads  # type: ignore[method-assign]
        with pytest.raises(RuntimeError):
            node.take([opening("d2"), *frames(DATA), ending(DATA)])
        assert (len(store), temporaries(tmp_path), node.gate.inside) == (0, [], 0)
        assert store.disks[0].space()[1] == GIB


@pytest.mark.parametrize(("read_first", "times"), [("d1", 0), ("d2", 1)])
def test_only_what_others_are_read_before_goes_past_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_first: str, times: int
) -> None:
    monkeypatch.setattr(direct, "CHUNK_BYTES_MIN", len(DATA))
    files = PickyFiles()
    with opened(tmp_path, files=files, pieces=Pieces()) as (store, _):
        message = encode_open(
            WriteOpen(chunk=CHUNK, upload=b"u" * 16, read_first=read_first, size_hint=len(DATA))
        )
        assert durable(Node(store).take([message, *frames(DATA), ending(DATA)])) == [("d1", True)]
        assert content(store, ChunkId(CHUNK)) == DATA
    assert files.asked == times
