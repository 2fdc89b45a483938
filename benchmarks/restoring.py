"""A cluster of one coordinator that knows of chunks nobody has stored: its backup is filled, and restored.

What is to be measured is then there in seconds, whatever its size, and the leader finds it as any leader would.
"""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.systems import coordinator_pids
from quorumfs import Client, backups
from quorumfs.errors import QuorumFSError
from quorumfs.local.processes import console_script
from quorumfs.testing import LocalCluster, wait_for
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import types_pb2 as t

PATIENCE_SECONDS = 120.0
FILE = "/chunks"
"""The one file of all chunks, each of which has one byte."""
CHUNK_BYTES = 1
CHUNK_CHECKSUM = 0

Fill = Callable[[sqlite3.Connection], None]


def restore_filled(cluster: LocalCluster, directory: Path, fill: Fill) -> int:
    """Back up, put into the backup what `fill` puts there, restore it; the pid of the leader that answers."""
    backup = directory / "backup"
    with cluster.client() as client:
        pieces = client.coordinator.stream("Control.CreateBackup", a.CreateBackupRequest(), PATIENCE_SECONDS)
        manifest = backups.receive(pieces, backup)
    with closing(sqlite3.connect(backup / backups.DATABASE, isolation_level=None)) as tx:
        tx.execute("BEGIN")
        fill(tx)
        tx.execute("COMMIT")
    raw = (backup / backups.DATABASE).read_bytes()
    manifest.size_bytes, manifest.sha256 = len(raw), hashlib.sha256(raw).digest()
    (backup / backups.MANIFEST).unlink()
    backups.write_manifest(manifest, backup)
    (node,) = cluster.layout.coordinator_nodes
    cluster.kill(node.node_id)
    file = cluster.layout.node_directory(node) / "node.toml"
    words = ["--config", str(file), "--restore-backup", str(backup), "--replace", "--yes"]
    subprocess.run([console_script("quorumfs-coordinator"), *words], check=True, stdout=subprocess.DEVNULL)
    cluster.start_node(node.node_id)
    with cluster.client() as client:
        wait_for(lambda: _asked(lambda: client.stat(FILE)), PATIENCE_SECONDS, "the leader answers")
    return coordinator_pids(cluster)[node.node_id]


def put_file(tx: sqlite3.Connection, ids: Sequence[bytes], replicas: int) -> None:
    """One file of `ids`, chunks that want so many replicas and have them; `put_replicas` says where."""
    inode, version = tx.execute("SELECT next_inode, next_version FROM totals").fetchone()
    name = FILE.removeprefix("/").encode()
    size = len(ids) * CHUNK_BYTES
    row = (inode, t.INODE_TYPE_FILE, 1, name, 0o644, 0, version, replicas, None, 0)
    tx.execute("INSERT INTO inode VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    tx.execute("INSERT INTO dentry VALUES (1, ?, ?)", (name, inode))
    tx.execute("INSERT INTO version VALUES (?, ?, ?, 0, 1)", (version, inode, size))
    tx.executemany(
        "INSERT INTO chunk VALUES (?, 1, 0, NULL, ?, ?, ?, ?, 1, 1, 0)",
        ((one, CHUNK_BYTES, CHUNK_CHECKSUM, replicas, replicas) for one in ids),
    )
    tx.executemany(
        "INSERT INTO extent VALUES (?, ?, ?, ?, 0)",
        ((version, k * CHUNK_BYTES, CHUNK_BYTES, one) for k, one in enumerate(ids)),
    )
    tx.execute(
        "UPDATE totals SET next_inode = next_inode + 1, next_version = next_version + 1, files = files + 1,"
        " chunks = chunks + ?, logical_bytes = logical_bytes + ?",
        (len(ids), size),
    )


def put_replicas(tx: sqlite3.Connection, node_id: str, disk_id: str, ids: Iterable[bytes]) -> None:
    """Live ones on a registered node."""
    (key,) = tx.execute("SELECT key FROM node WHERE node_id = ?", (node_id,)).fetchone()
    disk = tx.execute("SELECT key FROM disk WHERE node = ? AND disk_id = ?", (key, disk_id)).fetchone()
    tx.executemany(
        "INSERT INTO replica VALUES (?, ?, ?, ?)", ((one, key, disk[0], t.REPLICA_STATE_LIVE) for one in ids)
    )


def datanodes_alive(client: Client) -> int:
    """How many are registered and heard."""
    nodes = client.coordinator.cluster_view().nodes
    return sum(one.info.role == t.NODE_ROLE_DATANODE and one.state == t.NODE_STATE_ALIVE for one in nodes)


def _asked(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except QuorumFSError:
        return False
    return True
