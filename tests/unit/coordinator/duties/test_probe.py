"""Nodes whose heartbeats are late are asked whether they are there."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from coordinator.duties.liveness import LivenessDuty
from coordinator.duties.probe import DEAD_EVERY_SECONDS, ProbeDuty
from tests.support.coordinator import Coordinator


class Network:
    """Who answers probes."""

    def __init__(self) -> None:
        self.answering: set[str] = set()
        self.asked: list[str] = []

    def __call__(self, addresses: Mapping[str, str]) -> frozenset[str]:
        self.asked += addresses
        return frozenset(self.answering & addresses.keys())


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def duty(leader: Coordinator, network: Network) -> ProbeDuty:
    leader.lead("d1", "d2")
    return ProbeDuty(leader.soft, network, leader.clock)


def test_nobody_is_asked_while_heartbeats_come(duty: ProbeDuty, network: Network) -> None:
    assert duty.work() == "every heartbeat is in time"
    assert network.asked == []


@pytest.mark.parametrize("answers", [True, False])
def test_the_alarm_tells_a_node_that_is_cut_off_from_one_that_is_dead(
    leader: Coordinator, duty: ProbeDuty, network: Network, answers: bool
) -> None:
    liveness = LivenessDuty(leader.soft)
    network.answering = {"d1"} if answers else set()
    for _ in range(31):
        leader.clock.advance(1)
        leader.beat("d2")
        duty.work()
        liveness.work()
    ((code, message, _),) = leader.soft.alarms()
    assert code == "node_dead:d1"
    assert ("cut off" in message) is answers
    assert set(network.asked) == {"d1"}


def test_a_node_that_is_heard_again_is_not_cut_off_any_more(
    leader: Coordinator, duty: ProbeDuty, network: Network
) -> None:
    network.answering = {"d1"}
    leader.pass_time(4, "d2")
    duty.work()
    assert leader.soft.is_cut_off("d1")
    leader.beat("d1")
    assert not leader.soft.is_cut_off("d1")


def test_who_is_dead_is_asked_now_and_then_only(
    leader: Coordinator, duty: ProbeDuty, network: Network
) -> None:
    leader.pass_time(31, "d2")
    for _ in range(int(3 * DEAD_EVERY_SECONDS)):
        duty.work()
        leader.pass_time(1, "d2")
    assert len(network.asked) == 3
