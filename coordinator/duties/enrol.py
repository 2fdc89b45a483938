"""A coordinator tells the leader who it is now: version, labels, addresses. Runs on every coordinator."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from coordinator.duties.desk import Desk
from coordinator.soft_state import known_nodes
from quorumfs.errors import Leader
from quorumfs.limits import RPC_DEADLINE_SECONDS
from quorumfs.rpc.channels import ChannelSource
from quorumfs.rpc.status import from_rpc, raise_for
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import membership_pb2_grpc

LOOK_SECONDS = 2.0
SETTLED_SECONDS = 30.0


class Enrol:
    """Registers this coordinator with whoever leads, when the node table says something else of it."""

    name = "enrol"

    def __init__(
        self,
        desk: Desk,
        describe: Callable[[], m.NodeInfo],
        leader: Callable[[], Leader | None],
        channels: ChannelSource,
        cluster_id: str,
    ) -> None:
        self._desk = desk
        self._describe = describe
        self._leader = leader
        self._channels = channels
        self._cluster_id = cluster_id
        self._settled = False

    def work(self) -> str:
        own = self._describe()
        self._settled = any(agrees(node.info, own) for node in self._desk.look(known_nodes))
        if self._settled:
            return "the cluster knows this node as it is"
        leader = self._leader()
        if leader is None:
            return "nobody leads"
        stub = membership_pb2_grpc.MembershipStub(self._channels.get(leader.grpc))
        request = m.RegisterRequest(cluster_id=self._cluster_id, node=own)
        try:
            answer = stub.Register(request, timeout=RPC_DEADLINE_SECONDS)
        except grpc.RpcError as error:
            raise from_rpc(error, f"registration at {leader.node_id}", sent=False) from error
        raise_for(answer.code, answer.error)
        return f"registered with {leader.node_id}"

    def wait(self) -> float:
        return SETTLED_SECONDS if self._settled else LOOK_SECONDS


def agrees(stored: m.NodeInfo, own: m.NodeInfo) -> bool:
    """Labels that operators added or took away count as agreeing; another of this node's file that is missing does
    not."""
    same = (stored.node_id, stored.grpc, stored.http, stored.version) == (
        own.node_id,
        own.grpc,
        own.http,
        own.version,
    )
    return same and set(own.labels) <= {*stored.labels, *stored.dropped_labels}
