"""Streams of batches to a real server, of both kinds that a client has: whatever happens looks the same."""

from __future__ import annotations

import _thread
import gc
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from quorumfs.errors import NotLeaderError, UnavailableError
from quorumfs.limits import MESSAGE_BYTES_MAX
from quorumfs.rpc import streams as streams_module
from quorumfs.rpc.channels import OPTIONS, Channels
from quorumfs.rpc.direct_stream import DirectStream
from quorumfs.rpc.status import error_metadata, from_rpc, status_of, was_never_sent
from quorumfs.rpc.streams import BatchStreams, FedStream
from tests.support.waiting import eventually

PATH = "/quorumfs.test.Batches/Do"
PATIENCE = 20.0


class Server:
    """Answers a batch with itself, but for those that have a meaning."""

    def __init__(self, *, has_streams: bool = True) -> None:
        self.has_streams = has_streams
        self.got: list[bytes] = []
        self.opened = 0
        self.ended: queue.SimpleQueue[int] = queue.SimpleQueue()  # the stream's number, at its end
        self.metadata: dict[str, Any] = {}
        self.waiting = threading.Event()  # a batch that is not answered has come
        self.on_silent: Callable[[], object] = lambda: None
        self._over = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(8), options=OPTIONS)
        self._server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def service(self, details: Any) -> Any:
        if details.method == PATH:
            return grpc.unary_unary_rpc_method_handler(lambda raw, _: b"unary " + raw)
        if self.has_streams and details.method == PATH + "Stream":
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return None

    def _stream(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        self.opened += 1
        number = self.opened
        context.add_callback(lambda: self.ended.put(number))
        self.metadata = dict(context.invocation_metadata())
        for raw in requests:
            self.got.append(raw)
            match raw:
                case b"end":
                    return
                case b"last":
                    yield b"the last"
                    return
                case b"refuse":
                    error = NotLeaderError("not here: nö")
                    context.set_trailing_metadata(error_metadata(error))
                    context.abort(grpc.StatusCode.UNAVAILABLE, "nö")
                case b"silent":
                    self.on_silent()
                    self.waiting.set()
                    self._over.wait()
                    return
            yield raw

    def stop(self) -> None:
        self._over.set()
        self._server.stop(None)


class World:
    def __init__(self, server: Server, kind: type) -> None:
        self.server = server
        self.kind = kind
        self.channels = Channels()
        self.streams = BatchStreams(self.channels, self._unary, (("authorization", "Bearer x"),))

    def _unary(self, address: str, path: str, raw: bytes, timeout: float) -> bytes:
        call: Any = self.channels.get(address).unary_unary(path)
        answer: bytes = call(raw, timeout=timeout)
        return answer

    def ask(self, raw: bytes, timeout: float = PATIENCE, lane: int = 0) -> bytes:
        return self.streams.exchange(lane, self.server.address, PATH, raw, timeout)

    def fails(self, raw: bytes, timeout: float = PATIENCE) -> grpc.RpcError:
        with pytest.raises(grpc.RpcError) as caught:
            self.ask(raw, timeout)
        return caught.value

    def wire(self) -> Any:
        (stream,) = self.streams._streams.values()
        assert type(stream.wire) is self.kind
        return stream.wire

    def close(self) -> None:
        self.streams.close()
        self.channels.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture(params=[DirectStream, FedStream])
def world(request: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    if request.param is FedStream:
        monkeypatch.setattr(streams_module, "open_direct", lambda *_: None)
    world = World(server, request.param)
    yield world
    world.close()


def test_one_stream_carries_all_exchanges_of_a_lane_and_the_token(world: World) -> None:
    assert [world.ask(b"%d" % k) for k in range(50)] == [b"%d" % k for k in range(50)]
    world.wire()
    assert world.server.opened == 1
    assert world.server.metadata["authorization"] == "Bearer x"
    assert world.ask(b"other", lane=1) == b"other"
    assert world.server.opened == 2


def test_large_and_empty_batches_pass_as_they_are(world: World) -> None:
    for raw in (b"", os.urandom(3 << 20), b"", b"small"):
        assert world.ask(raw) == raw
    assert world.server.opened == 1


def test_a_batch_that_is_too_large_is_refused_with_the_same_words(world: World) -> None:
    error = world.fails(bytes(MESSAGE_BYTES_MAX + 1))
    assert status_of(error) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert from_rpc(error, "it", sent=True).code.name == "TOO_LARGE"


def test_an_error_of_the_servers_comes_whole(world: World) -> None:
    world.ask(b"a")
    error = from_rpc(world.fails(b"refuse"), "it", sent=True)
    assert isinstance(error, NotLeaderError)
    assert error.message == "not here: nö"
    assert world.ask(b"b") == b"b"
    assert world.server.opened == 2


def test_the_words_of_a_status_are_text(world: World) -> None:
    error: Any = world.fails(b"refuse")
    assert (status_of(error), error.details()) == (grpc.StatusCode.UNAVAILABLE, "nö")


def test_a_server_that_ends_the_stream_instead_of_answering_is_unavailable(world: World) -> None:
    error: Any = world.fails(b"end")
    assert (status_of(error), error.details()) == (
        grpc.StatusCode.UNAVAILABLE,
        "the server ended the stream",
    )


def test_a_stream_that_ended_between_two_exchanges_is_not_written_to(world: World) -> None:
    assert world.ask(b"last") == b"the last"
    wire = world.wire()
    world.server.ended.get(timeout=PATIENCE)
    eventually(lambda: not wire.is_active())
    assert world.ask(b"next") == b"next"
    assert world.server.got == [b"last", b"next"]


def test_a_server_without_streams_is_asked_by_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(has_streams=False)
    world = World(server, DirectStream)
    assert [world.ask(b"a"), world.ask(b"b")] == [b"unary a", b"unary b"]
    world.close()
    server.stop()


def test_an_answer_that_does_not_come_in_time_ends_the_call_on_both_sides(world: World) -> None:
    world.ask(b"a")
    error = world.fails(b"silent", timeout=0.05)
    assert status_of(error) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert world.server.ended.get(timeout=PATIENCE) == 1
    assert world.ask(b"b") == b"b"


def test_nobody_who_listens_is_told_as_never_sent(world: World) -> None:
    world.server.stop()
    assert was_never_sent(world.fails(b"a"))


def test_a_server_that_dies_ends_the_wait(world: World) -> None:
    world.server.on_silent = lambda: threading.Thread(target=world.server.stop).start()
    error = from_rpc(world.fails(b"silent"), "it", sent=True)
    assert error.code.name == "OUTCOME_UNKNOWN"


def test_closing_the_streams_ends_who_waits(world: World) -> None:
    world.server.on_silent = lambda: threading.Thread(target=world.streams.close).start()
    assert status_of(world.fails(b"silent")) is grpc.StatusCode.CANCELLED
    with pytest.raises(UnavailableError):
        world.ask(b"b")


def test_closing_the_channel_ends_who_waits(world: World) -> None:
    world.server.on_silent = lambda: threading.Thread(
        target=world.channels.drop, args=(world.server.address,)
    ).start()
    assert status_of(world.fails(b"silent")) is grpc.StatusCode.CANCELLED
    assert world.ask(b"b") == b"b"


def test_a_closed_channel_takes_no_new_stream(world: World) -> None:
    world.channels.get(world.server.address).close()
    with pytest.raises(UnavailableError):
        world.ask(b"a")


def test_a_channel_that_was_closed_before_its_stream_leaves_nothing_behind(world: World) -> None:
    world.ask(b"a")
    wire = world.wire()
    world.channels.close()
    eventually(lambda: not wire.is_active())
    world.streams.close()


def test_an_interrupt_ends_the_wait_and_no_late_answer_is_taken_for_the_next(world: World) -> None:
    world.ask(b"a")
    world.server.on_silent = _thread.interrupt_main
    with pytest.raises(KeyboardInterrupt):
        world.ask(b"silent")
    assert world.server.ended.get(timeout=PATIENCE) == 1
    assert world.ask(b"b") == b"b"
    world.wire()


def test_a_stream_of_which_nothing_is_left_ends(world: World) -> None:
    world.ask(b"a")
    world.streams._streams.clear()
    gc.collect()
    assert world.server.ended.get(timeout=PATIENCE) == 1


def test_an_idle_stream_that_is_closed_ends(world: World) -> None:
    world.ask(b"a")
    world.streams.close()
    assert world.server.ended.get(timeout=PATIENCE) == 1


def test_a_fork_ends_without_touching_its_parents_streams(world: World) -> None:
    world.ask(b"a")
    gc.collect()  # servers of other tests, too, would be taken apart in the child
    child = os.fork()
    if child == 0:
        world.streams._streams.clear()
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)  # gRPC starts threads of its own again in the child, which may end it at any moment
    assert world.ask(b"b") == b"b"
    assert world.server.opened == 1


def test_a_fork_that_closes_its_parents_streams_leaves_them_open(world: World) -> None:
    world.ask(b"a")
    gc.collect()
    child = os.fork()
    if child == 0:
        for stream in world.streams._streams.values():
            stream.wire.close()
        os._exit(0)
    os.waitpid(child, 0)  # gRPC starts threads of its own again in the child, which may end it at any moment
    assert world.ask(b"b") == b"b"
    assert world.server.opened == 1


def test_many_threads_on_lanes_of_their_own_get_their_own_answers(world: World) -> None:
    def run(lane: int) -> bool:
        return all(world.ask(raw, lane=lane) == raw for raw in (b"%d/%d" % (lane, k) for k in range(100)))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(run, range(6)))


def test_a_direct_stream_that_failed_or_was_closed_has_nothing_left_in_its_queue(server: Server) -> None:
    world = World(server, DirectStream)
    world.ask(b"a")
    closed = world.wire()
    closed.close()
    world.ask(b"b")
    ended = world.wire()
    world.fails(b"end")
    world.ask(b"c")
    late = world.wire()
    world.fails(b"silent", timeout=0.05)
    world.close()
    assert [(one._due, one._exact) for one in (closed, ended, late)] == [(0, True)] * 3
