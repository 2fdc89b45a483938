"""The agent's only door to gRPC: one call to one address, with a deadline, and what it means when none comes.

A call ends in one of three ways, and the caller must know which:
1. an answer (also an error that the other side composed: it lives);
2. `SilentError`: the address takes connections and does not answer in time: hung, stopped, or drowned;
3. `RefusedError`: nobody listens there: dead, or not started yet.

Channels are made here and only after gunicorn's fork: a gRPC channel does not survive one.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from common import log
from common.access import BEARER_METADATA
from quorumfs.errors import (
    InvalidArgumentError,
    PermissionDeniedError,
    QuorumFSError,
    TimedOutError,
    UnavailableError,
)
from quorumfs.rpc.channels import ChannelSource
from quorumfs.rpc.status import ERROR_TRAILER, from_rpc, status_of, was_never_sent
from quorumfs.v1 import admin_pb2
from sidecar import limits

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Answer = TypeVar("Answer", bound=Message, covariant=True)

CONNECT_PROBE_SECONDS = 0.3
REQUEST_ID_METADATA = "x-request-id"


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Response]):
    """One RPC: its service, its name, and the class of its answer."""

    service: str
    name: str
    request: type[Request]
    response: type[Response]

    @property
    def path(self) -> str:
        return f"/quorumfs.v1.{self.service}/{self.name}"

    def __str__(self) -> str:
        return f"{self.service}.{self.name}"


class SilentError(TimedOutError):
    """It takes connections and did not answer in time. `was_sent`: the request may have arrived."""

    default_next = "see whether the process hangs (its log, systemctl status), then restart it"
    was_sent = False


class RefusedError(UnavailableError):
    """Nobody listens at the address. `was_sent`: the request may have arrived before that was so."""

    default_next = "start the node, or read its log for why it ended"
    was_sent = False


class Pending(Protocol[Answer]):
    def result(self) -> Answer:
        """Waits, at most for the call's deadline. Raises QuorumFSError."""
        ...


class Tail(Protocol[Answer]):
    """A stream of answers that another thread may cut."""

    def __iter__(self) -> Iterator[Answer]: ...

    def cancel(self) -> None: ...


class Transport(Protocol):
    """Any thread may call any method."""

    def start(
        self,
        address: str,
        method: Method[Request, Response],
        request: Request,
        deadline_seconds: float,
        token: str = "",
    ) -> Pending[Response]:
        """`token`: the caller's, which goes with what changes something."""
        ...

    def tail(
        self,
        address: str,
        method: Method[Request, Response],
        request: Request,
        deadline_seconds: float | None,
    ) -> Tail[Response]: ...

    def close(self) -> None: ...


class GrpcTransport:
    def __init__(self, channels: ChannelSource) -> None:
        self._channels = channels

    def start(
        self,
        address: str,
        method: Method[Request, Response],
        request: Request,
        deadline_seconds: float,
        token: str = "",
    ) -> Pending[Response]:
        metadata = _metadata(token)
        callable_ = self._channels.get(address).unary_unary(
            method.path,
            request_serializer=_serialize,
            response_deserializer=method.response.FromString,
        )
        until = time.monotonic() + deadline_seconds

        def again() -> Response:
            # Waits for a connection instead of failing as long as the last attempt's back-off lasts.
            remaining = max(0.05, until - time.monotonic())
            return callable_(request, timeout=remaining, wait_for_ready=True, metadata=metadata)

        future = callable_.future(request, timeout=deadline_seconds, metadata=metadata)
        return _GrpcPending(address, str(method), future, again)

    def tail(
        self,
        address: str,
        method: Method[Request, Response],
        request: Request,
        deadline_seconds: float | None,
    ) -> Tail[Response]:
        call = self._channels.get(address).unary_stream(
            method.path,
            request_serializer=_serialize,
            response_deserializer=method.response.FromString,
        )
        return _GrpcTail(address, str(method), call(request, timeout=deadline_seconds))

    def close(self) -> None:
        self._channels.close()


class ProvenIfPossible:
    """`proven`, and `plain` while this node has no secret to prove: no cluster has taken it yet. Carries no token: who
    asks for somebody goes by what that one may."""

    def __init__(self, proven: Transport, plain: Transport) -> None:
        self._proven = proven
        self._plain = plain

    def start(
        self,
        address: str,
        method: Method[Request, Response],
        request: Request,
        deadline_seconds: float,
        token: str = "",
    ) -> Pending[Response]:
        try:
            return self._proven.start(address, method, request, deadline_seconds)
        except (UnavailableError, PermissionDeniedError, InvalidArgumentError):
            return self._plain.start(address, method, request, deadline_seconds)

    def tail(
        self,
        address: str,
        method: Method[Request, Response],
        request: Request,
        deadline_seconds: float | None,
    ) -> Tail[Response]:
        return self._plain.tail(address, method, request, deadline_seconds)

    def close(self) -> None:
        """Whoever made the two closes them."""


