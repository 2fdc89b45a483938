"""Pages of directories and of the trash, in an order that a cursor can go on from; bounded in number and in bytes."""

from __future__ import annotations

import sqlite3

from coordinator.metadata import lookup, settings, tree
from coordinator.metadata.tree import DIRECTORY, FILE, Inode
from quorumfs import paths
from quorumfs.errors import PathNotADirectoryError
from quorumfs.limits import LIST_PAGE_DEFAULT, LIST_PAGE_MAX, MIB
from quorumfs.v1 import namespace_pb2 as n

TRASH_ID_MAX = 2**63 - 1
PAGE_BYTES_MAX = 2 * MIB
ENTRY_BYTES = 80  # an entry's numbers

_CONTENT = "SELECT size, checksum FROM version WHERE id = ?"
_PAGE = (
    f"SELECT {tree.COLUMNS}, version.size, version.checksum FROM dentry"
    " JOIN inode ON inode.id = dentry.inode"
    " LEFT JOIN version ON version.id = inode.version AND inode.type = 1"
    " WHERE dentry.parent = ? AND dentry.name > ? ORDER BY dentry.name LIMIT ?"
)
_TRASH_PAGE = (
    "SELECT id, inode, path, deleted_ms, deleted_wall_ms, deleted_by FROM trash"
    " WHERE purged = 0 AND id > max(?, (SELECT purged_through FROM totals WHERE id = 1)) ORDER BY id LIMIT ?"
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
    listing = n.Listing(directory=tree.info_of(directory, path))
    room = PAGE_BYTES_MAX
    for row in tx.execute(_PAGE, (directory.id, request.after, limit + 1)):
        if len(listing.entries) == limit or room <= 0:
            listing.next = listing.entries[-1].name
            break
        inode = Inode._make(row[:-2])
        listing.entries.append(tree.info_of(inode, b"", row[-2] or 0, row[-1] or 0))
        room -= _weight(inode)
    return listing


def trash_page(tx: sqlite3.Connection, request: n.ListTrashRequest) -> n.TrashListing:
    """What can be restored, in the order in which it was deleted."""
    limit = min(request.limit or LIST_PAGE_DEFAULT, LIST_PAGE_MAX)
    retention_ms = settings.load(tx)["trash.retention_ms"]
    (now_ms,) = tx.execute("SELECT cluster_ms FROM raft_state WHERE id = 1").fetchone()
    listing = n.TrashListing()
    room = PAGE_BYTES_MAX
    for trash_id, inode_id, path, deleted_ms, deleted_wall_ms, deleted_by in tx.execute(
        _TRASH_PAGE, (min(request.after, TRASH_ID_MAX), limit + 1)
    ):
        if len(listing.entries) == limit or room <= 0:
            listing.next = listing.entries[-1].trash_id
            break
        inode = tree.there(tx, inode_id)
        listing.entries.add(
            trash_id=trash_id,
            path=path,
            info=info(tx, inode, path),
            deleted_wall_ms=deleted_wall_ms,
            expires_in_ms=max(0, deleted_ms + retention_ms - now_ms),
            deleted_by=deleted_by,
        )
        room -= _weight(inode) + 2 * len(path)
    return listing


def _weight(inode: Inode) -> int:
    """About how many bytes of an answer it takes."""
    return ENTRY_BYTES + len(inode.name) + len(inode.target or b"")
