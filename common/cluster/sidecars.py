"""Asks a sidecar who leads: `GET /leader`, which every node's agent answers, whatever its node does.

What it says is a hint and nothing more: whoever is named has to prove the cluster's secret and to lead by an epoch that
is not too low, as everybody.
"""

from __future__ import annotations

import http.client
import json
from typing import Protocol

from quorumfs.errors import NoLeaderError, UnavailableError

ANSWER_BYTES_MAX = 64 << 10
ADDRESS_CHARACTERS_MAX = 300


class AskSidecar(Protocol):
    """The gRPC address of the leader that the sidecar at `address` (host:port) names, within `seconds`. Raises
    UnavailableError: no answer, or none that can be read; NoLeaderError: it knows none."""

    def __call__(self, address: str, seconds: float) -> str: ...


def ask_sidecar(address: str, seconds: float) -> str:
    """`AskSidecar` by HTTP."""
    host, _, port = address.rpartition(":")
    try:
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=seconds)
        try:
            connection.request("GET", "/leader", headers={"Accept": "application/json"})
            raw = connection.getresponse().read(ANSWER_BYTES_MAX)
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UnavailableError(f"the sidecar at {address} does not answer", cause=str(error)) from error
    return leader_in(raw, address)


def leader_in(raw: bytes, address: str) -> str:
    """The leader's gRPC address in an answer of `/leader`. Raises UnavailableError, NoLeaderError."""
    try:
        leader = json.loads(raw)["leader"]
        found = None if leader is None else leader["grpc"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnavailableError(
            f"the sidecar at {address} gave no answer of /leader", cause=repr(error)
        ) from error
    if found is None:
        raise NoLeaderError(f"the sidecar at {address} knows of no leader")
    host, colon, port = found.rpartition(":") if isinstance(found, str) else ("", "", "")
    if not (host and colon and port.isdecimal()) or len(found) > ADDRESS_CHARACTERS_MAX:
        raise UnavailableError(f"the sidecar at {address} names no address", cause=repr(found)[:100])
    return str(found)
