"""Garbage: chunks that nothing refers to, from their adoption to the day when nobody has them any more.

1. What is condemned is decided here, on the state as of the entry, and nowhere else: whoever proposes looked at an
   older one. A chunk that anything refers to, whose upload is open, that is held, or whose grace is not over, is passed
   over.
2. A chunk that lies on disks and in no table is given its rows first, and its grace then.
3. As in `chunks`: what does not fit any more is passed over; the number of what was done is the answer, except of a
   restore: nodes want the index of its entry.
4. What nobody has any more lies in quarantine for its time. So long, and as long again for nodes that started anew
   meanwhile, `quarantined` remembers what it was; who takes it in again takes that in too.
"""

from __future__ import annotations

from coordinator.metadata import contents
from coordinator.metadata.commands.chunks import node_key
from coordinator.metadata.context import Context
from quorumfs.ids import ID_BYTES
from quorumfs.limits import CHUNK_SIZE_BYTES_MAX
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import types_pb2 as t

NUMBER_MAX = 2**62
OPERATOR = "operator"
REMEMBERED_QUARANTINES = 2
"""A datanode that starts anew counts the time in quarantine from its beginning."""
FORGOTTEN_PER_COMMAND = 1000

_NEW_CHUNK = (
    "INSERT INTO chunk (id, state, home, upload, length, checksum, want, live,"
    " birth_history, birth_index, birth_ms) VALUES (?, ?, ?, NULL, ?, ?, 0, 0, ?, ?, ?)"
)
_NEW_ORPHAN = (
    "INSERT INTO orphan (chunk, since_index, since_ms, deleted_by, path,"
    " condemned_index, condemned_ms, cycle, hold) VALUES (?, ?, ?, ?, ?, 0, 0, 0, ?)"
)
_NOBODY_HAS = (
    "SELECT length, since_index, since_ms, deleted_by, path, condemned_index"
    " FROM chunk JOIN orphan ON orphan.chunk = chunk.id WHERE chunk.id = ? AND state = ?"
    " AND NOT EXISTS (SELECT 1 FROM replica WHERE replica.chunk = chunk.id)"
)
_REMEMBER = (
    "INSERT OR REPLACE INTO quarantined (chunk, length, since_index, since_ms, deleted_by, path,"
    " condemned_index, forgotten_ms, forgotten_wall_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_FORGET = (
    "DELETE FROM quarantined WHERE chunk IN"
    " (SELECT chunk FROM quarantined WHERE forgotten_ms <= ? ORDER BY forgotten_ms, chunk LIMIT ?)"
)
_CANDIDATE = (
    "SELECT since_ms FROM orphan JOIN chunk ON chunk.id = orphan.chunk"
    " WHERE orphan.chunk = ? AND hold <= 0 AND condemned_index = 0 AND upload IS NULL"
    " AND NOT EXISTS (SELECT 1 FROM extent WHERE extent.chunk = orphan.chunk)"
)


def adopt(context: Context, command: e.AdoptChunks) -> int:
    """Take in chunks that were found on disks. Of one that is an orphan already only its holders are noted; one that
    something refers to is passed over."""
    return sum(_adopt(context, one) for one in command.chunks if len(one.chunk) == ID_BYTES)


def _adopt(context: Context, one: e.AdoptChunks.One) -> bool:
    keys = [node_key(context, node_id) for node_id in dict.fromkeys(one.node_ids)]
    holders = [key for key in keys if key is not None]
    if not holders:
        return False
    known = context.execute("SELECT home FROM chunk WHERE id = ?", (one.chunk,)).fetchone()
    if known is None:
        _take_in(context, one)
    elif context.execute("SELECT 1 FROM orphan WHERE chunk = ?", (one.chunk,)).fetchone() is None:
        return False
    added = 0
    for key in holders:
        added += context.execute(
            "INSERT OR IGNORE INTO replica (chunk, node, disk, state) VALUES (?, ?, 0, ?)",
            (one.chunk, key, t.REPLICA_STATE_LIVE),
        ).rowcount
    context.execute("UPDATE chunk SET live = live + ? WHERE id = ?", (added, one.chunk))
    return known is None or added > 0


