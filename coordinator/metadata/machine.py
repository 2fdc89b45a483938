"""The replicated state machine: log entries in, rows and results out.

Theory of operation
1. `apply` is a function of the rows and the entry. It reads no clock, rolls no dice and remembers nothing
   between two entries: the same log gives the same rows on every member, also after a crash, a rollback or an
   installed snapshot.
2. It is total. What a client may send, however wrong, ends as a Result with a code; what the software cannot
   apply at all (an entry of a newer format, a gap in the log, a schema script that is not ours) raises and ends
   the process, before the members could come apart.
3. The caller owns the transaction. An entry is applied in it whole; a refused operation leaves nothing: commands
   check everything before their first write, and the few that cannot run under a savepoint.
4. The operations of an entry see each other's effects in order. The counters in `totals` are read once, changed
   in memory, and written when the entry is through.
5. `rolling` binds every entry and every outcome since the beginning into one value, which members compare. Outcomes
   are results without their sentences: another version of the software may say the same in other words.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from coordinator.metadata import batches, migrations, system
from coordinator.metadata.context import NS_PER_MS, Context
from coordinator.metadata.hashing import outcome, roll, system_outcome
from coordinator.metadata.totals import COLUMNS
from quorumfs.errors import FormatTooNewError, InternalError
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m

FORMAT = 1
"""The newest format of entries that this software applies."""
WALL_MS_MAX = (2**63 - 1) // NS_PER_MS
"""A leader whose clock is centuries ahead must not make times that no member can store."""
CLUSTER_MS_MAX = 2**62
"""Likewise of replicated time, with room for every deadline that is counted from it."""

_READ = "SELECT applied_index, cluster_ms, rolling FROM raft_state WHERE id = 1"
_READ_ALL = f"SELECT applied_index, cluster_ms, rolling, {COLUMNS} FROM raft_state JOIN totals USING (id) WHERE id = 1"
_APPLIED = (
    "UPDATE raft_state SET applied_index = ?, applied_term = ?, cluster_ms = ?, wall_ms = ?, rolling = ?"
    " WHERE id = 1"
)
_SKIPPED = "UPDATE raft_state SET applied_index = ?, applied_term = ? WHERE id = 1"


class Machine:
    """One per writer of a database; only the thread that owns the transaction may call.

    `migrate` brings the schema to a revision inside the transaction; `digest` tells what it would run.
    """

    def __init__(
        self,
        migrate: Callable[[sqlite3.Connection, str], None],
        digest: Callable[[str], bytes] = migrations.digest,
    ) -> None:
        self._migrate = migrate
        self._system = system.Commands(migrate, digest, FORMAT)
        self._marks: list[int] = []
        self.rolling = b""
        """The rolling hash as of the last `apply` or `skip`."""

    def create(self, tx: sqlite3.Connection) -> None:
        """The tables and rows of an empty cluster, at index 1. `tx` has a transaction open."""
        self._migrate(tx, migrations.FIRST)

    def apply(self, tx: sqlite3.Connection, index: int, term: int, entry: bytes) -> list[bytes]:
        """Apply a committed entry: one serialized BatchResult or SystemResult per item, in order.

        `tx` has a transaction open, which the caller commits. Raises FormatTooNewError, InternalError, sqlite3.Error:
        then nothing of the transaction may be kept.
        """
        decoded = _decode(entry, index)
        cluster_ms, rolling, *totals = _before(tx, index, _READ_ALL)
        now_ms = max(cluster_ms, min(decoded.stamp.cluster_ms, CLUSTER_MS_MAX))
        wall_ms = min(decoded.stamp.wall_ms, WALL_MS_MAX)
        context = Context(tx, index, now_ms, wall_ms, decoded.seed, tuple(totals))
        results, outcomes = [], []
        for number, item in enumerate(decoded.items):
            result, told = self._item(context, number, item)
            results.append(result)
            outcomes.append(told)
        context.settle()
        context.store_totals()
        self.rolling = roll(rolling, index, entry, outcomes)
        tx.execute(_APPLIED, (index, term, now_ms, context.wall_ms, self.rolling))
        self._marks.extend(context.marks)
        return results

    def skip(self, tx: sqlite3.Connection, index: int, term: int) -> None:
        """Note that an entry without commands was passed. Raises InternalError, sqlite3.Error."""
        _, self.rolling = _before(tx, index, _READ)
        tx.execute(_SKIPPED, (index, term))

    def configure(self, tx: sqlite3.Connection, index: int, term: int, configuration: bytes) -> None:
        """Note who belongs to the Raft group since entry `index`. Raises InternalError, sqlite3.Error."""
        self.skip(tx, index, term)
        tx.execute("DELETE FROM member")
        tx.executemany(
            "INSERT INTO member (node_id, member) VALUES (?, ?)",
            [
                (one.node_id, one.SerializeToString(deterministic=True))
                for one in m.Configuration.FromString(configuration).members
            ],
        )

    def take_marks(self) -> list[int]:
        """The indexes at which a HashAt was applied since the last call; the state is to be hashed there."""
        taken, self._marks = self._marks, []
        return taken

    def _item(self, context: Context, number: int, item: e.Item) -> tuple[bytes, bytes]:
        """The result of an item, and its outcome."""
        context.item = number
        context.worded = False
        context.principal = item.principal.name
        context.choices = {choice.op: choice for choice in item.choices}
        if item.WhichOneof("body") == "system":
            context.settle()
            result = self._system.apply(context, item.system)
            return result, system_outcome(result) if context.worded else result
        result = batches.apply(context, item.batch)
        return result, outcome(result) if context.worded else result


def _decode(entry: bytes, index: int) -> e.Entry:
    try:
        decoded = e.Entry.FromString(entry)
    except DecodeError as error:
        raise InternalError(
            f"log entry {index} cannot be decoded",
            cause=str(error),
            next="the log is damaged: dfsctl raft rejoin",
        ) from error
    if decoded.format > FORMAT:
        raise FormatTooNewError(
            f"log entry {index} has format {decoded.format}", cause=f"this coordinator knows up to {FORMAT}"
        )
    return decoded


def _before(tx: sqlite3.Connection, index: int, read: str) -> Any:
    """Replicated time, rolling hash, and what else `read` asks for, before entry `index`, which must be the next."""
    applied_index, *found = tx.execute(read).fetchone()
    if index != applied_index + 1:
        raise InternalError(
            f"log entry {index} cannot be applied now", cause=f"the last that was applied is {applied_index}"
        )
    return found
