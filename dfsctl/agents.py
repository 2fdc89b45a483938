"""Asking nodes' agents over HTTP. Addresses come from the membership; no redirect is followed; errors are ours."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quorumfs.discovery import TOKEN_VARIABLE
from quorumfs.errors import (
    Code,
    InternalError,
    NoLeaderError,
    OutcomeUnknownError,
    QuorumFSError,
    TimedOutError,
    UnavailableError,
    make,
)

ANSWER_SECONDS = 15.0  # an agent gives an ordinary answer within ten
QUIET_SECONDS = 30.0  # a log that is followed shows every few seconds that it is there
ANSWER_BYTES_MAX = 64 << 20
CONNECT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Answer:
    """`body`: the JSON."""

    status: int
    body: Any


class Agents:
    """Sends the token of the environment along."""

    def __init__(self, timeout_seconds: float | None = None) -> None:
        self._seconds = timeout_seconds or ANSWER_SECONDS
        token = os.environ.get(TOKEN_VARIABLE)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def ask(
        self, addresses: Sequence[str], method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> Answer:
        """The answer of the first that takes the request. Raises QuorumFSError: also for a refusal."""
        failures = []
        for address in addresses:
            try:
                return self._ask(address, method, path, body)
            except _NotReachedError as error:
                failures.append(str(error))
        raise NoLeaderError(
            "no agent answers",
            cause="; ".join(failures) or "the cluster has told no address of one",
            next="start quorumfs-sidecar beside a coordinator",
        )

    def follow(self, address: str, path: str) -> Iterator[dict[str, Any]]:
        """Lines of JSON as they come, until the other side ends. Raises QuorumFSError."""
        with self._connected(address) as connection:
            try:
                connection.request("GET", path, headers={**self._headers, "Accept": "application/x-ndjson"})
                connection.sock.settimeout(QUIET_SECONDS)
                response = connection.getresponse()
                if response.status != 200:
                    _refuse(response.status, _decoded(response.read(ANSWER_BYTES_MAX)))
                while line := response.readline():
                    if line.strip():
                        found = _decoded(line)
                        yield found if isinstance(found, dict) else {"text": str(found)}
            except (OSError, http.client.HTTPException) as error:
                raise TimedOutError(f"{address} tells no more", cause=_words(error)) from error

    def _ask(self, address: str, method: str, path: str, body: Mapping[str, Any] | None) -> Answer:
        raw = None if body is None else json.dumps(body).encode()
        headers = {**self._headers, **({"Content-Type": "application/json"} if raw is not None else {})}
        with self._connected(address) as connection:
            try:
                connection.request(method, path, raw, headers)
                response = connection.getresponse()
                found = _decoded(response.read(ANSWER_BYTES_MAX))
            except (OSError, http.client.HTTPException) as error:
                kind = TimedOutError if method == "GET" else OutcomeUnknownError
                raise kind(f"{address} did not answer {method} {path}", cause=_words(error)) from error
        if response.status >= 300 and not (isinstance(found, dict) and "results" in found):
            _refuse(response.status, found)
        return Answer(response.status, found)

    @contextlib.contextmanager
    def _connected(self, address: str) -> Iterator[http.client.HTTPConnection]:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise _NotReachedError(
                "a node has told no address of its agent", cause=f"it is {address[:100]!r}"
            )
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=CONNECT_SECONDS)
        try:
            try:
                connection.connect()
            except OSError as error:
                raise _NotReachedError(f"the agent is not at {address}", cause=_words(error)) from error
            connection.sock.settimeout(self._seconds)
            yield connection
        finally:
            connection.close()


class _NotReachedError(UnavailableError):
    """Nothing was sent: another one may be asked."""


def error_of(told: Any) -> QuorumFSError:
    """An error as agents tell it ({"code", "message", "cause", "next"}) as one of ours."""
    if not isinstance(told, dict):
        return InternalError("the agent refused", cause=str(told)[:300])
    code = Code.__members__.get(str(told.get("code", "")).upper(), Code.INTERNAL)
    return make(
        code,
        str(told.get("message", "")),
        cause=str(told.get("cause", "")),
        next=str(told.get("next", "")),
    )


def _refuse(status: int, found: Any) -> None:
    if isinstance(found, dict) and isinstance(found.get("error"), dict):
        raise error_of(found["error"])
    raise InternalError(f"the agent answered HTTP {status}", cause=str(found)[:300])


def _decoded(raw: bytes) -> Any:
    text = raw.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
