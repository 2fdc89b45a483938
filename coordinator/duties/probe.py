"""Asks datanodes whose heartbeats are late whether they are there: one that answers is cut off, not dead.

Nothing is decided by it. A node that cannot tell the leader anything counts as dead like any other, for what it holds
may be out of reach of others as well; but whoever reads the alarm looks at the network instead of at the machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common import log
from coordinator.decisions.liveness import Liveness
from coordinator.soft_state import SoftState
from quorumfs.clock import Clock
from quorumfs.errors import QuorumFSError
from quorumfs.rpc.channels import ChannelSource

PROBE_SECONDS = 1.0  # of one probe
LOOK_SECONDS = 1.0
DEAD_EVERY_SECONDS = 10.0  # who has been silent for long is asked so often only
AT_ONCE_MAX = 32

_log = log.get(__name__)


class Prober(Protocol):
    """Asks all of them at the same time; within PROBE_SECONDS, who has answered, be it with a refusal."""

    def __call__(self, addresses: Mapping[str, str]) -> frozenset[str]: ...


class HealthProber:
    """By the standard health service, which every node serves to everybody. One thread."""

    def __init__(self, channels: ChannelSource) -> None:
        self._channels = channels

    def __call__(self, addresses: Mapping[str, str]) -> frozenset[str]:
        calls = {}
        for node_id, address in addresses.items():
            try:
                stub = health_pb2_grpc.HealthStub(self._channels.get(address))
            except (QuorumFSError, ValueError):
                continue
            calls[node_id] = stub.Check.future(health_pb2.HealthCheckRequest(), timeout=PROBE_SECONDS)
        return frozenset(node_id for node_id, call in calls.items() if _answered(call))


class ProbeDuty:
    name = "probe"

    def __init__(self, soft: SoftState, probe: Prober, clock: Clock) -> None:
        self._soft = soft
        self._probe = probe
        self._clock = clock
        self._dead_due = clock.monotonic()

    def work(self) -> str:
        late = self._late()
        if not late:
            return "every heartbeat is in time"
        answered = self._probe(late)
        for node_id in late:
            if self._soft.probed(node_id, node_id in answered):
                tell = _log.warning if node_id in answered else _log.info
                tell("node.probed", node=node_id, answers=node_id in answered)
        return f"of {len(late)} late nodes {len(answered)} answer"

    def wait(self) -> float:
        return LOOK_SECONDS

    def _late(self) -> dict[str, str]:
        """Addresses of the nodes to ask now."""
        of: dict[Liveness, list[str]] = {Liveness.SUSPECT: [], Liveness.DEAD: []}
        for node_id, pulse in self._soft.pulses().items():
            if pulse.liveness in of:
                of[pulse.liveness].append(node_id)
        dead: Sequence[str] = ()
        if self._clock.monotonic() >= self._dead_due:
            dead, self._dead_due = of[Liveness.DEAD], self._clock.monotonic() + DEAD_EVERY_SECONDS
        return self._addresses([*of[Liveness.SUSPECT], *dead][:AT_ONCE_MAX])

    def _addresses(self, node_ids: Iterable[str]) -> dict[str, str]:
        known = self._soft.known()
        return {one: known[one].info.grpc for one in node_ids if one in known and known[one].info.grpc}


def _answered(call: Any) -> bool:
    """Also a refusal is an answer: somebody is there."""
    try:
        call.result(PROBE_SECONDS)
    except grpc.RpcError as error:
        return error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    except (grpc.FutureTimeoutError, grpc.FutureCancelledError):
        return False
    return True
