"""Copies a chunk from another datanode: asked what it is, read, verified block by block, sealed here.

Sources are tried in turn. One that does not answer costs its deadline once: then it is left alone for a while (a
circuit per address), and the next is tried at once. Nothing counts before it is verified against the checksum that the
leader gave: a damaged source cannot spread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from datanode.store.chunks import ChunkStore
from datanode.store.layout import Birth
from datanode.store.writer import ChunkInfo, ChunkWriter
from quorumfs import limits
from quorumfs.errors import IntegrityError, InvalidArgumentError, QuorumFSError, UnavailableError
from quorumfs.frames import decode_frame
from quorumfs.ids import ID_BYTES, ChunkId, UploadId
from quorumfs.rpc.channels import ChannelSource
from quorumfs.rpc.circuit import Circuits
from quorumfs.rpc.status import from_rpc, is_composed
from quorumfs.v1 import chunks_pb2, chunks_pb2_grpc
from quorumfs.v1.types_pb2 import NodeAddress

READ_METHOD = "/quorumfs.v1.Chunks/Read"


class Puller:
    """Pulls chunks into the store. Any thread."""

    def __init__(self, store: ChunkStore, channels: ChannelSource, circuits: Circuits) -> None:
        self._store = store
        self._channels = channels
        self._circuits = circuits

    def pull(self, chunk: ChunkId, sources: Sequence[NodeAddress], length: int, checksum: int) -> ChunkInfo:
        """The chunk is sealed here on return, with this length and checksum.

        Raises what the disk raises (NoSpaceError, UnavailableError, ...), or UnavailableError that names each
        source and why it did not do.
        """
        there = chunk in self._store and not self._store.on_failed_disk(chunk)
        if there and (known := self._known(chunk, length, checksum)) is not None:
            return known
        reasons = []
        for source in sources:
            try:
                return self._pull_from(source, chunk, length, checksum)
            except (IntegrityError, _SourceError) as error:
                reasons.append(f"{source.node_id}: {error}")
        raise UnavailableError(
            f"chunk {chunk.hex()} could not be copied from anywhere",
            cause="; ".join(reasons) or "no source was named",
            next="the leader tries other sources",
            ids={"chunk": chunk.hex()},
        )

    def _known(self, chunk: ChunkId, length: int, checksum: int) -> ChunkInfo | None:
        """The replica that is here already, if it is whole; else it is put aside."""
        verdict = self._store.verify(chunk)
        if verdict.ok and (verdict.length, verdict.checksum) == (length, checksum):
            return self._store.info(chunk)
        self._store.mark_corrupt(chunk, verdict.inode)
        return None

    def _pull_from(self, source: NodeAddress, chunk: ChunkId, length: int, checksum: int) -> ChunkInfo:
        try:
            channel = self._channels.get(source.grpc)
            self._circuits.admit(source.grpc)
        except (UnavailableError, ValueError) as error:
            raise _SourceError(f"it cannot be called: {error}") from error
        silence: QuorumFSError | None = None
        try:
            return self._fetch(channel, chunk, length, checksum)
        except grpc.RpcError as error:
            failure = from_rpc(error, f"reading from {source.node_id}", sent=False)
            silence = None if is_composed(error) else failure
            raise _SourceError(str(failure)) from error
        finally:
            self._circuits.ended(source.grpc, silence)

    def _fetch(self, channel: grpc.Channel, chunk: ChunkId, length: int, checksum: int) -> ChunkInfo:
        stub = chunks_pb2_grpc.ChunksStub(channel)
        told: chunks_pb2.ChunkInfo = stub.Stat(
            chunks_pb2.StatChunkRequest(chunk=chunk), timeout=limits.RPC_DEADLINE_SECONDS
        )
        if (told.length, told.checksum) != (length, checksum) or len(told.upload) != ID_BYTES:
            raise _SourceError(f"it holds other content: {told.length} bytes, {told.checksum:08x}")
        birth = Birth(told.birth.history, told.birth.index, told.birth.cluster_ms)
        writer = self._store.begin(chunk, UploadId(told.upload), birth, length, read_soon=False)
        try:
            self._copy(channel, writer, chunk, length)
            return writer.seal(length, checksum)
        except InvalidArgumentError as error:
            raise _SourceError(f"it sent what cannot be read: {error}") from error
        finally:
            writer.abort()

    def _copy(self, channel: grpc.Channel, writer: ChunkWriter, chunk: ChunkId, length: int) -> None:
        read: Any = channel.unary_stream(
            READ_METHOD,
            request_serializer=chunks_pb2.ReadChunkRequest.SerializeToString,
            response_deserializer=None,
        )
        seconds = limits.RPC_DEADLINE_SECONDS + length / limits.SLOWEST_BYTES_PER_SECOND
        frames = read(chunks_pb2.ReadChunkRequest(chunk=chunk), timeout=seconds)
        try:
            for raw in frames:
                frame = decode_frame(raw)
                if frame.offset + len(frame.data) > length:
                    raise _SourceError(f"it sends more than the {length} bytes that it says it has")
                writer.append(frame.offset, frame.data, frame.block_checksums)
        finally:
            frames.cancel()


class _SourceError(Exception):
    """This source will not do; the next one may."""