def translated(address: str, what: str, error: grpc.RpcError) -> QuorumFSError:
    """What `error` says of the node at `address`: it answers, hangs, or is not there."""
    status = status_of(error)
    found = from_rpc(error, what, sent=False)
    was_composed = any(key == ERROR_TRAILER for key, _ in _trailers(error))
    if was_composed or status not in _NO_ANSWER:
        return found
    was_sent = not was_never_sent(error)
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return silent(address, f"{what}: no answer before the deadline", was_sent=was_sent)
    if is_refused(address):
        return refused(address, f"{what}: connection refused", was_sent=was_sent)
    return silent(address, f"{what}: {found.cause}", was_sent=was_sent)


def silent(address: str, cause: str, *, was_sent: bool) -> SilentError:
    error = SilentError(f"{address} takes connections but does not answer", cause=cause)
    error.was_sent = was_sent
    return error


def refused(address: str, cause: str, *, was_sent: bool) -> RefusedError:
    error = RefusedError(f"the node is not at {address}", cause=cause)
    error.was_sent = was_sent
    return error


def is_refused(address: str) -> bool:
    """Whether the machine at `address` refuses a TCP connection. A full accept queue is not a refusal."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_PROBE_SECONDS):
            return False
    except TimeoutError:
        return False
    except OSError:
        return True


def call(
    transport: Transport,
    address: str,
    method: Method[Request, Response],
    request: Request,
    deadline_seconds: float,
    token: str = "",
) -> Response:
    """`start` and wait. Raises QuorumFSError."""
    return transport.start(address, method, request, deadline_seconds, token).result()


def call_alive(
    transport: Transport,
    address: str,
    method: Method[Request, Response],
    request: Request,
    deadline_seconds: float,
    token: str = "",
) -> Response:
    """`call` for what may take its time at one that lives: beside it goes a question that every node answers at once.
    Raises SilentError, as sent, when that one is not answered."""
    pending = transport.start(address, method, request, deadline_seconds, token)
    alive = transport.start(
        address, GET_LEADER, admin_pb2.GetLeaderRequest(), min(deadline_seconds, limits.ALIVE_SECONDS)
    )
    try:
        alive.result()
    except SilentError as error:
        raise silent(address, error.cause.replace(str(GET_LEADER), str(method)), was_sent=True) from error
    except QuorumFSError:
        pass  # what became of the order itself says it better
    return pending.result()


def _metadata(token: str) -> tuple[tuple[str, str], ...]:
    """The id of the request that is being served goes along, so that the node's log has it too."""
    request_id = log.request_id.get()
    sent = ((REQUEST_ID_METADATA, request_id),) if request_id else ()
    return (*sent, (BEARER_METADATA, f"Bearer {token}")) if token else sent


GET_LEADER = Method("Admin", "GetLeader", admin_pb2.GetLeaderRequest, admin_pb2.LeaderView)

_NO_ANSWER = (
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _trailers(error: grpc.RpcError) -> Iterable[tuple[str, str | bytes]]:
    trailing: Any = getattr(error, "trailing_metadata", None)  # a bare RpcError has none
    return (trailing() or ()) if callable(trailing) else ()


@dataclass(frozen=True, slots=True)
class _GrpcPending(Generic[Response]):
    address: str
    what: str
    future: grpc.Future[Response]
    again: Callable[[], Response]

    def result(self) -> Response:
        try:
            return self._result()
        except grpc.FutureCancelledError:
            raise UnavailableError(
                f"{self.what} at {self.address} was cut", cause="this agent is stopping"
            ) from None
        except grpc.RpcError as error:
            raise translated(self.address, self.what, error) from error

    def _result(self) -> Response:
        try:
            return self.future.result()
        except grpc.RpcError as error:
            # A channel that could not connect fails every call until its back-off is over, although the
            # node may be there by now. Nothing was sent: once more, for what is left of the deadline.
            if not was_never_sent(error) or is_refused(self.address):
                raise
            return self.again()


@dataclass(frozen=True, slots=True)
class _GrpcTail(Generic[Response]):
    address: str
    what: str
    call: Any  # the iterator of answers that gRPC gives, which can be cancelled

    def __iter__(self) -> Iterator[Response]:
        try:
            yield from self.call
        except grpc.RpcError as error:
            raise translated(self.address, self.what, error) from error

    def cancel(self) -> None:
        self.call.cancel()