def _take_in(context: Context, one: e.AdoptChunks.One) -> None:
    birth = one.birth
    length = min(one.length, CHUNK_SIZE_BYTES_MAX)
    state = contents.SEALED if length else contents.ALLOCATED
    numbers = [min(number, NUMBER_MAX) for number in (birth.history, birth.index, birth.cluster_ms)]
    hold = contents.FREE if _is_of_this_log(context, birth) else contents.OF_ANOTHER_LOG
    context.execute(_NEW_CHUNK, (one.chunk, state, contents.ON_DATANODES, length, one.checksum, *numbers))
    since_index, deleted_by, path = _remembered(context, one.chunk)
    context.execute(_NEW_ORPHAN, (one.chunk, since_index, context.now_ms, deleted_by, path, hold))
    context.totals.chunks += 1


def _remembered(context: Context, chunk: bytes) -> tuple[int, str, bytes]:
    """(index, who, path) of what made it an orphan before; of a chunk that was never known: this entry, and nobody."""
    row = context.execute(
        "SELECT since_index, deleted_by, path FROM quarantined WHERE chunk = ?", (chunk,)
    ).fetchone()
    if row is None:
        return context.index, "", b""
    context.execute("DELETE FROM quarantined WHERE chunk = ?", (chunk,))
    return int(row[0]), str(row[1]), bytes(row[2])


def _is_of_this_log(context: Context, birth: t.ChunkBirth) -> bool:
    """Whether this log can have seen the chunk's birth, and so knows that nothing refers to it.

    Where exactly an older history was left nobody can say: the entry that begins a new one is not its first.
    """
    past = birth.index < context.index and birth.cluster_ms <= context.now_ms
    return birth.history == context.history and past


def condemn(context: Context, command: e.CondemnChunks) -> int:
    """Condemn orphans whose grace is over, so that no commit can name them any more."""
    grace_ms = context.setting("gc.grace_ms")
    done = 0
    for chunk in command.chunks:
        row = context.execute(_CANDIDATE, (chunk,)).fetchone()
        if row is None or context.now_ms - row[0] < grace_ms:
            continue
        context.execute(
            "UPDATE orphan SET condemned_index = ?, condemned_ms = ?, cycle = ? WHERE chunk = ?",
            (context.index, context.now_ms, min(command.cycle, NUMBER_MAX), chunk),
        )
        context.execute("UPDATE chunk SET state = ? WHERE id = ?", (contents.CONDEMNED, chunk))
        done += 1
    return done


def forget_chunks(context: Context, command: e.ForgetChunks) -> int:
    """Forget condemned chunks of which no replica is left, except what they were; and that too of those that have had
    their time, some at once."""
    retention_ms = REMEMBERED_QUARANTINES * context.setting("gc.quarantine_ms")
    context.execute(_FORGET, (context.now_ms - retention_ms, FORGOTTEN_PER_COMMAND))
    done = 0
    for chunk in command.chunks:
        row = context.execute(_NOBODY_HAS, (chunk, contents.CONDEMNED)).fetchone()
        if row is None:
            continue
        context.execute("DELETE FROM chunk WHERE id = ?", (chunk,))
        context.execute("DELETE FROM orphan WHERE chunk = ?", (chunk,))
        if retention_ms:
            context.execute(_REMEMBER, (chunk, *row, context.now_ms, context.wall_ms))
        context.totals.chunks -= 1
        done += 1
    return done


def restore(context: Context, command: e.RestoreChunks) -> int:
    """Take condemnations back and hold the orphans: GC leaves them alone until they are released. The entry's index:
    condemnations up to it are void, and none after it."""
    for chunk in command.chunks:
        context.execute(
            "UPDATE orphan SET condemned_index = 0, condemned_ms = 0, hold = ? WHERE chunk = ? AND hold <> ?",
            (contents.RESTORED, chunk, contents.RESTORED),
        )
        context.execute(
            "UPDATE chunk SET state = CASE WHEN length > 0 THEN ? ELSE ? END WHERE id = ? AND state = ?",
            (contents.SEALED, contents.ALLOCATED, chunk, contents.CONDEMNED),
        )
    return context.index


def release(context: Context, command: e.ReleaseChunks) -> int:
    """End the hold of orphans; their grace begins anew, and whoever said so is who deleted them, if nobody did
    before. What was born in a later history stays: no node would let a leader of this one delete it."""
    return sum(
        context.execute(
            "UPDATE orphan SET hold = ?, since_ms = ?,"
            " deleted_by = CASE WHEN deleted_by = '' THEN ? ELSE deleted_by END WHERE chunk = ? AND hold > 0"
            " AND EXISTS (SELECT 1 FROM chunk WHERE chunk.id = orphan.chunk AND birth_history <= ?)",
            (contents.RELEASED, context.now_ms, context.principal or OPERATOR, chunk, context.history),
        ).rowcount
        for chunk in command.chunks
    )
