"""What is checked of a request before it may be proposed or asked. Pure.

What passes here goes verbatim into the log and is applied by every member of the group, also by one that runs
an older version: so unknown operations and unknown fields stop here, and so does everything
that is too large. What an operation means is judged by `apply`.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError, Message

from quorumfs.errors import FormatTooNewError, InvalidArgumentError, TooLargeError
from quorumfs.limits import (
    ALLOCATE_CHUNKS_MAX,
    BATCH_BYTES_MAX,
    BATCH_OPS_MAX,
    EXTENTS_BYTES_MAX,
    RPC_DEADLINE_SECONDS,
)
from quorumfs.v1 import namespace_pb2 as n

READ_OPS_MAX = 1024
READ_BYTES_MAX = 1 << 20
ALLOCATED_CHUNKS_MAX = 1024  # of one batch: each is placed on the leader's loop


@dataclass(frozen=True, slots=True)
class Intake:
    """A batch that may be proposed. `allocations`: (number of the op, request) of those that need a
    placement."""

    raw: bytes
    batch: n.Batch
    allocations: tuple[tuple[int, n.AllocateRequest], ...]


def ttl_seconds(batch: n.Batch | n.ReadBatch, remaining: float | None) -> float:
    """How long it may wait in a queue: as it says, and as its caller waits (`remaining`; None: unknown)."""
    wanted = min(batch.ttl_ms / 1000 or RPC_DEADLINE_SECONDS, RPC_DEADLINE_SECONDS)
    return wanted if remaining is None else min(wanted, remaining)


def parse_batch(raw: bytes) -> n.Batch:
    """The batch that `raw` encodes. Raises InvalidArgumentError when it encodes none."""
    try:
        return n.Batch.FromString(raw)
    except DecodeError as error:
        raise InvalidArgumentError("the request is not a Batch", cause=str(error)) from error


def parse_read(raw: bytes) -> n.ReadBatch:
    """The questions that `raw` encodes. Raises InvalidArgumentError when it encodes none."""
    try:
        return n.ReadBatch.FromString(raw)
    except DecodeError as error:
        raise InvalidArgumentError("the request is not a ReadBatch", cause=str(error)) from error


def admit(raw: bytes, batch: n.Batch) -> Intake:
    """Check a batch against the limits and the format.

    Raises TooLargeError, InvalidArgumentError (no operation), FormatTooNewError (unknown ones).
    """
    if len(raw) > BATCH_BYTES_MAX:
        raise TooLargeError(
            "the batch is too large", cause=f"{len(raw)} bytes; at most {BATCH_BYTES_MAX}", next="split it"
        )
    if not batch.ops:
        raise InvalidArgumentError("the batch has no operation")
    if len(batch.ops) > BATCH_OPS_MAX:
        raise TooLargeError(
            "the batch has too many operations",
            cause=f"{len(batch.ops)}; at most {BATCH_OPS_MAX}",
            next="split it",
        )
    refuse_unknown(batch)
    allocations = []
    for number, op in enumerate(batch.ops):
        kind = op.WhichOneof("op")
        if kind is None:
            raise FormatTooNewError(f"operation {number} of the batch is of a kind unknown here")
        if kind == "allocate":
            allocations.append((number, op.allocate))
        elif kind in ("add_extents", "commit_upload") and op.ByteSize() > EXTENTS_BYTES_MAX:
            raise TooLargeError(
                f"operation {number} of the batch is too large",
                cause=f"{op.ByteSize()} bytes of extents and chunks; at most {EXTENTS_BYTES_MAX}",
                next="add the extents in several operations before the commit",
            )
    wanted = sum(min(request.count, ALLOCATE_CHUNKS_MAX) for _, request in allocations)
    if wanted > ALLOCATED_CHUNKS_MAX:
        raise TooLargeError(
            "the batch allocates too many chunks",
            cause=f"{wanted}; at most {ALLOCATED_CHUNKS_MAX}",
            next="split it",
        )
    return Intake(raw, batch, tuple(allocations))


def admit_read(raw: bytes, batch: n.ReadBatch) -> None:
    """Check questions against the limits. Raises TooLargeError, InvalidArgumentError, FormatTooNewError."""
    if len(raw) > READ_BYTES_MAX or len(batch.ops) > READ_OPS_MAX:
        raise TooLargeError(
            "too many questions at once",
            cause=f"{len(batch.ops)} in {len(raw)} bytes; at most {READ_OPS_MAX} in {READ_BYTES_MAX}",
            next="split them",
        )
    if not batch.ops:
        raise InvalidArgumentError("the batch has no question")
    if any(op.WhichOneof("op") is None for op in batch.ops):
        raise FormatTooNewError("the batch has a question of a kind unknown here")


def refuse_unknown(message: Message) -> None:
    """Raises FormatTooNewError when `message` has, at any depth, fields that this version does not know."""
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    if known.ByteSize() != message.ByteSize():
        raise FormatTooNewError(
            "the request has fields that this coordinator does not know",
            cause="it was made by a newer version",
        )
