"""The socket over which a datanode hands out open chunks: whom it serves, whom it believes, what is left over."""

from __future__ import annotations

import ctypes
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from datanode.services import short_circuit as serving
from datanode.services.short_circuit import ShortCircuitServer
from datanode.store.chunks import ChunkStore
from datanode.store.rules import Condemnation
from datanode.transfer.meter import Meter
from quorumfs import descriptors, limits
from quorumfs.checksum import crc32c
from quorumfs.clock import ManualClock
from quorumfs.ids import ChunkId
from quorumfs.limits import MIB
from quorumfs.short_circuit import ShortCircuit, connect_abstract
from quorumfs.testing import wait_for
from quorumfs.v1 import chunks_pb2, namespace_pb2
from tests.support.shortage import no_more_threads
from tests.unit.datanode.store.fakes import flip, opened, put

DATA = random.Random(11).randbytes(2 * MIB + 99)
ID = ChunkId(b"c" * 16)
CHUNK = namespace_pb2.ChunkLocation(chunk=ID, length=len(DATA), checksum=crc32c(DATA))
REPLICA = namespace_pb2.ReplicaLocation(node_id="d1", grpc="127.0.0.1:1")
CLONE_NEWNET = 0x40000000


class Node:
    """A ChannelSource that leads to one server in this process, and counts how often that is asked for its door."""

    def __init__(self, directory: Path, store: ChunkStore) -> None:
        self.directory, self.store, self.meter = directory, store, Meter()
        self.server = ShortCircuitServer("d1", store, self.meter)
        self.asked = 0
        self.instead: chunks_pb2.GetShortCircuitResponse | None = None

    def get(self, address: str) -> Any:
        return self

    def unary_unary(self, path: str, request_serializer: Any, response_deserializer: Any) -> Any:
        def call(request: Any, timeout: float) -> Any:
            self.asked += 1
            return self.instead or self.server.tell()

        return call

    def drop(self, address: str) -> None: ...

    def close(self) -> None: ...

    def restart(self) -> None:
        self.server.stop()
        self.server = ShortCircuitServer("d1", self.store, self.meter)
        self.server.start()

    def file(self) -> Path:
        return self.store.disks[0].chunk_path(ID)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with opened(tmp_path) as (store, _):
        put(store, ID, DATA)
        made = Node(tmp_path, store)
        made.server.start()
        try:
            yield made
        finally:
            made.server.stop()


@contextmanager
def client_of(node: Node, clock: ManualClock | None = None) -> Iterator[ShortCircuit]:
    client = ShortCircuit(node, host="elsewhere", clock=clock)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def client(node: Node) -> Iterator[ShortCircuit]:
    with client_of(node) as made:
        yield made


def read(client: ShortCircuit, chunk: namespace_pb2.ChunkLocation = CHUNK) -> bytes | None:
    with client.open(REPLICA, chunk) as file:
        return None if file is None else file.read(0, file.length)


def descriptors_open() -> set[str]:
    return {link for link in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{link}")}


def test_a_client_on_this_host_reads_the_chunk_from_its_file(node: Node, client: ShortCircuit) -> None:
    assert read(client) == DATA
    assert read(client) == DATA
    wait_for(lambda: node.meter.counts().passed, 10, "what was handed over is counted")
    assert (node.asked, node.meter.counts().passed) == (1, 1), "asked once, opened once"


def test_the_descriptor_cannot_be_written_to(client: ShortCircuit) -> None:
    with client.open(REPLICA, CHUNK) as file:
        assert file is not None
        with pytest.raises(OSError):
            os.pwrite(file._fd, b"x", 5000)


def test_a_node_elsewhere_is_not_asked(node: Node, client: ShortCircuit) -> None:
    far = namespace_pb2.ReplicaLocation(node_id="d1", grpc="10.0.0.1:7500", host="another")
    with client.open(far, CHUNK) as file:
        assert file is None
    assert node.asked == 0


def test_in_a_fork_the_parents_connection_and_files_are_left_alone(
    node: Node, client: ShortCircuit, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read(client) == DATA
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        assert read(client) is None
    assert read(client) == DATA
    assert node.asked == 1


def test_many_threads_share_one_connection(node: Node, client: ShortCircuit) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: read(client), range(64))) == {DATA}
    assert node.asked == 1


def test_a_chunk_that_is_not_here_or_in_quarantine_is_refused_and_the_door_stays_open(
    node: Node, client: ShortCircuit
) -> None:
    other = namespace_pb2.ChunkLocation(chunk=b"x" * 16, length=1, checksum=1)
    assert read(client, other) is None
    assert read(client) == DATA
    with client_of(node) as second:
        assert node.store.quarantine(ID, Condemnation(99, 1))
        assert read(second) is None
    assert read(client) == DATA, "what was handed over stays good"


@pytest.mark.parametrize("place", [20, -1])
def test_a_file_with_a_damaged_header_or_table_is_refused_and_becomes_a_suspect(
    node: Node, client: ShortCircuit, place: int
) -> None:
    flip(node.file(), place % node.file().stat().st_size)
    assert read(client) is None
    assert node.store.suspects == 1


def test_another_content_than_the_metadata_tells_is_not_believed(client: ShortCircuit) -> None:
    wrong = namespace_pb2.ChunkLocation(chunk=ID, length=len(DATA), checksum=CHUNK.checksum ^ 1)
    short = namespace_pb2.ChunkLocation(chunk=ID, length=len(DATA) - 1, checksum=CHUNK.checksum)
    assert read(client, wrong) is None
    assert read(client, short) is None


