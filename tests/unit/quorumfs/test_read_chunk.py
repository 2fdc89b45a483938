"""Reading one chunk: late replicas are asked for twice, files of this machine are read where they lie."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grpc
import pytest

from quorumfs import limits
from quorumfs.checksum import block_checksums, crc32c
from quorumfs.clock import ManualClock
from quorumfs.descriptors import Opened
from quorumfs.errors import IntegrityError, PreconditionFailedError
from quorumfs.hedging import Hedging
from quorumfs.limits import KIB, MIB
from quorumfs.nearness import Nearness
from quorumfs.open_chunks import OpenChunk
from quorumfs.read_chunk import ChunkReader
from quorumfs.suspects import Suspects
from quorumfs.v1 import namespace_pb2, types_pb2
from quorumfs.watchdog import Watchdog
from tests.support.shortage import no_more_threads
from tests.unit.quorumfs.fakes import Cluster, FakeRpcError, Node, StreamCall

DATA = random.Random(8).randbytes(3 * MIB + 4321)
CHUNK = bytes(16)  # ties: d1, d2, d3
READ = "/quorumfs.v1.Chunks/Read"
PATIENCE_SECONDS = 20.0


class LateAt(Hedging):
    """Calls late only the answer after so many: a busy machine is late as well."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: int | None = None
        self._answers = 0

    def answered(self, seconds: float) -> None:
        self._answers += 1
        super().answered(seconds)

    def delay_seconds(self) -> float:
        if self.answers is None:
            return super().delay_seconds()
        return 0.01 if self._answers == self.answers else PATIENCE_SECONDS


class Chunk:
    """One chunk on three datanodes, and a reader of it."""

    def __init__(self, local_files: Any = None) -> None:
        self.cluster = Cluster(3)
        self.location = namespace_pb2.ChunkLocation(chunk=CHUNK, length=len(DATA), checksum=crc32c(DATA))
        self.cluster.original[CHUNK] = DATA
        for node in self.cluster.nodes.values():
            node.chunks[CHUNK] = DATA
            self.location.replicas.add(
                node_id=node.node_id, grpc=node.address, state=types_pb2.REPLICA_STATE_LIVE
            )
        self.suspects, self.watchdog, self.hedging = Suspects(), Watchdog(), LateAt()
        self.nearness = Nearness("here")
        self.reports: list[tuple[str, int]] = []
        self.calls: dict[str, list[StreamCall]] = {node_id: [] for node_id in self.cluster.nodes}
        self.reader = ChunkReader(
            self.cluster.net,
            self.suspects,
            self.watchdog,
            lambda chunk, node_id, state, detail: self.reports.append((node_id, state)),
            nearness=self.nearness,
            local_files=local_files,
            hedging=self.hedging,
            clock=ManualClock(),
        )

    def node(self, k: int) -> Node:
        return self.cluster.nodes[f"d{k}"]

    def asked(self, k: int) -> list[tuple[int, int]]:
        return self.node(k).reads

    def read(self, offset: int = 0, length: int = len(DATA)) -> bytes:
        return b"".join(self.reader.read(self.location, offset, length, lambda: self.location))

    def behind(self, k: int, gate: Callable[[int, StreamCall], None]) -> None:
        """Before node k gives its frame number n, gate(n, call) is called."""
        node = self.node(k)

        def read(raw: bytes, call: StreamCall) -> Iterator[bytes]:
            self.calls[node.node_id].append(call)
            for number, frame in enumerate(node.read(raw, call)):
                gate(number, call)
                yield frame

        self.cluster.net.servers[node.address][READ] = read


def silent_from(number: int) -> Callable[[int, StreamCall], None]:
    """A node that falls silent before its frame of this number, until its call is cancelled."""

    def gate(n: int, call: StreamCall) -> None:
        if n >= number:
            assert call.cancelled.wait(PATIENCE_SECONDS), "nobody ended the silent call"
            raise FakeRpcError(grpc.StatusCode.CANCELLED, "Locally cancelled")

    return gate


@pytest.fixture
def chunk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Chunk]:
    monkeypatch.setattr("quorumfs.hedging._FIRST_SECONDS", 0.01)
    made = Chunk()
    yield made
    made.watchdog.close()


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_late_frame_is_asked_of_another_replica_from_the_same_offset(chunk: Chunk, number: int) -> None:
    chunk.behind(1, silent_from(number))
    chunk.hedging.answers = number
    assert chunk.read() == DATA
    assert chunk.asked(1) == [(0, len(DATA))]
    assert chunk.asked(2) == [(number * MIB, len(DATA) - number * MIB)]
    assert chunk.asked(3) == []


def test_the_loser_of_a_race_is_cancelled_and_avoided_by_reads_alone(chunk: Chunk) -> None:
    chunk.behind(1, silent_from(1))
    assert chunk.read() == DATA
    assert [call.cancelled.is_set() for call in chunk.calls["d1"]] == [True]
    assert chunk.read() == DATA
    assert len(chunk.asked(1)) == 1, "the next read asks another node first"
    assert chunk.suspects.current() == frozenset(), "writes are not to avoid it"
    assert chunk.reports == []


