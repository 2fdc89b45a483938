"""A copy of the metadata for an operator, while it is served: described first, then in pieces.

The copy is made in this node's data directory, so it needs room there as long as it is being sent.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

from common import log
from coordinator.consensus import SnapshotFile
from coordinator.consensus.snapshots import open_frozen
from coordinator.metadata import migrations, queries
from coordinator.services.gateway import Gateway
from quorumfs import __version__
from quorumfs.backups import FORMAT
from quorumfs.clock import Clock
from quorumfs.errors import PreconditionFailedError
from quorumfs.v1 import admin_pb2 as a

PIECE_BYTES = 1 << 20
SCRATCH = "backup-"

_log = log.get(__name__)


class Backups:
    """One at a time; who comes meanwhile waits. On the gRPC loop."""

    def __init__(self, gateway: Gateway, node_id: str, directory: Path, clock: Clock) -> None:
        self._gateway = gateway
        self._node_id = node_id
        self._directory = directory
        self._clock = clock
        self._one = asyncio.Lock()
        self._left = list(directory.glob(f"{SCRATCH}*"))  # by a process that ended while it was sending

    async def pieces(self) -> AsyncIterator[a.BackupPiece]:
        """The state as of one index, at least that of everything acknowledged before.

        Raises NotLeaderError, and what reading and making a snapshot raise.
        """
        self._gateway.require_leadership()
        await self._gateway.read(lambda tx: b"")  # it still leads, and has applied what it acknowledged
        async with self._one:
            await asyncio.to_thread(self._sweep)
            with tempfile.TemporaryDirectory(dir=self._directory, prefix=SCRATCH) as scratch:
                copied = await asyncio.to_thread(self._gateway.consensus.snapshot, Path(scratch))
                manifest = await asyncio.to_thread(self._describe, copied)
                _log.info("backup.sending", index=copied.index, bytes=copied.size)
                yield a.BackupPiece(manifest=manifest)
                with open(copied.path, "rb") as file:
                    while data := await asyncio.to_thread(file.read, PIECE_BYTES):
                        yield a.BackupPiece(data=data)
        _log.info("backup.sent", index=manifest.index)

    def _describe(self, copied: SnapshotFile) -> a.BackupManifest:
        with closing(open_frozen(copied.path)) as tx:
            cluster, revision = queries.cluster_identity(tx), migrations.current_revision(tx)
        if cluster is None:
            raise PreconditionFailedError("this cluster is not initialised: there is nothing to back up")
        return a.BackupManifest(
            format=FORMAT,
            cluster_id=cluster[0],
            history=cluster[1],
            index=copied.index,
            term=copied.term,
            schema_revision=revision,
            node_id=self._node_id,
            version=__version__,
            created_wall_ms=self._clock.wall_ms(),
            size_bytes=copied.size,
            sha256=copied.sha256,
        )

    def _sweep(self) -> None:
        while self._left:
            shutil.rmtree(self._left.pop(), ignore_errors=True)
