"""Chunks and their replicas after the commit: what inventories, repair and packing find and decide.

Every command here comes from a duty that looked at an older state. What does not fit any more is passed over,
not refused: the number of what was done is the answer, and the duty looks again.
"""

from __future__ import annotations

from coordinator.metadata import contents
from coordinator.metadata.context import Context
from quorumfs.errors import UploadGoneError
from quorumfs.ids import ID_BYTES
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import types_pb2 as t

_CHUNK = "SELECT state, live, want FROM chunk WHERE id = ? AND state <> ? AND home = ?"
_REPLICA = "SELECT state, disk FROM replica WHERE chunk = ? AND node = ?"
_UPSERT = "INSERT OR REPLACE INTO replica (chunk, node, disk, state) VALUES (?, ?, ?, ?)"


def update_replicas(context: Context, command: e.UpdateReplicas) -> int:
    """Note, change or remove locations of sealed chunks on datanodes. A LIVE one is removed only when as many as
    wanted remain, one at least, or the chunk is condemned (docs/decisions/0005). One that is being deleted is removed,
    or taken back as MISSING; whatever else is told of it came too late. One with another state than `only_if` by now
    stays as it is."""
    nodes: dict[str, int | None] = {}
    done = 0
    for update in command.updates:
        if update.node_id not in nodes:
            nodes[update.node_id] = node_key(context, update.node_id)
        key = nodes[update.node_id]
        if key is not None and len(update.chunk) == ID_BYTES:
            done += _update(context, update, key)
    return done


def _update(context: Context, update: e.ReplicaUpdate, node: int) -> bool:
    chunk = context.execute(_CHUNK, (update.chunk, contents.ALLOCATED, contents.ON_DATANODES)).fetchone()
    if chunk is None:
        return False
    row = context.execute(_REPLICA, (update.chunk, node)).fetchone()
    if update.only_if and (row is None or row[0] != update.only_if):
        return False
    was_live = row is not None and row[0] == t.REPLICA_STATE_LIVE
    if update.state == t.REPLICA_STATE_UNSPECIFIED:
        chunk_state, live, want = chunk
        needed = was_live and live <= max(want, 1) and chunk_state != contents.CONDEMNED
        if row is None or needed:
            return False
        context.execute("DELETE FROM replica WHERE chunk = ? AND node = ?", (update.chunk, node))
    elif update.state == t.REPLICA_STATE_DELETING or (
        row is not None and row[0] == t.REPLICA_STATE_DELETING and update.state != t.REPLICA_STATE_MISSING
    ):
        return False
    elif update.state in t.ReplicaState.values():
        disk = disk_key(context, node, update.disk_id) or (row[1] if row is not None else 0)
        context.execute(_UPSERT, (update.chunk, node, disk, update.state))
    else:
        return False
    change = (update.state == t.REPLICA_STATE_LIVE) - was_live
    if change:
        context.execute("UPDATE chunk SET live = live + ? WHERE id = ?", (change, update.chunk))
    return True


def trim(context: Context, command: e.TrimReplicas) -> int:
    """LIVE replicas of sealed chunks that are more than these want: they count no more and are in no layout, so that
    their nodes may be told to delete them."""
    return sum(_trim(context, one) for one in command.replicas)


def _trim(context: Context, one: e.TrimReplicas.One) -> bool:
    key = node_key(context, one.node_id)
    done = context.execute(
        "UPDATE replica SET state = ? WHERE chunk = ? AND node = ? AND state = ? AND EXISTS"
        " (SELECT 1 FROM chunk WHERE id = replica.chunk AND state = ? AND home = ? AND upload IS NULL"
        " AND want > 0 AND live > want)",
        (
            t.REPLICA_STATE_DELETING,
            one.chunk,
            key,
            t.REPLICA_STATE_LIVE,
            contents.SEALED,
            contents.ON_DATANODES,
        ),
    ).rowcount
    if done:
        context.execute("UPDATE chunk SET live = live - 1 WHERE id = ?", (one.chunk,))
    return bool(done)


def begin_moves(context: Context, command: e.BeginMoves) -> int:
    """Promise replicas of sealed chunks to nodes that have none of them in any state."""
    return sum(_begin_move(context, one) for one in command.moves)


def _begin_move(context: Context, one: e.BeginMoves.One) -> bool:
    key = node_key(context, one.node_id)
    row = context.execute(_CHUNK, (one.chunk, contents.ALLOCATED, contents.ON_DATANODES)).fetchone()
    if key is None or row is None or row[0] == contents.CONDEMNED or row[2] <= 0:
        return False
    under_way = context.execute("SELECT upload FROM chunk WHERE id = ?", (one.chunk,)).fetchone()[0]
    if under_way is not None or context.execute(_REPLICA, (one.chunk, key)).fetchone() is not None:
        return False
    context.execute(_UPSERT, (one.chunk, key, 0, t.REPLICA_STATE_PENDING))
    return True


def node_key(context: Context, node_id: str) -> int | None:
    """The key of a node, None when it is not registered."""
    row = context.execute("SELECT key FROM node WHERE node_id = ?", (node_id,)).fetchone()
    return int(row[0]) if row is not None else None


def disk_key(context: Context, node: int, disk_id: str) -> int:
    """The key of a node's disk, 0 when it is not known."""
    row = context.execute("SELECT key FROM disk WHERE node = ? AND disk_id = ?", (node, disk_id)).fetchone()
    return int(row[0]) if row is not None else 0


# Packing


def rehome(context: Context, command: e.RehomeChunks) -> int:
    """Move inline chunks that are still there into chunks of an open upload, where their bytes already are, on as
    many datanodes as the upload asks for.

    Their extents then name the pack; size, checksum and version of the files stay. Raises UploadGoneError.
    """
    row = context.execute("SELECT min_replicas FROM upload WHERE id = ?", (command.upload,)).fetchone()
    if row is None:
        raise UploadGoneError("the upload of the pack is not open")
    return sum(_rehome(context, command.upload, row[0], one) for one in command.chunks)


def _rehome(context: Context, upload: bytes, min_replicas: int, one: e.RehomeChunks.One) -> bool:
    inline = context.execute(
        "SELECT length, want FROM chunk WHERE id = ? AND home = ?", (one.chunk, contents.IN_METADATA)
    ).fetchone()
    pack = context.execute(
        "SELECT length FROM chunk WHERE id = ? AND upload = ? AND state = ? AND live >= ?",
        (one.into, upload, contents.SEALED, min_replicas),
    ).fetchone()
    if inline is None or pack is None or one.offset + inline[0] > pack[0]:
        return False
    context.execute(
        "UPDATE extent SET chunk = ?, chunk_offset = chunk_offset + ? WHERE chunk = ?",
        (one.into, one.offset, one.chunk),
    )
    context.execute("UPDATE chunk SET want = max(want, ?) WHERE id = ?", (inline[1], one.into))
    contents.delete_inline(context, one.chunk, inline[0])
    return True
