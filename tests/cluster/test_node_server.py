"""A node's gRPC server on real sockets, both faces: trust, errors, health, logs, ports; the notify socket."""

from __future__ import annotations

import os
import random
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from common.admin import AdminService, AsyncAdminService
from common.cluster import GrpcTransport
from common.lifecycle import Lifecycle
from common.log_buffer import LogBuffer
from common.metrics import Metrics
from common.server import AsyncServer, Service, ThreadedServer, require_node
from coordinator.services.membership import add_to_server as add_membership
from quorumfs.errors import (
    Leader,
    NotLeaderError,
    PermissionDeniedError,
    QuorumFSError,
    UnauthenticatedError,
    UnavailableError,
)
from quorumfs.rpc.channels import Channels
from quorumfs.rpc.trust import TrustedChannels
from quorumfs.v1 import admin_pb2, admin_pb2_grpc, membership_pb2_grpc
from quorumfs.v1 import membership_pb2 as m
from tests.unit.common.test_admin import Face

SECRET = random.Random(1).randbytes(32)
MEMBERSHIP = "quorumfs.v1.Membership"


class Membership:
    """Answers with the caller's proven id; refuses a cluster called `elsewhere`."""

    Heartbeat = HeartbeatStream = ReportInventory = GetCluster = GetTokens = None

    def Register(self, request: m.RegisterRequest, context: Any) -> m.RegisterResponse:  # noqa: N802
        if request.cluster_id == "elsewhere":
            raise NotLeaderError("not here", leader=Leader("c2", "c2:7400", term=8))
        return m.RegisterResponse(cluster_id=require_node(context))


class AsyncMembership:
    """The same, as coroutines."""

    Heartbeat = HeartbeatStream = ReportInventory = GetCluster = GetTokens = None

    async def Register(self, request: m.RegisterRequest, context: Any) -> m.RegisterResponse:  # noqa: N802
        return Membership().Register(request, context)


class Node:
    """One served node; `kind` is the face of its server."""

    def __init__(self, kind: str, port: int = 0, host: str = "127.0.0.1", mode: str = "loopback") -> None:
        self.buffer = LogBuffer()
        self.metrics = Metrics("1", "coordinator")
        admin_class, membership, server = (
            (AdminService, Membership(), ThreadedServer)
            if kind == "threaded"
            else (AsyncAdminService, AsyncMembership(), AsyncServer)
        )
        admin: Any = admin_class(Face(), self.metrics, self.buffer)
        added = membership_pb2_grpc.add_MembershipServicer_to_server
        services = [admin.as_service(), Service(MEMBERSHIP, membership, added)]
        self.server: ThreadedServer | AsyncServer = server(
            host,
            port,
            services,
            node_id="c1",
            secret=lambda: SECRET,
            metrics=self.metrics,
            security_mode=mode,
        )


