"""A node's gRPC server, with a threaded and an asyncio face.

Both serve what they are given, and health, reflection and Trust besides; both refuse a port in use and, in
loopback mode, any address but loopback. Handlers raise QuorumFSError; `interceptors.py` does the rest.
"""

from __future__ import annotations

import asyncio
import resource
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from common import log
from common.credentials import check_listener
from common.interceptors import AsyncInterceptor, BoundedPool, PoolName, ThreadedInterceptor
from common.lifecycle import fatal
from common.metrics import Metrics
from common.token_book import TokenBook
from common.trust import AsyncTrustService, Handshakes, TokenRegistry, TrustService, require_node
from quorumfs.errors import InternalError, UnavailableError
from quorumfs.rpc.channels import SERVER_OPTIONS
from quorumfs.v1 import membership_pb2_grpc

__all__ = ["AsyncServer", "Service", "ThreadedServer", "require_node"]

STREAMS_MAX = 1024  # concurrent calls of one connection
CALLS_MAX = 20_000  # concurrent calls of one asyncio server
METADATA_BYTES_MAX = 16 << 10
CONNECTIONS_MAX = 8192
START_SECONDS_MAX = 10.0
TURN_SECONDS = 0.1
TRUST = "quorumfs.v1.Trust"

_OPTIONS = (
    *SERVER_OPTIONS,
    ("grpc.max_concurrent_streams", STREAMS_MAX),
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    # A peer that vanished is noticed within 15 s, so that its streams free what they hold.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)
_log = log.get(__name__)


def server_options() -> Sequence[tuple[str, int | str]]:
    """What every server is made with. Connections leave half of the process's descriptors for its own work:
    whoever opens thousands is refused, and disks, peers and the leader are still reached."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections = CONNECTIONS_MAX if descriptors < 0 else min(CONNECTIONS_MAX, max(16, descriptors // 2))
    return (*_OPTIONS, ("grpc.max_allowed_incoming_connections", connections))


@dataclass(frozen=True, slots=True)
class Service:
    """One service to be served.

    `name` is its full name, `add` the generated `add_...Servicer_to_server` (or a function of the same shape
    that adds generic handlers). `pools` says which methods run in another pool than control (threaded only).
    """

    name: str
    servicer: Any
    add: Callable[[Any, Any], None]
    pools: Mapping[str, PoolName] = field(default_factory=dict)


class _Listener:
    """What both faces share: the address, its rules, and who may call."""

    def __init__(
        self,
        host: str,
        port: int,
        services: Sequence[Service],
        *,
        node_id: str,
        secret: Callable[[], bytes],
        metrics: Metrics | None,
        security_mode: str,
        credentials: grpc.ServerCredentials | None,
        book: TokenBook | None,
    ) -> None:
        check_listener(host, security_mode)
        self.host = host
        self.port = port
        self.tokens = TokenRegistry()
        self._services = tuple(services)
        self._handshakes = Handshakes(node_id, secret, self.tokens)
        self._rpc_metrics = metrics.rpc if metrics is not None else None
        self._credentials = credentials
        self._book = book
        self._names = (*(one.name for one in self._services), TRUST, health.SERVICE_NAME)

    @property
    def address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def _bind(self, server: Any) -> int:
        """Listen. Returns the port (chosen by the system for port 0). Raises UnavailableError."""
        try:
            if self._credentials is None:
                port = int(server.add_insecure_port(self.address))
            else:
                port = int(server.add_secure_port(self.address, self._credentials))
        except RuntimeError as error:
            raise self._in_use() from error
        if port == 0:
            raise self._in_use()
        return port

    def _in_use(self) -> UnavailableError:
        return UnavailableError(
            f"cannot listen on port {self.port} of {self.host}",
            cause="another process listens there, or the address is not of this machine",
            next=f"see who does (ss -ltnp 'sport = :{self.port}'), or change grpc.port",
        )


def _serving(yes: bool) -> Any:
    status = health_pb2.HealthCheckResponse
    return status.SERVING if yes else status.NOT_SERVING


class ThreadedServer(_Listener):
    """gRPC on threads: pools `data` (streams of bytes), `control` (short calls), `streams` (long quiet ones), `orders`
    (what waits for a leader).

    A call that finds its pool full is refused at once as BusyError. `start` and `stop` from one thread.
    """

    def __init__(
        self,
        host: str,
        port: int,
        services: Sequence[Service],
        *,
        node_id: str,
        secret: Callable[[], bytes],
        metrics: Metrics | None = None,
        security_mode: str = "loopback",
        credentials: grpc.ServerCredentials | None = None,
        book: TokenBook | None = None,
        data_threads: int = 64,
        control_threads: int = 16,
        stream_threads: int = 64,
        order_threads: int = 8,
    ) -> None:
        super().__init__(
            host,
            port,
            services,
            node_id=node_id,
            secret=secret,
            metrics=metrics,
            security_mode=security_mode,
            credentials=credentials,
            book=book,
        )
        self._pools: dict[PoolName, BoundedPool] = {
            "data": BoundedPool("data", data_threads, backlog=data_threads),
            "control": BoundedPool("control", control_threads, backlog=256),
            "streams": BoundedPool("streams", stream_threads, backlog=0),
            "orders": BoundedPool("orders", order_threads, backlog=0),
        }
        self._refusing = BoundedPool("refuse", 1, backlog=0)
        self._health = health.HealthServicer(experimental_thread_pool=self._pools["control"])
        self._server = self._build()

    def _build(self) -> grpc.Server:
        pool_of = {
            f"/{one.name}/{method}": pool for one in self._services for method, pool in one.pools.items()
        }
        interceptor = ThreadedInterceptor(
            self.tokens, self._rpc_metrics, self._pools, pool_of, self._refusing, self._book, self.host
        )
        server = grpc.server(self._pools["control"], interceptors=[interceptor], options=server_options())
        for one in self._services:
            one.add(one.servicer, server)
        membership_pb2_grpc.add_TrustServicer_to_server(TrustService(self._handshakes), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*self._names, reflection.SERVICE_NAME), server)
        for name in ("", *self._names):
            self._health.set(name, _serving(False))
        return server

    def start(self) -> int:
        """Listen and serve. Returns the port. Raises UnavailableError when it is in use."""
        self.port = self._bind(self._server)
        self._server.start()
        for name in (TRUST, health.SERVICE_NAME):
            self._health.set(name, _serving(True))
        _log.info("grpc.listening", address=self.address)
        return self.port

    def set_serving(self, yes: bool, service: str = "") -> None:
        """What the standard health service says of `service`; without a name, of all and the whole."""
        names = (service,) if service else ("", *(one.name for one in self._services))
        for name in names:
            self._health.set(name, _serving(yes))

    def stop(self, grace_seconds: float = 2.0) -> None:
        """Take no new calls, give those under way `grace_seconds`, end. Again is harmless."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_seconds).wait(grace_seconds + 1.0)
        for pool in (*self._pools.values(), self._refusing):
            pool.shutdown(wait=False, cancel_futures=True)


class AsyncServer(_Listener):
    """gRPC on asyncio, with a loop of its own in a thread of its own, named `grpc`.

    Handlers are coroutines or asynchronous generators, and never block. `loop` is there once started;
    `submit` runs a coroutine on it from any thread. The loop calls `turned` every TURN_SECONDS, as long as it turns.
    """

    def __init__(
        self,
        host: str,
        port: int,
        services: Sequence[Service],
        *,
        node_id: str,
        secret: Callable[[], bytes],
        metrics: Metrics | None = None,
        security_mode: str = "loopback",
        credentials: grpc.ServerCredentials | None = None,
        book: TokenBook | None = None,
        calls_max: int = CALLS_MAX,
        turned: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(
            host,
            port,
            services,
            node_id=node_id,
            secret=secret,
            metrics=metrics,
            security_mode=security_mode,
            credentials=credentials,
            book=book,
        )
        self._calls_max = calls_max
        self._turned = turned
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self._ending: asyncio.Event | None = None
        self._grace_seconds = 0.0
        self._bound = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="grpc", daemon=True)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The server's loop. Raises InternalError before `start`."""
        if self._loop is None:
            raise InternalError("the gRPC server has no loop", cause="it was not started")
        return self._loop

    def start(self) -> int:
        """Listen and serve; returns the port when bound. Raises UnavailableError when it is in use."""
        self._thread.start()
        if not self._bound.wait(START_SECONDS_MAX):
            raise UnavailableError(f"the gRPC server did not start in {START_SECONDS_MAX:g} s")
        if self._failure is not None:
            self._thread.join(START_SECONDS_MAX)
            raise self._failure
        _log.info("grpc.listening", address=self.address)
        return self.port

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run `coroutine` on the loop, from any thread; returns its concurrent Future."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def set_serving(self, yes: bool, service: str = "") -> None:
        """What the standard health service says of `service`; without a name, of all and the whole."""
        names = (service,) if service else ("", *(one.name for one in self._services))
        if self._thread.is_alive() and self._loop is not None and not self._loop.is_closed():
            self.submit(self._set_health(names, yes))

    def stop(self, grace_seconds: float = 2.0) -> None:
        """Take no new calls, give those under way `grace_seconds`, end the thread. Again is harmless."""
        self._grace_seconds = grace_seconds
        loop, ending = self._loop, self._ending
        if loop is None or ending is None or not self._thread.is_alive():
            return
        try:
            loop.call_soon_threadsafe(ending.set)
        except RuntimeError:
            return  # the loop has ended in between
        self._thread.join(grace_seconds + 3.0)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except Exception as error:  # noqa: BLE001  outermost frame of the thread
            if self._bound.is_set():
                # Without this thread the node answers nobody but looks alive.
                fatal(f"the gRPC loop ended: {error!r}")
            self._failure = error
            self._bound.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        turning = self._loop.create_task(self._turn())
        interceptor = AsyncInterceptor(self.tokens, self._rpc_metrics, self._book, self.host)
        self._server = server = grpc.aio.server(
            interceptors=(interceptor,), options=server_options(), maximum_concurrent_rpcs=self._calls_max
        )
        for one in self._services:
            one.add(one.servicer, server)
        membership_pb2_grpc.add_TrustServicer_to_server(AsyncTrustService(self._handshakes), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*self._names, reflection.SERVICE_NAME), server)
        await self._set_health(("", *(one.name for one in self._services)), False)
        await self._set_health((TRUST, health.SERVICE_NAME), True)
        self.port = self._bind(server)
        await server.start()
        self._bound.set()
        await self._ending.wait()
        await self._health.enter_graceful_shutdown()
        await server.stop(self._grace_seconds)
        turning.cancel()

    async def _turn(self) -> None:
        while True:
            self._turned()
            await asyncio.sleep(TURN_SECONDS)

    async def _set_health(self, names: Sequence[str], yes: bool) -> None:
        for name in names:
            await self._health.set(name, _serving(yes))
