"""What happens around every call that this process serves, in a threaded and in an asyncio form.

1. The caller's request id (metadata `x-request-id`) or a new one goes into every event of the call.
2. The server's token registry is at hand for `require_node`.
3. Calls are counted and timed.
4. Calls of operators pass the door (`door.py`); who changed something, from where, and what came of it is logged.
5. QuorumFSError becomes a gRPC status with the trailer `quorumfs-error-bin`; anything else becomes INTERNAL:
   the traceback goes to our log, never to the peer.
6. (threaded) Each method runs in its own kind of pool, and what a full pool cannot take is refused at once.

Only `quorumfs.` services are wrapped; the standard health and reflection services only get their pool.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.protobuf.text_format import MessageToString

from common import log
from common.access import Principal, Role, is_change, role_of_rpc
from common.door import Door, address_of
from common.metrics import RpcMetrics
from common.token_book import TokenBook
from common.trust import TokenRegistry, serving_tokens
from quorumfs.errors import BusyError, Code, InternalError, InvalidArgumentError, QuorumFSError, make
from quorumfs.rpc.status import error_metadata, grpc_status

PoolName = Literal["data", "control", "streams", "orders"]
REQUEST_ID_METADATA = "x-request-id"
DETAILS_CHARACTERS_MAX = 512
WHAT_CHARACTERS_MAX = 300
CAUSE_CHARACTERS_MAX = 3000  # trailers share gRPC's 8 KiB of metadata

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_OURS = "/quorumfs."
_CODE_NAMES = {int(code): code.name.lower() for code in Code}
_log = log.get(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")


class BoundedPool(ThreadPoolExecutor):
    """A thread pool that knows how much it has to do. `full` beyond its workers and `backlog`.

    One thread is there from the beginning. Where no more can be started, what was submitted waits for one: an error
    would reach the thread in which gRPC takes calls, and end it, and the node would answer nobody until it is started
    again.
    """

    def __init__(self, name: str, workers: int, backlog: int) -> None:
        super().__init__(workers, thread_name_prefix=name)
        self.name = name
        self._limit = workers + backlog
        self._pending = 0
        self._counting = threading.Lock()
        super().submit(lambda: None)

    @property
    def full(self) -> bool:
        return self._pending >= self._limit

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        with self._counting:
            self._pending += 1
        try:
            future = super().submit(fn, *args, **kwargs)
        except RuntimeError:  # shut down
            self._finished(None)
            raise
        future.add_done_callback(self._finished)
        return future

    def _finished(self, _: object) -> None:
        with self._counting:
            self._pending -= 1

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise


class Refusal(NamedTuple):
    """An error as gRPC carries it."""

    status: grpc.StatusCode
    details: str
    trailer: tuple[tuple[str, bytes], ...]


def refusal(error: QuorumFSError) -> Refusal:
    """`error` as status, details and trailer, cut to what metadata can carry and cleaned to valid UTF-8."""
    fit = make(
        error.code,
        _fit(error.message, CAUSE_CHARACTERS_MAX // 3),
        cause=_fit(error.cause, CAUSE_CHARACTERS_MAX),
        next=_fit(error.next, CAUSE_CHARACTERS_MAX // 3),
        leader=error.leader,
        ids={_fit(key, 64): _fit(value, 128) for key, value in list(error.ids.items())[:8]},
    )
    return Refusal(grpc_status(fit), _fit(str(fit), DETAILS_CHARACTERS_MAX), error_metadata(fit))


def _fit(text: str, characters_max: int) -> str:
    clean = text.encode("utf-8", "backslashreplace").decode()
    return clean if len(clean) <= characters_max else clean[: characters_max - 3] + "..."


@dataclass(slots=True)
class _Call:
    """One call being served."""

    service: str
    method: str
    request_id: str
    metrics: RpcMetrics | None
    began: float
    address: str | None  # of calls that change something; None: it is not one
    principal: Principal | None = None

    def end(self, code: str, request: Any, answer: Any = None) -> None:
        if self.metrics is not None:
            self.metrics.ended(self.service, self.method, code, time.monotonic() - self.began)
        if self.address is not None:
            self._audit(code, request, answer)

    def _audit(self, code: str, request: Any, answer: Any) -> None:
        """One line for every attempt to change something: who, what, from where, with what result."""
        result = told_result(answer) if code == "OK" else code.lower()
        _log.info(
            "rpc.changed" if result == "ok" else "rpc.change_refused",
            service=self.service,
            method=self.method,
            what=_fit(_shown(request), WHAT_CHARACTERS_MAX),
            principal="" if self.principal is None else self.principal.name,
            address=self.address,
            result=result,
        )

    def failed(self, error: Exception) -> Refusal:
        """What the peer is told of `error`. What is not ours is logged with its traceback: INTERNAL."""
        if isinstance(error, QuorumFSError):
            if isinstance(error, InternalError):
                _log.error("rpc.failed", service=self.service, method=self.method, cause=str(error))
            else:
                _log.debug(
                    "rpc.refused", service=self.service, method=self.method, code=error.code.name.lower()
                )
            return refusal(error)
        _log.error("rpc.failed", service=self.service, method=self.method, exc_info=error)
        return refusal(
            InternalError(
                f"{self.method} failed on the server", cause=f"an unexpected error, request {self.request_id}"
            )
        )


def _shown(request: Any) -> str:
    return str(request) if isinstance(request, Unreadable) else MessageToString(request, as_one_line=True)


def told_result(answer: Any) -> str:
    """What an answer says came of the call: many carry a refusal in their fields."""
    error = getattr(answer, "error", None)
    code = int(getattr(answer, "code", 0) or getattr(error, "code", 0) or Code.OK)
    return _CODE_NAMES.get(code, f"code_{code}")


class _Observer:
    """What both forms share: begins calls."""

    def __init__(
        self, tokens: TokenRegistry, metrics: RpcMetrics | None, book: TokenBook | None, host: str
    ) -> None:
        self._tokens = tokens
        self._metrics = metrics
        self.door = Door(book, tokens, host)

    def begin(self, path: str, context: Any) -> _Call:
        _, service, method = path.split("/", 2)
        given = next((v for k, v in context.invocation_metadata() or () if k == REQUEST_ID_METADATA), "")
        right = isinstance(given, str) and _REQUEST_ID.fullmatch(given)
        request_id = given if right else secrets.token_hex(8)
        log.request_id.set(request_id)
        serving_tokens.set(self._tokens)
        if self._metrics is not None:
            self._metrics.begun(service)
        changes = is_change(role_of_rpc(path) or Role.ANON)
        address = address_of(context.peer()) if changes else None
        return _Call(service, method, request_id, self._metrics, time.monotonic(), address)


def _handler_like(
    handler: grpc.RpcMethodHandler[Any, Any], behavior: Callable[..., Any], *, is_ours: bool = False
) -> grpc.RpcMethodHandler[Any, Any]:
    """`handler` with another behavior of the same shape; one of ours is given bytes that are no message as such."""
    make_handler = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[(handler.request_streaming, handler.response_streaming)]
    made: grpc.RpcMethodHandler[Any, Any] = make_handler(
        behavior,
        request_deserializer=_total(handler) if is_ours else handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return made


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a request whose bytes are no message of its kind."""

    cause: str


