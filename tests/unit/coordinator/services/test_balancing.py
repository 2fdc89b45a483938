"""What operators ask of the balancing, and tell it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from coordinator.decisions.balance import Move
from coordinator.duties.balance import Figures
from coordinator.metadata import settings
from coordinator.services.balancing import BalanceDesk
from quorumfs.errors import (
    BusyError,
    InvalidArgumentError,
    NotLeaderError,
    PreconditionFailedError,
    QuorumFSError,
)
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import types_pb2 as t
from tests.support.coordinator import Coordinator


class Duty:
    figures = Figures(moving=1, moved=2, moved_bytes=30, failed=4)

    def plan(self) -> Sequence[Move]:
        return [Move(b"c" * 16, 5, "d1", "d2")]


@pytest.fixture
def desk(leader: Coordinator) -> BalanceDesk:
    leader.lead("d1", "d2")
    for node_id, used in (("d1", 300), ("d2", 100)):
        disk = t.DiskInfo(disk_id=f"disk-{node_id}", used_bytes=used, free_bytes=1000 - used, state="ok")
        leader.beat(node_id, disks=[disk])
    return BalanceDesk(leader.gateway, leader.soft, Duty)


def control(leader: Coordinator, desk: BalanceDesk, action: str, **more: Any) -> a.BalanceStatus:
    return leader.run(lambda: desk.control(a.ControlBalanceRequest(action=action, **more)))


def test_the_status_says_how_full_each_node_is(leader: Coordinator, desk: BalanceDesk) -> None:
    status = leader.run(desk.status)
    assert (status.state, status.moving, status.moved, status.moved_bytes, status.failed) == (
        "off",
        1,
        2,
        30,
        4,
    )
    assert [(one.node_id, one.used_bytes, one.room_bytes, one.takes_part) for one in status.nodes] == [
        ("d1", 300, 1000, True),
        ("d2", 100, 1000, True),
    ]
    assert (status.excess_bytes, list(status.moves)) == (100, [])


def test_a_plan_is_told_when_it_is_asked_for(leader: Coordinator, desk: BalanceDesk) -> None:
    (move,) = leader.run(lambda: desk.status(plan=True)).moves
    assert (move.chunk, move.length, move.source, move.destination) == (b"c" * 16, 5, "d1", "d2")


def test_what_operators_say_is_replicated(leader: Coordinator, desk: BalanceDesk) -> None:
    told = control(leader, desk, "start", bytes_per_second=77, threshold_percent=3)
    assert (told.state, told.bytes_per_second, told.threshold_percent) == ("running", 77, 3)
    assert control(leader, desk, "pause").state == "paused"
    held = settings.load(leader.db)
    assert [held[f"balance.{key}"] for key in ("state", "bytes_per_second", "threshold_percent")] == [
        2,
        77,
        3,
    ]
    told = control(leader, desk, "resume", bytes_per_second=88)
    assert (told.state, told.bytes_per_second, told.threshold_percent) == ("running", 88, 3)


@pytest.mark.parametrize(
    ("action", "refusal"),
    [
        ("pause", PreconditionFailedError),
        ("resume", PreconditionFailedError),
        ("", InvalidArgumentError),
        ("dance", InvalidArgumentError),
    ],
)
def test_what_cannot_be_done_says_so(
    leader: Coordinator, desk: BalanceDesk, action: str, refusal: type[QuorumFSError]
) -> None:
    with pytest.raises(refusal):
        control(leader, desk, action)
    with pytest.raises(InvalidArgumentError):
        control(leader, desk, "start", threshold_percent=99)
    assert settings.load(leader.db)["balance.state"] == 0


def test_only_the_leader_answers(leader: Coordinator, desk: BalanceDesk) -> None:
    young = BalanceDesk(leader.gateway, leader.soft, lambda: None)
    with pytest.raises(BusyError):
        leader.run(young.status)
    leader.consensus.depose("c2")
    with pytest.raises(NotLeaderError):
        leader.run(desk.status)
