"""Coordinators without sockets: a Transport that answers as the Membership service does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from quorumfs.errors import NotLeaderError, QuorumFSError, TimedOutError, UnavailableError
from quorumfs.rpc.status import to_detail
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t


@dataclass
class Coordinators:
    """`leader` (an address or None), `dead` and `stopped` ones are set by the test."""

    addresses: list[str]
    leader: str | None = None
    epoch: tuple[int, int] = (1, 1)
    cluster_id: str = "cluster-1"
    dead: set[str] = field(default_factory=set)
    stopped: set[str] = field(default_factory=set)
    refusal: QuorumFSError | None = None
    commands: list[m.Command] = field(default_factory=list)
    interval_ms: int = 1000
    acknowledge: bool = True
    labels: dict[str, str] = field(default_factory=dict)
    registered: list[tuple[str, m.RegisterRequest]] = field(default_factory=list)
    beats: list[tuple[str, m.HeartbeatRequest]] = field(default_factory=list)
    pages: list[m.InventoryPage] = field(default_factory=list)
    deadlines: list[float] = field(default_factory=list)
    asked: list[m.GetClusterRequest] = field(default_factory=list)

    def hint(self) -> t.LeaderHint | None:
        if self.leader is None:
            return None
        return t.LeaderHint(node_id=self.leader.split(":")[0], grpc=self.leader, term=self.epoch[1])

    def proto_epoch(self) -> t.Epoch:
        return t.Epoch(history=self.epoch[0], term=self.epoch[1])

    def command(self, command_id: int, **one: Any) -> m.Command:
        return m.Command(id=command_id, epoch=self.proto_epoch(), **one)

    def _reach(self, address: str, seconds: float) -> None:
        self.deadlines.append(seconds)
        if address in self.dead:
            raise UnavailableError(f"{address}: connection refused")
        if address in self.stopped:
            raise TimedOutError(f"{address}: no answer in {seconds} s")

    def _refusal(self, address: str) -> QuorumFSError | None:
        if address != self.leader:
            return NotLeaderError(f"{address} does not lead")
        return self.refusal

    def register(self, address: str, request: m.RegisterRequest, seconds: float) -> m.RegisterResponse:
        self._reach(address, seconds)
        error = self._refusal(address)
        if error is not None:
            detail = to_detail(error)
            return m.RegisterResponse(code=detail.code, error=detail, leader=self.hint())
        self.registered.append((address, request))
        return m.RegisterResponse(
            cluster_id=self.cluster_id,
            epoch=self.proto_epoch(),
            heartbeat_interval_ms=self.interval_ms,
            leader=self.hint(),
            commit_index=7,
            labels=self.labels or dict(request.node.labels),
        )

    def heartbeat(self, address: str, request: m.HeartbeatRequest, seconds: float) -> m.HeartbeatResponse:
        self._reach(address, seconds)
        error = self._refusal(address)
        if error is not None:
            detail = to_detail(error)
            return m.HeartbeatResponse(code=detail.code, error=detail, leader=self.hint())
        self.beats.append((address, request))
        commands, self.commands = self.commands, []
        return m.HeartbeatResponse(
            epoch=self.proto_epoch(),
            commit_index=9,
            commands=commands,
            interval_ms=self.interval_ms,
            leader=self.hint(),
            acknowledged_sequence=request.sequence if self.acknowledge else 0,
            coordinators=[m.Member(grpc=one) for one in self.addresses],
        )

    def report(self, address: str, page: m.InventoryPage, seconds: float) -> m.InventoryResponse:
        self._reach(address, seconds)
        self.pages.append(page)
        return m.InventoryResponse(epoch=self.proto_epoch())

    def cluster(self, address: str, request: m.GetClusterRequest, seconds: float) -> m.ClusterView:
        self._reach(address, seconds)
        self.asked.append(request)
        nodes = [
            m.NodeView(
                info=m.NodeInfo(
                    node_id=one, grpc=one, http=one.replace(":1", ":2"), role=t.NODE_ROLE_COORDINATOR
                )
            )
            for one in self.addresses
        ]
        return m.ClusterView(
            cluster_id=self.cluster_id,
            leader=self.hint(),
            term=self.epoch[1],
            nodes=nodes,
            observed_by=address,
        )
