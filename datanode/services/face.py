"""What this datanode shows of itself on the Admin face, and how it is asked to end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc

from common import log
from common.cluster import ClusterNode, State
from common.lifecycle import Lifecycle
from common.workers import Workers
from datanode.store.chunks import ChunkStore
from datanode.store.fence import EpochStore
from datanode.transfer.admission import Gate
from quorumfs import limits
from quorumfs.errors import NoLeaderError, PreconditionFailedError
from quorumfs.rpc.channels import ChannelSource
from quorumfs.rpc.status import from_rpc, raise_for
from quorumfs.v1 import admin_pb2 as pb
from quorumfs.v1 import admin_pb2_grpc, membership_pb2
from quorumfs.v1.types_pb2 import Epoch

DRAIN_SECONDS_DEFAULT = 5.0
_POLL_SECONDS = 0.05
_log = log.get(__name__)


class Labels:
    """This node's labels: the file's, until the cluster says otherwise. Thread-safe."""

    def __init__(self, configured: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._labels = dict(configured)

    def get(self) -> dict[str, str]:
        with self._lock:
            return dict(self._labels)

    def replace(self, labels: Mapping[str, str]) -> None:
        """What the cluster has for this node."""
        with self._lock:
            self._labels = dict(labels)

    def change(self, put: Mapping[str, str], remove: Sequence[str]) -> None:
        with self._lock:
            kept = {key: value for key, value in self._labels.items() if key not in set(remove)}
            self._labels = {**kept, **put}


class Drain:
    """Lets the streams under way end while no new ones are taken, then asks the process to end."""

    def __init__(self, gates: Sequence[Gate], cluster: ClusterNode, lifecycle: Lifecycle) -> None:
        self._gates = gates
        self._cluster = cluster
        self._lifecycle = lifecycle
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def streams(self) -> int:
        return sum(gate.inside for gate in self._gates)

    def begin(self, seconds: float, reason: str) -> None:
        """Drain in the background, then end the process. Asked again: the first goes on."""
        with self._lock:
            if self._thread is not None:
                return
            self._cluster.begin_draining()
            self._cancelled = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(seconds, reason, self._cancelled), name="drain", daemon=True
            )
            self._thread.start()

    def cancel(self) -> None:
        """Take streams again. Raises PreconditionFailedError unless it drains, or when it is over with that."""
        if self._lifecycle.stopping.is_set():
            raise PreconditionFailedError(
                "there is no shutdown to cancel", cause="the node is ending already"
            )
        self._cluster.cancel_draining()
        self._cancelled.set()
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(1.0)
        for gate in self._gates:
            gate.reopen()

    def wait(self, seconds: float) -> bool:
        """Close the gates and wait until nobody is inside, at most so long; whether nobody is."""
        return self._wait(seconds, threading.Event())

    def _wait(self, seconds: float, cancelled: threading.Event) -> bool:
        for gate in self._gates:
            gate.close()
        until = time.monotonic() + seconds
        while self.streams and time.monotonic() < until and not cancelled.is_set():
            cancelled.wait(_POLL_SECONDS)
        return not self.streams

    def _run(self, seconds: float, reason: str, cancelled: threading.Event) -> None:
        self._wait(seconds, cancelled)
        if not cancelled.is_set():
            self._lifecycle.stop(reason)


class Answers(Protocol):
    """Whether the disks answer: see `datanode.duties.answering.Answers`."""

    def silent(self) -> list[str]: ...

    def check(self) -> pb.Check: ...


@dataclass(frozen=True, slots=True)
class DatanodeFace:
    """The NodeFace of a datanode. Any thread."""

    describe: Callable[[], membership_pb2.NodeInfo]
    cluster: ClusterNode
    store: ChunkStore
    fence: EpochStore
    load: Callable[[], membership_pb2.NodeLoad]
    node_labels: Labels
    workers: Workers
    drain: Drain
    lifecycle: Lifecycle
    channels: ChannelSource
    security_mode: str
    warnings: Sequence[str]
    started_at: float
    scrub: Callable[[], pb.ScrubStatus]
    answers: Answers

    def status(self) -> pb.NodeStatus:
        history, term = self.fence.epoch
        return pb.NodeStatus(
            node=self.describe(),
            cluster_id=self.cluster.cluster_id,
            state=self.cluster.state.value,
            uptime_ms=int((time.monotonic() - self.started_at) * 1000),
            leader=self.cluster.leader_view(),
            load=self.load(),
            highest_epoch=Epoch(history=history, term=term),
            highest_commit_index=self.fence.commit_index,
            security_mode=self.security_mode,
            last_heartbeat_age_seconds=self.cluster.heartbeat_age_seconds(),
            pid=os.getpid(),
            scrub=self.scrub(),
        )

    def health(self) -> pb.HealthReport:
        checks = [*self.liveness(), self._disk_check()]
        return pb.HealthReport(
            live=all(check.ok for check in checks if check.liveness),
            ready=all(check.ok for check in checks) and self.cluster.state is State.RUNNING,
            checks=checks,
            warnings=[*self.warnings, *self._disk_warnings()],
        )

    def liveness(self) -> list[pb.Check]:
        """What the heartbeats and the disks say; asks no disk anything, so it never hangs with one."""
        return [*self.cluster.checks(), self.answers.check()]

    def leader_view(self) -> pb.LeaderView:
        return self.cluster.leader_view()

    def labels(self) -> Mapping[str, str]:
        return self.node_labels.get()

    def set_labels(self, set: Mapping[str, str], remove: Sequence[str]) -> Mapping[str, str]:  # noqa: A002
        """Labels are the cluster's: the leader changes them, this node takes over what it says."""
        leader = self.cluster.leader
        if leader is None:
            raise NoLeaderError("the labels were not changed", cause="no leader is known")
        request = pb.SetNodeRequest(
            node_id=self.cluster.node_id, action="labels", labels=set, remove_labels=remove
        )
        stub = admin_pb2_grpc.ControlStub(self.channels.get(leader.grpc))
        try:
            answer = stub.SetNode(request, timeout=limits.RPC_DEADLINE_SECONDS)
        except grpc.RpcError as error:
            raise from_rpc(error, f"changing labels at {leader.grpc}", sent=True) from error
        raise_for(answer.code, answer.error)
        self.node_labels.change(set, remove)
        return self.node_labels.get()

    def shutdown(self, mode: str, drain_seconds: float, reason: str) -> tuple[str, str]:
        why = reason or "asked over the Admin face"
        if not self.lifecycle.stopping.is_set():
            self.lifecycle.again = mode == "restart"
        if mode == "fast":
            self.lifecycle.stop(why)
            return "stopping", "the node ends now"
        seconds = drain_seconds or DRAIN_SECONDS_DEFAULT
        self.drain.begin(seconds, why)
        return "draining", f"{self.drain.streams} streams may go on for up to {seconds:g} s"

    def cancel_shutdown(self) -> tuple[str, str]:
        self.drain.cancel()
        self.lifecycle.again = False
        return self.cluster.state.value, "the node takes streams again"

    def duties(self) -> Sequence[pb.Duty]:
        return [*self.workers.duties(), *self.cluster.duties.duties()]

    def control_duty(self, name: str, action: str, params: Mapping[str, str]) -> pb.Duty:
        own = {status.name for status in self.cluster.duties.statuses()}
        return (self.cluster.duties if name in own else self.workers).control(name, action)

    def _disk_check(self) -> pb.Check:
        usage = self.store.usage()
        good = [disk for disk in usage if disk.state == "ok"]
        return pb.Check(
            name="disks", ok=bool(good), detail=f"{len(good)} of {len(usage)} disks take new chunks"
        )

    def _disk_warnings(self) -> list[str]:
        sick = [
            f"disk {disk.path} is {disk.state}: {disk.error}"
            for disk in self.store.usage()
            if disk.state != "ok"
        ]
        return [*sick, *self.answers.silent()]
