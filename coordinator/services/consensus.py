"""The Consensus service between coordinators: genesis, and snapshots for a member that lags or lost its
disk."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, BinaryIO

from common import log
from common.server import require_node
from coordinator.consensus import Identity
from coordinator.services.gateway import Gateway
from quorumfs.errors import (
    AlreadyExistsError,
    PreconditionFailedError,
    QuorumFSError,
    UnavailableError,
)
from quorumfs.rpc.status import to_detail
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import membership_pb2_grpc
from quorumfs.v1 import types_pb2 as t

PIECE_BYTES = 1 << 20
SNAPSHOTS_AT_ONCE = 2
SCRATCH = "sending-"

_log = log.get(__name__)


class ConsensusService(membership_pb2_grpc.ConsensusServicer):
    """`accept` makes this empty node a member by a genesis request and starts its replica; it may block."""

    def __init__(
        self,
        gateway: Gateway,
        node_id: str,
        directory: Path,
        identity: Callable[[], Identity | None],
        accept: Callable[[m.GenesisRequest], Identity],
    ) -> None:
        self._gateway = gateway
        self._node_id = node_id
        self._directory = directory
        self._identity = identity
        self._accept = accept
        self._one = asyncio.Lock()
        self._room = asyncio.Semaphore(SNAPSHOTS_AT_ONCE)
        self._left = list(directory.glob(f"{SCRATCH}*"))  # by a process that ended while it was sending

    # Genesis

    async def Genesis(self, request: m.GenesisRequest, context: Any) -> m.GenesisResponse:  # noqa: N802
        require_node(context)
        async with self._one:
            try:
                return await self._genesis(request)
            except QuorumFSError as error:
                detail = to_detail(error)
                answer = self._answer()
                answer.code = detail.code
                answer.error.CopyFrom(detail)
                return answer

    async def _genesis(self, request: m.GenesisRequest) -> m.GenesisResponse:
        identity = self._identity()
        if identity is None and not self._gateway.founding:
            self._gateway.require_attached()  # it is a member, and has no room to read which
        if request.probe:
            return self._answer()
        if identity is None:
            check_genesis(request, self._node_id)
            await asyncio.to_thread(self._accept, request)
            self._gateway.returning()  # empty no more: who joins may have been heard by nobody, and be told again
            _log.info("genesis.accepted", cluster=request.cluster_id, members=len(request.members))
        elif request.join and request.cluster_id == identity.cluster_id:
            wanted = {one.member_uuid for one in request.members if one.node_id == self._node_id}
            if wanted != {identity.member_uuid}:
                raise AlreadyExistsError(
                    f"{self._node_id} is a member of this cluster already",
                    cause=f"its member UUID is {identity.member_uuid}, not {', '.join(wanted) or 'named'}",
                    next="a coordinator joins with an empty node.data_dir",
                )
            _log.debug("genesis.joined_already", cluster=request.cluster_id)
        elif identity.genesis.SerializeToString(deterministic=True) != request.SerializeToString(
            deterministic=True
        ):
            raise AlreadyExistsError(
                f"{self._node_id} belongs to a cluster already",
                cause=f"its cluster is {identity.cluster_id}",
                next="genesis is for empty coordinators",
                ids={"cluster_id": identity.cluster_id},
            )
        return self._answer()

    def _answer(self) -> m.GenesisResponse:
        identity = self._identity()
        answer = m.GenesisResponse(code=t.ERROR_CODE_OK, node_id=self._node_id, empty=identity is None)
        if identity is not None:
            answer.cluster_id = identity.cluster_id
            answer.accepted.CopyFrom(identity.genesis)
            if self._gateway.attached:
                answer.commit_index = self._gateway.consensus.commit_index
        return answer

    # Snapshots

    async def FetchSnapshot(  # noqa: N802
        self, request: m.FetchSnapshotRequest, context: Any
    ) -> AsyncIterator[m.SnapshotPiece]:
        require_node(context)
        consensus = self._gateway.consensus
        async with self._room:
            await asyncio.to_thread(self._sweep)
            with tempfile.TemporaryDirectory(dir=self._directory, prefix=SCRATCH) as scratch:
                snapshot = await asyncio.to_thread(consensus.snapshot, Path(scratch))
                if snapshot.index < request.at_least_index:
                    raise UnavailableError(
                        f"{self._node_id} has no snapshot that new",
                        cause=f"its state is of index {snapshot.index}, not {request.at_least_index}",
                    )
                _log.info("snapshot.sending", to=request.node_id, index=snapshot.index, bytes=snapshot.size)
                first = m.SnapshotPiece(total_bytes=snapshot.size, index=snapshot.index, term=snapshot.term)
                with open(snapshot.path, "rb") as file:
                    async for piece in pieces(file, first):
                        yield piece
        _log.info("snapshot.sent", to=request.node_id, index=snapshot.index)

    def _sweep(self) -> None:
        while self._left:
            shutil.rmtree(self._left.pop(), ignore_errors=True)


async def pieces(file: BinaryIO, first: m.SnapshotPiece) -> AsyncIterator[m.SnapshotPiece]:
    """The file in pieces of 1 MiB, the SHA-256 of everything in the last, which has no data."""
    digest = hashlib.sha256()
    piece = first
    while data := await asyncio.to_thread(file.read, PIECE_BYTES):
        digest.update(data)
        piece.data = data
        yield piece
        piece = m.SnapshotPiece()
    piece.sha256 = digest.digest()
    yield piece


def check_genesis(request: m.GenesisRequest, node_id: str) -> None:
    """Raises PreconditionFailedError unless the request is whole and names this node as a member."""
    ids = [member.node_id for member in request.members]
    if not request.cluster_id or not request.history or node_id not in ids or len(set(ids)) != len(ids):
        raise PreconditionFailedError(
            f"{node_id} does not accept this genesis",
            cause=f"cluster {request.cluster_id or '(none)'}, history {request.history}, members {ids}",
            next="the request must name the cluster, its history, and every member once, this node too",
        )
