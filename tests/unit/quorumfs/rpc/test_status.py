"""Errors over the wire and back."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from quorumfs.errors import (
    BusyError,
    Code,
    IntegrityError,
    InternalError,
    Leader,
    NotFoundError,
    NotLeaderError,
    OutcomeUnknownError,
    QuorumFSError,
    TimedOutError,
    TooLargeError,
    UnavailableError,
    make,
)
from quorumfs.rpc.status import (
    ERROR_TRAILER,
    error_metadata,
    from_detail,
    from_rpc,
    grpc_status,
    raise_for,
    status_of,
    to_detail,
    was_never_sent,
)
from quorumfs.v1 import types_pb2


class Broken(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str = "", trailer: Any = ()) -> None:
        super().__init__(details)
        self._code, self._details, self._trailer = code, details, trailer

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailer


CODES = [code for code in Code if code is not Code.OK]


@pytest.mark.parametrize("code", CODES)
def test_every_error_has_a_status_and_survives_the_wire(code: Code) -> None:
    error = make(
        code, "tried", cause="why", next="do that", leader=Leader("c1", "a:1", "a:2", 7), ids={"x": "y"}
    )
    assert grpc_status(error) is not grpc.StatusCode.OK
    back = from_rpc(Broken(grpc_status(error), "", error_metadata(error)), "call", sent=True)
    assert type(back) is type(error)
    assert (back.message, back.cause, back.next, back.leader, back.ids) == (
        "tried",
        "why",
        "do that",
        Leader("c1", "a:1", "a:2", 7),
        {"x": "y"},
    )


def test_the_code_of_a_newer_server_keeps_its_number() -> None:
    detail = types_pb2.ErrorDetail(message="new", cause="thing")
    detail.code = 999  # type: ignore[assignment]  an open enum takes any number
    error = from_detail(detail)
    assert type(error) is InternalError
    assert "999" in error.cause


def test_an_answer_with_a_code_raises_and_one_without_does_not() -> None:
    raise_for(0, types_pb2.ErrorDetail())
    with pytest.raises(NotFoundError, match="no /x"):
        raise_for(4, types_pb2.ErrorDetail(code=types_pb2.ERROR_CODE_NOT_FOUND, message="no /x"))
    with pytest.raises(NotFoundError, match="not found"):
        raise_for(4, types_pb2.ErrorDetail())


@pytest.mark.parametrize(
    "status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNKNOWN]
)
def test_a_broken_call_that_changes_something_is_unknown_never_a_failure(status: grpc.StatusCode) -> None:
    assert isinstance(from_rpc(Broken(status), "x", sent=True), OutcomeUnknownError)


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (grpc.StatusCode.UNAVAILABLE, UnavailableError),
        (grpc.StatusCode.UNIMPLEMENTED, UnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, TimedOutError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, BusyError),
        (grpc.StatusCode.INTERNAL, InternalError),
    ],
)
def test_a_broken_call_that_changes_nothing_is_what_its_status_says(
    status: grpc.StatusCode, cls: type[QuorumFSError]
) -> None:
    error = from_rpc(Broken(status, "told"), "read /x", sent=False)
    assert type(error) is cls
    assert "read /x" in str(error)
    assert "told" in str(error)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (
            grpc.StatusCode.UNAVAILABLE,
            "failed to connect to all addresses; last error: Failed parsing HTTP/2 (Expected SETTINGS frame)",
        ),
        (grpc.StatusCode.UNIMPLEMENTED, "Method not found!"),
    ],
)
def test_a_port_where_something_else_listens_is_named_as_that(status: grpc.StatusCode, told: str) -> None:
    assert "look at the port" in from_rpc(Broken(status, told), "read /x", sent=False).next
    assert "look at the port" not in from_rpc(Broken(grpc.StatusCode.UNAVAILABLE, "no"), "x", sent=False).next


def test_a_message_over_the_limit_is_too_large_and_not_busy() -> None:
    broken = Broken(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 8)")
    assert type(from_rpc(broken, "x", sent=False)) is TooLargeError


def test_a_trailer_that_is_garbage_is_ignored() -> None:
    broken = Broken(grpc.StatusCode.NOT_FOUND, "x", ((ERROR_TRAILER, b"\xff\xff"),))
    assert type(from_rpc(broken, "x", sent=False)) is NotFoundError


def test_an_error_without_a_status_is_not_a_crash() -> None:
    assert status_of(grpc.RpcError()) is grpc.StatusCode.UNKNOWN
    assert isinstance(from_rpc(grpc.RpcError(), "x", sent=True), OutcomeUnknownError)


def test_only_a_refused_connection_is_known_not_to_have_been_sent() -> None:
    refused = Broken(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: refused")
    assert was_never_sent(refused)
    assert not was_never_sent(Broken(grpc.StatusCode.UNAVAILABLE, "Socket closed"))


def test_an_error_without_a_leader_has_none_on_the_other_side() -> None:
    assert from_detail(to_detail(NotLeaderError("no"))).leader is None
    assert from_detail(to_detail(IntegrityError("bad"))).code is Code.CORRUPT
