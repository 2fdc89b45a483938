"""A leader that falls in the middle of something, and comes back after the next has gone on with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from quorumfs.testing import LocalCluster, wait_for

How = Literal["killed", "stopped"]
PATIENCE_SECONDS = 30.0


def fell(cluster: LocalCluster, how: How) -> str:
    """SIGKILL, or SIGSTOP, to whoever leads; its id, when another one leads."""
    leader = cluster.leader()
    if how == "killed":
        cluster.kill(leader)
    else:
        cluster.pause(leader)
    wait_for(lambda: cluster.leader() != leader, PATIENCE_SECONDS, "another one leads")
    return leader


def raise_again(cluster: LocalCluster, node_id: str, how: How) -> None:
    """It is there again, and follows."""
    if how == "killed":
        cluster.start_node(node_id)
    else:
        cluster.resume(node_id)


@contextmanager
def fallen_leader(cluster: LocalCluster, how: How) -> Iterator[str]:
    """Within the block another one leads; at its end all coordinators are there."""
    leader = fell(cluster, how)
    try:
        yield leader
    finally:
        raise_again(cluster, leader, how)
