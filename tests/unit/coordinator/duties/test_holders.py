"""Calls of a leader's duties to datanodes: who is silent is left alone for a while, who refuses is not."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from coordinator.duties.holders import RemoteHolders
from quorumfs.clock import ManualClock
from quorumfs.errors import OutcomeUnknownError, QuorumFSError, TimedOutError, UnavailableError
from quorumfs.rpc.circuit import Circuits
from quorumfs.rpc.status import error_metadata
from quorumfs.v1 import chunks_pb2 as pb


class Failed(grpc.RpcError):
    """UNAVAILABLE; with `composed`, in the words of the node itself."""

    def __init__(self, composed: QuorumFSError | None) -> None:
        super().__init__()
        self._composed = composed

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "failed"

    def trailing_metadata(self) -> Any:
        return error_metadata(self._composed) if self._composed is not None else ()


class Node:
    """A channel, and the source of it: every call fails, or has an empty list for its answer."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.called = 0
        self.timeouts: list[float] = []
        self.requests: list[Any] = []

    def get(self, address: str) -> Any:
        return self

    def drop(self, address: str) -> None: ...

    def close(self) -> None: ...

    def unary_unary(self, method: str, **_: object) -> Any:
        return self._call

    unary_stream = stream_unary = unary_unary  # the generated stub makes all its calls at once

    def _call(self, request: object, timeout: float) -> Any:
        self.called += 1
        self.timeouts.append(timeout)
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        return pb.ListChunksResponse()


def holders_of(
    node: Node, circuits: Circuits | None = None, look_seconds: float | None = None
) -> RemoteHolders:
    found = circuits or Circuits(ManualClock(), lambda: 0.5)
    return RemoteHolders(node, lambda node_id: "d1:1", found, look_seconds)


def test_a_node_that_is_silent_is_not_called_again_at_once() -> None:
    node = Node(Failed(None))
    holders = holders_of(node)
    with pytest.raises(OutcomeUnknownError):
        holders.find("d1", b"c" * 16)
    with pytest.raises(UnavailableError, match="was not called"):
        holders.find("d1", b"c" * 16)
    assert node.called == 1


def test_a_node_that_says_that_its_disk_is_gone_is_there() -> None:
    node = Node(Failed(UnavailableError("its disk does not answer")))
    holders = holders_of(node)
    for _ in range(3):
        with pytest.raises(UnavailableError, match="its disk"):
            holders.find("d1", b"c" * 16)
    assert node.called == 3


def test_an_operator_s_question_is_asked_of_a_node_that_duties_leave_alone_and_its_answer_ends_that() -> None:
    circuits = Circuits(ManualClock(), lambda: 0.5)
    node = Node(Failed(None))
    duty, operator = holders_of(node, circuits), holders_of(node, circuits, 1.2)
    with pytest.raises(OutcomeUnknownError):
        duty.quarantined("d1", b"", 10)
    node.error = None
    with pytest.raises(UnavailableError, match="was not called"):
        duty.quarantined("d1", b"", 10)
    assert operator.quarantined("d1", b"", 10) == []
    assert duty.quarantined("d1", b"", 10) == []
    assert node.timeouts[1] == 1.2


def test_a_node_that_is_late_for_an_operator_is_still_asked_by_duties() -> None:
    circuits = Circuits(ManualClock(), lambda: 0.5)
    node = Node(Failed(None))
    with pytest.raises(UnavailableError):
        holders_of(node, circuits, 1.2).present("d1", b"", 10)
    node.error = None
    assert holders_of(node, circuits).present("d1", b"", 10) == []


def test_a_question_of_an_operator_that_was_lost_leaves_no_doubt() -> None:
    """Who asked the coordinator would else repeat it until its patience is over."""
    operator = holders_of(Node(Failed(None)), look_seconds=1.2)
    for ask in (operator.present, operator.quarantined):
        with pytest.raises(UnavailableError, match="at d1"):
            ask("d1", b"", 10)


def test_a_node_that_does_not_answer_a_handshake_is_silent() -> None:
    node = Node(TimedOutError("d1:1 was not called"))
    holders = holders_of(node)
    with pytest.raises(TimedOutError):
        holders.find("d1", b"c" * 16)
    with pytest.raises(UnavailableError, match="was not called"):
        holders.find("d1", b"c" * 16)
    assert node.called == 1


def test_only_ids_are_asked_for_where_only_ids_are_used() -> None:
    node = Node(None)
    holders = holders_of(node)
    holders.present("d1", b"", 10)
    holders.quarantined("d1", b"", 10)
    assert [one.ids_only for one in node.requests] == [True, True]
