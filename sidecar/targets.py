"""Requests to other nodes' agents.

The address comes from the membership, the path from a table here, neither from a caller. No redirect is followed, the
answer is bounded, and in loopback mode nobody beyond this machine is asked.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from quorumfs.errors import (
    OutcomeUnknownError,
    PermissionDeniedError,
    QuorumFSError,
    TimedOutError,
    UnavailableError,
)
from sidecar import limits
from sidecar.settings import is_loopback

NDJSON = "application/x-ndjson"
ALIVE_PATH = "/leader"  # which an agent answers whatever its node does


@dataclass(frozen=True, slots=True)
class TargetAnswer:
    """`body`: the JSON; of a log its lines."""

    status: int
    body: Any


class Agents(Protocol):
    """The way to other nodes' agents. Any thread may call."""

    def ask(
        self,
        address: str,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        deadline_seconds: float,
    ) -> TargetAnswer:
        """Raises UnavailableError (nothing was sent), TimedOutError, OutcomeUnknownError (of a change)."""
        ...


class HttpAgents:
    """Over HTTP, one connection a request."""

    def __init__(self, only_loopback: bool) -> None:
        self._only_loopback = only_loopback

    def ask(
        self,
        address: str,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        deadline_seconds: float,
    ) -> TargetAnswer:
        host, port = self._parse(address)
        if method != "GET":
            _require_alive(host, port, address)
        connection = http.client.HTTPConnection(host, port, timeout=deadline_seconds)
        try:
            _connect(connection, address)
            return _exchange(connection, address, method, path, body, headers, deadline_seconds)
        finally:
            connection.close()

    def _parse(self, address: str) -> tuple[str, int]:
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise UnavailableError(
                "the node has told no address of its agent", cause=f"it is {address[:100]!r}"
            )
        if self._only_loopback and host != "localhost" and not is_loopback(host):
            raise PermissionDeniedError(
                f"{address[:100]} was not asked",
                cause="security.mode is loopback, and that is another machine",
            )
        return host, int(port)


def _connect(connection: http.client.HTTPConnection, address: str) -> None:
    try:
        connection.connect()
    except TimeoutError:
        raise TimedOutError(f"{address} takes no connection", cause="nothing was sent") from None
    except OSError as error:
        raise UnavailableError(
            f"the agent is not at {address}",
            cause=str(error),
            next="start quorumfs-sidecar on that node, or look there",
        ) from error


def _require_alive(host: str, port: int, address: str) -> None:
    """Raises TimedOutError for an agent that takes connections and answers nothing: it is told to change nothing."""
    connection = http.client.HTTPConnection(host, port, timeout=limits.TARGET_ALIVE_SECONDS)
    try:
        _connect(connection, address)
        connection.request("GET", ALIVE_PATH)
        connection.getresponse().read(limits.TARGET_ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException) as error:
        cause = f"nothing was sent: {error or type(error).__name__}"
        raise TimedOutError(f"the agent at {address} does not answer", cause=cause) from error
    finally:
        connection.close()


def _exchange(
    connection: http.client.HTTPConnection,
    address: str,
    method: str,
    path: str,
    body: Mapping[str, Any] | None,
    headers: Mapping[str, str],
    deadline_seconds: float,
) -> TargetAnswer:
    raw = json.dumps(body).encode() if body is not None else None
    until = time.monotonic() + deadline_seconds
    try:
        connection.request(method, path, raw, dict(headers))
        response = connection.getresponse()
        answer = bytearray()
        while part := response.read1(64 << 10):
            answer += part
            if len(answer) > limits.TARGET_ANSWER_BYTES_MAX:
                raise UnavailableError(f"{address} answers too much", cause=f"{method} {path}")
            if time.monotonic() > until:
                raise TimeoutError
    except (OSError, http.client.HTTPException) as error:
        raise _lost(address, method, path, error) from error
    return TargetAnswer(response.status, _decoded(bytes(answer), response.getheader("Content-Type", "")))


def _lost(address: str, method: str, path: str, error: Exception) -> QuorumFSError:
    cause = f"{method} {path}: {error or type(error).__name__}"
    if method == "GET":
        return TimedOutError(f"{address} did not answer", cause=cause)
    return OutcomeUnknownError(
        f"{address} did not answer", cause=cause, next="look at that node before you ask for it again"
    )


def _decoded(answer: bytes, kind: str) -> Any:
    text = answer.decode("utf-8", "replace")
    try:
        if kind.startswith(NDJSON):
            lines = [json.loads(line) for line in text.splitlines() if line.strip()]
            return {"lines": lines[-limits.LOG_LINES_MAX :]}
        return json.loads(text)
    except (ValueError, RecursionError):
        return {"text": text[:1000]}
