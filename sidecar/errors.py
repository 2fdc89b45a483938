"""Every way a request can end badly, as one JSON shape: {"error": {"code", "message", "cause", "next"}}.

A traceback goes to the log and never to the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException, InternalServerError

from common import log
from quorumfs.errors import Code, InternalError, QuorumFSError
from sidecar.auth import NotJsonError

STATUS_OF: Mapping[Code, int] = {
    Code.INVALID_ARGUMENT: 400,
    Code.INVALID_PATH: 400,
    Code.FORMAT_TOO_NEW: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.WRONG_CLUSTER: 403,
    Code.FENCED: 403,
    Code.HISTORY_BEHIND: 403,
    Code.DUPLICATE_NODE: 403,
    Code.NOT_FOUND: 404,
    Code.CHUNK_NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.NOT_EMPTY: 409,
    Code.NOT_A_DIRECTORY: 409,
    Code.IS_A_DIRECTORY: 409,
    Code.PRECONDITION_FAILED: 409,
    Code.CYCLE: 409,
    Code.UPLOAD_GONE: 409,
    Code.CHUNK_CONDEMNED: 409,
    Code.SAFETY_GUARD: 409,
    Code.TOO_LARGE: 413,
    Code.BUSY: 429,
    Code.PARTIAL: 207,
    Code.NOT_LEADER: 503,
    Code.NO_LEADER: 503,
    Code.UNAVAILABLE: 503,
    Code.NO_PLACEMENT: 503,
    Code.SESSION_EXPIRED: 504,
    Code.STALE_SEQUENCE: 504,
    Code.OUTCOME_UNKNOWN: 504,
    Code.TIMED_OUT: 504,
    Code.NO_SPACE: 507,
    Code.INLINE_BUDGET: 507,
}
# What HTTP itself refuses, in the words of our codes.
CODE_OF_STATUS: Mapping[int, Code] = {
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    411: Code.INVALID_ARGUMENT,
    413: Code.TOO_LARGE,
    414: Code.TOO_LARGE,
    429: Code.BUSY,
    431: Code.TOO_LARGE,
    503: Code.UNAVAILABLE,
    504: Code.TIMED_OUT,
}
NEXT_OF_STATUS: Mapping[int, str] = {
    404: "GET /openapi.json lists the endpoints",
    405: "the Allow header names the methods of this path",
    411: "send a Content-Length",
    413: "send less",
    415: "send Content-Type: application/json",
}


def error_response(
    error: QuorumFSError, status: int | None = None, extra: Mapping[str, Any] | None = None
) -> Response:
    """`error` as an answer. `extra`: fields beside "error"."""
    response = jsonify({"error": error.to_json(), **(extra or {})})
    response.status_code = status or status_of(error)
    if response.status_code in (429, 503):
        response.headers["Retry-After"] = "1"
    if response.status_code == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def status_of(error: QuorumFSError) -> int:
    return 415 if isinstance(error, NotJsonError) else STATUS_OF.get(error.code, 500)


def http_error_json(status: int, message: str) -> dict[str, Any]:
    """The value of "error" for what HTTP itself refuses."""
    code = CODE_OF_STATUS.get(status, Code.INVALID_ARGUMENT if status < 500 else Code.INTERNAL)
    return {
        "code": code.name.lower(),
        "message": message,
        "cause": f"HTTP {status}",
        "next": NEXT_OF_STATUS.get(status, ""),
    }


def register(app: Flask) -> None:
    app.register_error_handler(QuorumFSError, _quorumfs_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(InternalServerError, _bug)


def _quorumfs_error(error: QuorumFSError) -> Response:
    return error_response(error)


def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    response = jsonify(
        {"error": http_error_json(status, f"{request.method} {request.path[:200]}: {error.name}")}
    )
    response.status_code = status
    for name, value in error.get_headers(None, {}):
        if name.lower() in ("allow", "retry-after"):
            response.headers[name] = value
    return response


def _bug(error: InternalServerError) -> Response:
    cause = error.original_exception
    log.get("sidecar").error(
        "http.failed", method=request.method, route=str(request.url_rule), exc_info=cause or error
    )
    return error_response(
        InternalError("the agent failed to answer", cause=type(cause or error).__name__), 500
    )
