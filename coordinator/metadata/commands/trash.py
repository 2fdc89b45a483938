"""The trash: taking things back, emptying it, and reaping what nobody can reach any more.

1. A row that is purged is out of reach at once, however large the tree; its inodes are deleted later, from the
   leaves up and a bounded number per entry, so that no entry takes long. A large file shrinks from its end.
2. Emptying the trash, and its retention, purge whole stretches of rows, however many: up to `purged_through`.
"""

from __future__ import annotations

from coordinator.metadata import contents, tree
from coordinator.metadata.commands.files import info_at
from coordinator.metadata.contents import Last
from coordinator.metadata.context import Context
from coordinator.metadata.places import below, check_new, found_at, place_of
from coordinator.metadata.tree import FILE
from quorumfs.errors import AlreadyExistsError, NotFoundError
from quorumfs.limits import PATH_DEPTH_MAX
from quorumfs.paths import join, show, split
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t

NUMBER_MAX = 2**63 - 1
REAP_MAX = 10_000


def undelete(context: Context, request: n.UndeleteRequest) -> n.Result:
    """Put something back, where it was or elsewhere. Raises NotFoundError, AlreadyExistsError."""
    trash, inode_id, path = _wanted(context, request)
    elsewhere = request.HasField("to") and (request.to.base or request.to.path)
    try:
        place = place_of(context, request.to if elsewhere else n.Ref(path=path))
    except NotFoundError as error:
        raise NotFoundError(
            f"{show(path)} cannot be put back",
            cause=str(error),
            next="make the directory, or name another place",
        ) from error
    old = found_at(context, place)
    if place.is_root or (old is not None and not request.replace):
        raise AlreadyExistsError(f"{show(place.path)} exists", next="name another place, or replace it")
    check_new(place)
    if old is not None:
        tree.detach(context, old, place.path)
    inode = tree.move(context, tree.there(context.tx, inode_id), place.parent, place.name)
    context.execute("DELETE FROM trash WHERE id = ?", (trash,))
    return n.Result(code=t.ERROR_CODE_OK, info=info_at(context, inode, place.path))


def _wanted(context: Context, request: n.UndeleteRequest) -> tuple[int, int, bytes]:
    """The row of the trash that is meant: its id, inode and path."""
    if request.trash_id:
        what, meant = f"number {request.trash_id}", "id = ?"
        value: int | bytes = min(request.trash_id, NUMBER_MAX)
    else:
        value = join(split(request.original_path))
        what, meant = show(value), "path = ?"
    row = context.execute(
        f"SELECT id, inode, path FROM trash WHERE {meant} AND purged = 0 AND id > ? ORDER BY id DESC LIMIT 1",
        (value, context.totals.purged_through),
    ).fetchone()
    if row is None:
        raise NotFoundError(f"nothing in the trash is {what}", next="dfsctl trash ls")
    return row[0], row[1], row[2]


def empty_trash(context: Context, request: n.EmptyTrashRequest) -> n.Result:
    """Purge one row, or all that were deleted long enough ago. Only GC's grace is left to their chunks."""
    if request.trash_id:
        removed = context.execute(
            "UPDATE trash SET purged = 1 WHERE id = ? AND purged = 0 AND id > ?",
            (min(request.trash_id, NUMBER_MAX), context.totals.purged_through),
        ).rowcount
        if not removed:
            raise NotFoundError(f"nothing in the trash is number {request.trash_id}", next="dfsctl trash ls")
    else:
        removed = _purge_until(context, context.now_ms - min(request.older_than_ms, NUMBER_MAX))
    return n.Result(code=t.ERROR_CODE_OK, removal=n.Removal(removed=removed))


def _purge_until(context: Context, before_ms: int) -> int:
    """Purge all that was deleted until then; how many rows. They are in the order of their ids: one mark is enough."""
    through = context.totals.purged_through
    (removed,) = context.execute(
        "SELECT count(*) FROM trash WHERE purged = 0 AND deleted_ms <= ? AND id > ?", (before_ms, through)
    ).fetchone()
    if removed:
        (context.totals.purged_through,) = context.execute(
            "SELECT id FROM trash WHERE purged = 0 AND deleted_ms <= ? ORDER BY deleted_ms DESC, id DESC LIMIT 1",
            (before_ms,),
        ).fetchone()
    return int(removed)


def reap(context: Context, command: e.ReapTrash) -> int:
    """Purge what was in the trash for its time, and delete purged inodes and extents, up to the command's
    limit together; how many. 0: nothing is left to reap."""
    _purge_until(context, context.now_ms - context.setting("trash.retention_ms"))
    left = limit = min(max(command.limit, 1), REAP_MAX)
    while left > 0:
        row = _next_purged(context)
        if row is None:
            break
        trash, inode, path, deleted_by = row
        left = _reap_tree(context, inode, Last(path, deleted_by), left)
        if left >= 0:
            context.execute("DELETE FROM trash WHERE id = ?", (trash,))
    return limit - max(left, 0)


def _next_purged(context: Context) -> tuple[int, int, bytes, str] | None:
    """A row of the trash that is out of reach: its id, inode, path and who deleted it."""
    columns = "SELECT id, inode, path, deleted_by FROM trash"
    through = context.totals.purged_through
    row: tuple[int, int, bytes, str] | None = context.execute(
        f"{columns} WHERE id <= ? ORDER BY id LIMIT 1", (through,)
    ).fetchone()
    return row or context.execute(f"{columns} WHERE purged = 1 ORDER BY deleted_ms, id LIMIT 1").fetchone()


def _reap_tree(context: Context, root: int, last: Last, left: int) -> int:
    """Delete the tree below and with `root`, leaves first; how much of the allowance is left, negative when
    it was not enough. What is too deep to go down to in every entry becomes a purged tree of its own."""
    path = [(root, last.path)]
    while path:
        inode, where = path[-1]
        row = context.execute(
            "SELECT inode, name FROM dentry WHERE parent = ? ORDER BY name LIMIT 1", (inode,)
        ).fetchone()
        if row is None:
            left = _reap_inode(context, inode, Last(where, last.deleted_by), left)
            path.pop()
        elif len(path) < PATH_DEPTH_MAX:
            path.append((row[0], below(where, row[1])))
        else:
            deep = tree.there(context.tx, row[0])
            tree.detach(context, deep, b"/" + deep.name, purge=True, by=last.deleted_by)
            left -= 1
        if left < 0:
            return left
    return left


def _reap_inode(context: Context, inode_id: int, last: Last, left: int) -> int:
    if left <= 0:
        return -1
    inode = tree.there(context.tx, inode_id)
    if inode.type == FILE:
        left, whole = _reap_content(context, inode.version, last, left)
        if not whole:
            return -1
    tree.remove(context, inode)
    return max(left - 1, 0)


def _reap_content(context: Context, version: int, last: Last, left: int) -> tuple[int, bool]:
    """Delete a version's extents from the end; what is left of the allowance, and whether the version is gone
    with them. A version never goes without its inode: then the inode goes even if nothing is left."""
    (size,) = context.execute("SELECT size FROM version WHERE id = ?", (version,)).fetchone()
    count, begins = contents.drop_extents(context, version, left, last)
    context.totals.logical_bytes -= size - begins
    if begins > 0:
        context.execute("UPDATE version SET size = ? WHERE id = ?", (begins, version))
        return 0, False
    context.execute("DELETE FROM version WHERE id = ?", (version,))
    return left - count, True
