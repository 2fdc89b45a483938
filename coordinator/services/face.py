"""What a coordinator shows of itself on the Admin face. Called on the admin threads, so it may wait a
little."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import grpc

from common import log
from common.lifecycle import Lifecycle
from common.memory import resident_bytes
from coordinator.services import view
from coordinator.services.gateway import Gateway
from coordinator.soft_state import SoftState
from quorumfs.clock import Clock
from quorumfs.errors import NoLeaderError, PreconditionFailedError
from quorumfs.limits import RPC_DEADLINE_SECONDS
from quorumfs.rpc.channels import ChannelSource
from quorumfs.rpc.status import from_rpc, raise_for
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import admin_pb2_grpc
from quorumfs.v1 import membership_pb2 as m

TICK_AGE_SECONDS_MAX = 2.0
APPLY_LAG_MAX = 10_000

_log = log.get(__name__)


class Process(Protocol):
    """What the face has to know of the process around it."""

    @property
    def state(self) -> str: ...

    def duties(self) -> list[a.Duty]: ...

    def control_duty(self, name: str, action: str) -> a.Duty: ...

    def hand_over(self) -> bool: ...


class CoordinatorFace:
    """The NodeFace (common/admin.py) of one coordinator."""

    def __init__(
        self,
        process: Process,
        gateway: Gateway,
        soft: SoftState,
        own: m.NodeView,
        lifecycle: Lifecycle,
        channels: Callable[[], ChannelSource],
        clock: Clock,
        loop_age: Callable[[], float],
        *,
        security_mode: str,
    ) -> None:
        self._process = process
        self._gateway = gateway
        self._soft = soft
        self._own = own
        self._lifecycle = lifecycle
        self._channels = channels
        self._clock = clock
        self._loop_age = loop_age
        self._security_mode = security_mode
        self._started = clock.monotonic()
        self._drain: threading.Timer | None = None
        self._lock = threading.Lock()

    # Questions

    def status(self) -> a.NodeStatus:
        gateway = self._gateway
        return a.NodeStatus(
            node=self._own.info,
            cluster_id=gateway.consensus.identity.cluster_id if gateway.attached else "",
            state=self._process.state,
            uptime_ms=int((self._clock.monotonic() - self._started) * 1000),
            leader=self.leader_view(),
            raft=view.raft_status(gateway, self._own),
            load=m.NodeLoad(rss_bytes=resident_bytes()),
            security_mode=self._security_mode,
            alarms=self.alarms(),
            pid=os.getpid(),
        )

    def alarms(self) -> list[a.Alarm]:
        """Of the leadership, if this member leads."""
        return [
            a.Alarm(code=code, message=message, since_wall_ms=since)
            for code, message, since in self._soft.alarms()
        ]

    def health(self) -> a.HealthReport:
        report = a.HealthReport()
        if self._security_mode == "insecure":
            report.warnings.append("security.mode is insecure: anybody who reaches the ports may use them")
        report.checks.append(self._loop_check())
        if not self._gateway.attached:
            report.live = report.checks[0].ok
            report.checks.add(name="cluster", ok=False, detail=self._gateway.waits)
            return report
        report.checks.extend(self._checks())
        report.live = all(check.ok for check in report.checks if check.liveness)
        report.ready = report.live and all(check.ok for check in report.checks)
        return report

    def _loop_check(self) -> a.Check:
        """Who hears nobody declares nobody dead and answers nobody, and would go on leading."""
        age = self._loop_age()
        turns = age < TICK_AGE_SECONDS_MAX
        return a.Check(
            name="grpc",
            ok=turns,
            liveness=True,
            age_seconds=age,
            detail="" if turns else f"the loop of the gRPC server has not turned for {age:.1f} s",
        )

    def _checks(self) -> list[a.Check]:
        state = self._gateway.consensus.status()
        leader = self._gateway.leader()
        lag = state.commit_index - state.applied_index
        turning = state.tick_age < TICK_AGE_SECONDS_MAX
        return [
            a.Check(
                name="raft",
                ok=turning,
                liveness=True,
                age_seconds=state.tick_age,
                detail="" if turning else f"the Raft loop has not turned for {state.tick_age:.1f} s",
            ),
            a.Check(
                name="apply",
                ok=lag <= APPLY_LAG_MAX,
                detail="" if lag <= APPLY_LAG_MAX else f"{lag} committed entries are not applied yet",
            ),
            a.Check(
                name="disk",
                ok=not state.disk_full,
                detail="the disk is full: this member takes no part until there is room"
                if state.disk_full
                else "",
            ),
            a.Check(
                name="leader",
                ok=leader is not None,
                detail=f"{leader.node_id} leads" if leader is not None else "no leader is known",
            ),
        ]

    def leader_view(self) -> a.LeaderView:
        result = a.LeaderView(
            observed_by=self._own.info.node_id, observed_wall_ms=self._clock.wall_ms(), source="raft"
        )
        if not self._gateway.attached:
            return result
        result.term = self._gateway.consensus.term
        leader = view.hint_of(self._gateway.leader())
        if leader is not None:
            result.leader.CopyFrom(leader)
        if self._gateway.leadership() is None:
            heard = self._gateway.consensus.heard_age()
            result.age_seconds = min(heard, 1e9) if leader is not None else self._gateway.leaderless_seconds()
        return result

    def labels(self) -> Mapping[str, str]:
        return dict(self._own.info.labels)

    def duties(self) -> Sequence[a.Duty]:
        return self._process.duties()

    # Orders

    def control_duty(self, name: str, action: str, params: Mapping[str, str]) -> a.Duty:
        return self._process.control_duty(name, action)

    def set_labels(self, set: Mapping[str, str], remove: Sequence[str]) -> Mapping[str, str]:  # noqa: A002
        """By an entry, through the leader. Raises QuorumFSError."""
        leader = self._gateway.leader()
        if leader is None:
            raise NoLeaderError(f"the labels of {self._own.info.node_id} cannot be changed now")
        request = a.SetNodeRequest(
            node_id=self._own.info.node_id, action="labels", labels=set, remove_labels=remove
        )
        stub = admin_pb2_grpc.ControlStub(self._channels().get(leader.grpc))
        try:
            answer = stub.SetNode(request, timeout=RPC_DEADLINE_SECONDS)
        except grpc.RpcError as error:
            raise from_rpc(error, f"setting labels at {leader.node_id}", sent=True) from error
        raise_for(answer.code, answer.error)
        for key in remove:
            self._own.info.labels.pop(key, None)
        self._own.info.labels.update(set)
        return self.labels()

    def shutdown(self, mode: str, drain_seconds: float, reason: str) -> tuple[str, str]:
        with self._lock:
            if self._lifecycle.stopping.is_set():
                return "stopping", "it ends already"
            self._lifecycle.again = mode == "restart"
            end: Callable[[], None] = lambda: self._lifecycle.stop(reason or "asked to")  # noqa: E731
            if mode == "fast" or drain_seconds <= 0:
                end()
                return "stopping", "the leadership is handed over, then the process ends"
            if self._drain is None:
                self._drain = threading.Timer(drain_seconds, end)
                self._drain.daemon = True
                self._drain.start()
        handed = self._process.hand_over()
        return "draining", f"ends in {drain_seconds:g} s" + (
            "; the leadership is handed over" if handed else ""
        )

    def cancel_shutdown(self) -> tuple[str, str]:
        with self._lock:
            if self._lifecycle.stopping.is_set():
                raise PreconditionFailedError("it is too late to take the shutdown back")
            if self._drain is None:
                raise PreconditionFailedError(
                    "there is no shutdown to cancel", cause="the node is not draining"
                )
            self._drain.cancel()
            self._drain = None
            self._lifecycle.again = False
        return self._process.state, "the shutdown is taken back"

    @property
    def draining(self) -> bool:
        return self._drain is not None
