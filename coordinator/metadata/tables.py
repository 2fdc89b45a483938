"""The tables of a coordinator's SQLite database, as SQLAlchemy Core; Alembic's versions make them.

Rules
1. Ids of inodes, versions, trash rows, nodes and disks come from the replicated counters in `totals`; ids of
   uploads and chunks are 16 bytes derived from the entry's seed. No AUTOINCREMENT, no defaults computed by SQLite.
2. Times are replicated milliseconds (`*_ms`, cluster time) unless the name says `wall`. Wall time is only shown.
3. An inode has exactly one place: one dentry, or one trash row, or it is the root. `inode.parent` and `inode.name`
   repeat the dentry, so that a path is found upwards without another index; parent is 0 for a trash root.
4. A file's content is a version; `inode.version` is the pointer that a commit flips. A version without an inode
   (NULL) belongs to the open upload of the same number in `upload.version`. Versions are immutable once pointed at.
5. A chunk is valid while an extent names it or its upload is open. When its last extent goes, `orphan` says since
   when and by whom, and it wants no replicas any more (`want` 0); the row and its replicas stay until GC has them
   deleted everywhere. Then `quarantined` remembers for a while what the orphan was.
6. `chunk.live` counts its LIVE replicas; `apply` keeps it, so that what lacks replicas is found by an index.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData()

# Bookkeeping of the log

raft_state = Table(
    "raft_state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1
    Column("applied_index", BigInteger, nullable=False),
    Column("applied_term", BigInteger, nullable=False),
    Column("cluster_ms", BigInteger, nullable=False),  # replicated time of the last entry with commands
    Column("wall_ms", BigInteger, nullable=False),
    Column("rolling", LargeBinary, nullable=False),  # SHA-256 over (previous, entry, results)
)

totals = Table(
    "totals",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1
    Column("next_inode", BigInteger, nullable=False),
    Column("next_version", BigInteger, nullable=False),
    Column("next_trash", BigInteger, nullable=False),
    Column("next_node", BigInteger, nullable=False),
    Column("next_disk", BigInteger, nullable=False),
    Column("files", BigInteger, nullable=False),  # rows of `inode` of that type, those in the trash too
    Column("directories", BigInteger, nullable=False),  # likewise; the root is one
    Column("symlinks", BigInteger, nullable=False),  # likewise
    Column("chunks", BigInteger, nullable=False),  # rows of `chunk`, orphans too
    Column("logical_bytes", BigInteger, nullable=False),  # sum of `version.size` of the counted files
    Column("inline_bytes", BigInteger, nullable=False),  # sum of the lengths of `body.bytes`
    Column("purged_through", BigInteger, nullable=False),  # rows of `trash` up to this are as if purged
)

cluster = Table(
    "cluster",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1; no row before InitCluster
    Column("cluster_id", Text, nullable=False),
    Column("history", BigInteger, nullable=False),
    Column("fork_index", BigInteger, nullable=False),  # of the history's beginning; 0 for the first
    Column("format", Integer, nullable=False),
    Column("created_wall_ms", BigInteger, nullable=False),
)

member = Table(
    "member",
    metadata,
    Column("node_id", Text, primary_key=True),
    Column("member", LargeBinary, nullable=False),  # membership.Member
    sqlite_with_rowid=False,
)

# The namespace

inode = Table(
    "inode",
    metadata,
    Column(
        "id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False
    ),  # root: 1
    Column("type", Integer, nullable=False),  # types.InodeType
    Column("parent", BigInteger, nullable=False),
    Column("name", LargeBinary, nullable=False),
    Column("mode", Integer, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),  # of a file: row of `version`; else counts changes
    Column("replication", Integer, nullable=False),  # of a file
    Column("target", LargeBinary),  # of a symlink
    Column("changed_wall_ms", BigInteger, nullable=False),
)

dentry = Table(
    "dentry",
    metadata,
    Column("parent", BigInteger, primary_key=True, autoincrement=False),
    Column("name", LargeBinary, primary_key=True),
    Column("inode", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

version = Table(
    "version",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("inode", BigInteger),  # NULL while its upload is open
    Column("size", BigInteger, nullable=False),
    Column("checksum", BigInteger, nullable=False),  # CRC32C of the content
    Column("created_index", BigInteger, nullable=False),
)

extent = Table(
    "extent",
    metadata,
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("file_offset", BigInteger, primary_key=True, autoincrement=False),
    Column("length", BigInteger, nullable=False),
    Column("chunk", LargeBinary, nullable=False),
    Column("chunk_offset", BigInteger, nullable=False),
    Index("extent_by_chunk", "chunk"),
    sqlite_with_rowid=False,
)

trash = Table(
    "trash",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("inode", BigInteger, nullable=False),  # a detached file, link or tree
    Column("path", LargeBinary, nullable=False),  # where it was
    Column("deleted_ms", BigInteger, nullable=False),
    Column("deleted_wall_ms", BigInteger, nullable=False),
    Column("deleted_by", Text, nullable=False),
    Column("deleted_index", BigInteger, nullable=False),
    Column("purged", Integer, nullable=False),  # 1: out of reach; being reaped in small entries
    Index("trash_by_inode", "inode"),
    Index("trash_by_path", "path"),
    Index("trash_by_age", "purged", "deleted_ms"),
)

# Uploads and chunks

upload = Table(
    "upload",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("version", BigInteger, nullable=False),  # the version being built
    Column("parent", BigInteger, nullable=False),
    Column("name", LargeBinary, nullable=False),
    Column("if_absent", Integer, nullable=False),
    Column("expected_version", BigInteger, nullable=False),  # 0: any
    Column("base_version", BigInteger, nullable=False),  # whose chunks it may name too; 0: none
    Column("replication", Integer, nullable=False),
    Column("min_replicas", Integer, nullable=False),
    Column("chunk_size_bytes", BigInteger, nullable=False),
    Column("mode", Integer, nullable=False),  # -1: as the file has it, or the default
    Column("mtime_ns", BigInteger, nullable=False),  # 0: the time of the commit
    Column("deadline_ms", BigInteger, nullable=False),  # the leader may give longer, never less
    Column("opened_index", BigInteger, nullable=False),
    Column("principal", Text, nullable=False),
    Index("upload_by_deadline", "deadline_ms"),
    sqlite_with_rowid=False,
)

chunk = Table(
    "chunk",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("state", Integer, nullable=False),  # 0 allocated, 1 sealed, 2 condemned
    Column("home", Integer, nullable=False),  # 0 datanodes, 1 the metadata (`body`)
    Column("upload", LargeBinary),  # while that upload is open
    Column("length", BigInteger, nullable=False),
    Column("checksum", BigInteger, nullable=False),  # CRC32C of its bytes
    Column("want", Integer, nullable=False),  # replicas it shall have; 0: an orphan
    Column("live", Integer, nullable=False),  # LIVE replicas it has
    Column("birth_history", BigInteger, nullable=False),
    Column("birth_index", BigInteger, nullable=False),
    Column("birth_ms", BigInteger, nullable=False),
    Index("chunk_by_upload", "upload", sqlite_where=text("upload IS NOT NULL")),
    Index("chunk_wanting", "live", "id", sqlite_where=text("state = 1 AND home = 0 AND live < want")),
    sqlite_with_rowid=False,
)

body = Table(
    "body",
    metadata,
    Column("chunk", LargeBinary, primary_key=True),
    Column("bytes", LargeBinary, nullable=False),
)

replica = Table(
    "replica",
    metadata,
    Column("chunk", LargeBinary, primary_key=True),
    Column("node", Integer, primary_key=True, autoincrement=False),  # node.key
    Column("disk", Integer, nullable=False),  # disk.key; 0: not known yet
    Column("state", Integer, nullable=False),  # types.ReplicaState
    Index("replica_by_node", "node", "state", "chunk"),
    Index("replica_troubled", "state", "chunk", sqlite_where=text("state IN (3, 4)")),
    sqlite_with_rowid=False,
)

orphan = Table(
    "orphan",
    metadata,
    Column("chunk", LargeBinary, primary_key=True),
    Column("since_index", BigInteger, nullable=False),
    Column("since_ms", BigInteger, nullable=False),
    Column("deleted_by", Text, nullable=False),
    Column("path", LargeBinary, nullable=False),  # the last that referred to it; empty: found on a disk
    Column("condemned_index", BigInteger, nullable=False),  # 0: not condemned
    Column("condemned_ms", BigInteger, nullable=False),
    Column("cycle", BigInteger, nullable=False),
    Column("hold", Integer, nullable=False),  # above contents.FREE: no candidate
    sqlite_with_rowid=False,
)

# What lies in quarantine by order, and no other table knows any more: only to be told, nothing is decided by it
quarantined = Table(
    "quarantined",
    metadata,
    Column("chunk", LargeBinary, primary_key=True),
    Column("length", BigInteger, nullable=False),
    Column("since_index", BigInteger, nullable=False),  # as of the orphan; likewise the next four
    Column("since_ms", BigInteger, nullable=False),
    Column("deleted_by", Text, nullable=False),
    Column("path", LargeBinary, nullable=False),
    Column("condemned_index", BigInteger, nullable=False),
    Column("forgotten_ms", BigInteger, nullable=False),  # when nobody had it any more, but in quarantine
    Column("forgotten_wall_ms", BigInteger, nullable=False),
    Index("quarantined_by_age", "forgotten_ms", "chunk"),
    sqlite_with_rowid=False,
)

# Clients

session = Table(
    "session",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("client", Text, nullable=False),
    Column("ttl_ms", BigInteger, nullable=False),
    Column("opened_ms", BigInteger, nullable=False),
)

slot = Table(
    "slot",
    metadata,
    Column("session", BigInteger, primary_key=True, autoincrement=False),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    Column("digest", LargeBinary, nullable=False),  # first 8 bytes of SHA-256 of the batch
    Column("result", LargeBinary, nullable=False),  # the BatchResult
    Column("used_ms", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# Nodes and the cluster

node = Table(
    "node",
    metadata,
    Column("key", Integer, primary_key=True, autoincrement=False),
    Column("node_id", Text, nullable=False),
    Column("node_uuid", Text, nullable=False),
    Column("role", Integer, nullable=False),
    Column("info", LargeBinary, nullable=False),  # membership.NodeInfo with the labels as they are now
    Column("intent", Integer, nullable=False),
    Column("maintenance_until_ms", BigInteger, nullable=False),
    Column("registered_index", BigInteger, nullable=False),
    UniqueConstraint("node_id"),
)

disk = Table(
    "disk",
    metadata,
    Column("key", Integer, primary_key=True, autoincrement=False),
    Column("node", Integer, nullable=False),
    Column("disk_id", Text, nullable=False),
    Column("path", Text, nullable=False),
    UniqueConstraint("node", "disk_id"),
)

setting = Table(
    "setting",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    sqlite_with_rowid=False,
)

token = Table(
    "token",
    metadata,
    Column("token_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("created_wall_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),  # 0: never
    Column("revoked", Integer, nullable=False),
    sqlite_with_rowid=False,
)

alarm = Table(
    "alarm",
    metadata,
    Column("code", Text, primary_key=True),
    Column("message", Text, nullable=False),
    Column("since_wall_ms", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
