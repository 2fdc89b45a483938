"""What the cluster is: its birth, its clock, its format and schema, settings, alarms and tokens."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from coordinator.metadata import settings
from coordinator.metadata.context import Context
from quorumfs.errors import AlreadyExistsError, InternalError, InvalidArgumentError, NotFoundError
from quorumfs.v1 import entries_pb2 as e

FORMAT_FIRST = 1
NUMBER_MAX = 2**63 - 1
TEXT_CHARACTERS_MAX = 1024
TOKENS_OVER_MAX = 100


def init(context: Context, command: e.InitCluster) -> int:
    """Write down what the cluster is. The same again is harmless; another raises AlreadyExistsError."""
    if not command.cluster_id or not 0 < command.history <= NUMBER_MAX or not command.members:
        raise InvalidArgumentError("a cluster has an id, a history from 1, and members")
    row = context.execute("SELECT cluster_id, history FROM cluster WHERE id = 1").fetchone()
    if row is not None:
        if row == (command.cluster_id, command.history):
            return 0
        if row[0] == command.cluster_id and row[1] < command.history:
            # After a lost majority or a restored backup: this entry is where the new history begins.
            return context.execute(
                "UPDATE cluster SET history = ?, fork_index = ? WHERE id = 1",
                (command.history, context.index),
            ).rowcount
        raise AlreadyExistsError("this cluster is initialised", cause=f"it is {row[0]}, history {row[1]}")
    context.execute(
        "INSERT INTO cluster (id, cluster_id, history, fork_index, format, created_wall_ms)"
        " VALUES (1, ?, ?, 0, ?, ?)",
        (command.cluster_id, command.history, FORMAT_FIRST, context.wall_ms),
    )
    for member in command.members:
        context.execute(
            "INSERT OR REPLACE INTO member (node_id, member) VALUES (?, ?)",
            (member.node_id, member.SerializeToString(deterministic=True)),
        )
    return 0


def tick(context: Context, command: e.Tick) -> int:
    """Nothing but the entry's stamp."""
    return 0


def hash_at(context: Context, command: e.HashAt) -> int:
    """Have the whole state hashed as of this entry; its index."""
    context.marks.append(context.index)
    return context.index


class Migration:
    """Brings the schema to the version of the entry, with exactly the scripts that the proposer meant."""

    def __init__(
        self, migrate: Callable[[sqlite3.Connection, str], None], digest: Callable[[str], bytes]
    ) -> None:
        self._migrate = migrate
        self._digest = digest

    def __call__(self, context: Context, command: e.Migrate) -> int:
        """Raises InternalError, which ends the process, when this member has other scripts: what it would
        make of its schema is not what the others make."""
        if self._digest(command.revision) != command.digest:
            raise InternalError(
                f"the schema's version {command.revision!a} is another one here",
                cause="its scripts differ from those of the coordinator that proposed it",
                next="install the same version of the software on every coordinator",
            )
        self._migrate(context.tx, command.revision)
        return 0


class FormatRaise:
    """Raises the level of entries that members may propose."""

    def __init__(self, format_max: int) -> None:
        self._format_max = format_max

    def __call__(self, context: Context, command: e.RaiseFormat) -> int:
        """The format as of now. Raises InternalError, which ends the process, for one that is not known
        here."""
        if command.format > self._format_max:
            raise InternalError(
                f"format {command.format} is not known here",
                cause=f"this coordinator knows up to {self._format_max}",
                next="upgrade this coordinator",
            )
        context.execute("UPDATE cluster SET format = max(format, ?) WHERE id = 1", (command.format,))
        row = context.execute("SELECT format FROM cluster WHERE id = 1").fetchone()
        return int(row[0]) if row else 0


def set_setting(context: Context, command: e.SetSetting) -> int:
    """Raises InvalidArgumentError for a key that is not replicated or a value out of its bounds."""
    value = settings.check(command.key, command.value)
    context.execute("INSERT OR REPLACE INTO setting (key, value) VALUES (?, ?)", (command.key, value))
    context.forget_settings()
    return 0


def set_alarm(context: Context, command: e.SetAlarm) -> int:
    """Raise an alarm, or clear it; one that stands keeps its time."""
    if not 0 < len(command.code) <= TEXT_CHARACTERS_MAX or len(command.message) > TEXT_CHARACTERS_MAX:
        raise InvalidArgumentError("an alarm has a short code and a message")
    if command.clear:
        return context.execute("DELETE FROM alarm WHERE code = ?", (command.code,)).rowcount
    return context.execute(
        "INSERT INTO alarm (code, message, since_wall_ms) VALUES (?, ?, ?)"
        " ON CONFLICT (code) DO UPDATE SET message = excluded.message",
        (command.code, command.message, context.wall_ms),
    ).rowcount


def set_token(context: Context, command: e.SetToken) -> int:
    """Keep a new token's hash, or revoke one. Raises AlreadyExistsError, NotFoundError."""
    known = context.execute("SELECT 1 FROM token WHERE token_id = ?", (command.token_id,)).fetchone()
    if command.revoke:
        if known is None:
            raise NotFoundError(f"there is no token {command.token_id[:64]!a}")
        return context.execute(
            "UPDATE token SET revoked = 1 WHERE token_id = ? AND revoked = 0", (command.token_id,)
        ).rowcount
    if known is not None:
        raise AlreadyExistsError(f"there is a token {command.token_id[:64]!a}")
    texts = (command.token_id, command.name, command.role, command.hash)
    too_long = any(len(one) > TEXT_CHARACTERS_MAX for one in texts)
    if not command.token_id or not command.hash or too_long or command.expires_cluster_ms > NUMBER_MAX:
        raise InvalidArgumentError("a token has a short id, name and hash, and an end in cluster time")
    context.execute(
        "INSERT INTO token (token_id, name, role, hash, created_wall_ms, expires_ms, revoked)"
        " VALUES (?, ?, ?, ?, ?, ?, 0)",
        (
            command.token_id,
            command.name,
            command.role,
            command.hash,
            context.wall_ms,
            command.expires_cluster_ms,
        ),
    )
    # Those that are over are kept for a while to be shown, and never all forgotten: that tokens are asked for at all,
    # and that there was an admin's, must not depend on their age.
    for of_this_kind in ("role = 'admin'", "role <> 'admin'"):
        over = f"(revoked = 1 OR expires_ms BETWEEN 1 AND ?1) AND {of_this_kind}"
        context.execute(
            f"DELETE FROM token WHERE {over} AND token_id NOT IN (SELECT token_id FROM token WHERE {over}"
            " ORDER BY created_wall_ms DESC, token_id LIMIT ?2)",
            (context.now_ms, TOKENS_OVER_MAX),
        )
    return 1
