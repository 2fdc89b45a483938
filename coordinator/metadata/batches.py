"""A client's batch: its session, its operations in order, one result each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import DecodeError

from coordinator.metadata.commands import files, namespace, sessions, trash, uploads
from coordinator.metadata.context import Context
from quorumfs.errors import FormatTooNewError, InternalError, InvalidArgumentError, QuorumFSError
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t

Command = Callable[[Context, Any], n.Result]

COMMANDS: Mapping[str, Command] = {
    "open_session": sessions.open_session,
    "close_session": sessions.close_session,
    "open_upload": uploads.open_upload,
    "allocate": uploads.allocate,
    "add_extents": uploads.add_extents,
    "commit_upload": uploads.commit_upload,
    "abort_upload": uploads.abort_upload,
    "put_file": files.put_file,
    "mkdir": namespace.mkdir,
    "delete": namespace.delete,
    "rename": namespace.rename,
    "symlink": namespace.symlink,
    "clone": files.clone,
    "set_attributes": namespace.set_attributes,
    "undelete": trash.undelete,
    "empty_trash": trash.empty_trash,
}
# Those that write before they have checked everything.
GUARDED = frozenset({"add_extents", "commit_upload"})


def apply(context: Context, raw: bytes) -> bytes:
    """Apply a Batch as it was received; a serialized BatchResult.

    Whatever a client sends has an answer. Raises InternalError for a state that is broken, sqlite3.Error: both
    end the process.
    """
    try:
        batch = n.Batch.FromString(raw)
    except DecodeError:
        refusal = InvalidArgumentError("the request is not a Batch", cause="its bytes do not decode")
        return _refused(context, n.Batch(), refusal)
    if not batch.session:
        return _done(context, batch)
    try:
        stored = sessions.recall(context, batch, raw)
    except QuorumFSError as error:
        return _refused(context, batch, error)
    if stored is not None:
        context.worded = True
        return stored
    result = _done(context, batch)
    sessions.remember(context, batch, raw, result)
    return result


def _done(context: Context, batch: n.Batch) -> bytes:
    results = []
    for number, op in enumerate(batch.ops):
        context.op = number
        results.append(_one(context, op))
    answer = n.BatchResult(
        code=t.ERROR_CODE_OK, slot=batch.slot, seq=batch.seq, results=results, index=context.index
    )
    return answer.SerializeToString(deterministic=True)


def _one(context: Context, op: n.Op) -> n.Result:
    kind = op.WhichOneof("op")
    try:
        if kind is None:
            raise FormatTooNewError(f"operation {context.op} of the batch is of a kind unknown here")
        command = COMMANDS[kind]
        if kind != "put_file":  # which settles itself, when it must
            context.settle()
        if kind in GUARDED:
            return context.guarded(command, getattr(op, kind))
        return command(context, getattr(op, kind))
    except InternalError:
        raise
    except QuorumFSError as error:
        return n.Result(code=t.ErrorCode.ValueType(error.code), error=context.detail_of(error))


def _refused(context: Context, batch: n.Batch, error: QuorumFSError) -> bytes:
    answer = n.BatchResult(
        code=t.ErrorCode.ValueType(error.code),
        error=context.detail_of(error),
        slot=batch.slot,
        seq=batch.seq,
        index=context.index,
    )
    return answer.SerializeToString(deterministic=True)
