"""The calling half of FetchSnapshot: brings another coordinator's state into a file here, verified."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import grpc

from coordinator.consensus import SnapshotFile
from quorumfs.errors import IntegrityError
from quorumfs.rpc.channels import ChannelSource
from quorumfs.rpc.status import from_rpc
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import membership_pb2_grpc

FETCH_SECONDS_MAX = 600.0


def fetch_snapshot(
    channels: ChannelSource, address: str, node_id: str, at_least_index: int, into: Path
) -> SnapshotFile:
    """Write the snapshot of the coordinator at `address` to the file `into`; durable on return.

    Raises IntegrityError when it arrived damaged or cut off, UnavailableError and the like for the call. A
    file that is not whole does not stay.
    """
    stub = membership_pb2_grpc.ConsensusStub(channels.get(address))
    request = m.FetchSnapshotRequest(node_id=node_id, at_least_index=at_least_index)
    try:
        return write(stub.FetchSnapshot(request, timeout=FETCH_SECONDS_MAX), into)
    except grpc.RpcError as error:
        into.unlink(missing_ok=True)
        raise from_rpc(error, f"fetching a snapshot from {address}", sent=False) from error
    except (IntegrityError, OSError):
        into.unlink(missing_ok=True)
        raise


def write(pieces: Iterator[m.SnapshotPiece], into: Path) -> SnapshotFile:
    """The pieces as a file. Raises IntegrityError, OSError."""
    digest = hashlib.sha256()
    first: m.SnapshotPiece | None = None
    size, said = 0, b""
    with open(into, "wb") as file:
        for piece in pieces:
            first = first or m.SnapshotPiece(
                total_bytes=piece.total_bytes, index=piece.index, term=piece.term
            )
            digest.update(piece.data)
            file.write(piece.data)
            size += len(piece.data)
            said = piece.sha256
        file.flush()
        os.fsync(file.fileno())
    if first is None or size != first.total_bytes or said != digest.digest():
        raise IntegrityError(
            "a snapshot arrived damaged", cause=f"{size} bytes came; length or SHA-256 are not as said"
        )
    return SnapshotFile(path=into, index=first.index, term=first.term, sha256=said, size=size)
