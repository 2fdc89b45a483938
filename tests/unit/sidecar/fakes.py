"""A transport without a network: nodes that answer, hang, are down, or refuse, by address."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from quorumfs.clock import ManualClock
from quorumfs.errors import QuorumFSError
from quorumfs.v1 import admin_pb2, membership_pb2, types_pb2
from sidecar.agent import Agent, build
from sidecar.settings import Settings
from sidecar.targets import TargetAnswer
from sidecar.transport import Method, refused, silent

OWN, C1, C2, C3 = "127.0.0.1:7500", "127.0.0.1:7400", "127.0.0.1:7410", "127.0.0.1:7420"


@dataclass
class FakeNode:
    """`answers` by method name: a message, an error to raise, or a function of the request."""

    answers: dict[str, Any] = field(default_factory=dict)
    state: str = "ok"
    records: list[admin_pb2.LogRecord] = field(default_factory=list)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    loses_answers: bool = False

    def answer(self, address: str, method: Method[Any, Any], request: Any) -> Any:
        if self.state == "down":
            raise refused(address, f"{method}: connection refused", was_sent=False)
        if self.state == "hung":
            raise silent(address, f"{method}: no answer before the deadline", was_sent=True)
        self.asked.append((str(method), request))
        found = self.answers.get(method.name, method.response())
        if isinstance(found, QuorumFSError):
            raise found
        if self.loses_answers and method.name not in ("GetHealth", "GetStatus"):
            raise silent(address, "the connection broke", was_sent=True)
        return found(request) if callable(found) else found


@dataclass
class FakePending:
    ask: Callable[[], Any]

    def result(self) -> Any:
        return self.ask()


@dataclass
class FakeTail:
    records: Iterator[Any]
    is_cancelled: bool = False

    def __iter__(self) -> Iterator[Any]:
        return self.records

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeTransport:
    def __init__(self, nodes: dict[str, FakeNode]) -> None:
        self.nodes = nodes
        self.tokens: list[str] = []

    def start(
        self, address: str, method: Method[Any, Any], request: Any, deadline_seconds: float, token: str = ""
    ) -> FakePending:
        self.tokens.append(token)
        node = self.nodes.get(address, FakeNode(state="down"))
        return FakePending(lambda: node.answer(address, method, request))

    def tail(
        self, address: str, method: Method[Any, Any], request: Any, deadline_seconds: float | None
    ) -> FakeTail:
        node = self.nodes.get(address, FakeNode(state="down"))

        def records() -> Iterator[Any]:
            node.answer(address, method, request)
            yield from [record for record in node.records if record.id > request.after_id]

        return FakeTail(records())

    def close(self) -> None:
        pass


class Proven(FakeTransport):
    """What a node that proves the secret is told: the tokens, and by the same nodes what anybody is."""

    def __init__(self, knowing: FakeTransport, all_nodes: FakeTransport) -> None:
        super().__init__(all_nodes.nodes)
        self._knowing = knowing
        self.asked: list[str] = []

    def start(
        self, address: str, method: Method[Any, Any], request: Any, deadline_seconds: float, token: str = ""
    ) -> FakePending:
        assert not token, "who proves the secret is the cluster, and asks for nobody else"
        self.asked.append(str(method))
        if method.name == "GetTokens":
            return self._knowing.start(address, method, request, deadline_seconds)
        return super().start(address, method, request, deadline_seconds)


@dataclass
class FakeAgents:
    """Other nodes' agents by address: an answer, an error to raise, or a function of (method, path, body)."""

    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, str, str, Any, dict[str, str]]] = field(default_factory=list)

    def ask(
        self, address: str, method: str, path: str, body: Any, headers: Any, deadline_seconds: float
    ) -> TargetAnswer:
        self.asked.append((address, method, path, body, dict(headers)))
        found = self.answers.get(address, TargetAnswer(200, {"from": address}))
        if isinstance(found, QuorumFSError):
            raise found
        return found(method, path, body) if callable(found) else found


