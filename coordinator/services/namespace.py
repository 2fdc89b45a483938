"""The Namespace service: batches and questions in all their shapes.

Theory of operation
1. Every mutation becomes a Batch, whose bytes go into the log as they came; a typed unary call is
   re-encoded as a batch of one without a session.
2. What concerns the batch as a whole (who leads, limits, queues, unknown outcomes) is said inside
   BatchResult. A gRPC status is left for bytes that are no batch, and for typed calls, which raise.
3. A stream reads no further than its window of unanswered batches, so that HTTP/2 pushes back; answers
   come in the order in which they become known and are told apart by (slot, seq) or tag.
4. Handlers here take and give bytes: nothing is decoded twice, and the log gets what was received.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from coordinator.metadata import queries
from coordinator.services import answers, intake
from coordinator.services.gateway import Answer, Gateway, Told, settling
from coordinator.services.placing import Placed, Placer, explain
from coordinator.services.windows import Tell, windowed
from coordinator.soft_state import SoftState
from quorumfs.errors import (
    InvalidArgumentError,
    NotFoundError,
    PreconditionFailedError,
    QuorumFSError,
    TooLargeError,
)
from quorumfs.ids import ID_BYTES
from quorumfs.rpc.status import from_detail, to_detail
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t

SERVICE = "quorumfs.v1.Namespace"
KEEP_ALIVE_UPLOADS_MAX = 1024

# Typed face -> the field of Op or ReadOp that carries its request.
TYPED_OPS: Mapping[str, str] = {
    "OpenSession": "open_session",
    "CreateUpload": "open_upload",
    "AllocateChunks": "allocate",
    "AddExtents": "add_extents",
    "CommitUpload": "commit_upload",
    "AbortUpload": "abort_upload",
    "PutFile": "put_file",
    "Mkdir": "mkdir",
    "Delete": "delete",
    "Rename": "rename",
    "Symlink": "symlink",
    "Clone": "clone",
    "SetAttributes": "set_attributes",
    "Undelete": "undelete",
    "EmptyTrash": "empty_trash",
}
TYPED_READS: Mapping[str, str] = {
    "Stat": "stat",
    "List": "list",
    "GetLayout": "layout",
    "ListTrash": "list_trash",
    "StatFs": "stat_fs",
}

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class _Prepared:
    item: e.Item
    intake: intake.Intake
    placed: Placed


class NamespaceService:
    """Handlers of one coordinator; all run on its gRPC loop."""

    def __init__(self, gateway: Gateway, soft: SoftState, placer: Placer) -> None:
        self._gateway = gateway
        self._soft = soft
        self._placer = placer

    # Batches

    async def do(self, raw: bytes, context: Context) -> bytes:
        batch = intake.parse_batch(raw)
        return await self._do(raw, batch, context.peer(), context.time_remaining())

    async def do_stream(self, requests: object, context: Context) -> None:
        peer = context.peer()
        await windowed(context.read, context.write, lambda raw, tell: self._begin(raw, peer, tell))

    def _begin(self, raw: bytes, peer: str, tell: Tell) -> asyncio.Future[bytes] | None:
        """Like `_do`, without a task where nothing is looked up first: most batches allocate no chunks."""
        batch = intake.parse_batch(raw)

        def told(answer: Answer) -> None:
            tell(answers.refused_batch(answer, batch) if isinstance(answer, QuorumFSError) else answer)

        try:
            admitted = self._admit(raw, batch)
            if admitted.allocations:
                return asyncio.ensure_future(self._do_admitted(admitted, peer, None))
            ttl = intake.ttl_seconds(batch, None)
            self._gateway.submit(_item(raw, peer), len(batch.ops), len(raw), ttl, told)
        except QuorumFSError as error:
            told(error)
        return None

    async def _do(self, raw: bytes, batch: n.Batch, peer: str, remaining: float | None) -> bytes:
        """A serialized BatchResult, whatever happens."""
        try:
            admitted = self._admit(raw, batch)
        except QuorumFSError as error:
            return answers.refused_batch(error, batch)
        return await self._do_admitted(admitted, peer, remaining)

    async def _do_admitted(self, admitted: intake.Intake, peer: str, remaining: float | None) -> bytes:
        try:
            return await self._propose(await self._prepare(admitted, peer), remaining)
        except QuorumFSError as error:
            return answers.refused_batch(error, admitted.batch)

    def _admit(self, raw: bytes, batch: n.Batch) -> intake.Intake:
        self._gateway.require_leadership()
        return intake.admit(raw, batch)

    async def _prepare(self, admitted: intake.Intake, peer: str) -> _Prepared:
        placed = await self._placer.place(admitted)
        return _Prepared(_item(admitted.raw, peer, placed.choices), admitted, placed)

    async def _propose(self, prepared: _Prepared, remaining: float | None) -> bytes:
        ttl = intake.ttl_seconds(prepared.intake.batch, remaining)
        operations = len(prepared.intake.batch.ops)
        result = await self._gateway.propose(prepared.item, operations, len(prepared.intake.raw), ttl)
        return explain(result, prepared.placed.refused) if prepared.placed.refused else result

    async def typed(self, field: str, request: Any, context: Context) -> n.Result:
        """One operation without a session: at least once. Raises what concerns the whole."""
        batch = n.Batch(ops=[n.Op(**{field: request})])
        raw = batch.SerializeToString()
        prepared = await self._prepare(self._admit(raw, batch), context.peer())
        result = n.BatchResult.FromString(await self._propose(prepared, context.time_remaining()))
        if result.code != t.ERROR_CODE_OK:
            raise from_detail(result.error)
        return result.results[0]

    # Questions

    async def read(self, raw: bytes, context: Context) -> bytes:
        return await self._read(raw, intake.parse_read(raw), context.time_remaining())

    async def read_stream(self, requests: object, context: Context) -> None:
        await windowed(context.read, context.write, self._begin_read)

    def _begin_read(self, raw: bytes, tell: Tell) -> None:
        """Like `_read`, without a task."""
        batch = intake.parse_read(raw)

        def told(answer: Answer) -> None:
            tell(answers.refused_read(answer, batch) if isinstance(answer, QuorumFSError) else answer)

        try:
            intake.admit_read(raw, batch)
            self._put_question(batch, None, told)
        except QuorumFSError as error:
            told(error)

    async def _read(self, raw: bytes, batch: n.ReadBatch, remaining: float | None) -> bytes:
        """A serialized ReadBatchResult, whatever happens."""
        try:
            intake.admit_read(raw, batch)
            return await self._ask(batch, remaining)
        except QuorumFSError as error:
            return answers.refused_read(error, batch)

    async def _ask(self, batch: n.ReadBatch, remaining: float | None) -> bytes:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._put_question(batch, remaining, settling(future))
        return await future

    def _put_question(self, batch: n.ReadBatch, remaining: float | None, told: Told) -> None:
        """Raises only when nothing is asked."""
        ttl = intake.ttl_seconds(batch, remaining)
        if batch.consistency != n.CONSISTENCY_STALE:
            self._gateway.require_leadership()
            self._gateway.submit_read(answers.question(batch, self._soft, 0), ttl, told)
            return
        age_ms = self._age_ms()
        if batch.max_staleness_ms and age_ms > batch.max_staleness_ms:
            raise PreconditionFailedError(
                "this coordinator's state is older than was allowed",
                cause=f"it is {age_ms} ms old; {batch.max_staleness_ms} ms were allowed",
                next="ask another coordinator, or without STALE",
            )
        self._gateway.submit_read(answers.question(batch, self._soft, age_ms), ttl, told, stale=True)

    def _age_ms(self) -> int:
        if self._gateway.leadership() is not None:
            return 0
        return int(min(self._gateway.consensus.state_age() * 1000, 2**62))

    async def typed_read(self, field: str, request: Any, context: Context) -> n.ReadResult:
        batch = n.ReadBatch(ops=[n.ReadOp(**{field: request})])
        intake.admit_read(b"", batch)
        result = n.ReadBatchResult.FromString(await self._ask(batch, context.time_remaining()))
        if result.code != t.ERROR_CODE_OK:
            raise from_detail(result.error)
        return result.results[0]

    # Signs of life and complaints

    async def keep_alive(self, request: n.KeepAliveRequest, context: Context) -> n.KeepAliveResponse:
        """Signs of life of uploads and a session; answers which uploads are not open any more.

        Only what is open is noted: what anybody may invent must not push out what others keep alive.
        """
        try:
            self._gateway.require_leadership()
            if len(request.uploads) > KEEP_ALIVE_UPLOADS_MAX:
                raise TooLargeError(
                    "too many uploads in one sign of life",
                    cause=f"{len(request.uploads)}; at most {KEEP_ALIVE_UPLOADS_MAX}",
                )
            uploads, session = list(request.uploads), request.session
            alive, known = await self._gateway.ask(
                lambda tx: (queries.open_uploads(tx, uploads), queries.is_session(tx, session))
            )
            self._soft.keep_alive(alive, session if known else 0)
        except QuorumFSError as error:
            detail = to_detail(error)
            return n.KeepAliveResponse(code=detail.code, error=detail)
        return n.KeepAliveResponse(code=t.ERROR_CODE_OK, gone=[one for one in uploads if one not in alive])

    async def report_replica(
        self, request: n.ReportReplicaRequest, context: Context
    ) -> n.ReportReplicaResponse:
        """A reader's complaint is not believed: the node is told to verify, and its own finding counts."""
        try:
            self._gateway.require_leadership()
            if len(request.chunk) != ID_BYTES or request.state not in (
                t.REPLICA_STATE_CORRUPT,
                t.REPLICA_STATE_MISSING,
            ):
                raise InvalidArgumentError("a report names a chunk and CORRUPT or MISSING")
            holders = await self._gateway.ask(lambda tx: queries.replicas_of(tx, request.chunk))
            if request.node_id not in [one.node_id for one in holders]:
                raise NotFoundError(
                    f"{request.node_id} is not known to have chunk {request.chunk.hex()}",
                    cause="its replica was removed or never counted",
                    next="read the layout again",
                )
            if not self._soft.order_verification(request.node_id, request.chunk):
                raise InvalidArgumentError(
                    f"{request.node_id} cannot be told to verify", cause="unknown or busy"
                )
        except QuorumFSError as error:
            detail = to_detail(error)
            return n.ReportReplicaResponse(code=detail.code, error=detail)
        return n.ReportReplicaResponse(code=t.ERROR_CODE_OK)


