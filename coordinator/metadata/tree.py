"""The tree as commands change it: making inodes, linking and detaching them, replacing a file's content.

An inode has one place: a dentry, or a row of the trash. Counters count inodes until they are reaped, so that
detaching a tree of any size changes two rows and no counter.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from coordinator.metadata.context import Context
from quorumfs.errors import InternalError
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t

FILE, DIRECTORY, SYMLINK = t.INODE_TYPE_FILE, t.INODE_TYPE_DIRECTORY, t.INODE_TYPE_SYMLINK
DETACHED = 0
"""The parent of an inode that is in the trash."""


class Inode(NamedTuple):
    """A row of `inode`."""

    id: int
    type: int
    parent: int
    name: bytes
    mode: int
    mtime_ns: int
    version: int
    replication: int
    target: bytes | None
    changed_wall_ms: int


COLUMNS = (
    "inode.id, type, inode.parent, inode.name, mode, mtime_ns, version, replication, target, changed_wall_ms"
)
_CHILD = (
    f"SELECT {COLUMNS} FROM dentry JOIN inode ON inode.id = dentry.inode"
    " WHERE dentry.parent = ? AND dentry.name = ?"
)
_THERE = "SELECT inode FROM dentry WHERE parent = ? AND name = ?"
_BY_ID = f"SELECT {COLUMNS} FROM inode WHERE id = ?"
_NEW_INODE = (
    "INSERT INTO inode (id, type, parent, name, mode, mtime_ns, version, replication, target, changed_wall_ms)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_LINK = "INSERT INTO dentry (parent, name, inode) VALUES (?, ?, ?)"
_UNLINK = "DELETE FROM dentry WHERE parent = ? AND name = ?"
_PLACE = "UPDATE inode SET parent = ?, name = ?, changed_wall_ms = ? WHERE id = ?"
_NEW_TRASH = (
    "INSERT INTO trash (id, inode, path, deleted_ms, deleted_wall_ms, deleted_by, deleted_index, purged)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


def child(tx: sqlite3.Connection, parent: int, name: bytes) -> Inode | None:
    """What is at `name` in the directory `parent`; links are not followed."""
    row = tx.execute(_CHILD, (parent, name)).fetchone()
    return Inode._make(row) if row is not None else None


def probe(tx: sqlite3.Connection, parent: int, name: bytearray) -> Inode | None:
    """Like `child`, for a name that is likely free: then at half the cost."""
    row = tx.execute(_THERE, (parent, name)).fetchone()
    return there(tx, row[0]) if row is not None else None


def by_id(tx: sqlite3.Connection, inode: int) -> Inode | None:
    row = tx.execute(_BY_ID, (inode,)).fetchone()
    return Inode._make(row) if row is not None else None


def there(tx: sqlite3.Connection, inode: int) -> Inode:
    """An inode that a row names. Raises InternalError when it is not there: the state is broken."""
    found = by_id(tx, inode)
    if found is None:
        raise InternalError(
            f"inode {inode} is named, and not there", cause="the state is broken: dfsctl fsck"
        )
    return found


def upwards(tx: sqlite3.Connection, inode: int) -> list[int]:
    """The ids from an inode up to the root, or to where it was cut off."""
    found: list[int] = []
    while inode != DETACHED:
        found.append(inode)
        above = by_id(tx, inode)
        inode = above.parent if above is not None else DETACHED
    return found


def add(context: Context, inode: Inode) -> None:
    """Make an inode and link it where it says it is."""
    context.execute(_NEW_INODE, inode)
    context.execute(_LINK, (inode.parent, inode.name, inode.id))
    count(context, inode.type, 1)


def count(context: Context, kind: int, change: int) -> None:
    """Inodes of a type came or went for good."""
    totals = context.totals
    if kind == FILE:
        totals.files += change
    elif kind == DIRECTORY:
        totals.directories += change
    else:
        totals.symlinks += change


def move(context: Context, inode: Inode, parent: int, name: bytes) -> Inode:
    """Link an inode at another place; the old one is free. Nothing may be at the new one."""
    context.directories.clear()
    if inode.parent != DETACHED:
        context.execute(_UNLINK, (inode.parent, inode.name))
    context.execute(_LINK, (parent, name, inode.id))
    context.execute(_PLACE, (parent, name, context.wall_ms, inode.id))
    return inode._replace(parent=parent, name=name, changed_wall_ms=context.wall_ms)


def detach(context: Context, inode: Inode, path: bytes, *, purge: bool = False, by: str | None = None) -> int:
    """Take an inode, with all that is below it, out of the tree and into the trash; the trash row's id. `by`: who,
    if not the one who asks now."""
    context.directories.clear()
    context.execute(_UNLINK, (inode.parent, inode.name))
    context.execute(_PLACE, (DETACHED, inode.name, context.wall_ms, inode.id))
    return _into_trash(context, inode.id, path, purge, context.principal if by is None else by)


def _into_trash(context: Context, inode: int, path: bytes, purge: bool, by: str) -> int:
    trash = context.totals.take_trash()
    context.execute(
        _NEW_TRASH,
        (
            trash,
            inode,
            path,
            context.now_ms,
            context.wall_ms,
            by,
            context.index,
            int(purge),
        ),
    )
    return trash


def replace_content(context: Context, old: Inode, new: Inode, path: bytes) -> None:
    """Give a file another version and attributes, as `new` says. What it was goes to the trash as a file of
    its own: readers that hold its version go on, and it can be undeleted."""
    context.execute(
        "UPDATE inode SET mode = ?, mtime_ns = ?, version = ?, replication = ?, changed_wall_ms = ? WHERE id = ?",
        (new.mode, new.mtime_ns, new.version, new.replication, context.wall_ms, old.id),
    )
    former = old._replace(id=context.totals.take_inode(), parent=DETACHED, changed_wall_ms=context.wall_ms)
    context.execute(_NEW_INODE, former)
    context.execute("UPDATE version SET inode = ? WHERE id = ?", (former.id, old.version))
    count(context, FILE, 1)
    _into_trash(context, former.id, path, False, context.principal)


def set_attributes(context: Context, inode: Inode) -> None:
    """Keep the mode, times, version and replication that `inode` has now."""
    context.execute(
        "UPDATE inode SET mode = ?, mtime_ns = ?, version = ?, replication = ?, changed_wall_ms = ? WHERE id = ?",
        (inode.mode, inode.mtime_ns, inode.version, inode.replication, inode.changed_wall_ms, inode.id),
    )


def remove(context: Context, inode: Inode) -> None:
    """Delete an inode without children or content for good."""
    if inode.parent != DETACHED:
        context.execute(_UNLINK, (inode.parent, inode.name))
    context.execute("DELETE FROM inode WHERE id = ?", (inode.id,))
    count(context, inode.type, -1)


def has_children(context: Context, directory: int) -> bool:
    row = context.execute("SELECT 1 FROM dentry WHERE parent = ? LIMIT 1", (directory,)).fetchone()
    return row is not None


def info_of(inode: Inode, path: bytes, size: int = 0, checksum: int = 0) -> n.FileInfo:
    """An inode as answers tell it; `size` and `checksum` of a file's content."""
    info = n.FileInfo()
    tell(info, inode, path, size, checksum)
    return info


def tell(info: n.FileInfo, inode: Inode, path: bytes, size: int = 0, checksum: int = 0) -> None:
    """Like `info_of`, into the empty `info`; field by field, which costs half of the constructor with keywords."""
    info.id = inode.id
    info.type = inode.type  # type: ignore[assignment]
    info.name = inode.name
    info.mode = inode.mode
    info.mtime_ns = inode.mtime_ns
    info.size = size
    info.replication = inode.replication
    info.version = inode.version
    info.checksum = checksum
    if inode.target:
        info.target = inode.target
    info.changed_wall_ms = inode.changed_wall_ms
    info.parent = inode.parent
    info.path = path
