"""Chunks between real servers on loopback ports: replicated writes, range reads, what becomes of losers.

All of it twice: with replicas written through the page cache, and past it.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from common.server import ThreadedServer
from datanode.services.chunks import ChunksService
from datanode.store.chunks import ChunkStore
from datanode.store.direct import Pieces
from datanode.store.disk import Disk
from datanode.store.fence import EpochStore
from datanode.store.files import Files
from datanode.store.opening import open_disks
from datanode.transfer.admission import READS_MAX, WRITES_MAX, Gate
from datanode.transfer.meter import Meter
from datanode.transfer.pull import Puller
from datanode.transfer.receive import Receiver
from datanode.transfer.send import Sender
from datanode.transfer.watch import StreamWatch
from quorumfs.checksum import block_checksums, crc32c, verify_blocks
from quorumfs.clock import SystemClock
from quorumfs.errors import Code
from quorumfs.frames import decode_frame, encode_end, encode_frame, encode_open
from quorumfs.ids import ChunkId
from quorumfs.limits import BLOCK_BYTES, FRAME_BYTES, MIB
from quorumfs.rpc.channels import Channels
from quorumfs.rpc.circuit import Circuits
from quorumfs.rpc.status import from_rpc
from quorumfs.rpc.trust import TrustedChannels
from quorumfs.v1 import chunks_pb2 as pb
from quorumfs.v1 import chunks_pb2_grpc
from quorumfs.v1.types_pb2 import ChunkBirth, Epoch, NodeAddress

SECRET = b"s" * 32
WAYS: dict[str, dict[str, Any]] = {
    "through the cache": {},
    "past the cache": {"size_hint": 64 * MIB, "read_first": "another node"},
}
as_told: dict[str, Any] = {}  # what a write's opening says besides


class FullDisk(Files):
    """Refuses to write data beyond a limit, as a full file system does."""

    def __init__(self) -> None:
        self.full_from = 1 << 62
        self.bypassed = 0

    def bypass_cache(self, fd: int, yes: bool) -> None:
        self.bypassed += yes
        super().bypass_cache(fd, yes)

    def write(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        if offset >= self.full_from:
            raise OSError(28, "No space left on device")
        super().write(fd, data, offset)


class Node:
    """A datanode's transfer half: store, server, no cluster."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.files = FullDisk()
        self.disks = open_disks([directory], files=self.files, pieces=Pieces())
        self.store = ChunkStore(self.disks.disks)
        self.store.load()
        self.fence = EpochStore(self.disks.disks)
        self.fence.load()
        self.watch = StreamWatch()
        self.channels = Channels()
        self.writes, self.reads = Gate("writes", WRITES_MAX), Gate("reads", READS_MAX)
        meter = Meter()
        service = ChunksService(
            name,
            self.store,
            self.fence,
            Receiver(name, lambda: "", self.store, self.channels, self.writes, self.watch, meter),
            Sender(self.store, self.reads, self.watch, meter),
            Puller(self.store, self.channels, Circuits(SystemClock(), random.random)),
            self.writes,
            self.reads,
            short_circuit=None,
        )
        self.server = ThreadedServer(
            "127.0.0.1", 0, [service.as_service()], node_id=name, secret=lambda: SECRET
        )
        self.port = self.server.start()

    @property
    def address(self) -> NodeAddress:
        return NodeAddress(node_id=self.name, grpc=f"127.0.0.1:{self.port}")

    def temporaries(self) -> list[Path]:
        return list(self.directory.rglob("*.tmp"))

    def stop(self) -> None:
        self.server.stop(0)
        self.channels.close()
        self.disks.close()


