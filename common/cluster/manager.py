"""This process's view of the membership: who belongs to the cluster, how they are, and how old that is."""

from __future__ import annotations

import threading

from common import log
from quorumfs import selectors
from quorumfs.clock import Clock, SystemClock
from quorumfs.errors import NotFoundError
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

STALE_SECONDS = 30.0
_log = log.get(__name__)


class NodeManager:
    """The newest ClusterView, thread-safe. Views are replaced whole, never changed: readers may keep them."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._view = m.ClusterView()
        self._by_id: dict[str, m.NodeView] = {}
        self._at: float | None = None

    def update(self, view: m.ClusterView) -> bool:
        """Take `view`; whether it was taken: not one of another cluster, nor one older than a fresh one."""
        with self._lock:
            if self._view.cluster_id and view.cluster_id != self._view.cluster_id:
                _log.warning("cluster.foreign_view", cluster_id=view.cluster_id, told_by=view.observed_by)
                return False
            if view.index < self._view.index and self._age() < STALE_SECONDS:
                return False  # told by a coordinator that lags behind
            taken = m.ClusterView()
            taken.CopyFrom(view)
            self._view = taken
            self._by_id = {node.info.node_id: node for node in taken.nodes}
            self._at = self._clock.monotonic()
            return True

    def _age(self) -> float:
        return float("inf") if self._at is None else max(0.0, self._clock.monotonic() - self._at)

    @property
    def age_seconds(self) -> float:
        """Since the view was told; infinite before the first."""
        with self._lock:
            return self._age()

    @property
    def cluster_id(self) -> str:
        with self._lock:
            return self._view.cluster_id

    def view(self) -> m.ClusterView:
        """The whole view; do not change it."""
        with self._lock:
            return self._view

    def nodes(self, selector: str = "", role: int | None = None) -> list[m.NodeView]:
        """The nodes that match, by id. Raises InvalidArgumentError for a bad selector."""
        wanted = selectors.parse(selector)
        with self._lock:
            found = list(self._by_id.values())
        return sorted(
            (
                node
                for node in found
                if (role is None or node.info.role == role) and wanted.matches(node.info.labels)
            ),
            key=lambda node: node.info.node_id,
        )

    def get(self, node_id: str) -> m.NodeView:
        """One node. Raises NotFoundError."""
        with self._lock:
            found = self._by_id.get(node_id)
        if found is None:
            raise NotFoundError(f"there is no node {node_id!r} in the cluster", next="dfsctl node ls")
        return found

    def coordinators(self) -> list[str]:
        """The gRPC addresses of the coordinators."""
        return [node.info.grpc for node in self.nodes(role=t.NODE_ROLE_COORDINATOR) if node.info.grpc]
