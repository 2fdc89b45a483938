"""A snapshot goes from one coordinator to another in pieces, and arrives whole or not at all."""

from __future__ import annotations

import asyncio
import io
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from coordinator.services import consensus as services
from coordinator.services.consensus import SCRATCH, ConsensusService, check_genesis, pieces
from coordinator.services.fetching import fetch_snapshot, write
from quorumfs.errors import IntegrityError, PreconditionFailedError, QuorumFSError
from quorumfs.v1 import membership_pb2 as m
from tests.support.coordinator import Coordinator


def sent(content: bytes) -> list[m.SnapshotPiece]:
    async def gather() -> list[m.SnapshotPiece]:
        first = m.SnapshotPiece(total_bytes=len(content), index=7, term=3)
        found = []
        async for piece in pieces(io.BytesIO(content), first):
            copy = m.SnapshotPiece()
            copy.CopyFrom(piece)
            found.append(copy)
        return found

    return asyncio.run(gather())


@pytest.mark.parametrize("size", [0, 1, services.PIECE_BYTES, services.PIECE_BYTES + 1])
def test_what_is_sent_arrives(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    found = write(iter(sent(content)), tmp_path / "snapshot")
    assert (tmp_path / "snapshot").read_bytes() == content
    assert (found.index, found.term, found.size) == (7, 3, size)


@pytest.mark.parametrize(
    "damage",
    [
        lambda parts: parts[:-1],
        lambda parts: parts[1:],
        lambda parts: [*parts[:1], *parts],
        lambda parts: [],
        lambda parts: [m.SnapshotPiece(total_bytes=10, index=7, term=3, data=b"x" * 10)],
    ],
)
def test_what_is_cut_doubled_or_unsigned_is_refused(tmp_path: Path, damage: Any) -> None:
    parts = sent(b"a" * (services.PIECE_BYTES + 10))
    with pytest.raises(IntegrityError):
        write(iter(damage(parts)), tmp_path / "snapshot")


def test_a_flipped_bit_is_seen(tmp_path: Path) -> None:
    parts = sent(b"a" * 100)
    parts[0].data = b"b" + parts[0].data[1:]
    with pytest.raises(IntegrityError):
        write(iter(parts), tmp_path / "snapshot")


class Cut(grpc.RpcError):  # type: ignore[misc]  # grpc has no types for it
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "the connection broke"

    def trailing_metadata(self) -> tuple[()]:
        return ()


def test_a_broken_stream_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(request: m.FetchSnapshotRequest, timeout: float) -> Any:
        yield sent(b"a" * 100)[0]
        raise Cut

    stub = SimpleNamespace(FetchSnapshot=stream)
    monkeypatch.setattr("quorumfs.v1.membership_pb2_grpc.ConsensusStub", lambda channel: stub)
    channels: Any = SimpleNamespace(get=lambda address: None)
    with pytest.raises(QuorumFSError):
        fetch_snapshot(channels, "c2:1", "c1", 5, tmp_path / "snapshot")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_when_the_next_snapshot_is_sent(
    leader: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "require_node", lambda context: "c2")
    left = tmp_path / f"{SCRATCH}left"
    left.mkdir()
    (left / "half").write_bytes(b"half")
    nobody: Any = None
    service = ConsensusService(leader.gateway, "c1", tmp_path, nobody, nobody)

    def snapshot(directory: Path) -> Any:
        (directory / "whole").write_bytes(b"whole")
        return SimpleNamespace(path=directory / "whole", index=7, term=3, size=5)

    leader.consensus.snapshot = snapshot
    request = m.FetchSnapshotRequest(node_id="c2", at_least_index=7)

    async def fetch() -> bytes:
        return b"".join([piece.data async for piece in service.FetchSnapshot(request, nobody)])

    assert leader.run(fetch) == b"whole"
    assert list(tmp_path.glob(f"{SCRATCH}*")) == []
    request.at_least_index = 8
    with pytest.raises(QuorumFSError, match="no snapshot that new"):
        leader.run(fetch)


@pytest.mark.parametrize(
    "change",
    [
        {"cluster_id": ""},
        {"history": 0},
        {"members": [m.Member(node_id="c2")]},
        {"members": [m.Member(node_id="c1"), m.Member(node_id="c1")]},
    ],
)
def test_a_genesis_that_is_not_whole_is_not_accepted(change: dict[str, Any]) -> None:
    whole: dict[str, Any] = {"cluster_id": "x", "history": 1, "members": [m.Member(node_id="c1")]}
    check_genesis(m.GenesisRequest(**whole), "c1")
    with pytest.raises(PreconditionFailedError):
        check_genesis(m.GenesisRequest(**{**whole, **change}), "c1")