@pytest.fixture(params=list(WAYS))
def nodes(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[list[Node]]:
    as_told.clear()
    as_told.update(WAYS[request.param])
    started = [Node(f"d{k}", tmp_path / f"d{k}") for k in (1, 2, 3)]
    yield started
    for node in started:
        node.stop()


@pytest.fixture
def channels() -> Iterator[Channels]:
    made = Channels()
    yield made
    made.close()


def opening(chunk: bytes, behind: list[Node], min_replicas: int = 2) -> bytes:
    return encode_open(
        pb.WriteOpen(
            chunk=chunk,
            upload=b"u" * 16,
            birth=ChunkBirth(history=1, index=7, cluster_ms=9),
            pipeline=[node.address for node in behind],
            min_replicas=min_replicas,
            **as_told,
        )
    )


def frames(data: bytes) -> Iterator[bytes]:
    for offset in range(0, len(data), FRAME_BYTES):
        part = data[offset : offset + FRAME_BYTES]
        yield encode_frame(offset, part, block_checksums(part))


def write_call(channels: Channels, node: Node) -> Callable[..., pb.WriteResponse]:
    return channels.get(node.address.grpc).stream_unary(
        "/quorumfs.v1.Chunks/Write",
        request_serializer=None,
        response_deserializer=pb.WriteResponse.FromString,
    )


def write(
    channels: Channels, row: list[Node], chunk: bytes, data: bytes, min_replicas: int = 2
) -> pb.WriteResponse:
    messages = [
        opening(chunk, row[1:], min_replicas),
        *frames(data),
        encode_end(len(data), crc32c(data)),
    ]
    return write_call(channels, row[0])(iter(messages), timeout=30)


def read(channels: Channels, node: Node, chunk: bytes, offset: int = 0, length: int = 0) -> tuple[int, bytes]:
    """(offset of the first byte, verified bytes)."""
    call = channels.get(node.address.grpc).unary_stream(
        "/quorumfs.v1.Chunks/Read",
        request_serializer=pb.ReadChunkRequest.SerializeToString,
        response_deserializer=None,
    )
    got, first = b"", -1
    for raw in call(pb.ReadChunkRequest(chunk=chunk, offset=offset, length=length), timeout=30):
        frame = decode_frame(raw)
        assert verify_blocks(frame.data, frame.block_checksums) is None
        first = frame.offset if first < 0 else first
        got += bytes(frame.data)
    return first, got


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        threading.Event().wait(0.01)


def code_of(error: grpc.RpcError) -> Code:
    return from_rpc(error, "the call", sent=False).code


def test_a_chunk_written_once_is_on_three_nodes_byte_for_byte(nodes: list[Node], channels: Channels) -> None:
    chunk, data = os.urandom(16), os.urandom(5 * MIB + 12345)
    answer = write(channels, nodes, chunk, data)
    assert [(ack.node_id, ack.durable) for ack in answer.replicas] == [
        ("d1", True),
        ("d2", True),
        ("d3", True),
    ]
    for node in nodes:
        assert node.files.bypassed == ("read_first" in as_told)
        assert read(channels, node, chunk) == (0, data)
        assert node.temporaries() == []
        info = chunks_pb2_grpc.ChunksStub(channels.get(node.address.grpc)).Stat(
            pb.StatChunkRequest(chunk=chunk)
        )
        assert (info.length, info.checksum, info.birth.index) == (len(data), crc32c(data), 7)
        assert Path(info.file).name == chunk.hex()


def test_an_empty_chunk_is_a_chunk(nodes: list[Node], channels: Channels) -> None:
    chunk = os.urandom(16)
    assert all(ack.durable for ack in write(channels, nodes, chunk, b"").replicas)
    assert read(channels, nodes[2], chunk) == (-1, b"")


def test_a_range_comes_in_whole_blocks(nodes: list[Node], channels: Channels) -> None:
    chunk, data = os.urandom(16), os.urandom(3 * MIB)
    write(channels, nodes, chunk, data)
    first, got = read(channels, nodes[1], chunk, offset=BLOCK_BYTES + 5, length=10)
    assert (first, got) == (BLOCK_BYTES, data[BLOCK_BYTES : 2 * BLOCK_BYTES])


def test_the_same_chunk_again_is_success_and_other_bytes_are_not(
    nodes: list[Node], channels: Channels
) -> None:
    chunk, data = os.urandom(16), os.urandom(MIB)
    write(channels, nodes, chunk, data)
    assert all(ack.durable for ack in write(channels, nodes, chunk, data).replicas)
    other = write(channels, nodes, chunk, os.urandom(MIB))
    assert {ack.error.code for ack in other.replicas} == {int(Code.PRECONDITION_FAILED)}
    assert read(channels, nodes[0], chunk) == (0, data)


def test_a_node_that_is_gone_costs_its_row_and_nothing_else(nodes: list[Node], channels: Channels) -> None:
    chunk, data = os.urandom(16), os.urandom(3 * MIB)
    nodes[2].server.stop(0)
    answer = write(channels, nodes, chunk, data)
    assert [ack.durable for ack in answer.replicas] == [True, True, False]
    assert answer.replicas[2].node_id == "d3"
    assert answer.replicas[2].error.code == Code.UNAVAILABLE


def test_too_few_replicas_end_the_write_early(nodes: list[Node], channels: Channels) -> None:
    nodes[1].server.stop(0)
    answer = write(channels, nodes, os.urandom(16), os.urandom(20 * MIB))
    assert [ack.durable for ack in answer.replicas] == [False, False, False]
    assert answer.replicas[1].error.code == Code.UNAVAILABLE
    assert len(nodes[0].store) == 0
    until(lambda: nodes[0].temporaries() == [])


def test_a_full_disk_in_the_middle_is_passed_through(nodes: list[Node], channels: Channels) -> None:
    chunk, data = os.urandom(16), os.urandom(4 * MIB)
    nodes[1].files.full_from = 2 * MIB
    answer = write(channels, nodes, chunk, data)
    assert [ack.durable for ack in answer.replicas] == [True, False, True]
    assert answer.replicas[1].error.code == Code.NO_SPACE
    assert read(channels, nodes[2], chunk) == (0, data)
    assert nodes[1].temporaries() == []


def test_a_block_that_does_not_match_fails_the_call_and_leaves_nothing(
    nodes: list[Node], channels: Channels
) -> None:
    data = bytearray(os.urandom(MIB))
    table = block_checksums(data)
    data[70_000] ^= 1
    messages = [opening(os.urandom(16), nodes[1:]), encode_frame(0, data, table)]
    with pytest.raises(grpc.RpcError) as caught:
        write_call(channels, nodes[0])(iter(messages), timeout=30)
    assert code_of(caught.value) is Code.CORRUPT
    for node in nodes:
        until(lambda node=node: node.temporaries() == [] and node.writes.inside == 0)
        assert len(node.store) == 0


def write_in_one(
    channels: Channels, row: list[Node], chunk: bytes, data: bytes, min_replicas: int = 2
) -> pb.WriteResponse:
    """Opening, a frame and the end as one message."""
    whole = b"".join(
        (opening(chunk, row[1:], min_replicas), *frames(data), encode_end(len(data), crc32c(data)))
    )
    return write_call(channels, row[0])(iter([whole]), timeout=30)


def test_a_chunk_in_one_message_is_on_three_nodes_byte_for_byte(
    nodes: list[Node], channels: Channels
) -> None:
    chunk, data = os.urandom(16), os.urandom(FRAME_BYTES)
    for _ in range(2):  # again is success too
        answer = write_in_one(channels, nodes, chunk, data)
        assert [(ack.node_id, ack.durable) for ack in answer.replicas] == [
            ("d1", True),
            ("d2", True),
            ("d3", True),
        ]
    for node in nodes:
        assert read(channels, node, chunk) == (0, data)
        assert node.temporaries() == []
    streamed = os.urandom(16)
    write(channels, nodes, streamed, data)
    size = BLOCK_BYTES  # header and trailer name the chunk; between them the files are the same
    files = [
        [next(node.directory.rglob(one.hex())).read_bytes() for one in (chunk, streamed)] for node in nodes
    ]
    assert all(one[size:-size] == other[size:-size] for one, other in files)
    assert all(len(one) == len(other) for one, other in files)


@pytest.mark.parametrize("gone", [1, 2])
def test_a_node_that_is_gone_costs_its_row_a_chunk_in_one_message(
    nodes: list[Node], channels: Channels, gone: int
) -> None:
    chunk, data = os.urandom(16), os.urandom(100_000)
    nodes[gone].server.stop(0)
    answer = write_in_one(channels, nodes, chunk, data)
    assert [ack.durable for ack in answer.replicas] == [place < gone for place in range(3)]
    assert answer.replicas[gone].error.code == Code.UNAVAILABLE
    assert read(channels, nodes[0], chunk) == (0, data)


@pytest.mark.parametrize("full", [0, 1, 2])
def test_a_full_disk_passes_a_chunk_in_one_message_on(
    nodes: list[Node], channels: Channels, full: int
) -> None:
    chunk, data = os.urandom(16), os.urandom(100_000)
    nodes[full].files.full_from = 0
    answer = write_in_one(channels, nodes, chunk, data)
    assert [ack.durable for ack in answer.replicas] == [place != full for place in range(3)]
    assert answer.replicas[full].error.code == Code.NO_SPACE
    assert nodes[full].temporaries() == []
    for node in nodes[:full] + nodes[full + 1 :]:
        assert read(channels, node, chunk) == (0, data)


def test_a_block_that_does_not_match_fails_a_chunk_in_one_message_and_leaves_nothing(
    nodes: list[Node], channels: Channels
) -> None:
    data = bytearray(os.urandom(MIB))
    table, end = block_checksums(data), encode_end(len(data), crc32c(data))
    data[70_000] ^= 1
    whole = opening(os.urandom(16), nodes[1:]) + encode_frame(0, data, table) + end
    with pytest.raises(grpc.RpcError) as caught:
        write_call(channels, nodes[0])(iter([whole]), timeout=30)
    assert code_of(caught.value) is Code.CORRUPT
    for node in nodes:
        until(lambda node=node: node.temporaries() == [] and node.writes.inside == 0)
        assert len(node.store) == 0


def test_a_stream_without_its_end_leaves_nothing(nodes: list[Node], channels: Channels) -> None:
    messages = [opening(os.urandom(16), nodes[1:]), *frames(os.urandom(2 * MIB))]
    with pytest.raises(grpc.RpcError) as caught:
        write_call(channels, nodes[0])(iter(messages), timeout=30)
    assert code_of(caught.value) is Code.INVALID_ARGUMENT
    for node in nodes:
        until(lambda node=node: node.temporaries() == [] and node.writes.inside == 0)


def test_a_client_that_dies_leaves_nothing(nodes: list[Node], channels: Channels) -> None:
    hold = threading.Event()

    def messages() -> Iterator[bytes]:
        yield opening(os.urandom(16), nodes[1:])
        yield from frames(os.urandom(2 * MIB))
        hold.wait(20)

    call = channels.get(nodes[0].address.grpc).stream_unary(
        "/quorumfs.v1.Chunks/Write", request_serializer=None, response_deserializer=None
    )
    future = call.future(messages(), timeout=30)
    until(lambda: all(node.temporaries() for node in nodes))
    future.cancel()
    for node in nodes:
        until(lambda node=node: node.temporaries() == [] and node.writes.inside == 0)
    hold.set()


def test_a_silent_sender_loses_its_place(nodes: list[Node], channels: Channels) -> None:
    hold = threading.Event()

    def messages() -> Iterator[bytes]:
        yield opening(os.urandom(16), [], 1)
        hold.wait(20)

    call = channels.get(nodes[0].address.grpc).stream_unary(
        "/quorumfs.v1.Chunks/Write", request_serializer=None, response_deserializer=None
    )
    future = call.future(messages(), timeout=30)
    until(lambda: bool(nodes[0].temporaries()))
    for stream in list(nodes[0].watch._streams):
        stream.moved_at -= 3600
    assert nodes[0].watch.scan() == 1
    until(lambda: nodes[0].temporaries() == [] and nodes[0].writes.inside == 0)
    assert future.code() is grpc.StatusCode.CANCELLED
    hold.set()


def test_streams_beyond_the_limit_are_refused_at_once_and_short_calls_go_on(
    nodes: list[Node], channels: Channels
) -> None:
    hold = threading.Event()

    def messages() -> Iterator[bytes]:
        yield opening(os.urandom(16), [], 1)
        hold.wait(30)

    call = channels.get(nodes[0].address.grpc).stream_unary(
        "/quorumfs.v1.Chunks/Write", request_serializer=None, response_deserializer=None
    )
    futures = [call.future(messages(), timeout=60) for _ in range(WRITES_MAX)]
    until(lambda: nodes[0].writes.inside == WRITES_MAX)
    with pytest.raises(grpc.RpcError) as caught:
        write(channels, nodes[:1], os.urandom(16), b"x", 1)
    assert code_of(caught.value) is Code.BUSY
    stub = chunks_pb2_grpc.ChunksStub(channels.get(nodes[0].address.grpc))
    assert len(stub.List(pb.ListChunksRequest(), timeout=5).chunks) == 0
    for future in futures:
        future.cancel()
    hold.set()
    until(lambda: nodes[0].writes.inside == 0)


def reading(channels: Channels, node: Node, chunk: bytes) -> Iterator[bytes]:
    call = channels.get(node.address.grpc).unary_stream(
        "/quorumfs.v1.Chunks/Read",
        request_serializer=pb.ReadChunkRequest.SerializeToString,
        response_deserializer=None,
    )
    return call(pb.ReadChunkRequest(chunk=chunk), timeout=60)


def test_a_reader_that_goes_away_gives_its_place_back(nodes: list[Node], channels: Channels) -> None:
    chunk = os.urandom(16)
    write(channels, nodes[:1], chunk, os.urandom(40 * MIB), 1)
    stream = reading(channels, nodes[0], chunk)
    next(stream)
    assert nodes[0].reads.inside == 1
    stream.cancel()
    until(lambda: nodes[0].reads.inside == 0)


def test_readers_that_take_nothing_cost_little_memory_and_lose_their_places(
    nodes: list[Node], channels: Channels
) -> None:
    chunk = os.urandom(16)
    write(channels, nodes[:1], chunk, os.urandom(60 * MIB), 1)
    before = resident_bytes()
    streams = [reading(channels, nodes[0], chunk) for _ in range(READS_MAX)]
    for stream in streams:
        next(stream)  # and no more
    until(lambda: nodes[0].reads.inside == READS_MAX)
    # Both ends are in this process. The whole would be READS_MAX * 60 MiB.
    assert resident_bytes() - before < READS_MAX * 12 * MIB
    with pytest.raises(grpc.RpcError) as caught:
        next(reading(channels, nodes[0], chunk))
    assert code_of(caught.value) is Code.BUSY
    for stream in list(nodes[0].watch._streams):
        stream.moved_at -= 3600
    assert nodes[0].watch.scan() == READS_MAX
    until(lambda: nodes[0].reads.inside == 0)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_flipped_byte_never_comes_out_as_good(nodes: list[Node], channels: Channels) -> None:
    chunk, data = os.urandom(16), os.urandom(MIB)
    write(channels, nodes, chunk, data)
    path = Path(nodes[0].store.where(ChunkId(chunk))[1])
    raw = bytearray(path.read_bytes())
    raw[4096 + 300_000] ^= 0x10
    path.write_bytes(raw)
    with pytest.raises(AssertionError):
        read(channels, nodes[0], chunk)
    stub = chunks_pb2_grpc.ChunksStub(channels.get(nodes[0].address.grpc))
    verdict = stub.Verify(pb.VerifyChunkRequest(chunk=chunk), timeout=10)
    assert not verdict.ok
    assert verdict.first_bad_offset == 300_000 - 300_000 % BLOCK_BYTES
    assert nodes[0].store.take_suspect() == chunk


def test_a_pull_skips_a_damaged_source_and_takes_the_next(nodes: list[Node], channels: Channels) -> None:
    chunk, data = os.urandom(16), os.urandom(3 * MIB)
    write(channels, nodes[:2], chunk, data)
    path = Path(nodes[0].store.where(ChunkId(chunk))[1])
    raw = bytearray(path.read_bytes())
    raw[4096 + 2_000_000] ^= 1
    path.write_bytes(raw)
    trusted = TrustedChannels(SECRET, "c1")
    stub = chunks_pb2_grpc.ChunksStub(trusted.get(nodes[2].address.grpc))
    answer = stub.Replicate(
        pb.ReplicateRequest(
            chunk=chunk,
            sources=[node.address for node in nodes[:2]],
            epoch=Epoch(history=1, term=1),
            length=len(data),
            checksum=crc32c(data),
        ),
        timeout=30,
    )
    trusted.close()
    assert answer.ack.durable
    assert read(channels, nodes[2], chunk) == (0, data)
    assert nodes[2].temporaries() == []


def test_only_a_proven_node_of_the_highest_epoch_deletes(nodes: list[Node], channels: Channels) -> None:
    chunk = os.urandom(16)
    write(channels, nodes[:1], chunk, b"x" * 10, 1)
    request = pb.DeleteChunksRequest(
        epoch=Epoch(history=1, term=5), chunks=[pb.DeleteChunk(chunk=chunk, condemn_index=100)]
    )
    with pytest.raises(grpc.RpcError) as caught:
        chunks_pb2_grpc.ChunksStub(channels.get(nodes[0].address.grpc)).Delete(request, timeout=5)
    assert code_of(caught.value) is Code.UNAUTHENTICATED
    trusted = TrustedChannels(SECRET, "c1")
    stub = chunks_pb2_grpc.ChunksStub(trusted.get(nodes[0].address.grpc))
    assert list(stub.Delete(request, timeout=5).quarantined) == [chunk]
    request.epoch.term = 4
    with pytest.raises(grpc.RpcError) as caught:
        stub.Delete(request, timeout=5)
    trusted.close()
    assert code_of(caught.value) is Code.FENCED
    with pytest.raises(grpc.RpcError) as caught:
        read(channels, nodes[0], chunk)
    assert code_of(caught.value) is Code.CHUNK_NOT_FOUND


def test_two_processes_never_share_a_disk(nodes: list[Node]) -> None:
    second = Disk(nodes[0].directory, Files())
    with pytest.raises(Exception, match="in use"):
        second.open()
