"""Commands of the cluster itself, which its leader's duties propose: one outcome each."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import DecodeError

from coordinator.metadata.commands import (
    chunks,
    cluster,
    garbage,
    nodes,
    repacking,
    sessions,
    trash,
    uploads,
)
from coordinator.metadata.context import Context
from quorumfs.errors import FormatTooNewError, InternalError, InvalidArgumentError, QuorumFSError
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import types_pb2 as t

Command = Callable[[Context, Any], int]
"""Applies one command and says a number about it: how many things it changed, or the index, or nothing."""

COMMANDS: Mapping[str, Command] = {
    "init": cluster.init,
    "tick": cluster.tick,
    "register_node": nodes.register,
    "forget_node": nodes.forget,
    "set_node": nodes.set_node,
    "end_maintenance": nodes.end_maintenance,
    "update_replicas": chunks.update_replicas,
    "trim": chunks.trim,
    "begin_moves": chunks.begin_moves,
    "expire_uploads": uploads.expire,
    "expire_sessions": sessions.expire,
    "reap_trash": trash.reap,
    "adopt": garbage.adopt,
    "condemn": garbage.condemn,
    "forget_chunks": garbage.forget_chunks,
    "restore": garbage.restore,
    "release": garbage.release,
    "rehome": chunks.rehome,
    "repack": repacking.repack,
    "set_setting": cluster.set_setting,
    "hash_at": cluster.hash_at,
    "set_alarm": cluster.set_alarm,
    "set_token": cluster.set_token,
}


class Commands:
    """`format_max`: the newest format this software knows. See `Machine` for the rest."""

    def __init__(
        self,
        migrate: Callable[[sqlite3.Connection, str], None],
        digest: Callable[[str], bytes],
        format_max: int,
    ) -> None:
        self._commands: Mapping[str, Command] = {
            **COMMANDS,
            "migrate": cluster.Migration(migrate, digest),
            "raise_format": cluster.FormatRaise(format_max),
        }

    def apply(self, context: Context, raw: bytes) -> bytes:
        """Apply a SystemBatch; a serialized SystemResult.

        Raises InternalError for what this member cannot do though the others may: it ends the process.
        """
        try:
            commands = e.SystemBatch.FromString(raw).commands
        except DecodeError:
            refusal = InvalidArgumentError("the item is not a SystemBatch", cause="its bytes do not decode")
            return e.SystemResult(results=[_refused(context, refusal)]).SerializeToString(deterministic=True)
        results = []
        for number, command in enumerate(commands):
            context.op = number
            results.append(self._one(context, command))
        return e.SystemResult(results=results).SerializeToString(deterministic=True)

    def _one(self, context: Context, command: e.SystemCommand) -> e.SystemResult.One:
        kind = command.WhichOneof("command")
        try:
            if kind is None:
                raise FormatTooNewError(f"command {context.op} of the entry is of a kind unknown here")
            number = self._commands[kind](context, getattr(command, kind))
            context.forget_facts()
        except InternalError:
            raise
        except QuorumFSError as error:
            return _refused(context, error)
        return e.SystemResult.One(code=t.ERROR_CODE_OK, number=number)


def _refused(context: Context, error: QuorumFSError) -> e.SystemResult.One:
    return e.SystemResult.One(code=t.ErrorCode.ValueType(error.code), error=context.detail_of(error))
