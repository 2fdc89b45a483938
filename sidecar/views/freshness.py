"""How old an answer is, in the words that every read uses."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message

from quorumfs.errors import QuorumFSError
from sidecar import shapes
from sidecar.agent import agent
from sidecar.node_link import Told

Response = TypeVar("Response", bound=Message)


def as_of(told: Told[Response], error: QuorumFSError | None) -> shapes.Json:
    """Who said it, when, how long ago; with `error`, that nobody says it now, and why."""
    return {
        "observed_by": told.by,
        "observed_at": shapes.rfc3339(told.wall_ms),
        "age_seconds": shapes.seconds(told.age_seconds(agent().clock.monotonic())),
        "current": error is None,
        "reason": "" if error is None else str(error),
    }
