"""Keeps the NodeManager's view fresh: asks the leader, or any coordinator that answers, now and then.

1. Separate from heartbeats, so that a slow answer about the cluster never delays a sign of life.
2. A datanode asks for the coordinators only. Were it to ask for all nodes, a leader of a thousand datanodes would tell
   each of them of the thousand, again and again: a thousand times more than all their heartbeats.
3. While nobody it can reach names a leader it asks sidecars (`/leader`) as well, its own first: one per unit, in turn.
   They know coordinators that this node never heard of. What they say goes to the heartbeats as advice, and to nobody
   else: its own sidecar asks this very node first, and rumours must not confirm themselves.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from common.cluster.leader_tracker import LeaderTracker
from common.cluster.manager import NodeManager
from common.cluster.sidecars import AskSidecar, ask_sidecar
from common.cluster.transport import Transport
from quorumfs.errors import NoLeaderError, QuorumFSError
from quorumfs.rpc.status import leader_of
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

FRESH_SECONDS = 20.0  # the answers to heartbeats tell of new coordinators at once
OWN_SECONDS = 5.0
SEARCH_SECONDS = 1.0
DEADLINE_SECONDS = 1.0
SIDECAR_SECONDS = 2.0  # an agent whose node and coordinators all hang answers within two seconds
_COORDINATOR = t.NODE_ROLE_COORDINATOR
DATANODE_ASKS = m.GetClusterRequest(role=_COORDINATOR)
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
        *,
        own_sidecar: Callable[[], str] = lambda: "",
        ask_sidecar: AskSidecar = ask_sidecar,
        advise: Callable[[str], None] = lambda address: None,
    ) -> None:
        """`advise` hears of an address that a sidecar names as the leader's; `own_sidecar`: this node's, host:port."""
        self._transport = transport
        self._tracker = tracker
        self._manager = manager
        self._static = list(coordinators)
        self._chance = chance
        self._own_sidecar = own_sidecar
        self._ask_sidecar = ask_sidecar
        self._advise = advise
        self._turn = 0

    def work(self) -> str:
        told = self._ask_coordinators()
        if self._tracker.leader is None:
            return f"{told}; {self._ask_a_sidecar()}"
        return told

    def _ask_a_sidecar(self) -> str:
        agents = [self._own_sidecar(), *(node.info.http for node in self._manager.nodes(role=_COORDINATOR))]
        known = list(dict.fromkeys(filter(None, agents)))
        if not known:
            return "no sidecar is known"
        address = known[self._turn % len(known)]
        self._turn += 1
        try:
            leader = self._ask_sidecar(address, SIDECAR_SECONDS)
        except QuorumFSError as error:
            return str(error)
        self._advise(leader)
        return f"the sidecar at {address} names {leader}"

    def _ask_coordinators(self) -> str:
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
        told = self._ask_a_sidecar()
        raise NoLeaderError("no coordinator tells of the cluster", cause="; ".join([*failures, told]))

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
