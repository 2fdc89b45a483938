"""The `Chunks` face: decode, ask, encode.

`Write` and `Read` pass raw messages (quorumfs/frames.py decodes them); the rest uses the generated ones.
Write, Read, Stat, List, Verify and GetShortCircuit are open to whoever may connect; what changes or destroys
on a leader's word needs a proven node and its epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc

from common.server import Service, require_node
from datanode.services.short_circuit import ShortCircuitServer
from datanode.store.chunks import ChunkStore
from datanode.store.fence import EpochStore
from datanode.store.orders import Orders
from datanode.store.writer import ChunkInfo
from datanode.transfer.admission import Gate
from datanode.transfer.pull import Puller
from datanode.transfer.receive import Receiver
from datanode.transfer.send import Sender
from quorumfs import limits
from quorumfs.errors import ChunkNotFoundError, IntegrityError
from quorumfs.ids import ID_BYTES, ChunkId, chunk_id
from quorumfs.rpc.status import to_detail
from quorumfs.v1 import chunks_pb2 as pb
from quorumfs.v1.types_pb2 import ChunkBirth, ReplicaAck

NAME = "quorumfs.v1.Chunks"


class ChunksService:
    """Serves one node's chunks on a ThreadedServer."""

    def __init__(
        self,
        node_id: str,
        store: ChunkStore,
        fence: EpochStore,
        receiver: Receiver,
        sender: Sender,
        puller: Puller,
        writes: Gate,
        reads: Gate,
        short_circuit: ShortCircuitServer | None,
    ) -> None:
        self._node_id = node_id
        self._store = store
        self._fence = fence
        self._orders = Orders(store, fence)
        self._receiver = receiver
        self._sender = sender
        self._puller = puller
        self._writes = writes
        self._reads = reads
        self._short_circuit = short_circuit

    def as_service(self) -> Service:
        """What a ThreadedServer is given: calls that open chunks run in the data pool, so that deletes, health
        and handshakes find a thread whatever they wait for."""
        opening = ("Write", "Read", "Verify", "Replicate", "List", "Stat")
        return Service(NAME, self, add_to_server, dict.fromkeys(opening, "data"))

    def Write(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> pb.WriteResponse:  # noqa: N802
        return self._receiver.receive(messages, context)

    def Read(self, request: pb.ReadChunkRequest, context: grpc.ServicerContext) -> Iterator[bytes]:  # noqa: N802
        return self._sender.send(request, context.cancel)

    def Replicate(  # noqa: N802
        self, request: pb.ReplicateRequest, context: grpc.ServicerContext
    ) -> pb.ReplicateResponse:
        require_node(context)
        self._fence.obey(request.epoch)
        chunk = chunk_id(request.chunk)
        with self._writes.enter():
            info = self._puller.pull(chunk, request.sources, request.length, request.checksum)
        return pb.ReplicateResponse(ack=ReplicaAck(node_id=self._node_id, disk_id=info.disk_id, durable=True))

    def Delete(  # noqa: N802
        self, request: pb.DeleteChunksRequest, context: grpc.ServicerContext
    ) -> pb.DeleteChunksResponse:
        require_node(context)
        condemned = [(chunk_id(one.chunk), one.condemn_index) for one in request.chunks]
        told = request.commit_index if request.HasField("commit_index") else None
        fork_index = request.fork_index if request.HasField("fork_index") else None
        released = {chunk_id(one.chunk) for one in request.chunks if one.released}
        outcome = self._orders.delete(request.epoch, condemned, told, fork_index, released)
        return pb.DeleteChunksResponse(
            quarantined=outcome.done,
            absent=outcome.absent,
            refused=outcome.refused,
            held=outcome.held,
            error=to_detail(outcome.error) if outcome.error else None,
        )

    def Restore(  # noqa: N802
        self, request: pb.RestoreChunksRequest, context: grpc.ServicerContext
    ) -> pb.RestoreChunksResponse:
        require_node(context)
        chunks = [chunk_id(raw) for raw in request.chunks]
        outcome = self._orders.restore(request.epoch, chunks, request.void_below_index)
        return pb.RestoreChunksResponse(
            restored=outcome.done,
            absent=outcome.absent,
            refused=outcome.refused,
            error=to_detail(outcome.error) if outcome.error else None,
        )

    def List(self, request: pb.ListChunksRequest, context: grpc.ServicerContext) -> pb.ListChunksResponse:  # noqa: N802
        limit = min(request.limit or limits.LIST_PAGE_DEFAULT, limits.LIST_PAGE_MAX)
        ids = self._store.ids(request.after[:ID_BYTES], limit, request.quarantined)
        if request.ids_only:
            there = filter(self._store.has_file, ids)
            chunks = [pb.ChunkInfo(chunk=chunk, quarantined=request.quarantined) for chunk in there]
        else:
            chunks = [info for chunk in ids if (info := self._told(chunk)) is not None]
        return pb.ListChunksResponse(chunks=chunks, next=ids[-1] if len(ids) == limit else b"")

    def Stat(self, request: pb.StatChunkRequest, context: grpc.ServicerContext) -> pb.ChunkInfo:  # noqa: N802
        return _encode(self._store.info(chunk_id(request.chunk)))

    def Verify(  # noqa: N802
        self, request: pb.VerifyChunkRequest, context: grpc.ServicerContext
    ) -> pb.VerifyChunkResponse:
        chunk = chunk_id(request.chunk)
        with self._reads.enter():
            verdict = self._store.verify(chunk)
        if not verdict.ok:
            self._store.suspect(chunk)  # verified once more before it is put aside
        return pb.VerifyChunkResponse(
            ok=verdict.ok,
            length=verdict.length,
            checksum=verdict.checksum,
            detail=verdict.detail,
            first_bad_offset=verdict.first_bad_offset,
        )

    def GetShortCircuit(  # noqa: N802
        self, request: pb.GetShortCircuitRequest, context: grpc.ServicerContext
    ) -> pb.GetShortCircuitResponse:
        return self._short_circuit.tell() if self._short_circuit else pb.GetShortCircuitResponse()

    def _told(self, chunk: ChunkId) -> pb.ChunkInfo | None:
        """One line of a list: without details for a damaged chunk, none for one that has just gone."""
        try:
            try:
                return _encode(self._store.info(chunk))
            except ChunkNotFoundError:
                raise
            except IntegrityError:
                disk_id, file, quarantined = self._store.where(chunk)
                return pb.ChunkInfo(chunk=chunk, disk_id=disk_id, file=file, quarantined=quarantined)
        except ChunkNotFoundError:
            return None


def _encode(info: ChunkInfo) -> pb.ChunkInfo:
    header = info.header
    return pb.ChunkInfo(
        chunk=header.chunk,
        upload=header.upload,
        birth=ChunkBirth(
            history=header.birth.history, index=header.birth.index, cluster_ms=header.birth.cluster_ms
        ),
        length=header.length,
        checksum=header.checksum,
        disk_id=info.disk_id,
        file=info.file,
        quarantined=info.quarantined,
    )


def add_to_server(servicer: ChunksService, server: grpc.Server) -> None:
    """Like the generated function, but `Write` and `Read` pass their frames as bytes."""
    unary = grpc.unary_unary_rpc_method_handler
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Write": grpc.stream_unary_rpc_method_handler(
            servicer.Write, request_deserializer=None, response_serializer=pb.WriteResponse.SerializeToString
        ),
        "Read": grpc.unary_stream_rpc_method_handler(
            servicer.Read, request_deserializer=pb.ReadChunkRequest.FromString, response_serializer=None
        ),
        "Replicate": unary(
            servicer.Replicate, pb.ReplicateRequest.FromString, pb.ReplicateResponse.SerializeToString
        ),
        "Delete": unary(
            servicer.Delete, pb.DeleteChunksRequest.FromString, pb.DeleteChunksResponse.SerializeToString
        ),
        "Restore": unary(
            servicer.Restore, pb.RestoreChunksRequest.FromString, pb.RestoreChunksResponse.SerializeToString
        ),
        "List": unary(
            servicer.List, pb.ListChunksRequest.FromString, pb.ListChunksResponse.SerializeToString
        ),
        "Stat": unary(servicer.Stat, pb.StatChunkRequest.FromString, pb.ChunkInfo.SerializeToString),
        "Verify": unary(
            servicer.Verify, pb.VerifyChunkRequest.FromString, pb.VerifyChunkResponse.SerializeToString
        ),
        "GetShortCircuit": unary(
            servicer.GetShortCircuit,
            pb.GetShortCircuitRequest.FromString,
            pb.GetShortCircuitResponse.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))
