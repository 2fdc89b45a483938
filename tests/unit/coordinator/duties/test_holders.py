"""Calls of a leader's duties to datanodes: who is silent is left alone for a while, who refuses is not."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from coordinator.duties.holders import RemoteHolders
from quorumfs.clock import ManualClock
from quorumfs.errors import OutcomeUnknownError, QuorumFSError, UnavailableError
from quorumfs.rpc.circuit import Circuits
from quorumfs.rpc.status import error_metadata


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
    """A channel, and the source of it: every call fails."""

    def __init__(self, error: grpc.RpcError) -> None:
        self._error = error
        self.called = 0

    def get(self, address: str) -> Any:
        return self

    def drop(self, address: str) -> None: ...

    def close(self) -> None: ...

    def unary_unary(self, method: str, **_: object) -> Any:
        return self._call

    unary_stream = stream_unary = unary_unary  # the generated stub makes all its calls at once

    def _call(self, request: object, timeout: float) -> Any:
        self.called += 1
        raise self._error


def holders_of(node: Node) -> RemoteHolders:
    return RemoteHolders(node, lambda node_id: "d1:1", Circuits(ManualClock(), lambda: 0.5))


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
