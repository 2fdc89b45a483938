"""A cluster in memory behind gRPC's calling conventions: no socket, no process, every fault at hand.

It speaks the real messages in serialized form, so that what the client sends is what a server would get.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from quorumfs.checksum import block_checksums, crc32c, verify_blocks
from quorumfs.errors import (
    AlreadyExistsError,
    ChunkNotFoundError,
    NoPlacementError,
    NotFoundError,
    NotLeaderError,
    PathIsADirectoryError,
    PreconditionFailedError,
    QuorumFSError,
    SessionExpiredError,
    StaleSequenceError,
    UploadGoneError,
)
from quorumfs.frames import decode_write, encode_frame
from quorumfs.rpc.status import error_metadata, grpc_status, to_detail
from quorumfs.v1 import admin_pb2, chunks_pb2, membership_pb2, namespace_pb2, types_pb2

pb = namespace_pb2


class FakeRpcError(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str = "", trailer: Any = ()) -> None:
        super().__init__(details)
        self._code, self._details, self._trailer = code, details, trailer

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailer

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> Any:
        raise self


_NOBODY = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "


def refused() -> FakeRpcError:
    return FakeRpcError(
        grpc.StatusCode.UNAVAILABLE, f"{_NOBODY}Failed to connect to remote host: Connection refused"
    )


def hanging() -> FakeRpcError:
    """At the second try: the process was stopped, and its kernel takes connections."""
    return FakeRpcError(
        grpc.StatusCode.UNAVAILABLE, f"{_NOBODY}connection attempt timed out before receiving SETTINGS frame"
    )


def broken() -> FakeRpcError:
    return FakeRpcError(grpc.StatusCode.UNAVAILABLE, "Socket closed")


def timed_out() -> FakeRpcError:
    return FakeRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")


def with_trailer(error: QuorumFSError) -> FakeRpcError:
    return FakeRpcError(grpc_status(error), str(error), error_metadata(error))


class Network:
    """A ChannelSource. `servers`: address -> path -> handler of serialized requests."""

    def __init__(self) -> None:
        self.servers: dict[str, dict[str, Callable[..., Any]]] = defaultdict(dict)
        self.down: set[str] = set()
        self.calls: list[tuple[str, str, bytes]] = []
        self.before: Callable[[str, str, bytes], None] = lambda *_: None
        self.after: Callable[[str, str, bytes], None] = lambda *_: None  # the reply is lost if it raises
        self.metadata: list[Any] = []
        self.closed = False
        self.channels: dict[str, Channel] = {}
        self.streams = True  # whether the servers have streams of batches
        self.exchanges: list[Exchange] = []
        self.streamed: list[StreamCall] = []

    def answer(self, address: str, path: str, raw: bytes) -> bytes:
        """What a unary call, or a message of a stream, is answered with."""
        self.calls.append((address, path.rsplit("/", 1)[-1], raw))
        self.before(address, path, raw)
        try:
            reply = self.handler(address, path)(raw)
        except QuorumFSError as error:
            raise with_trailer(error) from error
        self.after(address, path, raw)
        answer: bytes = reply.SerializeToString()
        return answer

    def get(self, address: str) -> Any:
        return self.channels.setdefault(address, Channel(self, address))

    def drop(self, address: str) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def handler(self, address: str, path: str) -> Callable[..., Any]:
        if address in self.down or address not in self.servers:
            raise refused()
        found = self.servers[address].get(path)
        if found is None:
            raise FakeRpcError(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        return found


class Channel:
    def __init__(self, network: Network, address: str) -> None:
        self.network, self.address = network, address

    def unary_unary(
        self, path: str, request_serializer: Any = None, response_deserializer: Any = None
    ) -> Any:
        def call(request: Any, timeout: float | None = None, metadata: Any = ()) -> Any:
            raw = request_serializer(request) if request_serializer else request
            self.network.metadata.append(metadata)
            answer = self.network.answer(self.address, path, raw)
            return response_deserializer(answer) if response_deserializer else answer

        return call

    def stream_stream(
        self, path: str, request_serializer: Any = None, response_deserializer: Any = None
    ) -> Any:
        def begin(requests: Iterator[bytes], metadata: Any = ()) -> Exchange:
            self.network.metadata.append(metadata)
            return Exchange(self.network, self.address, path.removesuffix("Stream"), requests)

        return begin

    def unary_stream(
        self, path: str, request_serializer: Any = None, response_deserializer: Any = None
    ) -> Any:
        return lambda raw, **_: StreamCall(self.network, self.address, path, raw)

    def stream_unary(
        self, path: str, request_serializer: Any = None, response_deserializer: Any = None
    ) -> Any:
        return StreamUnary(self.network, self.address, path)


class Exchange:
    """A stream of batches: each request is answered as the unary call would be, until one fails."""

    def __init__(self, network: Network, address: str, path: str, requests: Iterator[bytes]) -> None:
        self.address, self.path = address, path
        self._network, self._requests = network, requests
        self.ended = False
        network.exchanges.append(self)

    def is_active(self) -> bool:
        return not self.ended

    def cancel(self) -> None:
        self.ended = True

    def __next__(self) -> bytes:
        if self.ended:
            raise FakeRpcError(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
        try:
            if not self._network.streams:
                raise FakeRpcError(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
            return self._network.answer(self.address, self.path, next(self._requests))
        except BaseException:
            self.ended = True
            raise


class StreamCall:
    """The reading side of a call with a streamed answer."""

    def __init__(self, network: Network, address: str, path: str, raw: bytes) -> None:
        self.cancelled = threading.Event()
        self._parts = self._run(network, address, path, raw)
        network.streamed.append(self)

    def _run(self, network: Network, address: str, path: str, raw: bytes) -> Iterator[bytes]:
        try:
            network.before(address, path, raw)
            yield from network.handler(address, path)(raw, self)
        except QuorumFSError as error:
            raise with_trailer(error) from error

    def __iter__(self) -> StreamCall:
        return self

    def __next__(self) -> bytes:
        return next(self._parts)

    def cancel(self) -> None:
        self.cancelled.set()


class StreamUnary:
    def __init__(self, network: Network, address: str, path: str) -> None:
        self.network, self.address, self.path = network, address, path

    def future(self, requests: Iterator[bytes]) -> Any:
        return Future(self.network, self.address, self.path, requests)


class Future:
    """Runs the handler when the result is asked for. A handler that returns None has stalled."""

    def __init__(self, network: Network, address: str, path: str, requests: Iterator[bytes]) -> None:
        self._run = lambda: network.handler(address, path)(requests)
        self._outcome: Any = None
        self._error: Exception | None = None
        self._ran = False
        self.cancelled = False

    def result(self, timeout: float | None = None) -> Any:
        if self.cancelled:
            raise grpc.FutureCancelledError
        if not self._ran:
            self._ran = True
            try:
                self._outcome = self._run()
            except QuorumFSError as error:
                self._error = with_trailer(error)
            except grpc.RpcError as error:
                self._error = error
        if self._error is not None:
            raise self._error
        if self._outcome is None:
            raise grpc.FutureTimeoutError
        return self._outcome

    def cancel(self) -> bool:
        self.cancelled = True
        return True


@dataclass
class Node:
    """A datanode. `stop_after`: writes break after so many frames; `stalled`: no call ever ends; `hasty`: it calls the
    first frame of a chunk the whole, once."""

    node_id: str
    address: str
    cluster: Cluster
    chunks: dict[bytes, bytes] = field(default_factory=dict)
    stop_after: int | None = None
    stop_reading_after: int | None = None
    stalled: bool = False
    hasty: bool = False
    refuses: QuorumFSError | None = None  # as a member of a pipeline
    lies: dict[bytes, bytes] = field(default_factory=dict)  # other bytes, with tables that match them
    lies_once: dict[bytes, bytes] = field(default_factory=dict)  # the first read of the chunk only
    reads: list[tuple[int, int]] = field(default_factory=list)
    writes: int = 0
    read_first: dict[bytes, str] = field(default_factory=dict)  # as told with each chunk that was sent here

    def location(self) -> Any:
        return types_pb2.NodeAddress(node_id=self.node_id, grpc=self.address)

    def write(self, requests: Iterator[bytes]) -> Any:
        self.writes += 1
        first = decode_write(next(requests, b""))
        opening = first.open
        if opening is None:
            raise FakeRpcError(grpc.StatusCode.INVALID_ARGUMENT, "a write begins with its `open`")
        self.read_first[opening.chunk] = opening.read_first
        if self.stalled:
            return None
        data = bytearray()
        if first.end is not None:
            if self.stop_after is not None:
                raise broken()
            assert (first.offset, next(requests, None)) == (0, None)
            assert verify_blocks(first.data, first.block_checksums) is None
            assert (first.end.length, first.end.checksum) == (len(first.data), crc32c(first.data))
            return self._seal(opening, bytes(first.data))
        for count, raw in enumerate(requests):
            if self.stop_after is not None and count >= self.stop_after:
                raise broken()
            frame = decode_write(raw)
            if frame.end is not None:
                assert (frame.end.length, frame.end.checksum) == (len(data), crc32c(data))
                return self._seal(opening, bytes(data))
            assert frame.offset == len(data)
            assert verify_blocks(frame.data, frame.block_checksums) is None
            data += frame.data
            if self.hasty:
                self.hasty = False
                return self._seal(opening, bytes(data))
        raise FakeRpcError(grpc.StatusCode.INVALID_ARGUMENT, "the stream ended without an end")

    def _seal(self, opening: chunks_pb2.WriteOpen, data: bytes) -> chunks_pb2.WriteResponse:
        response = chunks_pb2.WriteResponse()
        nodes = [self, *(self.cluster.nodes[address.node_id] for address in opening.pipeline)]
        for node in nodes:
            error = node.refuses or (NoPlacementError("it is down") if self._has_lost(node) else None)
            if error is None:
                assert opening.chunk not in node.chunks, "a chunk id was used twice"
                node.chunks[opening.chunk] = data
            response.replicas.add(
                node_id=node.node_id,
                disk_id="disk",
                durable=error is None,
                error=to_detail(error) if error else None,
            )
        return response

    def _has_lost(self, other: Node) -> bool:
        """Whether a pipeline that begins here goes on without `other`."""
        broken_off = other is not self and (other.stalled or other.stop_after is not None)
        return broken_off or other.address in self.cluster.net.down

    def read(self, raw: bytes, call: StreamCall) -> Iterator[bytes]:
        request = chunks_pb2.ReadChunkRequest.FromString(raw)
        self.reads.append((request.offset, request.length))
        if self.stalled:
            assert call.cancelled.wait(20), "nobody ended the stalled call"
            raise FakeRpcError(grpc.StatusCode.CANCELLED, "Locally cancelled")
        lie = self.lies_once.pop(request.chunk, self.lies.get(request.chunk))
        data = self.chunks.get(request.chunk) if lie is None else lie
        if data is None:
            raise ChunkNotFoundError("no such chunk")
        table_of = self.cluster.original[request.chunk] if lie is None else data
        end = request.offset + request.length if request.length else len(data)
        for count, start in enumerate(range(request.offset, end, request.frame_bytes)):
            if count == self.stop_reading_after:
                raise broken()
            stop = min(end, start + request.frame_bytes)
            yield encode_frame(start, data[start:stop], block_checksums(table_of[start:stop]))


@dataclass
class File:
    info: pb.FileInfo
    extents: list[types_pb2.Extent]


class Cluster:
    """Three coordinators (c1..c3 at c1:1 ..) over one state, and datanodes d1..dn (at d1:1 ..)."""

    def __init__(self, datanodes: int = 3, chunk_size: int = 1 << 21, inline_max: int = 1 << 14) -> None:
        self.net = Network()
        self.lock = threading.RLock()
        self.leader = "c1:1"
        self.leaderless_seconds = 0.0  # what coordinators say while there is none
        self.coordinators = ["c1:1", "c2:1", "c3:1"]
        self.chunk_size, self.inline_max = chunk_size, inline_max
        self.sessions: dict[int, dict[int, tuple[int, bytes]]] = {}
        self.names: dict[bytes, File] = {}
        self.versions: dict[tuple[int, int], File] = {}
        self.uploads: dict[bytes, dict[str, Any]] = {}
        self.sealed: dict[bytes, pb.ChunkLocation] = {}
        self._told: set[bytes] = set()  # chunks that layouts of the message under way have
        self.original: dict[bytes, bytes] = {}
        self.applied: list[str] = []
        self.condemned: set[bytes] = set()
        self.lost: set[bytes] = set()  # packs whose replicas are gone when their files are to be made
        self.reports: list[pb.ReportReplicaRequest] = []
        self.counter = 0
        self.nodes: dict[str, Node] = {}
        for k in range(1, datanodes + 1):
            self.add_node(f"d{k}")
        for address in self.coordinators:
            self._serve(address)

    def add_node(self, node_id: str) -> Node:
        node = Node(node_id, f"{node_id}:1", self)
        self.nodes[node_id] = node
        self.net.servers[node.address] = {
            "/quorumfs.v1.Chunks/Write": node.write,
            "/quorumfs.v1.Chunks/Read": node.read,
        }
        return node

    def _serve(self, address: str) -> None:
        n = "/quorumfs.v1.Namespace/"
        self.net.servers[address] = {
            n + "Do": lambda raw: self.do(address, raw),
            n + "Read": lambda raw: self.read(address, raw),
            n + "KeepAlive": lambda raw: pb.KeepAliveResponse(),
            n + "ReportReplica": self._report,
            "/quorumfs.v1.Membership/GetCluster": lambda raw: self._view(address),
            "/quorumfs.v1.Admin/GetLeader": lambda raw: self._leader_view(address),
            "/quorumfs.v1.Control/TransferLeadership": lambda raw: self._transfer(address),
            "/quorumfs.v1.Control/GetClusterStatus": lambda raw: admin_pb2.ClusterStatus(
                view=self._view(address)
            ),
            "/quorumfs.v1.Control/GetRaft": lambda raw: self._raft(address),
        }

    def _hint(self) -> NotLeaderError:
        from quorumfs.errors import Leader

        node_id = self.leader.split(":")[0]
        return NotLeaderError("not the leader", leader=Leader(node_id, self.leader) if self.leader else None)

    def _report(self, raw: bytes) -> pb.ReportReplicaResponse:
        self.reports.append(pb.ReportReplicaRequest.FromString(raw))
        return pb.ReportReplicaResponse()

    def _view(self, address: str) -> membership_pb2.ClusterView:
        view = membership_pb2.ClusterView(
            cluster_id="the-cluster",
            observed_by=address.split(":")[0],
            authoritative=address == self.leader,
            leader=types_pb2.LeaderHint(node_id=self.leader.split(":")[0], grpc=self.leader),
        )
        for coordinator in self.coordinators:
            info = membership_pb2.NodeInfo(role=types_pb2.NODE_ROLE_COORDINATOR, grpc=coordinator)
            view.nodes.add(info=info)
        return view

    def _leader_view(self, address: str) -> admin_pb2.LeaderView:
        hint = types_pb2.LeaderHint(node_id=self.leader.split(":")[0], grpc=self.leader)
        age = 0.0 if self.leader else self.leaderless_seconds
        return admin_pb2.LeaderView(leader=hint, observed_by=address.split(":")[0], age_seconds=age)

    def _raft(self, address: str) -> admin_pb2.RaftStatus:
        state = "leader" if address == self.leader else "follower"
        return admin_pb2.RaftStatus(node_id=address.split(":")[0], state=state)

    def _transfer(self, address: str) -> admin_pb2.ActionResponse:
        if address != self.leader:
            error = to_detail(self._hint())
            return admin_pb2.ActionResponse(code=error.code, error=error)
        self.applied.append("transfer")
        return admin_pb2.ActionResponse(detail="done")

    # ---- changes -----------------------------------------------------------------------------------------

    def do(self, address: str, raw: bytes) -> pb.BatchResult:
        batch = pb.Batch.FromString(raw)
        with self.lock:
            if address != self.leader:
                error = to_detail(self._hint())
                return pb.BatchResult(code=error.code, error=error)
            if batch.session:
                slots = self.sessions.get(batch.session)
                if slots is None:
                    return self._batch_error(SessionExpiredError("no such session"))
                last, stored = slots.get(batch.slot, (0, b""))
                if batch.seq == last:
                    return pb.BatchResult.FromString(stored)
                if batch.seq != last + 1:
                    return self._batch_error(StaleSequenceError(f"{batch.seq} after {last}"))
            result = pb.BatchResult(slot=batch.slot, seq=batch.seq)
            for op in batch.ops:
                result.results.append(self._apply(op))
            if batch.session:
                self.sessions[batch.session][batch.slot] = (batch.seq, result.SerializeToString())
            return result

    def _batch_error(self, error: QuorumFSError) -> pb.BatchResult:
        detail = to_detail(error)
        return pb.BatchResult(code=detail.code, error=detail)

    def _apply(self, op: pb.Op) -> pb.Result:
        kind = op.WhichOneof("op")
        assert kind is not None
        self.applied.append(kind)
        self.counter += 1
        try:
            return getattr(self, f"_op_{kind}")(getattr(op, kind))  # type: ignore[no-any-return]  by name
        except QuorumFSError as error:
            detail = to_detail(error)
            return pb.Result(code=detail.code, error=detail)

    def _op_open_session(self, _: Any) -> pb.Result:
        self.sessions[self.counter] = {}
        return pb.Result(session=pb.SessionInfo(session=self.counter, slots=16))

    def _op_put_file(self, r: pb.PutFileRequest) -> pb.Result:
        if r.HasField("packed"):
            return self._put_packed(r)
        assert crc32c(r.body) == r.checksum
        if len(r.body) > self.inline_max:
            from quorumfs.errors import InlineBudgetError

            raise InlineBudgetError("no room")
        chunk = self.counter.to_bytes(16, "big")
        self.sealed[chunk] = pb.ChunkLocation(
            chunk=chunk, length=len(r.body), checksum=r.checksum, inline=True, body=r.body
        )
        extents = [types_pb2.Extent(offset=0, length=len(r.body), chunk=chunk)] if r.body else []
        return self._publish(r, extents, len(r.body), r.checksum)

    def _put_packed(self, r: pb.PutFileRequest) -> pb.Result:
        self._upload(r.packed.upload)
        if r.packed.chunk in self.lost or r.packed.chunk not in self.sealed:
            raise ChunkNotFoundError("the pack is not durable")
        start, length = r.packed.chunk_offset, r.packed.length
        assert crc32c(self.original[r.packed.chunk][start : start + length]) == r.checksum
        extent = types_pb2.Extent(length=length, chunk=r.packed.chunk, chunk_offset=start)
        return self._publish(r, [extent], length, r.checksum)

    def _publish(self, r: Any, extents: list[types_pb2.Extent], size: int, checksum: int) -> pb.Result:
        path = r.ref.path
        old = self.names.get(path)
        if old is not None and r.if_absent:
            raise AlreadyExistsError(f"{path!r} exists")
        if r.expected_version and (old is None or old.info.version != r.expected_version):
            raise PreconditionFailedError("another version")
        info = pb.FileInfo(
            id=old.info.id if old else self.counter,
            type=types_pb2.INODE_TYPE_FILE,
            name=path.rsplit(b"/", 1)[-1],
            mode=r.mode or 0o644,
            mtime_ns=r.mtime_ns or 1,
            size=size,
            replication=3,
            version=self.counter,
            checksum=checksum,
            path=path,
        )
        file = File(info, extents)
        self.names[path] = file
        self.versions[info.id, info.version] = file
        return pb.Result(info=info)

    def _op_open_upload(self, r: pb.OpenUploadRequest) -> pb.Result:
        if r.if_absent and r.ref.path in self.names:
            raise AlreadyExistsError("exists")
        upload = self.counter.to_bytes(16, "big")
        self.uploads[upload] = {"request": r, "extents": []}
        info = pb.UploadInfo(upload=upload, replication=3, chunk_size_bytes=self.chunk_size, min_replicas=2)
        return pb.Result(upload=info)

    def _upload(self, upload: bytes) -> dict[str, Any]:
        if upload not in self.uploads:
            raise UploadGoneError("no such upload")
        return self.uploads[upload]

    def _op_allocate(self, r: pb.AllocateRequest) -> pb.Result:
        self._upload(r.upload)
        good = [node for node in self.nodes.values() if node.node_id not in r.exclude]
        if len(good) < 2:
            raise NoPlacementError("too few nodes")
        allocation = pb.Allocation()
        for k in range(r.count):
            start = (self.counter + k) % len(good)
            chosen = (good[start:] + good[:start])[:3]
            allocation.chunks.add(
                chunk=self.counter.to_bytes(8, "big") + k.to_bytes(8, "big"),
                replicas=[node.location() for node in chosen],
            )
        return pb.Result(allocation=allocation)

    def _take(self, r: Any) -> None:
        from quorumfs.errors import ChunkCondemnedError

        bad = [chunk.chunk.hex() for chunk in r.chunks if chunk.chunk in self.condemned]
        if bad:
            raise ChunkCondemnedError("condemned", ids={"chunk": ",".join(bad)})
        for chunk in r.chunks:
            location = pb.ChunkLocation(chunk=chunk.chunk, length=chunk.length, checksum=chunk.checksum)
            for ack in chunk.replicas:
                assert ack.durable
                location.replicas.add(
                    node_id=ack.node_id,
                    grpc=self.nodes[ack.node_id].address,
                    state=types_pb2.REPLICA_STATE_LIVE,
                    node_state=types_pb2.NODE_STATE_ALIVE,
                )
            self.sealed[chunk.chunk] = location
            self.original[chunk.chunk] = self.nodes[chunk.replicas[0].node_id].chunks[chunk.chunk]
        self.uploads[r.upload]["extents"] += r.extents

    def _op_add_extents(self, r: pb.AddExtentsRequest) -> pb.Result:
        self._upload(r.upload)
        self._take(r)
        return pb.Result()

    def _op_commit_upload(self, r: pb.CommitUploadRequest) -> pb.Result:
        upload = self._upload(r.upload)
        self._take(r)
        result = self._publish(upload["request"], list(upload["extents"]), r.size, r.checksum)
        del self.uploads[r.upload]
        return result

    def _op_abort_upload(self, r: pb.AbortUploadRequest) -> pb.Result:
        self._upload(r.upload)
        del self.uploads[r.upload]
        return pb.Result()

    def _op_mkdir(self, r: pb.MkdirRequest) -> pb.Result:
        if r.ref.path in self.names and not r.parents:
            raise AlreadyExistsError("exists")
        info = pb.FileInfo(id=self.counter, type=types_pb2.INODE_TYPE_DIRECTORY, path=r.ref.path, mode=0o755)
        self.names[r.ref.path] = File(info, [])
        return pb.Result(info=info)

    def _op_delete(self, r: pb.DeleteRequest) -> pb.Result:
        if self.names.pop(r.ref.path, None) is None:
            raise NotFoundError(f"no {r.ref.path!r}")
        return pb.Result(removal=pb.Removal(trash_id=self.counter))

    def _op_rename(self, r: pb.RenameRequest) -> pb.Result:
        source = getattr(r, "from").path
        if source not in self.names:
            raise NotFoundError(f"no {source!r}")
        if r.to.path in self.names and not r.replace:
            raise AlreadyExistsError("exists")
        self.names[r.to.path] = self.names.pop(source)
        return pb.Result(info=self.names[r.to.path].info)

    def _op_symlink(self, r: pb.SymlinkRequest) -> pb.Result:
        info = pb.FileInfo(
            id=self.counter, type=types_pb2.INODE_TYPE_SYMLINK, path=r.ref.path, target=r.target
        )
        self.names[r.ref.path] = File(info, [])
        return pb.Result(info=info)

    # ---- reads -------------------------------------------------------------------------------------------

    def read(self, address: str, raw: bytes) -> pb.ReadBatchResult:
        batch = pb.ReadBatch.FromString(raw)
        with self.lock:
            if address != self.leader and batch.consistency == pb.CONSISTENCY_LINEARIZABLE:
                error = to_detail(self._hint())
                return pb.ReadBatchResult(code=error.code, error=error)
            self._told.clear()
            return pb.ReadBatchResult(results=[self._answer(op) for op in batch.ops])

    def _answer(self, op: pb.ReadOp) -> pb.ReadResult:
        kind = op.WhichOneof("op")
        try:
            match kind:
                case "stat":
                    return pb.ReadResult(info=self._find(op.stat.ref.path).info)
                case "layout":
                    return pb.ReadResult(layout=self._layout(op.layout))
                case "list":
                    return pb.ReadResult(listing=self._list(op.list))
            raise AssertionError(kind)
        except QuorumFSError as error:
            detail = to_detail(error)
            return pb.ReadResult(code=detail.code, error=detail)

    def _find(self, path: bytes) -> File:
        if path not in self.names:
            raise NotFoundError(f"there is no {path.decode()}")
        return self.names[path]

    def _layout(self, r: pb.LayoutRequest) -> pb.Layout:
        if r.inode and (r.inode, r.version) not in self.versions:
            raise NotFoundError("no such version")
        file = self.versions[r.inode, r.version] if r.inode else self._find(r.ref.path)
        if file.info.type == types_pb2.INODE_TYPE_DIRECTORY:
            raise PathIsADirectoryError("a directory")
        end = r.offset + r.length if r.length else file.info.size
        touched = [e for e in file.extents if e.offset < end and e.offset + e.length > r.offset]
        page = touched[:2]
        found = [self.sealed[e.chunk] for e in page]
        if r.new_chunks:
            found = [one for one in found if one.inline or one.chunk not in self._told]
        self._told.update(one.chunk for one in found)
        layout = pb.Layout(info=file.info, extents=page, chunks=found)
        if len(touched) > 2:
            layout.next_offset = touched[2].offset
        return layout

    def _list(self, r: pb.ListRequest) -> pb.Listing:
        prefix = r.ref.path.rstrip(b"/") + b"/"
        names = sorted(
            path[len(prefix) :]
            for path in self.names
            if path.startswith(prefix) and b"/" not in path[len(prefix) :] and path != prefix
        )
        names = [name for name in names if name > r.after]
        listing = pb.Listing()
        for name in names[: r.limit]:
            entry = pb.FileInfo()
            entry.CopyFrom(self.names[prefix + name].info)
            entry.name = name
            entry.ClearField("path")
            listing.entries.append(entry)
        if len(names) > r.limit:
            listing.next = names[r.limit - 1]
        return listing
