"""How the node agent calls coordinators: a protocol, and gRPC behind it. Errors come as QuorumFSError."""

from __future__ import annotations

import time
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError

from quorumfs.errors import InternalError
from quorumfs.rpc.channels import ChannelSource
from quorumfs.rpc.status import from_rpc, status_of
from quorumfs.rpc.streams import BatchStreams
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import membership_pb2_grpc

HEARTBEAT = "/quorumfs.v1.Membership/Heartbeat"


class Transport(Protocol):
    """One call to one coordinator, bounded by `seconds`. Raises QuorumFSError. All may be repeated safely."""

    def register(self, address: str, request: m.RegisterRequest, seconds: float) -> m.RegisterResponse: ...

    def heartbeat(self, address: str, request: m.HeartbeatRequest, seconds: float) -> m.HeartbeatResponse: ...

    def report(self, address: str, page: m.InventoryPage, seconds: float) -> m.InventoryResponse: ...

    def cluster(self, address: str, request: m.GetClusterRequest, seconds: float) -> m.ClusterView: ...


class GrpcTransport:
    """Over `channels` that prove the cluster's secret (`TrustedChannels`). Any thread may call; heartbeats from one
    thread, for they share a stream as long as they go to the same coordinator."""

    def __init__(self, channels: ChannelSource) -> None:
        self._channels = channels
        self._streams = BatchStreams(channels, self._unary)

    def close(self) -> None:
        """End the stream. Not the channels, which are whoever's gave them."""
        self._streams.close()

    def _unary(self, address: str, path: str, raw: bytes, seconds: float) -> bytes:
        call: Any = self._channels.get(address).unary_unary(
            path, request_serializer=None, response_deserializer=None
        )
        answer: bytes = call(raw, timeout=seconds)
        return answer

    def _stub(self, address: str) -> membership_pb2_grpc.MembershipStub:
        return membership_pb2_grpc.MembershipStub(self._channels.get(address))

    def register(self, address: str, request: m.RegisterRequest, seconds: float) -> m.RegisterResponse:
        try:
            return self._stub(address).Register(request, timeout=seconds)
        except grpc.RpcError as error:
            raise from_rpc(error, f"registration at {address}", sent=False) from error

    def heartbeat(self, address: str, request: m.HeartbeatRequest, seconds: float) -> m.HeartbeatResponse:
        raw, until = request.SerializeToString(), time.monotonic() + seconds
        try:
            try:
                return self._beat(address, raw, seconds)
            except grpc.RpcError as error:
                if status_of(error) is not grpc.StatusCode.UNAUTHENTICATED:
                    raise
            # It was started again and does not know the channel's proof any more: a new stream begins with a new one.
            return self._beat(address, raw, max(0.0, until - time.monotonic()))
        except grpc.RpcError as error:
            raise from_rpc(error, f"heartbeat to {address}", sent=False) from error

    def _beat(self, address: str, raw: bytes, seconds: float) -> m.HeartbeatResponse:
        answer = self._streams.exchange(0, address, HEARTBEAT, raw, seconds)
        try:
            return m.HeartbeatResponse.FromString(answer)
        except DecodeError as error:
            raise InternalError(
                f"{address} answered a heartbeat with something else", cause=str(error)
            ) from error

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