def _item(raw: bytes, peer: str, choices: Sequence[e.Choice] = ()) -> e.Item:
    """A batch as it goes into the log."""
    return e.Item(principal=e.Principal(name="anonymous", address=peer), choices=choices, batch=raw)


def handler(service: NamespaceService) -> grpc.GenericRpcHandler:
    """The service as gRPC wants it; Do and Read in bytes, the typed faces made from the tables."""
    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Do": unary(service.do),
        "Read": unary(service.read),
        "DoStream": stream(service.do_stream),
        "ReadStream": stream(service.read_stream),
        "KeepAlive": unary(
            service.keep_alive,
            n.KeepAliveRequest.FromString,
            n.KeepAliveResponse.SerializeToString,
        ),
        "ReportReplica": unary(
            service.report_replica,
            n.ReportReplicaRequest.FromString,
            n.ReportReplicaResponse.SerializeToString,
        ),
    }
    for table, call in ((TYPED_OPS, service.typed), (TYPED_READS, service.typed_read)):
        for name, field in table.items():
            methods[name] = _typed(name, field, call)
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def _typed(
    name: str, field: str, call: Callable[[str, Any, Context], Awaitable[Any]]
) -> grpc.RpcMethodHandler[Any, Any]:
    method = n.DESCRIPTOR.services_by_name["Namespace"].methods_by_name[name]
    request: Any = getattr(n, method.input_type.name)
    response: Any = getattr(n, method.output_type.name)

    async def handle(message: Any, context: Context) -> Any:
        return await call(field, message, context)

    return grpc.unary_unary_rpc_method_handler(handle, request.FromString, response.SerializeToString)