def test_who_answers_after_all_goes_on_and_the_hedge_is_cancelled(chunk: Chunk) -> None:
    asked, answered = threading.Event(), threading.Event()

    def late_once(n: int, call: StreamCall) -> None:
        if n == 1:
            assert asked.wait(PATIENCE_SECONDS)
        if n == 2:
            answered.set()

    def slower(n: int, call: StreamCall) -> None:
        asked.set()
        assert answered.wait(PATIENCE_SECONDS)

    chunk.behind(1, late_once)
    chunk.behind(2, slower)
    assert chunk.read() == DATA
    assert chunk.asked(1) == [(0, len(DATA))]
    assert [call.cancelled.is_set() for call in chunk.calls["d2"]] == [True]
    assert chunk.asked(3) == []


def test_without_a_budget_a_silent_replica_is_left_after_the_stall(
    chunk: Chunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "READ_STALL_SECONDS", 0.1)
    while chunk.hedging.spend():
        pass
    chunk.behind(1, silent_from(1))
    assert chunk.read() == DATA
    assert "d1" in chunk.suspects.current()
    assert chunk.asked(2) == [(MIB, len(DATA) - MIB)]


def test_a_hedge_that_fails_changes_nothing(chunk: Chunk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "READ_STALL_SECONDS", 0.2)
    chunk.behind(1, silent_from(0))
    del chunk.node(2).chunks[CHUNK]
    assert chunk.read() == DATA
    assert chunk.asked(3) == [(0, len(DATA))]
    assert chunk.reports == [("d2", types_pb2.REPLICA_STATE_MISSING)], "it was asked in its turn"


def test_without_a_thread_for_a_hedge_stalls_are_noticed_all_the_same(
    chunk: Chunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "READ_STALL_SECONDS", 0.2)
    chunk.behind(1, silent_from(0))
    with no_more_threads("quorumfs-hedge"):
        assert chunk.read() == DATA
    assert chunk.asked(2) == [(0, len(DATA))]
    assert "d1" in chunk.suspects.current()


def test_only_live_replicas_on_well_nodes_are_asked_a_second_time(
    chunk: Chunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "READ_STALL_SECONDS", 0.1)
    chunk.location.replicas[1].state = types_pb2.REPLICA_STATE_PENDING
    chunk.suspects.add(["d3"])
    chunk.behind(1, silent_from(0))
    assert chunk.read() == DATA
    assert chunk.hedging.spend(), "no hedge was sent"
    assert chunk.hedging.spend(), "no hedge was sent"


def test_corrupt_bytes_of_a_hedge_are_reported_as_its_own(chunk: Chunk) -> None:
    chunk.behind(1, silent_from(1))
    damaged = bytearray(DATA)
    damaged[2 * MIB] ^= 1
    chunk.node(2).chunks[CHUNK] = bytes(damaged)
    assert chunk.read() == DATA
    assert chunk.reports == [("d2", types_pb2.REPLICA_STATE_CORRUPT)]


def test_another_chunk_from_two_nodes_is_not_believed_and_nobody_is_accused(chunk: Chunk) -> None:
    chunk.behind(1, silent_from(1))
    chunk.node(2).lies[CHUNK] = bytes(len(DATA))
    with pytest.raises(IntegrityError, match="whole"):
        chunk.read()
    assert chunk.reports == []
    assert "d2" in chunk.suspects.current()


def test_in_a_fork_a_read_is_refused_at_once(chunk: Chunk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: str) -> None:
        raise PreconditionFailedError("no call in a fork")

    monkeypatch.setattr(chunk.cluster.net, "get", refuse)
    with pytest.raises(PreconditionFailedError, match="fork"):
        chunk.read()


# ---- files of this machine -------------------------------------------------------------------------------