@pytest.fixture(params=["threaded", "asyncio"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def node(kind: str) -> Iterator[Node]:
    found = Node(kind)
    found.server.start()
    yield found
    found.server.stop(0.5)


@pytest.fixture
def channel(node: Node) -> Iterator[grpc.Channel]:
    channels = Channels()
    yield channels.get(node.server.address)
    channels.close()


def register(node: Node, secret: bytes = SECRET, cluster_id: str = "") -> m.RegisterResponse:
    channels = TrustedChannels(secret, "d1")
    try:
        request = m.RegisterRequest(cluster_id=cluster_id)
        return GrpcTransport(channels).register(node.server.address, request, 5.0)
    finally:
        channels.close()


def test_a_node_that_proves_the_secret_is_known_by_its_id(node: Node) -> None:
    assert register(node).cluster_id == "d1"


def test_a_node_with_another_secret_is_a_stranger(node: Node) -> None:
    with pytest.raises(UnauthenticatedError):
        register(node, secret=os.urandom(32))


def test_a_stranger_without_proof_is_refused(node: Node, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        membership_pb2_grpc.MembershipStub(channel).Register(m.RegisterRequest(), timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_an_error_arrives_as_it_was_raised(node: Node) -> None:
    with pytest.raises(NotLeaderError) as refused:
        register(node, cluster_id="elsewhere")
    assert refused.value.leader == Leader("c2", "c2:7400", term=8)
    labels = {"service": MEMBERSHIP, "method": "Register", "code": "FAILED_PRECONDITION"}
    assert node.metrics.registry.get_sample_value("quorumfs_rpc_handled_total", labels) == 1.0


def test_a_restarted_node_is_proven_to_again_without_anybody_noticing(kind: str) -> None:
    first = Node(kind)
    port = first.server.start()
    channels = TrustedChannels(SECRET, "d1")
    transport = GrpcTransport(channels)
    try:
        transport.register(first.server.address, m.RegisterRequest(), 5.0)
        first.server.stop(0.5)
        second = Node(kind, port)
        second.server.start()
        try:
            assert eventually(lambda: transport.register(second.server.address, m.RegisterRequest(), 5.0))
        finally:
            second.server.stop(0.5)
    finally:
        channels.close()


class Beating(AsyncMembership):
    """Heartbeats over a stream, as a coordinator takes them."""

    def __init__(self) -> None:
        self.streams = 0

    async def HeartbeatStream(self, _: Any, context: Any) -> None:  # noqa: N802
        require_node(context)
        self.streams += 1
        while isinstance(raw := await context.read(), bytes):
            sequence = m.HeartbeatRequest.FromString(raw).sequence
            await context.write(m.HeartbeatResponse(acknowledged_sequence=sequence).SerializeToString())


def beating(port: int = 0) -> tuple[Beating, AsyncServer]:
    service = Beating()
    services = [Service(MEMBERSHIP, service, add_membership)]
    server = AsyncServer("127.0.0.1", port, services, node_id="c1", secret=lambda: SECRET)
    server.start()
    return service, server


def test_heartbeats_share_a_stream_and_a_restarted_coordinator_is_proven_to_again_within_one_of_them() -> (
    None
):
    channels = TrustedChannels(SECRET, "d1")
    transport = GrpcTransport(channels)

    def beat(server: AsyncServer, sequence: int) -> int:
        request = m.HeartbeatRequest(node_id="d1", sequence=sequence)
        return transport.heartbeat(server.address, request, 5.0).acknowledged_sequence

    service, server = beating()
    try:
        assert [beat(server, k) for k in (1, 2, 3)] == [1, 2, 3]
        assert service.streams == 1
        server.stop(0.1)
        service, server = beating(server.port)
        failures: list[QuorumFSError] = []

        def again() -> int:
            try:
                return beat(server, 4)
            except QuorumFSError as error:
                failures.append(error)
                raise

        assert eventually(again) == 4
        assert not [one for one in failures if isinstance(one, UnauthenticatedError)]
    finally:
        transport.close()
        channels.close()
        server.stop(0.1)


def eventually(call: Any, seconds: float = 10.0) -> Any:
    """The answer of `call` once it does not fail any more: channels need a moment to connect again."""
    until = time.monotonic() + seconds
    while True:
        try:
            return call()
        except QuorumFSError:
            if time.monotonic() > until:
                raise


def test_a_port_in_use_is_an_error_that_names_it(node: Node, kind: str) -> None:
    second = Node(kind, node.server.port)
    with pytest.raises(UnavailableError, match=f"cannot listen on port {node.server.port} of 127.0.0.1"):
        second.server.start()
    second.server.stop(0.1)


def test_an_address_beyond_loopback_is_refused_unless_insecure(kind: str) -> None:
    with pytest.raises(PermissionDeniedError, match=r"refused to listen on 0\.0\.0\.0"):
        Node(kind, host="0.0.0.0")
    Node(kind, host="0.0.0.0", mode="insecure").server.stop(0.1)


def test_health_says_what_it_was_told(node: Node, channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    status = health_pb2.HealthCheckResponse

    def says(service: str) -> Any:
        return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status

    watch = stub.Watch(health_pb2.HealthCheckRequest(service=MEMBERSHIP), timeout=20)
    assert next(watch).status == status.NOT_SERVING
    assert (says(""), says("quorumfs.v1.Trust")) == (status.NOT_SERVING, status.SERVING)
    node.server.set_serving(True)
    assert next(watch).status == status.SERVING
    watch.cancel()


def test_reflection_lists_the_services(node: Node, channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=5)
    names = {one.name for one in answer.list_services_response.service}
    assert {"quorumfs.v1.Admin", MEMBERSHIP, "quorumfs.v1.Trust", "grpc.health.v1.Health"} <= names


def test_fifty_readers_of_the_log_do_not_hold_up_the_node(node: Node, channel: grpc.Channel) -> None:
    stub = admin_pb2_grpc.AdminStub(channel)
    node.buffer.append("info", "first", "{}")
    streams = [stub.StreamLogs(admin_pb2.StreamLogsRequest(follow=True), timeout=60) for _ in range(50)]
    assert [next(stream).event for stream in streams] == ["first"] * 50
    began = time.monotonic()
    assert stub.GetStatus(admin_pb2.GetStatusRequest(), timeout=5).state == "running"
    assert register(node).cluster_id == "d1"
    assert time.monotonic() - began < 3
    node.buffer.append("info", "second", "{}")
    assert [next(stream).event for stream in streams] == ["second"] * 50
    for stream in streams:
        stream.cancel()


def test_a_message_that_is_too_large_is_refused(node: Node, channel: grpc.Channel) -> None:
    request = m.RegisterRequest(cluster_id="x" * (9 << 20))
    with pytest.raises(grpc.RpcError) as refused:
        membership_pb2_grpc.MembershipStub(channel).Register(request, timeout=5)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_connections_beyond_the_limit_are_refused_and_those_that_are_there_go_on(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.server.CONNECTIONS_MAX", 8)
    node = Node(kind)
    node.server.start()
    channels = Channels()
    stub = admin_pb2_grpc.AdminStub(channels.get(node.server.address))
    assert stub.GetStatus(admin_pb2.GetStatusRequest(), timeout=5).state == "running"
    idle = [socket.create_connection((node.server.host, node.server.port)) for _ in range(30)]
    try:
        for connection in idle:
            connection.settimeout(5)
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        assert sum(greeted(connection) for connection in idle) <= 8
        assert stub.GetStatus(admin_pb2.GetStatusRequest(), timeout=5).state == "running"
    finally:
        for connection in idle:
            connection.close()
        channels.close()
        node.server.stop(0.5)


def greeted(connection: socket.socket) -> bool:
    try:
        return connection.recv(9) != b""
    except OSError:
        return False


@pytest.mark.parametrize("threads", [1, 2])
def test_a_coordinator_that_hangs_costs_a_call_no_more_than_its_deadline(threads: int) -> None:
    hanging = threading.Event()

    def secret() -> bytes:
        hanging.wait(30)
        return SECRET

    server = ThreadedServer("127.0.0.1", 0, [], node_id="c1", secret=secret)
    server.start()
    channels = TrustedChannels(SECRET, "d1")
    transport, took = GrpcTransport(channels), []

    def call() -> None:
        began = time.monotonic()
        with pytest.raises(QuorumFSError):
            transport.heartbeat(server.address, m.HeartbeatRequest(), 0.5)
        took.append(time.monotonic() - began)

    callers = [threading.Thread(target=call) for _ in range(threads)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(20)
    hanging.set()
    channels.close()
    server.stop(0.5)
    assert len(took) == threads
    assert max(took) < 2.0


def test_a_stopped_server_leaves_its_port_and_no_thread(kind: str) -> None:
    before = set(threading.enumerate())
    node = Node(kind)
    port = node.server.start()
    node.server.stop(0.5)
    node.server.stop(0.5)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
    assert not [one for one in set(threading.enumerate()) - before if one.name == "grpc"]


@pytest.mark.parametrize("abstract", [False, True])
def test_the_supervisor_hears_what_the_process_tells(tmp_path: Path, abstract: bool) -> None:
    name = f"@quorumfs-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind("\0" + name[1:] if abstract else name)
        supervisor.settimeout(5)
        life = Lifecycle({"NOTIFY_SOCKET": name})
        heard = []
        life.notify_ready("serving\nc1")
        heard.append(supervisor.recv(1000))
        life.notify_watchdog()
        heard.append(supervisor.recv(1000))
        life.notify_stopping("draining")
        heard.append(supervisor.recv(1000))
    assert heard == [b"READY=1\nSTATUS=serving c1", b"WATCHDOG=1", b"STOPPING=1\nSTATUS=draining"]


def test_a_supervisor_that_is_gone_is_no_trouble(tmp_path: Path) -> None:
    path = tmp_path / "gone"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(path))
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert Lifecycle({"NOTIFY_SOCKET": str(path)}).notify("READY=1") is False