def settings(role: str = "datanode", **changed: Any) -> Settings:
    values: dict[str, Any] = {
        "node_id": "d1" if role == "datanode" else "c1",
        "role": role,
        "grpc": OWN if role == "datanode" else C1,
        "grpc_advertised": OWN if role == "datanode" else C1,
        "http_host": "127.0.0.1",
        "http_port": 7502,
        "http_advertised": "127.0.0.1:7502",
        "coordinators": (C1, C2, C3),
        "labels": {"zone": "a"},
    }
    return Settings(**{**values, **changed})


def leader_view(node_id: str = "c1", grpc: str = C1, age_seconds: float = 0.2) -> admin_pb2.LeaderView:
    return admin_pb2.LeaderView(
        leader=types_pb2.LeaderHint(node_id=node_id, grpc=grpc, http="127.0.0.1:7402", term=7),
        term=7,
        observed_by="d1",
        source="heartbeat",
        age_seconds=age_seconds,
    )


def status(leader: admin_pb2.LeaderView | None = None, node_id: str = "d1") -> admin_pb2.NodeStatus:
    told = admin_pb2.NodeStatus(
        cluster_id="6f9619ff-8b86-d011-b42d-00c04fc964ff",
        state="running",
        uptime_ms=90_000,
        pid=4711,
        last_heartbeat_age_seconds=0.4,
        leader=leader_view() if leader is None else leader,
    )
    told.node.node_id, told.node.incarnation = node_id, 3
    told.node.labels["zone"] = "a"
    told.node.disks.add(disk_id="k1", path="/srv/disk0", total_bytes=100, free_bytes=60, state="ok")
    return told


def health(ready: bool = True) -> admin_pb2.HealthReport:
    report = admin_pb2.HealthReport(live=True, ready=ready)
    report.checks.add(name="leader", ok=ready, detail="no leader is known" if not ready else "c1")
    return report


def well(**answers: Any) -> FakeNode:
    """A datanode that is well and knows the leader."""
    return FakeNode({"GetStatus": status(), "GetHealth": health(), **answers})


def leaderless(**answers: Any) -> FakeNode:
    return FakeNode({"GetStatus": status(admin_pb2.LeaderView()), "GetHealth": health(False), **answers})


def view(by: str, leader: str = "", address: str = "", term: int = 7, is_leader: bool = False) -> FakeNode:
    """A coordinator that names `leader`."""
    told = membership_pb2.ClusterView(observed_by=by, term=term, authoritative=is_leader)
    if leader:
        told.leader.CopyFrom(types_pb2.LeaderHint(node_id=leader, grpc=address, http="h", term=term))
    return FakeNode({"GetCluster": told})


def cluster_status() -> admin_pb2.ClusterStatus:
    told = admin_pb2.ClusterStatus(files=3, chunks=5, total_bytes=1000, free_bytes=400, used_bytes=600)
    told.view.cluster_id, told.view.term = "6f96", 7
    told.view.leader.CopyFrom(types_pb2.LeaderHint(node_id="c1", grpc=C1, http="127.0.0.1:7402"))
    for name, role, zone in (("c1", 1, "a"), ("d1", 2, "a"), ("d2", 2, "b")):
        node = told.view.nodes.add(state=types_pb2.NODE_STATE_ALIVE, heartbeat_age_seconds=0.3)
        node.info.node_id, node.info.role, node.info.version = name, role, "0.1.0"
        node.info.http = f"127.0.0.1:{name}"
        node.info.labels["zone"] = zone
    return told


def agent(
    nodes: dict[str, FakeNode],
    role: str = "datanode",
    clock: ManualClock | None = None,
    tokens: Callable[[], Sequence[types_pb2.TokenInfo]] = list,
    agents: FakeAgents | None = None,
    **changed: Any,
) -> Agent:
    """`tokens`: those that every coordinator tells of, on channels of its own; what it raises is its refusal."""

    def told(_: Any) -> membership_pb2.TokenTable:
        return membership_pb2.TokenTable(tokens=tokens())

    knowing = FakeTransport({address: FakeNode({"GetTokens": told}) for address in (C1, C2, C3)})
    return build(
        settings(role, **changed),
        FakeTransport(nodes),
        Proven(knowing, FakeTransport(nodes)),
        agents or FakeAgents(),
        clock or ManualClock(),
    )