def test_a_node_that_was_started_again_is_found_again(node: Node) -> None:
    clock = ManualClock()
    with client_of(node, clock) as client:
        assert read(client) == DATA
        client.drop(REPLICA, CHUNK)
        node.restart()
        assert read(client) == DATA
        assert node.asked == 2


def test_a_node_that_ends_leaves_what_it_handed_over(node: Node, client: ShortCircuit) -> None:
    with client.open(REPLICA, CHUNK) as file:
        node.server.stop()
        node.file().unlink()
        assert file is not None
        assert file.read(0, MIB) == DATA[:MIB]
    assert node.server.tell() == chunks_pb2.GetShortCircuitResponse()


def test_switched_off_is_not_asked_again_for_a_while(node: Node) -> None:
    clock = ManualClock()
    node.server.stop()
    with client_of(node, clock) as client:
        assert [read(client), read(client), node.asked] == [None, None, 1]
        node.restart()
        clock.advance(limits.SHORT_CIRCUIT_OFF_SECONDS)
        assert read(client) == DATA


def test_from_another_network_namespace_there_is_no_way_and_no_error(node: Node) -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def outside() -> object:
        if libc.unshare(CLONE_NEWNET):
            return os.strerror(ctypes.get_errno())
        with client_of(node) as client:
            return read(client)

    with ThreadPoolExecutor(1) as pool:  # the namespace is the thread's, and ends with it
        found = pool.submit(outside).result()
    if isinstance(found, str):
        pytest.skip(f"a network namespace cannot be made: {found}")
    assert found is None


# ---- strangers -------------------------------------------------------------------------------------------


@contextmanager
def listening() -> Iterator[tuple[bytes, socket.socket]]:
    name = b"quorumfs-test/" + os.urandom(8).hex().encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(b"\0" + name)
        listener.listen()
        yield name, listener


def told(name: bytes) -> chunks_pb2.GetShortCircuitResponse:
    return chunks_pb2.GetShortCircuitResponse(socket=name, ticket=b"t" * 16, key=b"k" * 32)


def test_an_impostor_without_the_key_is_not_asked_for_anything(node: Node) -> None:
    clock = ManualClock()
    heard: list[bytes] = []
    with listening() as (name, listener), client_of(node, clock) as client:

        def pretend() -> None:
            connection, _ = listener.accept()
            with connection:
                heard.append(connection.recv(4096))
                connection.sendall(bytes(descriptors.ANSWER_BYTES))
                heard.append(connection.recv(4096))

        thread = threading.Thread(target=pretend)
        thread.start()
        node.instead = told(name)
        assert read(client) is None
        thread.join()
        assert [len(message) for message in heard] == [descriptors.HELLO_BYTES, 0]
        node.instead = None
        assert read(client) is None, "it is left alone for a while"
        clock.advance(limits.SHORT_CIRCUIT_RETRY_SECONDS)
        assert read(client) == DATA


def test_a_node_that_is_silent_costs_a_bounded_time_once(node: Node) -> None:
    with listening() as (name, _), client_of(node) as client:
        node.instead = told(name)
        begun = time.monotonic()
        assert [read(client) for _ in range(5)] == [None] * 5
        assert time.monotonic() - begun < 3 * limits.SHORT_CIRCUIT_SECONDS
        assert node.asked == 1


@pytest.mark.parametrize(
    "messages",
    [
        [b""],
        [b"x"],
        [bytes(descriptors.HELLO_BYTES + 1)],
        [bytes(descriptors.HELLO_BYTES), bytes(descriptors.PROOF_BYTES), ID],
        [bytes(descriptors.HELLO_BYTES), ID],
        [ID, ID],
    ],
)
def test_who_does_not_have_the_key_gets_no_chunk(node: Node, messages: list[bytes]) -> None:
    with connect_abstract(node.server.tell().socket) as stranger:
        answers = b""
        try:
            for message in messages:
                stranger.sendall(message)
            stranger.shutdown(socket.SHUT_WR)
            while answer := stranger.recv(4096):
                answers += answer
        except ConnectionError:
            pass  # it was cut off
        assert len(answers) in (0, descriptors.ANSWER_BYTES)
    assert node.meter.counts().passed == 0


def test_no_more_than_so_many_connections_of_one_user_are_held(node: Node) -> None:
    name = node.server.tell().socket
    with ExitStack() as stack:
        held = [stack.enter_context(connect_abstract(name)) for _ in range(serving.CONNECTIONS_PER_USER_MAX)]
        wait_for(lambda: len(node.server._connections) == len(held), 10, "all are served")
        with client_of(node) as client:
            assert read(client) is None
    wait_for(lambda: not node.server._connections, 10, "places are given back")
    with client_of(node) as client:
        assert read(client) == DATA


def test_who_comes_while_no_thread_can_be_started_is_cut_off_and_later_served(node: Node) -> None:
    with no_more_threads("short-circuit-client"), client_of(node) as client:
        assert read(client) is None
    wait_for(lambda: not node.server._connections, 10, "the place is given back")
    with client_of(node) as client:
        assert read(client) == DATA


def test_nothing_stays_open_on_either_side(node: Node) -> None:
    before = descriptors_open()
    with client_of(node) as client:
        for _ in range(20):
            assert read(client) == DATA
            client.drop(REPLICA, CHUNK)
            read(client, namespace_pb2.ChunkLocation(chunk=b"x" * 16, length=1))
            read(client, namespace_pb2.ChunkLocation(chunk=ID, length=1))
    wait_for(lambda: not node.server._connections, 10, "the connection has ended")
    assert descriptors_open() == before
