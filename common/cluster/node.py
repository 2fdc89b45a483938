"""`ClusterNode`: the active half of every node process: its state, and its dealings with the rest."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from enum import Enum

from common import log
from common.cluster.content import Agenda
from common.cluster.heartbeats import Heartbeats
from common.cluster.leader_tracker import LeaderTracker
from common.cluster.manager import NodeManager
from common.cluster.transport import Transport
from common.cluster.watching import OwnView, ViewFromCoordinators
from common.workers import Worker, Workers
from quorumfs.clock import Clock, SystemClock
from quorumfs.errors import Leader, PreconditionFailedError
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import membership_pb2 as m

_log = log.get(__name__)


class State(Enum):
    """Where a node is in its life, in the words of NodeStatus.state."""

    STARTING = "starting"
    WAITING_FOR_GENESIS = "waiting_for_genesis"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPING = "stopping"


class ClusterNode:
    """One per process. Made by `for_datanode` or `for_coordinator`; any thread may call anything.

    `tracker` and `nodes` are this node's knowledge of the leader and of the membership. `duties` are its own
    background workers (not the daemon's).
    """

    def __init__(
        self,
        node_id: str,
        describe: Callable[[], m.NodeInfo],
        tracker: LeaderTracker,
        nodes: NodeManager,
        watcher: Worker,
        heartbeats: Heartbeats | None,
        cluster_id: str,
        clock: Clock,
    ) -> None:
        self.node_id = node_id
        self.describe = describe
        self.tracker = tracker
        self.nodes = nodes
        self.duties = Workers([watcher])
        self.heartbeats = heartbeats
        self._cluster_id = cluster_id
        self._clock = clock
        self._lock = threading.Lock()
        self._ready = False
        self._ending: State | None = None

    @classmethod
    def for_datanode(
        cls,
        describe: Callable[[], m.NodeInfo],
        coordinators: Sequence[str],
        transport: Transport,
        agenda: Agenda,
        cluster_id: str = "",
        *,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
    ) -> ClusterNode:
        """A node that registers, sends heartbeats and follows the leader. `cluster_id` is empty until learnt.

        `describe` says who this node is, now: labels and addresses may change, id and UUID never.
        """
        clock = clock or SystemClock()
        node_id = describe().node_id
        tracker, nodes = LeaderTracker(node_id, clock), NodeManager(clock)
        heartbeats = Heartbeats(
            agenda, transport, tracker, describe, coordinators, cluster_id, clock=clock, chance=chance
        )
        watcher = ViewFromCoordinators(
            transport,
            tracker,
            nodes,
            coordinators,
            chance,
            own_sidecar=lambda: describe().http,
            advise=heartbeats.advise,
        )
        return cls(node_id, describe, tracker, nodes, watcher, heartbeats, cluster_id, clock)

    @classmethod
    def for_coordinator(
        cls,
        describe: Callable[[], m.NodeInfo],
        read_view: Callable[[], m.ClusterView],
        cluster_id: str = "",
        *,
        clock: Clock | None = None,
    ) -> ClusterNode:
        """A node whom Raft tells who leads (`observe_leader`) and whose own tables say who belongs."""
        clock = clock or SystemClock()
        node_id = describe().node_id
        tracker, nodes = LeaderTracker(node_id, clock), NodeManager(clock)
        return cls(node_id, describe, tracker, nodes, OwnView(read_view, nodes), None, cluster_id, clock)

    def start(self) -> None:
        self.duties.start()
        if self.heartbeats is not None:
            self.heartbeats.start()

    def stop(self, seconds: float = 3.0) -> None:
        """End the node's dealings with the cluster. The leader notices by its silence."""
        self.begin_stopping()
        if self.heartbeats is not None:
            self.heartbeats.stop(seconds)
        self.duties.stop(seconds)

    # State

    @property
    def state(self) -> State:
        with self._lock:
            if self._ending is not None:
                return self._ending
            ready = self._ready
        if self.heartbeats is not None:
            ready = ready or self.heartbeats.registered or self.heartbeats.age_seconds is not None
        if ready:
            return State.RUNNING
        return State.STARTING if self.cluster_id else State.WAITING_FOR_GENESIS

    @property
    def cluster_id(self) -> str:
        """Empty until the node belongs to a cluster."""
        return self.heartbeats.cluster_id if self.heartbeats is not None else self._cluster_id

    def joined(self, cluster_id: str) -> None:
        """A coordinator took part in genesis, or found its identity on the disk."""
        self._cluster_id = cluster_id

    def set_ready(self, ready: bool) -> None:
        """Whether a coordinator's own machinery turns (it has applied what it must); not for datanodes."""
        with self._lock:
            self._ready = ready

    def begin_draining(self) -> None:
        """The node finishes what it has and takes nothing new. Raises PreconditionFailedError if it stops."""
        with self._lock:
            if self._ending is State.STOPPING:
                raise PreconditionFailedError("the node is stopping", cause="it is too late to drain")
            self._ending = State.DRAINING
        _log.info("node.draining")

    def cancel_draining(self) -> None:
        """Take it back. Raises PreconditionFailedError unless the node is draining."""
        with self._lock:
            if self._ending is not State.DRAINING:
                raise PreconditionFailedError(
                    "there is no shutdown to cancel",
                    cause="the node is stopping already" if self._ending else "the node is not draining",
                )
            self._ending = None
        _log.info("node.draining_cancelled")

    def begin_stopping(self) -> None:
        with self._lock:
            self._ending = State.STOPPING

    # Leader

    @property
    def leader(self) -> Leader | None:
        return self.tracker.leader

    @property
    def silent(self) -> frozenset[str]:
        """Addresses of coordinators that did not answer the last heartbeat sent to them; of a datanode."""
        return self.heartbeats.silent if self.heartbeats is not None else frozenset()

    def observe_leader(self, leader: Leader | None, term: int = 0) -> None:
        """Raft has said who leads (coordinators)."""
        self.tracker.observe(leader, "raft", term)

    def leader_view(self) -> a.LeaderView:
        return self.tracker.view()

    def hurry(self) -> None:
        """There is something worth telling the leader now (a datanode's sealed chunk, a finished command)."""
        if self.heartbeats is not None:
            self.heartbeats.hurry()

    # Faces

    def heartbeat_age_seconds(self) -> float:
        """Since the leader last acknowledged a heartbeat; 0 on coordinators, -1 before the first."""
        if self.heartbeats is None:
            return 0.0
        age = self.heartbeats.age_seconds
        return -1.0 if age is None else age

    def sent(self) -> dict[str, int]:
        """Heartbeats, by how they ended; none on coordinators."""
        return {} if self.heartbeats is None else self.heartbeats.sent()

    def checks(self) -> list[a.Check]:
        """What this half contributes to a health report."""
        leader = self.tracker.leader
        checks = [
            a.Check(
                name="leader",
                ok=leader is not None,
                detail=f"{leader.node_id or leader.grpc} leads" if leader else "no leader is known",
                age_seconds=self.tracker.age_seconds,
            )
        ]
        if self.heartbeats is not None:
            turns = self.heartbeats.turning
            checks.append(
                a.Check(
                    name="heartbeat_loop", ok=turns, liveness=True, detail="turning" if turns else "stuck"
                )
            )
            registered = self.heartbeats.registered
            well = "the leader acknowledges" if registered else "no leader has acknowledged this node lately"
            checks.append(
                a.Check(
                    name="registered",
                    ok=registered,
                    detail=self.heartbeats.trouble or well,
                    age_seconds=max(0.0, self.heartbeat_age_seconds()),
                )
            )
        return checks