class Files:
    """LocalFiles over plain files; `fail`: node id -> errno of reading."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.open_of: dict[str, int] = {}
        self.dropped: list[str] = []
        self.fail: dict[str, int] = {}

    def path(self, node_id: str) -> Path:
        return self.directory / node_id

    def store(self, node_id: str, data: bytes = DATA) -> None:
        self.path(node_id).write_bytes(data)

    def may_have(self, replica: namespace_pb2.ReplicaLocation) -> bool:
        return self.path(replica.node_id).exists()

    @contextmanager
    def open(
        self, replica: namespace_pb2.ReplicaLocation, chunk: namespace_pb2.ChunkLocation
    ) -> Iterator[OpenChunk | None]:
        if not self.path(replica.node_id).exists():
            yield None
            return
        fd = os.open(self.path(replica.node_id), os.O_RDONLY)
        opened = OpenChunk(fd, Opened(0, len(DATA), block_checksums(DATA)))
        if replica.node_id in self.fail:
            os.close(fd)
            opened = _Failing(-1, self.fail[replica.node_id])
        self.open_of[replica.node_id] = self.open_of.get(replica.node_id, 0) + 1
        try:
            yield opened
        finally:
            opened.close()

    def drop(self, replica: namespace_pb2.ReplicaLocation, chunk: namespace_pb2.ChunkLocation) -> None:
        self.dropped.append(replica.node_id)


class _Failing(OpenChunk):
    def __init__(self, fd: int, number: int) -> None:
        super().__init__(fd, Opened(0, len(DATA), block_checksums(DATA)))
        self._number = number

    def read(self, offset: int, length: int) -> bytes:
        raise OSError(self._number, os.strerror(self._number))

    def read_into(self, view: memoryview, offset: int) -> None:
        self.read(offset, len(view))

    def close(self) -> None:
        pass


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def local(files: Files) -> Iterator[Chunk]:
    made = Chunk(files)
    yield made
    made.watchdog.close()


RANGES = [(0, len(DATA)), (5, 10), (64 * KIB, 64 * KIB), (MIB - 1, 2), (3 * MIB, 4321), (70_000, 2 * MIB)]


@pytest.mark.parametrize(("offset", "length"), RANGES)
def test_a_file_on_this_machine_is_read_and_no_node_is_asked(
    local: Chunk, files: Files, offset: int, length: int
) -> None:
    files.store("d1")
    assert local.read(offset, length) == DATA[offset : offset + length]
    assert [local.asked(k) for k in (1, 2, 3)] == [[], [], []]


@pytest.mark.parametrize("place", [3, MIB + 70_000, len(DATA) - 1])
def test_a_flipped_byte_in_the_file_is_reported_and_read_from_another_replica(
    local: Chunk, files: Files, place: int
) -> None:
    damaged = bytearray(DATA)
    damaged[place] ^= 4
    files.store("d1", bytes(damaged))
    assert local.read() == DATA
    assert local.reports == [("d1", types_pb2.REPLICA_STATE_CORRUPT)]
    assert files.dropped == ["d1"]
    assert [start for start, _ in local.asked(2)] == [place - place % MIB]
    assert local.asked(1) == []


def test_a_file_that_cannot_be_read_is_read_over_grpc_from_the_same_node(local: Chunk, files: Files) -> None:
    files.store("d1")
    files.fail["d1"] = errno.EIO
    assert local.read() == DATA
    assert local.asked(1) == [(0, len(DATA))]
    assert local.reports == []


def test_what_lies_on_this_machine_is_not_asked_for_before_it_is_read(local: Chunk, files: Files) -> None:
    files.store("d1")
    assert local.reader.ask(local.location, 0, len(DATA)) is None
    assert local.cluster.net.streamed == []


@pytest.mark.parametrize("block", [0, 1, 15, 16, 47, 48])
def test_the_bad_block_of_a_frame_is_named(chunk: Chunk, block: int) -> None:
    damaged = bytearray(DATA)
    damaged[block * 64 * KIB + 3] ^= 1
    chunk.node(1).chunks[CHUNK] = bytes(damaged)
    told: list[str] = []
    chunk.reader._report = lambda chunk, node_id, state, detail: told.append(detail)
    assert chunk.read() == DATA
    assert f"block {block} of 49 " in told[0]


def test_whole_blocks_go_straight_into_the_readers_buffer(local: Chunk, files: Files) -> None:
    files.store("d1")
    buffer = bytearray(MIB + 100)
    assert local.reader.read_into(local.location, MIB, memoryview(buffer)) == MIB
    assert buffer[:MIB] == DATA[MIB : 2 * MIB]
    assert local.reader.read_into(local.location, 3 * MIB, memoryview(buffer)) == 4321
    assert buffer[:4321] == DATA[3 * MIB :]


@pytest.mark.parametrize(("offset", "size"), [(1, MIB), (0, 100), (len(DATA), MIB)])
def test_what_is_no_whole_block_is_left_to_read(local: Chunk, files: Files, offset: int, size: int) -> None:
    files.store("d1")
    assert local.reader.read_into(local.location, offset, memoryview(bytearray(size))) == 0
    assert files.open_of == {}


def test_who_reads_in_steps_ranks_replicas_anew_only_when_a_node_fails(local: Chunk, files: Files) -> None:
    files.store("d1")
    files.store("d2")
    buffer = memoryview(bytearray(MIB))
    with patch.object(local.nearness, "order", wraps=local.nearness.order) as ranked:
        for place in (0, MIB, 2 * MIB):
            assert local.reader.read_into(local.location, place, buffer) == MIB
        assert ranked.call_count == 1
        local.suspects.add(["d1"])
        assert local.reader.read_into(local.location, 0, buffer) == MIB
    assert files.open_of == {"d1": 3, "d2": 1}


def test_no_file_and_a_bad_file_are_left_to_read(local: Chunk, files: Files) -> None:
    buffer = memoryview(bytearray(MIB))
    assert local.reader.read_into(local.location, 0, buffer) == 0
    files.store("d1", bytes(len(DATA)))
    assert local.reader.read_into(local.location, 0, buffer) == 0
    files.fail["d1"] = errno.EIO
    assert local.reader.read_into(local.location, 0, buffer) == 0
    assert local.reports == [], "read() finds out and says so"
