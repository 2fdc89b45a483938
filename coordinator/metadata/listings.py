"""Pages of directories and of the trash, in an order that a cursor can go on from."""

from __future__ import annotations

import sqlite3

from coordinator.metadata import lookup, settings, tree
from coordinator.metadata.tree import DIRECTORY, FILE, Inode
from quorumfs import paths
from quorumfs.errors import PathNotADirectoryError
from quorumfs.limits import LIST_PAGE_DEFAULT, LIST_PAGE_MAX
from quorumfs.v1 import namespace_pb2 as n

TRASH_ID_MAX = 2**63 - 1

_CONTENT = "SELECT size, checksum FROM version WHERE id = ?"
_PAGE = (
    f"SELECT {tree.COLUMNS}, version.size, version.checksum FROM dentry"
    " JOIN inode ON inode.id = dentry.inode"
    " LEFT JOIN version ON version.id = inode.version AND inode.type = 1"
    " WHERE dentry.parent = ? AND dentry.name > ? ORDER BY dentry.name LIMIT ?"
)
_TRASH_PAGE = (
    "SELECT id, inode, path, deleted_ms, deleted_wall_ms, deleted_by FROM trash"
    " WHERE purged = 0 AND id > ? ORDER BY id LIMIT ?"
)


def info(tx: sqlite3.Connection, inode: Inode, path: bytes) -> n.FileInfo:
    """An inode with the size and checksum of its content, if it has any."""
    size = checksum = 0
    if inode.type == FILE:
        size, checksum = tx.execute(_CONTENT, (inode.version,)).fetchone()
    return tree.info_of(inode, path, size, checksum)


def page(tx: sqlite3.Connection, request: n.ListRequest) -> n.Listing:
    """Entries of a directory in byte order of their names. Raises like `lookup.locate`, PathNotADirectoryError."""
    directory, path = lookup.locate(tx, request.ref, follow=request.follow)
    if directory.type != DIRECTORY:
        raise PathNotADirectoryError(f"{paths.show(path)} is no directory")
    limit = min(request.limit or LIST_PAGE_DEFAULT, LIST_PAGE_MAX)
    rows = tx.execute(_PAGE, (directory.id, request.after, limit + 1)).fetchall()
    listing = n.Listing(directory=tree.info_of(directory, path))
    for row in rows[:limit]:
        inode = Inode._make(row[:-2])
        listing.entries.append(tree.info_of(inode, b"", row[-2] or 0, row[-1] or 0))
    if len(rows) > limit:
        listing.next = listing.entries[-1].name
    return listing


def trash_page(tx: sqlite3.Connection, request: n.ListTrashRequest) -> n.TrashListing:
    """What can be restored, in the order in which it was deleted."""
    limit = min(request.limit or LIST_PAGE_DEFAULT, LIST_PAGE_MAX)
    rows = tx.execute(_TRASH_PAGE, (min(request.after, TRASH_ID_MAX), limit + 1)).fetchall()
    retention_ms = settings.load(tx)["trash.retention_ms"]
    (now_ms,) = tx.execute("SELECT cluster_ms FROM raft_state WHERE id = 1").fetchone()
    listing = n.TrashListing()
    for trash_id, inode_id, path, deleted_ms, deleted_wall_ms, deleted_by in rows[:limit]:
        inode = tree.by_id(tx, inode_id)
        if inode is None:
            continue
        listing.entries.add(
            trash_id=trash_id,
            path=path,
            info=info(tx, inode, path),
            deleted_wall_ms=deleted_wall_ms,
            expires_in_ms=max(0, deleted_ms + retention_ms - now_ms),
            deleted_by=deleted_by,
        )
    if len(rows) > limit:
        listing.next = rows[limit - 1][0]
    return listing
