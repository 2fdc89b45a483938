"""The first leader of a new cluster writes down what the cluster is."""

from __future__ import annotations

from collections.abc import Sequence

from common import log
from coordinator.duties.desk import Desk, failures
from coordinator.metadata import queries
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

RETRY_SECONDS = 1.0
SETTLED_SECONDS = 3600.0

_log = log.get(__name__)


class Genesis:
    """Proposes InitCluster, and the coordinators as nodes, as long as the state says nothing of a cluster; and
    InitCluster alone when this leadership is of a newer history than the state knows."""

    name = "genesis"

    def __init__(self, desk: Desk, cluster_id: str, history: int, members: Sequence[m.Member]) -> None:
        self._desk = desk
        self._history = history
        self._commands = commands(cluster_id, history, members)
        self._settled = False

    def work(self) -> str:
        known = self._desk.look(queries.cluster_identity)
        if known is not None and known[1] >= self._history:
            self._settled = True
            return "the cluster is initialised"
        commands = self._commands if known is None else self._commands[:1]
        refused = failures(self._desk.propose(commands))
        if refused:
            _log.error("genesis.refused", reasons=refused)
            return f"refused: {'; '.join(refused)}"
        self._settled = True
        _log.info("genesis.done", cluster=self._commands[0].init.cluster_id)
        return "initialised the cluster"

    def wait(self) -> float:
        return SETTLED_SECONDS if self._settled else RETRY_SECONDS


def commands(cluster_id: str, history: int, members: Sequence[m.Member]) -> list[e.SystemCommand]:
    """The entries that make a cluster: itself, then its coordinators as nodes."""
    init = e.InitCluster(cluster_id=cluster_id, history=history, members=members)
    nodes = [
        m.NodeInfo(
            node_id=member.node_id,
            node_uuid=member.member_uuid,
            role=t.NODE_ROLE_COORDINATOR,
            grpc=member.grpc,
            http=member.http,
        )
        for member in members
    ]
    return [
        e.SystemCommand(init=init),
        *(e.SystemCommand(register_node=e.RegisterNode(node=node)) for node in nodes),
    ]
