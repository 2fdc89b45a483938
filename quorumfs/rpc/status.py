"""Errors <-> the wire: one table, both ways. The only place that translates gRPC's errors.

A server puts the whole error, an `ErrorDetail`, in the trailer `quorumfs-error-bin` beside the gRPC status.
A client that finds the trailer raises exactly what the server raised; without one (a broken connection, a
deadline, a foreign proxy) the status alone decides, and `sent` says whether the request may have taken
effect: then "unavailable" is not a refusal but an unknown outcome.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from quorumfs.errors import (
    BusyError,
    Code,
    InternalError,
    InvalidArgumentError,
    Leader,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    QuorumFSError,
    TimedOutError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
    make,
)
from quorumfs.v1 import types_pb2

ERROR_TRAILER = "quorumfs-error-bin"

_S = grpc.StatusCode
_STATUS_OF: Mapping[Code, grpc.StatusCode] = {
    Code.OK: _S.OK,
    Code.INTERNAL: _S.INTERNAL,
    Code.INVALID_ARGUMENT: _S.INVALID_ARGUMENT,
    Code.INVALID_PATH: _S.INVALID_ARGUMENT,
    Code.NOT_FOUND: _S.NOT_FOUND,
    Code.ALREADY_EXISTS: _S.ALREADY_EXISTS,
    Code.NOT_EMPTY: _S.FAILED_PRECONDITION,
    Code.NOT_A_DIRECTORY: _S.FAILED_PRECONDITION,
    Code.IS_A_DIRECTORY: _S.FAILED_PRECONDITION,
    Code.PRECONDITION_FAILED: _S.FAILED_PRECONDITION,
    Code.NOT_LEADER: _S.FAILED_PRECONDITION,
    Code.NO_LEADER: _S.UNAVAILABLE,
    Code.UNAVAILABLE: _S.UNAVAILABLE,
    Code.UNAUTHENTICATED: _S.UNAUTHENTICATED,
    Code.PERMISSION_DENIED: _S.PERMISSION_DENIED,
    Code.TIMED_OUT: _S.DEADLINE_EXCEEDED,
    Code.PARTIAL: _S.ABORTED,
    Code.CORRUPT: _S.DATA_LOSS,
    Code.SAFETY_GUARD: _S.FAILED_PRECONDITION,
    Code.OUTCOME_UNKNOWN: _S.UNKNOWN,
    Code.BUSY: _S.RESOURCE_EXHAUSTED,
    Code.NO_SPACE: _S.RESOURCE_EXHAUSTED,
    Code.NO_PLACEMENT: _S.UNAVAILABLE,
    Code.SESSION_EXPIRED: _S.FAILED_PRECONDITION,
    Code.STALE_SEQUENCE: _S.FAILED_PRECONDITION,
    Code.UPLOAD_GONE: _S.FAILED_PRECONDITION,
    Code.CHUNK_CONDEMNED: _S.FAILED_PRECONDITION,
    Code.CHUNK_NOT_FOUND: _S.NOT_FOUND,
    Code.WRONG_CLUSTER: _S.PERMISSION_DENIED,
    Code.FENCED: _S.PERMISSION_DENIED,
    Code.FORMAT_TOO_NEW: _S.INVALID_ARGUMENT,
    Code.CYCLE: _S.FAILED_PRECONDITION,
    Code.TOO_LARGE: _S.INVALID_ARGUMENT,
    Code.INLINE_BUDGET: _S.RESOURCE_EXHAUSTED,
    Code.HISTORY_BEHIND: _S.PERMISSION_DENIED,
    Code.DUPLICATE_NODE: _S.PERMISSION_DENIED,
}

# A status without our trailer: whoever answered was not one of our handlers.
_CLASS_OF: Mapping[grpc.StatusCode, type[QuorumFSError]] = {
    _S.INVALID_ARGUMENT: InvalidArgumentError,
    _S.NOT_FOUND: NotFoundError,
    _S.PERMISSION_DENIED: PermissionDeniedError,
    _S.UNAUTHENTICATED: UnauthenticatedError,
    _S.RESOURCE_EXHAUSTED: BusyError,
    _S.DEADLINE_EXCEEDED: TimedOutError,
    _S.UNAVAILABLE: UnavailableError,
    _S.UNIMPLEMENTED: UnavailableError,  # a node that does not serve this call: ask another
    _S.CANCELLED: UnavailableError,
}
# The connection or the server broke while the request was under way.
WRONG_PORT = (
    "look at the port: it is not one of a coordinator's gRPC (7400 by default; 7402 is its agent's HTTP, 7401 Raft's, "
    "7500 a datanode's)"
)
_MAY_HAVE_HAPPENED = frozenset(
    {_S.UNAVAILABLE, _S.DEADLINE_EXCEEDED, _S.CANCELLED, _S.UNKNOWN, _S.INTERNAL, _S.ABORTED, _S.DATA_LOSS}
)


def grpc_status(error: QuorumFSError) -> grpc.StatusCode:
    """The gRPC status that goes with an error of ours."""
    return _STATUS_OF[error.code]


def to_detail(error: QuorumFSError) -> types_pb2.ErrorDetail:
    """The error as it travels."""
    detail = types_pb2.ErrorDetail(
        code=types_pb2.ErrorCode.ValueType(error.code),
        message=error.message,
        cause=error.cause,
        next=error.next,
        ids=error.ids,
    )
    if error.leader is not None:
        detail.leader.CopyFrom(
            types_pb2.LeaderHint(
                node_id=error.leader.node_id,
                grpc=error.leader.grpc,
                http=error.leader.http,
                term=error.leader.term,
            )
        )
    return detail


def from_detail(detail: types_pb2.ErrorDetail) -> QuorumFSError:
    """The error that `detail` describes; its class is that of the code."""
    return make(
        detail.code,
        detail.message,
        cause=detail.cause,
        next=detail.next,
        leader=leader_of(detail.leader) if detail.HasField("leader") else None,
        ids=detail.ids,
    )


def leader_of(hint: types_pb2.LeaderHint) -> Leader | None:
    """The leader a hint names; None when it names nobody."""
    if not hint.grpc:
        return None
    return Leader(node_id=hint.node_id, grpc=hint.grpc, http=hint.http, term=hint.term)


def raise_for(code: int, detail: types_pb2.ErrorDetail) -> None:
    """Raise the error of an answer's `code` and `error`; return when the code is OK.

    `code` decides; a detail without a code of its own, or without a message, is completed.
    """
    if code == types_pb2.ERROR_CODE_OK:
        return
    error = from_detail(detail) if detail.code == code else make(code, detail.message, cause=detail.cause)
    if not error.message:
        error.message = f"the server answered {error.code.name.lower().replace('_', ' ')}"
    raise error


def from_rpc(error: grpc.RpcError, what: str, sent: bool) -> QuorumFSError:
    """The error of a failed call.

    `what` says what was tried ("commit /data/a.bin at 127.0.0.1:7400"). `sent` is True for a request that
    changes something and may have reached the server: then a broken call is an OutcomeUnknownError.
    """
    detail = _trailer(error)
    if detail is not None:
        return from_detail(detail)
    status, cause = _status(error)
    if status is _S.RESOURCE_EXHAUSTED and "larger than max" in cause:
        return TooLargeError(f"{what}: the message is too large", cause=cause)
    if sent and status in _MAY_HAVE_HAPPENED:
        return OutcomeUnknownError(f"{what}: no answer came back", cause=f"{status.name.lower()}: {cause}")
    cls = _CLASS_OF.get(status, InternalError)
    advice = WRONG_PORT if _is_elsewhere(status, cause) else ""
    return cls(f"{what} failed", cause=f"{status.name.lower()}: {cause}", next=advice)


def _is_elsewhere(status: grpc.StatusCode, cause: str) -> bool:
    """Whether what listens there is no server of this kind: it speaks HTTP/1, or does not know the call."""
    return status is _S.UNIMPLEMENTED or "parsing HTTP/2" in cause or "http1.x server" in cause


def status_of(error: grpc.RpcError) -> grpc.StatusCode:
    """The status a call ended with; UNKNOWN for an error that has none."""
    return _status(error)[0]


def was_never_sent(error: grpc.RpcError) -> bool:
    """True when the request certainly never left: there was no connection to send it on.

    gRPC has no other sign for it than its words.
    """
    status, cause = _status(error)
    return status is _S.UNAVAILABLE and cause.startswith("failed to connect to all addresses")


def was_refused(error: grpc.RpcError) -> bool:
    """True when nobody listens there. A process that hangs takes connections, which then time out: that is no refusal,
    though nothing was sent either."""
    return was_never_sent(error) and "onnection refused" in _status(error)[1]


def is_composed(error: grpc.RpcError) -> bool:
    """True when a node of ours answered with an error of its own: it lives."""
    return _trailer(error) is not None


def error_metadata(error: QuorumFSError) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata with which a server sends `error`."""
    return ((ERROR_TRAILER, to_detail(error).SerializeToString()),)


def _trailer(error: grpc.RpcError) -> types_pb2.ErrorDetail | None:
    trailing: Any = getattr(error, "trailing_metadata", None)
    for key, value in (trailing() or ()) if callable(trailing) else ():
        if key == ERROR_TRAILER:
            try:
                return types_pb2.ErrorDetail.FromString(value)
            except DecodeError:
                return None
    return None


def _status(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    # Only a call that ended has these; a bare RpcError (a channel closed under the call) has neither.
    code: Any = getattr(error, "code", None)
    details: Any = getattr(error, "details", None)
    status = code() if callable(code) else None
    text = details() if callable(details) else None
    return status or _S.UNKNOWN, str(text or error or "the connection broke")
