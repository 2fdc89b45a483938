"""Who may be stopped: never the last copy of a chunk, never a quorum, and not two who were let go one by one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coordinator.services.absences import RESERVED_SECONDS_MAX, Absences
from quorumfs.errors import InvalidArgumentError, NotFoundError, NotLeaderError, SafetyGuardError
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import types_pb2 as t
from tests.support.coordinator import SUSPECT_SECONDS, Coordinator


class Served:
    def __init__(self, leader: Coordinator) -> None:
        self.leader = leader
        self.absences = Absences(leader.gateway, leader.soft, leader.own, leader.clock)

    def __call__(self, *node_ids: str, seconds: float = 10.0, **fields: Any) -> str:
        request = a.ReserveAbsenceRequest(node_ids=node_ids, seconds=seconds, **fields)
        return self.leader.run(lambda: self.absences.reserve(request))


@pytest.fixture
def served(leader: Coordinator) -> Served:
    leader.lead("d1", "d2", "d3", "d4")
    return Served(leader)


def test_a_node_whose_chunks_others_have_may_go(leader: Coordinator, served: Served) -> None:
    leader.store(b"/x", "d1", "d2")
    assert served("d1") == "d1 may be stopped"


def test_nodes_that_hold_the_last_copies_may_not_go_together(leader: Coordinator, served: Served) -> None:
    leader.store(b"/x", "d1", "d2")
    with pytest.raises(SafetyGuardError, match="1 chunk has no replica"):
        served("d1", "d2")
    assert served("d1", "d3")


def test_who_is_silent_counts_as_away(leader: Coordinator, served: Served) -> None:
    leader.store(b"/x", "d1", "d2")
    leader.pass_time(SUSPECT_SECONDS + 1, "d1", "d3", "d4")
    with pytest.raises(SafetyGuardError, match="away are d2"):
        served("d1")


def test_a_copy_that_is_damaged_is_none(leader: Coordinator, served: Served) -> None:
    chunk = leader.store(b"/x", "d1", "d2")
    leader.become(chunk, "d2", t.REPLICA_STATE_CORRUPT)
    with pytest.raises(SafetyGuardError):
        served("d1")


def test_a_second_one_is_judged_as_if_the_first_were_gone_until_it_must_be(
    leader: Coordinator, served: Served
) -> None:
    leader.store(b"/x", "d1", "d2")
    served("d1", seconds=10.0)
    assert served("d1", seconds=10.0), "the same again is granted again"
    with pytest.raises(SafetyGuardError):
        served("d2")
    leader.pass_time(11.0, "d1", "d2", "d3", "d4")
    assert served("d2")


def test_of_two_who_ask_at_the_same_time_the_second_is_judged_as_if_the_first_were_gone(
    leader: Coordinator, served: Served
) -> None:
    leader.store(b"/x", "d1", "d2")

    async def both() -> list[object]:
        requests = [a.ReserveAbsenceRequest(node_ids=[one], seconds=10.0) for one in ("d1", "d2")]
        asked = [served.absences.reserve(one) for one in requests]
        return list(await asyncio.gather(*asked, return_exceptions=True))

    granted, refused = leader.run(both)
    assert granted == "d1 may be stopped"
    assert isinstance(refused, SafetyGuardError)


def test_who_is_back_does_not_count_as_away_any_more(leader: Coordinator, served: Served) -> None:
    leader.store(b"/x", "d1", "d2")
    served("d1", seconds=60.0)
    assert served("d2", seconds=60.0, back=["d1"])
    with pytest.raises(SafetyGuardError):
        served("d1")


def test_who_is_back_is_told_without_asking_for_another(leader: Coordinator, served: Served) -> None:
    leader.store(b"/x", "d1", "d2")
    served("d1", seconds=60.0)
    assert served(back=["d1"])
    assert served("d2")


def test_a_limit_is_kept(served: Served) -> None:
    group = ["d1", "d2", "d3", "d4"]
    served("d1", among=group, max_unavailable=1)
    with pytest.raises(SafetyGuardError, match="max_unavailable is 1"):
        served("d2", among=group, max_unavailable=1)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), RESERVED_SECONDS_MAX * 2])
def test_nonsense_is_refused(served: Served, seconds: float) -> None:
    with pytest.raises(InvalidArgumentError):
        served("d1", seconds=seconds)
    with pytest.raises(InvalidArgumentError):
        served()
    with pytest.raises(NotFoundError):
        served("d9")


def test_only_a_leader_knows(leader: Coordinator, served: Served) -> None:
    leader.consensus.depose("c2")
    with pytest.raises(NotLeaderError):
        served("d1")
