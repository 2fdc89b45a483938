"""What a coordinator shows of itself on the Admin face, and how it is asked to end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from common.lifecycle import Lifecycle
from coordinator.decisions.liveness import Timing
from coordinator.services.face import CoordinatorFace
from coordinator.services.gateway import Gateway
from coordinator.soft.turning import Turning
from coordinator.soft_state import SoftState
from quorumfs.clock import ManualClock
from quorumfs.errors import PreconditionFailedError
from quorumfs.rpc.channels import ChannelSource
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import membership_pb2 as m

LONG_SECONDS = 3000.0


class Process:
    state = "running"

    def duties(self) -> list[a.Duty]:
        return []

    def control_duty(self, name: str, action: str) -> a.Duty:
        raise AssertionError

    def hand_over(self) -> bool:
        return False


def nobody() -> ChannelSource:
    raise AssertionError


@pytest.fixture
def lifecycle() -> Lifecycle:
    return Lifecycle({})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def loop(clock: ManualClock) -> Turning:
    return Turning(clock, stuck_seconds=3.0)


@pytest.fixture
def face(lifecycle: Lifecycle, clock: ManualClock, loop: Turning) -> CoordinatorFace:
    own = m.NodeView(info=m.NodeInfo(node_id="c1"))
    channels: Callable[[], ChannelSource] = nobody
    return CoordinatorFace(
        Process(),
        Gateway(clock, "c1"),
        SoftState(clock, Timing(2.0, 10.0)),
        own,
        lifecycle,
        channels,
        clock,
        loop.age_seconds,
        security_mode="loopback",
    )


def test_a_shutdown_is_taken_back_while_it_drains_and_only_then(
    face: CoordinatorFace, lifecycle: Lifecycle
) -> None:
    with pytest.raises(PreconditionFailedError, match="not draining"):
        face.cancel_shutdown()
    assert face.shutdown("restart", LONG_SECONDS, "upgrade")[0] == "draining"
    assert face.cancel_shutdown()[0] == "running"
    assert not face.draining
    assert not lifecycle.again
    with pytest.raises(PreconditionFailedError, match="not draining"):
        face.cancel_shutdown()
    face.shutdown("fast", 0.0, "")
    with pytest.raises(PreconditionFailedError, match="too late"):
        face.cancel_shutdown()


def test_a_coordinator_tells_what_memory_it_holds(face: CoordinatorFace) -> None:
    assert face.status().load.rss_bytes > 1 << 20


def test_a_coordinator_whose_grpc_loop_is_stuck_does_not_live(
    face: CoordinatorFace, clock: ManualClock, loop: Turning
) -> None:
    clock.advance(30.0)
    health = face.health()
    assert not health.live
    assert "30.0 s" in health.checks[0].detail
    loop.turned()
    assert face.health().live
