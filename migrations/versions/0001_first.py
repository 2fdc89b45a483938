"""The first version: all tables, and the rows that are there before the first entry.

The log begins after index 1. `totals` counts the root, which is inode 1.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ROOT_INODE = 1
DIRECTORY = 2


def upgrade() -> None:
    _tables()
    _first_rows()


def _first_rows() -> None:
    op.execute(
        "INSERT INTO raft_state (id, applied_index, applied_term, cluster_ms, wall_ms, rolling)"
        " VALUES (1, 1, 0, 0, 0, zeroblob(32))"
    )
    op.execute(
        "INSERT INTO totals (id, next_inode, next_version, next_trash, next_node, next_disk,"
        " files, directories, symlinks, chunks, logical_bytes, inline_bytes, purged_through)"
        f" VALUES (1, {ROOT_INODE + 1}, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0)"
    )
    op.execute(
        "INSERT INTO inode (id, type, parent, name, mode, mtime_ns, version, replication, target,"
        " changed_wall_ms)"
        f" VALUES ({ROOT_INODE}, {DIRECTORY}, 0, x'', {0o755}, 0, 1, 0, NULL, 0)"
    )


def _tables() -> None:
    op.create_table(
        "alarm",
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("since_wall_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("code"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "body",
        sa.Column("chunk", sa.LargeBinary(), nullable=False),
        sa.Column("bytes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("chunk"),
    )
    op.create_table(
        "chunk",
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("home", sa.Integer(), nullable=False),
        sa.Column("upload", sa.LargeBinary(), nullable=True),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("checksum", sa.BigInteger(), nullable=False),
        sa.Column("want", sa.Integer(), nullable=False),
        sa.Column("live", sa.Integer(), nullable=False),
        sa.Column("birth_history", sa.BigInteger(), nullable=False),
        sa.Column("birth_index", sa.BigInteger(), nullable=False),
        sa.Column("birth_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "chunk_by_upload", "chunk", ["upload"], unique=False, sqlite_where=sa.text("upload IS NOT NULL")
    )
    op.create_index(
        "chunk_wanting",
        "chunk",
        ["live", "id"],
        unique=False,
        sqlite_where=sa.text("state = 1 AND home = 0 AND live < want"),
    )
    op.create_table(
        "cluster",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("cluster_id", sa.Text(), nullable=False),
        sa.Column("history", sa.BigInteger(), nullable=False),
        sa.Column("fork_index", sa.BigInteger(), nullable=False),
        sa.Column("format", sa.Integer(), nullable=False),
        sa.Column("created_wall_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "dentry",
        sa.Column("parent", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.LargeBinary(), nullable=False),
        sa.Column("inode", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("parent", "name"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "disk",
        sa.Column("key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("node", sa.Integer(), nullable=False),
        sa.Column("disk_id", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("node", "disk_id"),
    )
    op.create_table(
        "extent",
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("file_offset", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("chunk", sa.LargeBinary(), nullable=False),
        sa.Column("chunk_offset", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("version", "file_offset"),
        sqlite_with_rowid=False,
    )
    op.create_index("extent_by_chunk", "extent", ["chunk"], unique=False)
    op.create_table(
        "inode",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        sa.Column("type", sa.Integer(), nullable=False),
        sa.Column("parent", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.LargeBinary(), nullable=False),
        sa.Column("mode", sa.Integer(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("replication", sa.Integer(), nullable=False),
        sa.Column("target", sa.LargeBinary(), nullable=True),
        sa.Column("changed_wall_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "member",
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("member", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("node_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "node",
        sa.Column("key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("node_uuid", sa.Text(), nullable=False),
        sa.Column("role", sa.Integer(), nullable=False),
        sa.Column("info", sa.LargeBinary(), nullable=False),
        sa.Column("intent", sa.Integer(), nullable=False),
        sa.Column("maintenance_until_ms", sa.BigInteger(), nullable=False),
        sa.Column("registered_index", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("node_id"),
    )
    op.create_table(
        "orphan",
        sa.Column("chunk", sa.LargeBinary(), nullable=False),
        sa.Column("since_index", sa.BigInteger(), nullable=False),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.Column("deleted_by", sa.Text(), nullable=False),
        sa.Column("path", sa.LargeBinary(), nullable=False),
        sa.Column("condemned_index", sa.BigInteger(), nullable=False),
        sa.Column("condemned_ms", sa.BigInteger(), nullable=False),
        sa.Column("cycle", sa.BigInteger(), nullable=False),
        sa.Column("hold", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("chunk"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "quarantined",
        sa.Column("chunk", sa.LargeBinary(), nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("since_index", sa.BigInteger(), nullable=False),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.Column("deleted_by", sa.Text(), nullable=False),
        sa.Column("path", sa.LargeBinary(), nullable=False),
        sa.Column("condemned_index", sa.BigInteger(), nullable=False),
        sa.Column("forgotten_ms", sa.BigInteger(), nullable=False),
        sa.Column("forgotten_wall_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("chunk"),
        sqlite_with_rowid=False,
    )
    op.create_index("quarantined_by_age", "quarantined", ["forgotten_ms", "chunk"], unique=False)
    op.create_table(
        "raft_state",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("applied_index", sa.BigInteger(), nullable=False),
        sa.Column("applied_term", sa.BigInteger(), nullable=False),
        sa.Column("cluster_ms", sa.BigInteger(), nullable=False),
        sa.Column("wall_ms", sa.BigInteger(), nullable=False),
        sa.Column("rolling", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "replica",
        sa.Column("chunk", sa.LargeBinary(), nullable=False),
        sa.Column("node", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("disk", sa.Integer(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("chunk", "node"),
        sqlite_with_rowid=False,
    )
    op.create_index("replica_by_node", "replica", ["node", "state", "chunk"], unique=False)
    op.create_index(
        "replica_troubled",
        "replica",
        ["state", "chunk"],
        unique=False,
        sqlite_where=sa.text("state IN (3, 4)"),
    )
    op.create_table(
        "session",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("ttl_ms", sa.BigInteger(), nullable=False),
        sa.Column("opened_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "setting",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "slot",
        sa.Column("session", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("slot", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("result", sa.LargeBinary(), nullable=False),
        sa.Column("used_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("session", "slot"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "token",
        sa.Column("token_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_wall_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("revoked", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("token_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "totals",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("next_inode", sa.BigInteger(), nullable=False),
        sa.Column("next_version", sa.BigInteger(), nullable=False),
        sa.Column("next_trash", sa.BigInteger(), nullable=False),
        sa.Column("next_node", sa.BigInteger(), nullable=False),
        sa.Column("next_disk", sa.BigInteger(), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("directories", sa.BigInteger(), nullable=False),
        sa.Column("symlinks", sa.BigInteger(), nullable=False),
        sa.Column("chunks", sa.BigInteger(), nullable=False),
        sa.Column("logical_bytes", sa.BigInteger(), nullable=False),
        sa.Column("inline_bytes", sa.BigInteger(), nullable=False),
        sa.Column("purged_through", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "trash",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        sa.Column("inode", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.LargeBinary(), nullable=False),
        sa.Column("deleted_ms", sa.BigInteger(), nullable=False),
        sa.Column("deleted_wall_ms", sa.BigInteger(), nullable=False),
        sa.Column("deleted_by", sa.Text(), nullable=False),
        sa.Column("deleted_index", sa.BigInteger(), nullable=False),
        sa.Column("purged", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("trash_by_age", "trash", ["purged", "deleted_ms"], unique=False)
    op.create_index("trash_by_inode", "trash", ["inode"], unique=False)
    op.create_index("trash_by_path", "trash", ["path"], unique=False)
    op.create_table(
        "upload",
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("parent", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.LargeBinary(), nullable=False),
        sa.Column("if_absent", sa.Integer(), nullable=False),
        sa.Column("expected_version", sa.BigInteger(), nullable=False),
        sa.Column("base_version", sa.BigInteger(), nullable=False),
        sa.Column("replication", sa.Integer(), nullable=False),
        sa.Column("min_replicas", sa.Integer(), nullable=False),
        sa.Column("chunk_size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("mode", sa.Integer(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("deadline_ms", sa.BigInteger(), nullable=False),
        sa.Column("opened_index", sa.BigInteger(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_with_rowid=False,
    )
    op.create_index("upload_by_deadline", "upload", ["deadline_ms"], unique=False)
    op.create_table(
        "version",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        sa.Column("inode", sa.BigInteger(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("checksum", sa.BigInteger(), nullable=False),
        sa.Column("created_index", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