def _total(handler: grpc.RpcMethodHandler[Any, Any]) -> Callable[[bytes], Any] | None:
    """The deserializer, which refuses nothing: gRPC would log a trace for every stranger's bytes, and tell the caller
    UNKNOWN. Of a stream nothing is decoded there: our streams carry bytes."""
    decode = handler.request_deserializer
    if decode is None or handler.request_streaming:
        return decode

    def total(raw: bytes) -> Any:
        try:
            return decode(raw)
        except DecodeError as error:
            return Unreadable(str(error)[:CAUSE_CHARACTERS_MAX])

    return total


def _reading(inner: Callable[..., Any]) -> Callable[..., Any]:
    """`inner` for requests that could be read; of others InvalidArgumentError."""

    def serve(request: Any, context: Any) -> Any:
        if isinstance(request, Unreadable):
            raise InvalidArgumentError("the request is no message of its kind", cause=request.cause)
        return inner(request, context)

    return serve


def _behavior(handler: grpc.RpcMethodHandler[Any, Any]) -> Callable[..., Any]:
    found = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    assert found is not None
    return found


def _ended_elsewhere(error: Exception, context: Any) -> bool:
    """Whether the call has its end already: aborted by the handler itself, or cancelled by the peer."""
    if isinstance(error, QuorumFSError):
        return False
    return context.code() not in (None, grpc.StatusCode.OK, 0) or not context.is_active()


