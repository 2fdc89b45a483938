"""Batches over streams: one stream per lane, ended by whatever goes wrong, and unary calls where there are none."""

from __future__ import annotations

import threading
from typing import Any

import grpc
import pytest

from quorumfs.errors import UnavailableError
from quorumfs.rpc.status import from_rpc, status_of
from quorumfs.rpc.streams import BatchStreams
from quorumfs.v1 import namespace_pb2 as pb
from tests.unit.quorumfs.fakes import Network, broken

PATH = "/quorumfs.v1.Namespace/Do"


class Reply:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def SerializeToString(self) -> bytes:  # noqa: N802  as a message has it
        return self.raw


class World:
    def __init__(self) -> None:
        self.net = Network()
        self.net.servers["c1:1"][PATH] = lambda raw: Reply(b"1" + raw)
        self.net.servers["c2:1"][PATH] = lambda raw: Reply(b"2" + raw)
        self.unary: list[bytes] = []
        self.streams = BatchStreams(self.net, self._unary, (("authorization", "Bearer x"),))

    def _unary(self, address: str, path: str, raw: bytes, timeout: float) -> bytes:
        self.unary.append(raw)
        return self.net.answer(address, path, raw)

    def ask(self, raw: bytes, address: str = "c1:1", lane: int = 0) -> bytes:
        return self.streams.exchange(lane, address, PATH, raw, 5.0)


def test_a_stream_is_opened_once_and_carries_the_token() -> None:
    world = World()
    assert [world.ask(b"a"), world.ask(b"b")] == [b"1a", b"1b"]
    assert len(world.net.exchanges) == 1
    assert world.net.metadata == [(("authorization", "Bearer x"),)]


def test_each_lane_has_a_stream_of_its_own() -> None:
    world = World()
    world.ask(b"a", lane=0)
    world.ask(b"b", lane=1)
    assert len(world.net.exchanges) == 2


def test_another_leader_gets_another_stream_and_the_old_one_ends() -> None:
    world = World()
    world.ask(b"a")
    assert world.ask(b"b", "c2:1") == b"2b"
    old, new = world.net.exchanges
    assert (old.ended, new.ended) == (True, False)


def test_a_failed_exchange_ends_its_stream_and_looks_like_a_failed_call() -> None:
    world = World()
    world.ask(b"a")
    world.net.before = lambda *_: (_ for _ in ()).throw(broken())
    with pytest.raises(grpc.RpcError) as caught:
        world.ask(b"b")
    assert from_rpc(caught.value, "it", sent=True).code.name == "OUTCOME_UNKNOWN"
    world.net.before = lambda *_: None
    assert world.ask(b"c") == b"1c"
    assert [one.ended for one in world.net.exchanges] == [True, False]


def test_a_stream_that_the_server_ended_meanwhile_is_not_written_to() -> None:
    world = World()
    world.ask(b"a")
    world.net.exchanges[0].ended = True
    assert world.ask(b"b") == b"1b"
    assert [raw for _, _, raw in world.net.calls] == [b"a", b"b"]


def test_an_interrupt_ends_the_stream_so_that_no_late_answer_is_taken_for_the_next() -> None:
    world = World()
    world.ask(b"a")

    def interrupt(*_: Any) -> None:
        world.net.before = lambda *_: None
        raise KeyboardInterrupt

    world.net.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        world.ask(b"b")
    assert world.net.exchanges[0].ended
    assert world.ask(b"c") == b"1c"


def test_a_server_without_streams_is_asked_by_calls_from_then_on() -> None:
    world = World()
    world.net.streams = False
    assert [world.ask(b"a"), world.ask(b"b")] == [b"1a", b"1b"]
    assert world.unary == [b"a", b"b"]
    assert len(world.net.exchanges) == 1


def test_closed_streams_take_nothing_more() -> None:
    world = World()
    world.ask(b"a")
    world.streams.close()
    world.streams.close()
    assert world.net.exchanges[0].ended
    with pytest.raises(UnavailableError):
        world.ask(b"b")


class SilentCall:
    """A call whose answer comes only when it is cancelled."""

    def __init__(self, requests: Any) -> None:
        self.requests = requests
        self.cancelled = threading.Event()

    def is_active(self) -> bool:
        return not self.cancelled.is_set()

    def cancel(self) -> None:
        self.cancelled.set()

    def __next__(self) -> bytes:
        assert self.cancelled.wait(20), "nobody ended the call"
        raise broken()


class SilentChannels:
    def __init__(self) -> None:
        self.calls: list[SilentCall] = []

    def get(self, address: str) -> Any:
        return self

    def stream_stream(self, path: str, **_: Any) -> Any:
        def begin(requests: Any, metadata: Any) -> SilentCall:
            self.calls.append(SilentCall(requests))
            return self.calls[-1]

        return begin

    def drop(self, address: str) -> None: ...

    def close(self) -> None: ...


def test_an_answer_that_does_not_come_is_a_deadline_that_was_exceeded() -> None:
    channels = SilentChannels()
    streams = BatchStreams(channels, lambda *_: b"")
    with pytest.raises(grpc.RpcError) as caught:
        streams.exchange(0, "c1:1", PATH, b"a", 0.02)
    assert status_of(caught.value) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert list(channels.calls[0].requests) == [b"a"], "the thread that feeds the stream is let go"
    streams.close()


def test_the_streamed_calls_are_part_of_the_protocol() -> None:
    service = pb.DESCRIPTOR.services_by_name["Namespace"]
    for name in ("Do", "Read"):
        one, many = service.methods_by_name[name], service.methods_by_name[name + "Stream"]
        assert (one.input_type, one.output_type) == (many.input_type, many.output_type)
