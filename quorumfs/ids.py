"""Identifiers as values. Nothing here makes one: that takes chance, which comes in through `mint`."""

from __future__ import annotations

from typing import NewType

from quorumfs.errors import InvalidArgumentError

ChunkId = NewType("ChunkId", bytes)  # 16 random bytes, never derived from a path, never reused
UploadId = NewType("UploadId", bytes)  # 16 random bytes
NodeId = NewType("NodeId", str)  # an operator's name, such as c1 or d3
InodeId = NewType("InodeId", int)
SessionId = NewType("SessionId", int)  # 63 bits, never 0

ID_BYTES = 16
ROOT_INODE = InodeId(1)


def chunk_id(raw: bytes) -> ChunkId:
    """`raw` as a chunk id. Raises InvalidArgumentError unless it is 16 bytes."""
    if len(raw) != ID_BYTES:
        raise InvalidArgumentError("a chunk id is 16 bytes", cause=f"{len(raw)} bytes were given")
    return ChunkId(bytes(raw))
