"""Asking a node's sidecar over HTTP."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass
from typing import Any

from quorumfs.local.layout import HOST, NodeSpec

PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Answer:
    """A response, and how long it took."""

    status: int
    body: bytes
    kind: str
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


def ask(
    node: NodeSpec,
    path: str,
    method: str = "GET",
    body: object = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request to the node's sidecar. `body`: sent as JSON; bytes as they are. Raises OSError."""
    connection = http.client.HTTPConnection(HOST, node.ports["http"], timeout=PATIENCE_SECONDS)
    raw = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    given = {"Content-Type": "application/json"} if raw is not None else {}
    begun = time.monotonic()
    try:
        connection.request(method, path, raw, {**given, **(headers or {})})
        found = connection.getresponse()
        answer = found.read()
        kind = found.getheader("Content-Type", "").partition(";")[0]
        return Answer(found.status, answer, kind, time.monotonic() - begun)
    finally:
        connection.close()
