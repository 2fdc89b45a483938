"""When a stream is driven by its caller, and when it has to be of gRPC's public kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from quorumfs.rpc import direct_stream
from quorumfs.rpc.direct_stream import open_direct
from tests.unit.quorumfs.fakes import Network

PATH = "/quorumfs.v1.Namespace/DoStream"


class Intercepts(grpc.StreamStreamClientInterceptor):
    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(details, requests)


@pytest.fixture
def channel() -> Iterator[Any]:
    channel = grpc.insecure_channel("127.0.0.1:1")  # it connects to nobody before it has to
    yield channel
    channel.close()


def test_a_channel_of_a_grpc_that_was_tried_has_a_stream_that_its_caller_drives(channel: Any) -> None:
    made = open_direct(channel, PATH, ())
    assert made is not None
    made.close()


def test_another_release_of_grpc_is_not_driven(channel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc, "__version__", "1.86.0")
    assert open_direct(channel, PATH, ()) is None
    monkeypatch.setattr(grpc, "__version__", "1.850.0")
    assert open_direct(channel, PATH, ()) is None


def test_a_build_of_grpc_without_these_parts_is_not_driven(
    channel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_stream, "_cygrpc", None)
    assert open_direct(channel, PATH, ()) is None


def test_parts_of_another_shape_are_not_driven(channel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Renamed:
        pass

    class Shorter:
        def segregated_call(self, method: bytes) -> None: ...

    for other in (Renamed(), Shorter()):
        with monkeypatch.context() as patch:
            patch.setattr(channel, "_channel", other)
            assert open_direct(channel, PATH, ()) is None


def test_grpcs_support_for_forks_is_not_given_calls_that_it_waits_for(
    channel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_stream._cygrpc, "is_fork_support_enabled", lambda: True)
    assert open_direct(channel, PATH, ()) is None


def test_a_channel_with_interceptors_or_of_another_kind_is_not_driven(channel: Any) -> None:
    assert open_direct(grpc.intercept_channel(channel, Intercepts()), PATH, ()) is None
    assert open_direct(Network().get("c1:1"), PATH, ()) is None


def test_a_closed_channel_says_so(channel: Any) -> None:
    channel.close()
    with pytest.raises(ValueError, match="closed"):
        open_direct(channel, PATH, ())


class Queue:
    """A call of gRPC's that brings what it is told to bring; an exception stands for an interrupt."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.started: list[str] = []
        self.cancelled = 0

    def segregated_call(self, *_: Any) -> Queue:
        return self

    def operate(self, operations: Any, tag: str) -> bool:
        self.started.append(tag)
        return True

    def next_event(self) -> Any:
        event = self.events.pop(0)
        if isinstance(event, BaseException):
            raise event
        return event

    def cancel(self, code: int, details: str) -> None:
        self.cancelled += 1


def test_after_an_interrupt_the_queue_is_not_asked_again() -> None:
    call = Queue()
    stream = direct_stream.DirectStream(call, PATH, ())
    call.events = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        stream.ask(b"a")
    assert not stream.is_active()
    with pytest.raises(grpc.RpcError):
        stream.ask(b"b")
    stream.close()  # `next_event` would find no event
    assert call.started == ["answered"]
    assert call.cancelled


class Event:
    def __init__(self, tag: str, *operations: Any) -> None:
        self.tag, self.batch_operations = tag, operations


class Operation:
    """What came of a part of a batch: a message, or the status of the call."""

    def __init__(self, message: bytes | None = None) -> None:
        self._message = message

    def message(self) -> bytes | None:
        return self._message

    def code(self) -> int:
        return 0

    def details(self) -> str:
        return ""

    def trailing_metadata(self) -> tuple[Any, ...]:
        return ()


def test_who_had_its_answer_while_the_stream_was_closed_takes_what_is_left_in_the_queue() -> None:
    call = Queue()
    stream = direct_stream.DirectStream(call, PATH, ())
    call.events = [
        Event("begun", Operation()),
        Event("answered", Operation(), Operation(b"A")),
        Event("ended", Operation(), Operation()),
    ]
    take = call.next_event

    def closed_meanwhile() -> Any:
        call.next_event = take  # type: ignore[method-assign]
        stream.close()
        return take()

    call.next_event = closed_meanwhile  # type: ignore[method-assign]
    assert stream.ask(b"a") == b"A"
    assert call.events == []


def test_a_stream_that_is_forgotten_gives_back_its_queue() -> None:
    call = Queue()
    stream = direct_stream.DirectStream(call, PATH, ())
    call.events = [Event("begun", Operation()), Event("ended", Operation(), Operation())]
    del stream
    assert call.cancelled
    assert call.events == []
