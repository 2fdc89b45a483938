"""What the interceptors do around a call, with fake contexts; the real thing is in tests/cluster."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from common import interceptors, log
from common.interceptors import AsyncInterceptor, BoundedPool, ThreadedInterceptor, refusal
from common.metrics import RpcMetrics
from common.trust import TokenRegistry, serving_tokens
from quorumfs.errors import InvalidArgumentError, Leader, NoPlacementError, NotLeaderError
from quorumfs.rpc.status import ERROR_TRAILER, from_detail
from quorumfs.v1 import admin_pb2, types_pb2
from tests.support.shortage import no_more_threads

PATH = "/quorumfs.v1.Room/Do"


class AbortedError(Exception):
    pass


class Context:
    """As much of a ServicerContext as the interceptors use."""

    def __init__(self, request_id: str | None = None) -> None:
        self.metadata = (("x-request-id", request_id),) if request_id is not None else ()
        self.trailer: Any = ()
        self.ended: tuple[grpc.StatusCode, str] | None = None
        self.active = True

    def invocation_metadata(self) -> Any:
        return self.metadata

    def set_trailing_metadata(self, trailer: Any) -> None:
        self.trailer = trailer

    def code(self) -> grpc.StatusCode | None:
        return self.ended[0] if self.ended else None

    def is_active(self) -> bool:
        return self.active

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.ended = (code, details)
        raise AbortedError

    @property
    def told(self) -> Any:
        (pair,) = self.trailer
        assert pair[0] == ERROR_TRAILER
        return from_detail(types_pb2.ErrorDetail.FromString(pair[1]))


class AsyncContext(Context):
    async def abort(self, code: grpc.StatusCode, details: str, trailer: Any = ()) -> None:  # type: ignore[override]
        self.ended, self.trailer = (code, details), trailer
        raise grpc.aio.AbortError


class Bench:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.tokens = TokenRegistry()
        metrics = RpcMetrics(self.registry)
        self.pool = BoundedPool("data", 1, backlog=1)
        control = BoundedPool("control", 1, backlog=10)
        self.refusing = ThreadPoolExecutor(1)
        self.threaded = ThreadedInterceptor(
            self.tokens, metrics, {"data": self.pool, "control": control}, {PATH: "data"}, self.refusing
        )
        self.aio = AsyncInterceptor(self.tokens, metrics)

    def wrapped(self, handler: Any, path: str = PATH) -> Any:
        details: Any = SimpleNamespace(method=path, invocation_metadata=())
        found: Any = self.threaded.intercept_service(lambda _: handler, details)
        return found.unary_unary or found.unary_stream

    def awrapped(self, handler: Any) -> Any:
        async def continuation(_: Any) -> Any:
            return handler

        details: Any = SimpleNamespace(method=PATH, invocation_metadata=())
        found: Any = asyncio.run(self.aio.intercept_service(continuation, details))
        return found.unary_unary or found.unary_stream

    def count(self, code: str) -> float:
        labels = {"service": "quorumfs.v1.Room", "method": "Do", "code": code}
        return self.registry.get_sample_value("quorumfs_rpc_handled_total", labels) or 0.0

    def under_way(self) -> float | None:
        return self.registry.get_sample_value("quorumfs_rpc_under_way", {"service": "quorumfs.v1.Room"})


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    log.request_id.set("")
    serving_tokens.set(None)
    made.refusing.shutdown()
    made.pool.shutdown()


def unary(behavior: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(behavior)


def test_a_good_call_is_counted_and_knows_its_request(bench: Bench) -> None:
    seen = []

    def do(request: str, context: Any) -> str:
        seen.append((log.request_id.get(), serving_tokens.get()))
        return request.upper()

    assert bench.wrapped(unary(do))("hello", Context("req-7")) == "HELLO"
    assert seen == [("req-7", bench.tokens)]
    assert (bench.count("OK"), bench.under_way()) == (1.0, 0.0)


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 65, "evil\x1b[31m"])
def test_a_request_id_that_is_missing_or_odd_is_replaced(bench: Bench, given: str | None) -> None:
    seen = []
    bench.wrapped(unary(lambda request, context: seen.append(log.request_id.get())))("", Context(given))
    assert len(seen[0]) == 16


def test_our_errors_travel_whole_in_the_trailer(bench: Bench) -> None:
    def do(request: Any, context: Any) -> None:
        raise NotLeaderError("not here", cause="c2 leads", leader=Leader("c2", "c2:1", term=3))

    context = Context()
    with pytest.raises(AbortedError):
        bench.wrapped(unary(do))("", context)
    assert context.ended == (grpc.StatusCode.FAILED_PRECONDITION, "not here: c2 leads")
    assert context.told.leader == Leader("c2", "c2:1", term=3)
    assert bench.count("FAILED_PRECONDITION") == 1.0


def test_a_bug_is_told_as_internal_without_its_traceback(bench: Bench) -> None:
    def do(request: Any, context: Any) -> None:
        raise KeyError("secret-name")

    context = Context("req-9")
    with pytest.raises(AbortedError):
        bench.wrapped(unary(do))("", context)
    assert context.ended is not None
    assert context.ended[0] is grpc.StatusCode.INTERNAL
    assert "secret-name" not in repr(context.trailer) + context.ended[1]
    assert "req-9" in context.told.cause


def test_a_stream_that_fails_midway_ends_with_its_error(bench: Bench) -> None:
    def do(request: Any, context: Any) -> Iterator[int]:
        yield 1
        raise NotLeaderError("deposed")

    context = Context()
    answers = bench.wrapped(grpc.unary_stream_rpc_method_handler(do))("", context)
    assert next(answers) == 1
    with pytest.raises(AbortedError):
        next(answers)
    assert bench.count("FAILED_PRECONDITION") == 1.0


def test_a_stream_that_its_reader_leaves_is_counted_as_cancelled(bench: Bench) -> None:
    def do(request: Any, context: Any) -> Iterator[int]:
        yield from range(10)

    answers = bench.wrapped(grpc.unary_stream_rpc_method_handler(do))("", Context())
    next(answers)
    answers.close()
    assert (bench.count("CANCELLED"), bench.under_way()) == (1.0, 0.0)


def test_what_breaks_because_the_peer_left_is_not_an_error_of_ours(bench: Bench) -> None:
    context = Context()
    context.active = False

    def do(request: Any, context: Any) -> None:
        raise grpc.RpcError("the peer left")

    with pytest.raises(grpc.RpcError):
        bench.wrapped(unary(do))("", context)
    assert bench.count("CANCELLED") == 1.0


def test_a_full_pool_refuses_at_once_in_a_thread_of_its_own(bench: Bench) -> None:
    release = threading.Event()
    waiting = [bench.pool.submit(release.wait, 30) for _ in range(2)]
    handler = unary(lambda request, context: "done")
    context = Context()
    try:
        behavior = bench.wrapped(handler)
        assert behavior.experimental_thread_pool is bench.refusing
        with pytest.raises(AbortedError):
            behavior("", context)
        assert bench.wrapped(handler, "/quorumfs.v1.Room/Other")("", Context()) == "done"
    finally:
        release.set()
    assert context.ended is not None
    assert context.ended[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert [one.result(10) for one in waiting] == [True, True]
    assert bench.wrapped(handler)("", Context()) == "done"


def test_a_pool_that_can_start_no_thread_keeps_its_callers_waiting_and_fails_none() -> None:
    pool, release = BoundedPool("data", 2, backlog=1), threading.Event()
    try:
        calls = [pool.submit(release.wait, 30)]
        with no_more_threads("data"):
            calls += [pool.submit(release.wait, 30) for _ in range(2)]
            assert pool.full
        release.set()
        assert [one.result(10) for one in calls] == [True, True, True]
        assert not pool.full
    finally:
        release.set()
        pool.shutdown()


def test_foreign_services_only_get_their_pool(bench: Bench) -> None:
    bench.wrapped(unary(lambda request, context: None), "/grpc.health.v1.Health/Check")("", Context())
    assert bench.under_way() is None


def test_an_unknown_method_stays_unknown(bench: Bench) -> None:
    details: Any = SimpleNamespace(method="/quorumfs.v1.Room/Nothing", invocation_metadata=())
    assert bench.threaded.intercept_service(lambda _: None, details) is None


def test_asynchronous_handlers_get_the_same(bench: Bench) -> None:
    async def good(request: str, context: Any) -> str:
        return log.request_id.get()

    async def bad(request: str, context: Any) -> str:
        raise NotLeaderError("not here")

    async def bug(request: str, context: Any) -> str:
        raise KeyError("x")

    assert asyncio.run(bench.awrapped(unary(good))("", AsyncContext("req-1"))) == "req-1"
    for handler, status in ((bad, "FAILED_PRECONDITION"), (bug, "INTERNAL")):
        context = AsyncContext()
        with pytest.raises(grpc.aio.AbortError):
            asyncio.run(bench.awrapped(unary(handler))("", context))
        assert context.ended is not None
        assert context.ended[0].name == status
        assert bench.count(status) == 1.0


def test_an_asynchronous_stream_is_served_to_its_end(bench: Bench) -> None:
    async def do(request: Any, context: Any) -> AsyncIterator[int]:
        yield 1
        yield 2

    async def read() -> list[int]:
        return [one async for one in bench_do("", AsyncContext())]

    bench_do = bench.awrapped(grpc.unary_stream_rpc_method_handler(do))
    assert asyncio.run(read()) == [1, 2]
    assert bench.count("OK") == 1.0


def test_a_refusal_fits_into_metadata_whatever_it_says() -> None:
    error = NoPlacementError(
        "m\udcff" * 5000, cause="ü\n" * 9000, next="n" * 9000, ids={str(k): "v" * 999 for k in range(99)}
    )
    refused = refusal(error)
    assert len(refused.trailer[0][1]) < 8000
    assert len(refused.details) <= 512
    assert from_detail(types_pb2.ErrorDetail.FromString(refused.trailer[0][1])).code is error.code


def test_bytes_that_are_no_message_are_refused_as_what_they_are() -> None:
    """gRPC itself would tell the caller UNKNOWN, and log a trace for each."""
    handler = grpc.unary_unary_rpc_method_handler(
        lambda request, context: request, request_deserializer=admin_pb2.ShutdownRequest.FromString
    )
    assert handler.unary_unary is not None
    made = interceptors._handler_like(handler, interceptors._reading(handler.unary_unary), is_ours=True)
    assert made.unary_unary is not None
    assert made.request_deserializer is not None
    no_context: Any = None
    with pytest.raises(InvalidArgumentError, match="no message of its kind"):
        made.unary_unary(made.request_deserializer(b"\xff\xff\xff"), no_context)
    good = admin_pb2.ShutdownRequest(reason="x")
    assert made.unary_unary(made.request_deserializer(good.SerializeToString()), no_context) == good
