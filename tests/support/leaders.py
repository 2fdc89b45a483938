"""A leader that falls in the middle of something, and comes back after the next has gone on with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from quorumfs.testing import LocalCluster, wait_for
from tests.support.networked import NetworkedCluster

How = Literal["killed", "stopped", "cut"]
PATIENCE_SECONDS = 30.0


def fell(cluster: LocalCluster, how: How) -> str:
    """SIGKILL, or SIGSTOP, to whoever leads, or no packet from or to another node; its id, when another one leads."""
    leader = cluster.leader()
    match how:
        case "killed":
            cluster.kill(leader)
        case "stopped":
            cluster.pause(leader)
        case "cut":
            networked(cluster).cut_off(leader)
    wait_for(lambda: cluster.leader() != leader, PATIENCE_SECONDS, "another one leads")
    return leader


def raise_again(cluster: LocalCluster, node_id: str, how: How) -> None:
    """It is there again, and follows."""
    match how:
        case "killed":
            cluster.start_node(node_id)
        case "stopped":
            cluster.resume(node_id)
        case "cut":
            networked(cluster).mend(node_id)


def networked(cluster: LocalCluster) -> NetworkedCluster:
    assert isinstance(cluster, NetworkedCluster), "only in a network of its own can a node be cut off"
    return cluster


@contextmanager
def fallen_leader(cluster: LocalCluster, how: How) -> Iterator[str]:
    """Within the block another one leads; at its end all coordinators are there."""
    leader = fell(cluster, how)
    try:
        yield leader
    finally:
        raise_again(cluster, leader, how)
