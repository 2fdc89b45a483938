"""Is the local cluster ready? Asks its nodes over gRPC and its sidecars over HTTP."""

from __future__ import annotations

import http.client
from collections.abc import Iterable

import grpc

from quorumfs.local.layout import Layout, NodeSpec
from quorumfs.rpc.channels import ChannelSource
from quorumfs.v1 import admin_pb2, admin_pb2_grpc, types_pb2

_ASK_SECONDS = 1.0
_BEHIND_ENTRIES = 100  # under load a follower is always a little behind


def cluster_status(layout: Layout, channels: ChannelSource) -> admin_pb2.ClusterStatus | None:
    """What the leader says of the cluster; None while nobody leads."""
    for node in layout.coordinator_nodes:
        stub = admin_pb2_grpc.ControlStub(channels.get(node.address("grpc")))
        try:
            status = stub.GetClusterStatus(admin_pb2.GetClusterStatusRequest(), timeout=_ASK_SECONDS)
        except grpc.RpcError:  # not up yet, or not the leader: the next one is asked, then all again
            continue
        if status.view.authoritative and status.view.leader.node_id and not status.error.code:
            return status
    return None


def lacking(layout: Layout, channels: ChannelSource) -> list[str]:
    """What is not ready yet, as `c1: ...` lines; empty when all of it is."""
    missing = [f"{node_id}'s sidecar: it does not answer on HTTP" for node_id in _silent_sidecars(layout)]
    missing += [f"{node.node_id}: {why}" for node in layout.nodes if (why := _unready(node, channels))]
    status = cluster_status(layout, channels)
    if status is None:
        return ["no leader", *missing]
    behind = [
        f"{one.member.node_id}: it has not caught up with the leader"
        for one in status.raft.members
        if not one.connected or one.match_index + _BEHIND_ENTRIES < status.raft.commit_index
    ]
    alive = {node.info.node_id for node in status.view.nodes if node.state == types_pb2.NODE_STATE_ALIVE}
    absent = [
        f"{node.node_id}: not registered as alive" for node in layout.datanodes if node.node_id not in alive
    ]
    return [*behind, *absent, *missing]


def _unready(node: NodeSpec, channels: ChannelSource) -> str:
    """Why the node does not take traffic, "" if it does. It is asked itself: for a moment after a death the
    leader and the sidecars still think well of a node."""
    stub = admin_pb2_grpc.AdminStub(channels.get(node.address("grpc")))
    try:
        report = stub.GetHealth(admin_pb2.GetHealthRequest(), timeout=_ASK_SECONDS)
    except grpc.RpcError:
        return "it does not answer"
    if report.ready:
        return ""
    reasons = [f"{check.name}: {check.detail or 'not well'}" for check in report.checks if not check.ok]
    return ", ".join(reasons) or "it does not take traffic yet"


def _silent_sidecars(layout: Layout) -> Iterable[str]:
    return [node.node_id for node in layout.nodes if http_get(node.address("http"), "/health/live") is None]


def http_get(address: str, path: str) -> tuple[int, bytes] | None:
    """Status and body of a GET at host:port; None when nobody answers in a second."""
    connection = http.client.HTTPConnection(address, timeout=_ASK_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(1 << 20)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
