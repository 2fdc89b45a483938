"""A leadership from its beginning to its end: soft state, then the duties, and all of it thrown away after."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest

from common.workers import Worker
from coordinator.consensus import Leadership
from coordinator.duties.tenure import Tenure
from quorumfs.errors import BusyError
from tests.support.coordinator import Coordinator
from tests.support.waiting import eventually


class Counted:
    """A duty that counts its units."""

    name = "counted"

    def __init__(self, leadership: Leadership) -> None:
        self.leadership = leadership
        self.units = 0

    def work(self) -> str:
        self.units += 1
        return f"unit {self.units}"

    def wait(self) -> float:
        return 0.001


class Tenancy:
    """A tenure, and the duties that it made."""

    def __init__(self, leader: Coordinator) -> None:
        self.made: list[Counted] = []
        self.fail_with: list[Exception] = []
        self.tenure = Tenure(leader.desk, leader.soft, self.make)

    def make(self, leadership: Leadership) -> Sequence[Worker]:
        if self.fail_with:
            raise self.fail_with.pop()
        self.made.append(Counted(leadership))
        return [self.made[-1]]


@pytest.fixture
def tenancy(leader: Coordinator) -> Iterator[Tenancy]:
    made = Tenancy(leader)
    yield made
    made.tenure.stop()
    assert made.tenure.duties is None
    assert "tenure" not in [thread.name for thread in threading.enumerate()]


def test_duties_work_while_the_member_leads(leader: Coordinator, tenancy: Tenancy) -> None:
    tenancy.tenure.start()
    eventually(lambda: bool(tenancy.made) and tenancy.made[0].units > 1)
    assert leader.soft.leading
    leader.consensus.depose("c2")
    assert not leader.soft.leading  # at once: nobody is answered from what is known no more
    eventually(lambda: tenancy.tenure.duties is None)
    units = tenancy.made[0].units
    leader.consensus.lead(2)
    eventually(lambda: len(tenancy.made) == 2 and tenancy.made[1].units > 1)
    assert tenancy.made[0].units <= units + 1
    assert leader.soft.epoch().term == 2


def test_a_member_that_does_not_lead_has_no_duties(leader: Coordinator, tenancy: Tenancy) -> None:
    leader.consensus.depose("c2")
    tenancy.tenure.start()
    leader.consensus.lead(2)
    eventually(lambda: bool(tenancy.made))
    assert [one.leadership.term for one in tenancy.made] == [2]


def test_a_leadership_that_is_over_before_it_began_makes_no_duties(
    leader: Coordinator, tenancy: Tenancy
) -> None:
    for term in range(2, 12):
        leader.consensus.lead(term)
        tenancy.tenure.on_leadership(leader.consensus.leadership())
        tenancy.tenure.on_leadership(None)
    leader.consensus.depose("c2")
    tenancy.tenure.start()
    leader.consensus.lead(20)
    eventually(lambda: bool(tenancy.made))
    assert [one.leadership.term for one in tenancy.made] == [20]


@pytest.mark.parametrize("failure", [BusyError("too many questions wait"), RuntimeError("no more threads")])
def test_who_leads_and_could_not_begin_tries_again(
    leader: Coordinator, tenancy: Tenancy, failure: Exception
) -> None:
    tenancy.fail_with.append(failure)
    tenancy.tenure.start()
    eventually(lambda: bool(tenancy.made) and tenancy.made[0].units > 0)
    assert leader.soft.leading