class ThreadedInterceptor(grpc.ServerInterceptor):
    """For `grpc.server`. `pool_of` maps full method paths to their pool; what is not named runs in control. `host`:
    where it listens."""

    def __init__(
        self,
        tokens: TokenRegistry,
        metrics: RpcMetrics | None,
        pools: Mapping[PoolName, BoundedPool],
        pool_of: Mapping[str, PoolName],
        refusing: ThreadPoolExecutor,
        book: TokenBook | None = None,
        host: str = "",
    ) -> None:
        self._observer = _Observer(tokens, metrics, book, host)
        self._pools = pools
        self._pool_of = pool_of
        self._refusing = refusing

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = continuation(handler_call_details)
        if handler is None or hasattr(_behavior(handler), "experimental_non_blocking"):
            return handler
        path = handler_call_details.method
        pool = self._pools[self._pool_of.get(path, "control")]
        inner = _behavior(handler)
        if pool.full:
            return _handler_like(handler, self._in_pool(self._refuse(path, pool.name), self._refusing))
        if not path.startswith(_OURS):
            return _handler_like(
                handler, self._in_pool(lambda request, context: inner(request, context), pool)
            )
        wrap = self._streaming if handler.response_streaming else self._unary
        return _handler_like(handler, self._in_pool(wrap(path, _reading(inner)), pool), is_ours=True)

    @staticmethod
    def _in_pool(behavior: Callable[..., Any], pool: ThreadPoolExecutor) -> Callable[..., Any]:
        behavior.experimental_thread_pool = pool  # type: ignore[attr-defined]  # where gRPC looks for it
        return behavior

    def _unary(self, path: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def serve(request: Any, context: grpc.ServicerContext) -> Any:
            call = self._observer.begin(path, context)
            code, answer = "CANCELLED", None
            try:
                self._admit(call, path, context)
                answer = inner(request, context)
                code = "OK"
                return answer
            except Exception as error:  # outermost frame of a call: told to the peer and counted
                if _ended_elsewhere(error, context):
                    raise
                refused = call.failed(error)
                code = refused.status.name
            finally:
                call.end(code, request, answer)
            return _abort(context, refused)

        return serve

    def _streaming(self, path: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def serve(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            call = self._observer.begin(path, context)
            code = "CANCELLED"
            try:
                self._admit(call, path, context)
                yield from inner(request, context)
                code = "OK"
                return
            except Exception as error:  # outermost frame of a call: told to the peer and counted
                if _ended_elsewhere(error, context):
                    raise
                refused = call.failed(error)
                code = refused.status.name
            finally:
                call.end(code, request)
            _abort(context, refused)

        return serve

    def _admit(self, call: _Call, path: str, context: Any) -> None:
        door = self._observer.door
        if door.wants_refresh(path, context):
            door.refresh(context)
        call.principal = door.admit(path, context)

    def _refuse(self, path: str, pool: str) -> Callable[..., Any]:
        def serve(request: Any, context: grpc.ServicerContext) -> Any:
            call = self._observer.begin(path, context)
            error = BusyError(
                f"{call.method} was refused: the node is busy", cause=f"its {pool} pool is full"
            )
            refused = call.failed(error)
            call.end(refused.status.name, request)
            return _abort(context, refused)

        return serve


def _abort(context: grpc.ServicerContext, refused: Refusal) -> Any:
    context.set_trailing_metadata(refused.trailer)
    context.abort(refused.status, refused.details)


class AsyncInterceptor(grpc.aio.ServerInterceptor):
    """For `grpc.aio.server`: handlers are coroutines or asynchronous generators. `host`: where it listens."""

    def __init__(
        self,
        tokens: TokenRegistry,
        metrics: RpcMetrics | None,
        book: TokenBook | None = None,
        host: str = "",
    ) -> None:
        self._observer = _Observer(tokens, metrics, book, host)
        self._wrapped: dict[str, tuple[Any, grpc.RpcMethodHandler[Any, Any]]] = {}  # gRPC asks for every call

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        path = handler_call_details.method
        if handler is None or not path.startswith(_OURS):
            return handler
        known = self._wrapped.get(path)
        if known is not None and known[0] is handler:
            return known[1]
        inner = _behavior(handler)
        wrap = self._generator if inspect.isasyncgenfunction(inner) else self._coroutine
        made = _handler_like(handler, wrap(path, _reading(inner)), is_ours=True)
        self._wrapped[path] = handler, made
        return made

    async def _admit(self, call: _Call, path: str, context: Any) -> None:
        door = self._observer.door
        if door.wants_refresh(path, context):
            await asyncio.to_thread(door.refresh, context)
        call.principal = door.admit(path, context)

    def _coroutine(self, path: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        async def serve(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            call = self._observer.begin(path, context)
            code, answer = "CANCELLED", None
            try:
                await self._admit(call, path, context)
                answer = await inner(request, context)
                code = "OK"
                return answer
            except Exception as error:  # outermost frame of a call: told to the peer and counted
                if isinstance(error, grpc.aio.AbortError):
                    raise
                refused = call.failed(error)
                code = refused.status.name
            finally:
                call.end(code, request, answer)
            return await context.abort(refused.status, refused.details, refused.trailer)

        return serve

    def _generator(self, path: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        async def serve(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            call = self._observer.begin(path, context)
            code = "CANCELLED"
            try:
                await self._admit(call, path, context)
                async for answer in inner(request, context):
                    yield answer
                code = "OK"
                return
            except Exception as error:  # outermost frame of a call: told to the peer and counted
                if isinstance(error, grpc.aio.AbortError):
                    raise
                refused = call.failed(error)
                code = refused.status.name
            finally:
                call.end(code, request)
            await context.abort(refused.status, refused.details, refused.trailer)

        return serve
