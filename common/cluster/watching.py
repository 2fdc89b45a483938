"""Keeps the NodeManager's view fresh: asks the leader, or any coordinator that answers, now and then.

1. Separate from heartbeats, so that a slow answer about the cluster never delays a sign of life.
2. A datanode asks for the coordinators only. Were it to ask for all nodes, a leader of a thousand datanodes would tell
   each of them of the thousand, again and again: a thousand times more than all their heartbeats.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from common.cluster.leader_tracker import LeaderTracker
from common.cluster.manager import NodeManager
from common.cluster.transport import Transport
from quorumfs.errors import NoLeaderError, QuorumFSError
from quorumfs.rpc.status import leader_of
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

FRESH_SECONDS = 20.0  # the answers to heartbeats tell of new coordinators at once
OWN_SECONDS = 5.0
SEARCH_SECONDS = 1.0
DEADLINE_SECONDS = 1.0
DATANODE_ASKS = m.GetClusterRequest(role=t.NODE_ROLE_COORDINATOR)
"""What a datanode wants to know."""


class ViewFromCoordinators:
    """A Worker: each unit asks one coordinator after the other until one tells. For datanodes."""

    name = "membership"

    def __init__(
        self,
        transport: Transport,
        tracker: LeaderTracker,
        manager: NodeManager,
        coordinators: Sequence[str],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._transport = transport
        self._tracker = tracker
        self._manager = manager
        self._static = list(coordinators)
        self._chance = chance

    def work(self) -> str:
        failures = []
        for address in self._addresses():
            try:
                view = self._transport.cluster(address, DATANODE_ASKS, DEADLINE_SECONDS)
            except QuorumFSError as error:
                failures.append(f"{address}: {error}")
                continue
            self._manager.update(view)
            self._tracker.observe(leader_of(view.leader), "poll", view.term)
            return f"{view.observed_by} told of {len(view.nodes)} nodes"
        raise NoLeaderError("no coordinator tells of the cluster", cause="; ".join(failures))

    def _addresses(self) -> list[str]:
        """The leader first, the others in an order of chance, so that they share the questions."""
        leader = self._tracker.leader
        others = list(dict.fromkeys([*self._manager.coordinators(), *self._static]))
        others.sort(key=lambda _: self._chance())
        return list(dict.fromkeys([*([leader.grpc] if leader else []), *others]))

    def wait(self) -> float:
        pause = FRESH_SECONDS if self._tracker.leader is not None else SEARCH_SECONDS
        return pause * (0.8 + 0.2 * self._chance())


class OwnView:
    """A Worker: a coordinator reads its own tables."""

    name = "membership"

    def __init__(self, read: Callable[[], m.ClusterView], manager: NodeManager) -> None:
        self._read = read
        self._manager = manager

    def work(self) -> str:
        view = self._read()
        self._manager.update(view)
        return f"{len(view.nodes)} nodes at index {view.index}"

    def wait(self) -> float:
        return OWN_SECONDS
