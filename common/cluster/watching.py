"""Keeps the NodeManager's view fresh: asks the leader, or any coordinator that answers, every few seconds.

Separate from heartbeats, so that a slow answer about the cluster never delays a sign of life.
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

FRESH_SECONDS = 5.0
SEARCH_SECONDS = 1.0
DEADLINE_SECONDS = 1.0


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
                view = self._transport.cluster(address, m.GetClusterRequest(), DEADLINE_SECONDS)
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
        return SEARCH_SECONDS
