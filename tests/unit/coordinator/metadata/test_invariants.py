"""The invariants see what is broken: each rule is broken once, by hand."""

from __future__ import annotations

import pytest

from coordinator.metadata import invariants
from quorumfs.v1 import namespace_pb2 as n
from tests.support.machines import Cluster
from tests.support.ops import delete, mkdir, put, ref, symlink

CHUNK = "x'" + "ab" * 16 + "'"
NEW_INODE = (
    "INSERT INTO inode (id, type, parent, name, mode, mtime_ns, version, replication, target, changed_wall_ms)"
    " VALUES ({}, {}, {}, {}, 0, 0, 1, 0, NULL, 0)"
)
NEW_CHUNK = (
    "INSERT INTO chunk (id, state, home, upload, length, checksum, want, live, birth_history, birth_index,"
    f" birth_ms) VALUES ({CHUNK}, 1, 0, {{}}, 5, 0, {{}}, 0, 1, 1, 1)"
)


@pytest.fixture
def state() -> Cluster:
    """One of everything: files of two kinds, a directory, a link, trash, an orphan, an open upload, a session."""
    made = Cluster()
    made.do(
        mkdir(b"/dir"),
        put(b"/dir/small", b"body"),
        symlink(b"/link", b"dir"),
        n.Op(open_session=n.OpenSessionRequest(client="test")),
        n.Op(open_upload=n.OpenUploadRequest(ref=ref(b"/upload"))),
    )
    made.upload(b"/large", 5, 6)
    made.upload(b"/trashed", 5)
    made.one(delete(b"/trashed"))
    return made


def test_nothing_is_wrong_with_a_state_that_commands_made(state: Cluster) -> None:
    assert invariants.violations(state.replica.db) == []


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ("DELETE FROM dentry WHERE name = CAST('link' AS BLOB)", "an inode with no place"),
        ("INSERT INTO dentry VALUES (1, x'02', (SELECT inode FROM dentry LIMIT 1))", "two places"),
        ("INSERT INTO dentry VALUES (1, x'02', 99)", "a dentry without its inode"),
        ("UPDATE trash SET inode = 99", "a trash row without its inode"),
        ("UPDATE inode SET type = 1 WHERE name = CAST('dir' AS BLOB)", "parent is no directory"),
        ("UPDATE inode SET name = x'02' WHERE type = 3", "does not repeat its dentry"),
        ("UPDATE inode SET parent = 1 WHERE id IN (SELECT inode FROM trash)", "trash root that has a parent"),
        ("UPDATE dentry SET parent = inode WHERE name = CAST('dir' AS BLOB)", "no root is above"),
        ("DELETE FROM version WHERE inode IS NOT NULL", "a file without its version"),
        ("UPDATE version SET inode = 1 WHERE inode IS NULL", "neither a file's nor an upload's"),
        ("UPDATE upload SET version = 99", "an upload without its version"),
        ("UPDATE extent SET version = 99 WHERE file_offset = 5", "an extent of no version"),
        ("UPDATE chunk SET length = length - 1", "an extent beyond its chunk"),
        ("UPDATE chunk SET state = 0", "an extent beyond its chunk"),
        ("UPDATE version SET size = size + 1 WHERE inode IS NOT NULL", "do not cover it"),
        ("UPDATE extent SET file_offset = 6 WHERE file_offset = 5", "a gap or an overlap"),
        ("UPDATE extent SET file_offset = 4 WHERE file_offset = 5", "a gap or an overlap"),
        (NEW_CHUNK.format("NULL", 3), "nothing holds and that is no orphan"),
        (
            "INSERT INTO orphan SELECT chunk, 1, 1, '', x'', 0, 0, 0, 0 FROM extent LIMIT 1",
            "an orphan that something refers to",
        ),
        (f"INSERT INTO orphan VALUES ({CHUNK}, 1, 1, '', x'', 0, 0, 0, 0)", "an orphan without its chunk"),
        (
            f"{NEW_CHUNK.format('NULL', 3)}; INSERT INTO orphan VALUES ({CHUNK}, 1, 1, '', x'', 0, 0, 0, 0)",
            "an orphan that wants replicas",
        ),
        ("UPDATE chunk SET want = 0", "wants no replica and is no orphan"),
        (
            f"{NEW_CHUNK.format('NULL', 0)}; INSERT INTO orphan VALUES ({CHUNK}, 1, 1, '', x'', 9, 0, 0, 0)",
            "no condemned orphan",
        ),
        (NEW_CHUNK.format("x'01'", 3), "a chunk of an upload that is not open"),
        ("UPDATE replica SET state = 3", "a count of live replicas"),
        (f"INSERT INTO replica VALUES ({CHUNK}, 1, 0, 2)", "a replica of no chunk"),
        ("DELETE FROM node WHERE node_id = 'd1'", "a replica on no node"),
        ("UPDATE body SET bytes = x'01'", "body is not its length"),
        (f"INSERT INTO body VALUES ({CHUNK}, x'01')", "a body of no inline chunk"),
        ("INSERT INTO slot VALUES (99, 0, 1, x'01', x'01', 1)", "a slot of no session"),
        ("DELETE FROM node WHERE node_id = 'd1'", "a disk of no node"),
        ("UPDATE inode SET target = NULL WHERE type = 3", "a link without a target"),
        (
            "INSERT INTO trash SELECT id + 1, inode, path, deleted_ms - 1, 0, '', 1, 0 FROM trash LIMIT 1",
            "trash whose times are not in the order of its numbers",
        ),
        ("UPDATE totals SET next_inode = 2", "a number that a counter will give again"),
        ("UPDATE totals SET next_disk = 1", "a number that a counter will give again"),
        ("UPDATE totals SET files = files + 1", "totals.files"),
        ("UPDATE totals SET directories = 0", "totals.directories"),
        ("UPDATE totals SET symlinks = 0", "totals.symlinks"),
        ("UPDATE totals SET chunks = 0", "totals.chunks"),
        ("UPDATE totals SET logical_bytes = 0", "totals.logical_bytes"),
        ("UPDATE totals SET inline_bytes = 0", "totals.inline_bytes"),
    ],
)
def test_every_kind_of_damage_is_seen(state: Cluster, damage: str, what: str) -> None:
    state.replica.db.executescript(damage)
    assert [one for one in invariants.violations(state.replica.db) if what in one], damage
