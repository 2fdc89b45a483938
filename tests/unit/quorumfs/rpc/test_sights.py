"""What a first look at the coordinators tells: whom to ask, in which order, and whether anybody is about to lead."""

from __future__ import annotations

from quorumfs.errors import UnavailableError
from quorumfs.limits import LEADERLESS_SECONDS
from quorumfs.rpc.sights import Sights
from quorumfs.v1 import admin_pb2, types_pb2
from tests.unit.quorumfs.fakes import hanging, refused, timed_out, with_trailer

LONG = LEADERLESS_SECONDS + 1


def view(who: str, leader: str = "", age: float = 0.0) -> admin_pb2.LeaderView:
    hint = types_pb2.LeaderHint(node_id=leader, grpc=f"{leader}:1" if leader else "")
    return admin_pb2.LeaderView(observed_by=who, leader=hint, age_seconds=age)


def look() -> Sights:
    return Sights(["c1:1", "c2:1", "c3:1"])


def test_the_one_that_says_that_it_leads_ends_the_look() -> None:
    sights = look()
    assert sights.next() == "c1:1"
    sights.answered("c1:1", view("c1", "c1"))
    assert (sights.leader, sights.next()) == ("c1:1", None)


def test_whom_one_names_is_asked_next_also_when_nobody_knew_it() -> None:
    sights = look()
    sights.answered(sights.next() or "", view("c1", "c9"))
    assert sights.next() == "c9:1"
    assert sights.leader is None, "only the leader itself says that it leads"


def test_who_is_silent_is_asked_last_from_then_on() -> None:
    sights = look()
    sights.failed(sights.next() or "", timed_out())
    sights.answered(sights.next() or "", view("c2", "c2"))
    assert sights.in_order() == ["c2:1", "c3:1", "c1:1"]


def test_when_all_that_answer_have_heard_nobody_for_long_nobody_is_about_to_lead() -> None:
    sights = look()
    sights.failed(sights.next() or "", refused())
    sights.failed(sights.next() or "", timed_out())
    sights.answered(sights.next() or "", view("c3", age=LONG))
    assert sights.leaderless() == "c1:1 does not run; c2:1 does not answer; c3 has heard no leader for 4 s"


def test_one_that_hangs_takes_connections_and_is_not_said_not_to_run() -> None:
    sights = look()
    sights.failed(sights.next() or "", refused())
    sights.failed(sights.next() or "", hanging())
    sights.answered(sights.next() or "", view("c3", age=LONG))
    assert sights.said["c2:1"] == "c2:1 does not answer"
    sights = look()
    for _ in range(2):
        sights.failed(sights.next() or "", hanging())
    sights.answered(sights.next() or "", view("c3", age=LONG))
    assert sights.leaderless() == "", "it may lead, for all that is known"


def test_one_that_is_cut_off_does_not_speak_for_those_that_are_slow() -> None:
    sights = look()
    sights.answered(sights.next() or "", view("c1", age=LONG))
    sights.failed(sights.next() or "", timed_out())
    sights.failed(sights.next() or "", timed_out())
    assert sights.leaderless() == ""


def test_an_election_is_waited_for() -> None:
    sights = look()
    sights.answered("c1:1", view("c1", age=LONG))
    sights.answered("c2:1", view("c2", age=0.4))
    sights.failed("c3:1", refused())
    assert sights.leaderless() == ""


def test_one_that_is_starting_speaks_against_it() -> None:
    sights = look()
    sights.answered("c1:1", view("c1", age=LONG))
    sights.failed("c2:1", with_trailer(UnavailableError("it reads its log")))
    assert sights.leaderless() == ""


def test_a_leader_that_is_named_and_silent_is_not_taken_for_none() -> None:
    sights = look()
    sights.answered("c1:1", view("c1", "c2", age=0.3))
    sights.failed("c2:1", timed_out())
    sights.answered("c3:1", view("c3", age=LONG))
    assert sights.leaderless() == ""


def test_nobody_at_all_is_no_verdict() -> None:
    sights = look()
    for _ in range(3):
        sights.failed(sights.next() or "", refused())
    assert sights.leaderless() == ""
