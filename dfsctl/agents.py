"""Asking nodes' agents over HTTP. Addresses come from the membership; no redirect is followed; errors are ours.

An agent that hangs takes connections and answers nothing. So each first shows that it answers, to a question that waits
for nobody, before it is given what may take its time; of several the next is asked while the first is late.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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
ALIVE_SECONDS = 1.2  # an agent that does not hang shows by then that it answers
ALONE_SECONDS = 0.2  # then the next is asked beside it
ALIVE_PATH = "/ui/"  # for which it asks neither its node nor anybody else


@dataclass(frozen=True, slots=True)
class Answer:
    """`body`: the JSON."""

    status: int
    body: Any


class Agents:
    """Sends the token of the environment along."""

    def __init__(self, timeout_seconds: float | None = None, alive_seconds: float = ALIVE_SECONDS) -> None:
        self._seconds = timeout_seconds or ANSWER_SECONDS
        self._alive_seconds = min(alive_seconds, self._seconds)
        token = os.environ.get(TOKEN_VARIABLE)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def ask(
        self, addresses: Sequence[str], method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> Answer:
        """The answer of the first that takes the request. Raises QuorumFSError: also for a refusal."""
        failures: list[QuorumFSError] = []
        for address in answering(addresses, self._require_alive, failures):
            try:
                return self._ask(address, method, path, body)
            except _NotReachedError as error:
                failures.append(error)
        raise NoLeaderError(
            "no agent answers",
            cause="; ".join(map(str, failures)) or "the cluster has told no address of one",
            next="start quorumfs-sidecar beside a coordinator",
        )

    def follow(self, address: str, path: str) -> Iterator[dict[str, Any]]:
        """Lines of JSON as they come, until the other side ends. Raises QuorumFSError."""
        self._require_alive(address)
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

    def _require_alive(self, address: str) -> None:
        with self._connected(address, self._alive_seconds) as connection:
            try:
                connection.request("HEAD", ALIVE_PATH)
                connection.getresponse().read()
            except (OSError, http.client.HTTPException) as error:
                raise _SilentError(
                    f"the agent at {address} takes connections and does not answer",
                    cause=f"nothing was sent: {_words(error)}",
                    next="restart quorumfs-sidecar on that node",
                ) from error

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
    def _connected(self, address: str, seconds: float | None = None) -> Iterator[http.client.HTTPConnection]:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise _NotReachedError(
                "a node has told no address of its agent", cause=f"it is {address[:100]!r}"
            )
        connection = http.client.HTTPConnection(
            host.strip("[]"), int(port), timeout=seconds or CONNECT_SECONDS
        )
        try:
            try:
                connection.connect()
            except OSError as error:
                raise _NotReachedError(f"the agent is not at {address}", cause=_words(error)) from error
            connection.sock.settimeout(seconds or self._seconds)
            yield connection
        finally:
            connection.close()


class _NotReachedError(UnavailableError):
    """Nothing was sent: another one may be asked."""


class _SilentError(TimedOutError):
    """It takes connections and hangs. Nothing was sent: another one may be asked."""


def answering(
    addresses: Sequence[str],
    require_alive: Callable[[str], object],
    failures: list[QuorumFSError],
    alone_seconds: float = ALONE_SECONDS,
) -> Iterator[str]:
    """Those that show that they answer, as they do: one after the other, and the next also while those before are late.
    Why others do not goes into `failures`. What is left of it when the caller has had enough holds up nobody."""
    told: queue.SimpleQueue[tuple[str, QuorumFSError | None]] = queue.SimpleQueue()

    def ask(address: str) -> None:
        try:
            require_alive(address)
            told.put((address, None))
        except QuorumFSError as error:
            told.put((address, error))

    waiting, under_way = list(addresses), 0
    while waiting or under_way:
        if waiting:
            threading.Thread(target=ask, args=(waiting.pop(0),), name="first-contact", daemon=True).start()
            under_way += 1
        try:
            address, failure = told.get(timeout=alone_seconds if waiting else None)
        except queue.Empty:
            continue
        under_way -= 1
        if failure is None:
            yield address
        else:
            failures.append(failure)


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
