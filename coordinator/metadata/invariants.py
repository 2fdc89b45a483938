"""What must hold of the state after every entry, as questions whose answer is a list of violations.

Scans everything, in time that grows with the rows and not faster (a minute for millions): for tests, the simulation
and `fsck`, never on a path that somebody waits for.
"""

from __future__ import annotations

import sqlite3

from coordinator.metadata.contents import CONDEMNED, IN_METADATA, SEALED
from coordinator.metadata.tree import DETACHED, DIRECTORY, FILE, SYMLINK
from quorumfs.ids import ROOT_INODE
from quorumfs.v1 import types_pb2 as t

# (what is wrong, a query for the rows in which it is)
_RULES: tuple[tuple[str, str], ...] = (
    (
        "an inode with no place",
        "SELECT inode.id FROM inode LEFT JOIN dentry"
        " ON dentry.parent = inode.parent AND dentry.name = inode.name AND dentry.inode = inode.id"
        f" WHERE inode.id <> {ROOT_INODE} AND dentry.inode IS NULL"
        " AND inode.id NOT IN (SELECT inode FROM trash)",
    ),
    (
        "an inode with two places",
        "SELECT inode FROM (SELECT inode FROM dentry UNION ALL SELECT inode FROM trash)"
        " GROUP BY inode HAVING count(*) > 1",
    ),
    (
        "a dentry without its inode",
        "SELECT parent, name FROM dentry WHERE inode NOT IN (SELECT id FROM inode)",
    ),
    ("a trash row without its inode", "SELECT id FROM trash WHERE inode NOT IN (SELECT id FROM inode)"),
    (
        "a dentry whose parent is no directory",
        f"SELECT parent, name FROM dentry WHERE parent NOT IN (SELECT id FROM inode WHERE type = {DIRECTORY})",
    ),
    (
        "an inode that does not repeat its dentry",
        "SELECT inode.id FROM dentry JOIN inode ON inode.id = dentry.inode"
        " WHERE inode.parent <> dentry.parent OR inode.name <> dentry.name",
    ),
    (
        "a trash root that has a parent",
        f"SELECT trash.id FROM trash JOIN inode ON inode.id = trash.inode WHERE inode.parent <> {DETACHED}",
    ),
    (
        "trash whose times are not in the order of its numbers",
        "SELECT id FROM (SELECT id, deleted_ms, lag(deleted_ms) OVER (ORDER BY id) AS before FROM trash)"
        " WHERE deleted_ms < before",
    ),
    (
        "an inode that no root is above",
        "WITH RECURSIVE below(id) AS ("
        f" SELECT {ROOT_INODE} UNION SELECT inode FROM trash"
        " UNION SELECT dentry.inode FROM dentry JOIN below ON dentry.parent = below.id)"
        " SELECT id FROM inode WHERE id NOT IN (SELECT id FROM below)",
    ),
    (
        "a file without its version",
        f"SELECT id FROM inode WHERE type = {FILE} AND NOT EXISTS"
        " (SELECT 1 FROM version WHERE version.id = inode.version AND version.inode = inode.id)",
    ),
    (
        "a version that is neither a file's nor an upload's",
        "SELECT id FROM version WHERE (inode IS NULL AND id NOT IN (SELECT version FROM upload))"
        " OR (inode IS NOT NULL AND NOT EXISTS"
        "  (SELECT 1 FROM inode WHERE inode.id = version.inode AND inode.version = version.id))",
    ),
    (
        "an upload without its version",
        "SELECT hex(id) FROM upload WHERE version NOT IN (SELECT id FROM version WHERE inode IS NULL)",
    ),
    (
        "an extent of no version",
        "SELECT version, file_offset FROM extent WHERE version NOT IN (SELECT id FROM version)",
    ),
    (
        "an extent beyond its chunk",
        "SELECT version, file_offset FROM extent LEFT JOIN chunk ON chunk.id = extent.chunk"
        f" WHERE chunk.id IS NULL OR chunk.state <> {SEALED} OR chunk_offset + extent.length > chunk.length"
        " OR extent.length <= 0",
    ),
    (
        "a file whose extents do not cover it",
        "SELECT id FROM version WHERE inode IS NOT NULL AND size <>"
        " coalesce((SELECT sum(length) FROM extent WHERE extent.version = version.id), 0)",
    ),
    (
        "extents with a gap or an overlap",
        "SELECT version.id, begins FROM (SELECT version AS of, file_offset AS begins,"
        "  lag(file_offset + length, 1, 0) OVER (PARTITION BY version ORDER BY file_offset) AS ended FROM extent)"
        " JOIN version ON version.id = of WHERE version.inode IS NOT NULL AND begins <> ended",
    ),
    (
        "a chunk that nothing holds and that is no orphan",
        "SELECT hex(id) FROM chunk WHERE upload IS NULL AND NOT EXISTS"
        " (SELECT 1 FROM extent WHERE extent.chunk = chunk.id)"
        " AND NOT EXISTS (SELECT 1 FROM orphan WHERE orphan.chunk = chunk.id)",
    ),
    (
        "an orphan that something refers to",
        "SELECT hex(chunk) FROM orphan WHERE EXISTS (SELECT 1 FROM extent WHERE extent.chunk = orphan.chunk)",
    ),
    (
        "an orphan without its chunk",
        "SELECT hex(chunk) FROM orphan WHERE chunk NOT IN (SELECT id FROM chunk)",
    ),
    (
        "an orphan that wants replicas, or that an open upload protects",
        "SELECT hex(id) FROM orphan JOIN chunk ON chunk.id = orphan.chunk WHERE want <> 0 OR upload IS NOT NULL",
    ),
    (
        "a chunk that wants no replica and is no orphan",
        "SELECT hex(id) FROM chunk WHERE want <= 0"
        " AND NOT EXISTS (SELECT 1 FROM orphan WHERE orphan.chunk = chunk.id)",
    ),
    (
        "a condemned chunk that is no condemned orphan, or the other way round",
        f"SELECT hex(id) FROM chunk LEFT JOIN orphan ON orphan.chunk = chunk.id"
        f" WHERE (state = {CONDEMNED}) <> coalesce(condemned_index > 0, 0)",
    ),
    (
        "a chunk that is there and remembered as one that was",
        "SELECT hex(chunk) FROM quarantined WHERE chunk IN (SELECT id FROM chunk)",
    ),
    (
        "a chunk of an upload that is not open",
        "SELECT hex(id) FROM chunk WHERE upload IS NOT NULL AND upload NOT IN (SELECT id FROM upload)",
    ),
    (
        "a count of live replicas that is wrong",
        f"SELECT hex(id) FROM chunk WHERE home <> {IN_METADATA} AND live <> (SELECT count(*) FROM replica"
        f" WHERE replica.chunk = chunk.id AND replica.state = {t.REPLICA_STATE_LIVE})",
    ),
    ("a replica of no chunk", "SELECT hex(chunk) FROM replica WHERE chunk NOT IN (SELECT id FROM chunk)"),
    ("a replica on no node", "SELECT hex(chunk) FROM replica WHERE node NOT IN (SELECT key FROM node)"),
    (
        "an inline chunk whose body is not its length",
        f"SELECT hex(id) FROM chunk LEFT JOIN body ON body.chunk = chunk.id WHERE home = {IN_METADATA}"
        " AND length IS NOT length(bytes)",
    ),
    (
        "a body of no inline chunk",
        f"SELECT hex(chunk) FROM body WHERE chunk NOT IN (SELECT id FROM chunk WHERE home = {IN_METADATA})",
    ),
    ("a slot of no session", "SELECT session, slot FROM slot WHERE session NOT IN (SELECT id FROM session)"),
    ("a disk of no node", "SELECT key FROM disk WHERE node NOT IN (SELECT key FROM node)"),
    (
        "a link without a target, or something else with one",
        f"SELECT id FROM inode WHERE (type = {SYMLINK}) <> (target IS NOT NULL)",
    ),
    (
        "a number that a counter will give again",
        "SELECT 1 FROM totals WHERE next_inode <= (SELECT max(id) FROM inode)"
        " OR next_version <= (SELECT max(id) FROM version) OR next_trash <= (SELECT max(id) FROM trash)"
        " OR next_node <= (SELECT max(key) FROM node) OR next_disk <= (SELECT max(key) FROM disk)",
    ),
)

_COUNTS: tuple[tuple[str, str], ...] = (
    ("files", f"SELECT count(*) FROM inode WHERE type = {FILE}"),
    ("directories", f"SELECT count(*) FROM inode WHERE type = {DIRECTORY}"),
    ("symlinks", f"SELECT count(*) FROM inode WHERE type = {SYMLINK}"),
    ("chunks", "SELECT count(*) FROM chunk"),
    ("logical_bytes", "SELECT coalesce(sum(size), 0) FROM version WHERE inode IS NOT NULL"),
    ("inline_bytes", "SELECT coalesce(sum(length(bytes)), 0) FROM body"),
)


def violations(tx: sqlite3.Connection) -> list[str]:
    """Every rule that does not hold, with the first row that breaks it; empty: all is well."""
    found = []
    for what, query in _RULES:
        row = tx.execute(f"{query} LIMIT 1").fetchone()
        if row is not None:
            found.append(f"{what}: {row}")
    for name, query in _COUNTS:
        (said,) = tx.execute(f"SELECT {name} FROM totals WHERE id = 1").fetchone()
        (counted,) = tx.execute(query).fetchone()
        if said != counted:
            found.append(f"totals.{name} is {said}, but there are {counted}")
    return found
