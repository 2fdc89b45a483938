"""How the node agent calls coordinators: a protocol, and gRPC behind it. Errors come as QuorumFSError."""

from __future__ import annotations

from typing import Protocol

import grpc

from quorumfs.rpc.channels import ChannelSource
from quorumfs.rpc.status import from_rpc
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import membership_pb2_grpc


class Transport(Protocol):
    """One call to one coordinator, bounded by `seconds`. Raises QuorumFSError. All may be repeated safely."""

    def register(self, address: str, request: m.RegisterRequest, seconds: float) -> m.RegisterResponse: ...

    def heartbeat(self, address: str, request: m.HeartbeatRequest, seconds: float) -> m.HeartbeatResponse: ...

    def report(self, address: str, page: m.InventoryPage, seconds: float) -> m.InventoryResponse: ...

    def cluster(self, address: str, request: m.GetClusterRequest, seconds: float) -> m.ClusterView: ...


class GrpcTransport:
    """Over `channels` that prove the cluster's secret (`TrustedChannels`). Any thread may call."""

    def __init__(self, channels: ChannelSource) -> None:
        self._channels = channels

    def _stub(self, address: str) -> membership_pb2_grpc.MembershipStub:
        return membership_pb2_grpc.MembershipStub(self._channels.get(address))

    def register(self, address: str, request: m.RegisterRequest, seconds: float) -> m.RegisterResponse:
        try:
            return self._stub(address).Register(request, timeout=seconds)
        except grpc.RpcError as error:
            raise from_rpc(error, f"registration at {address}", sent=False) from error

    def heartbeat(self, address: str, request: m.HeartbeatRequest, seconds: float) -> m.HeartbeatResponse:
        try:
            return self._stub(address).Heartbeat(request, timeout=seconds)
        except grpc.RpcError as error:
            raise from_rpc(error, f"heartbeat to {address}", sent=False) from error

    def report(self, address: str, page: m.InventoryPage, seconds: float) -> m.InventoryResponse:
        try:
            return self._stub(address).ReportInventory(page, timeout=seconds)
        except grpc.RpcError as error:
            raise from_rpc(error, f"inventory to {address}", sent=False) from error

    def cluster(self, address: str, request: m.GetClusterRequest, seconds: float) -> m.ClusterView:
        try:
            return self._stub(address).GetCluster(request, timeout=seconds)
        except grpc.RpcError as error:
            raise from_rpc(error, f"question about the cluster to {address}", sent=False) from error
