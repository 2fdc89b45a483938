"""Whom a node asks next: pure decisions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.cluster.following import REFUSED_SECONDS, Event, Following, judge
from quorumfs import errors

COORDINATORS = ["c1:1", "c2:1", "c3:1"]


def followed(first: str | None = None) -> Following:
    return Following(COORDINATORS, first)


def test_a_leader_that_answers_is_asked_again_after_the_interval() -> None:
    following = followed("c2:1")
    step = following.after(Event.ACCEPTED, None, 1.0, 0.0)
    assert (step.address, step.wait_seconds) == ("c2:1", 1.0)
    assert not following.searching
    assert following.after(Event.ACCEPTED, None, 1.0, 0.999).wait_seconds == pytest.approx(0.9, abs=0.001)


def test_a_hint_is_followed_at_once() -> None:
    following = followed("c1:1")
    assert following.after(Event.NOT_LEADER, "c3:1", 0.0, 0.5).address == "c3:1"
    assert following.after(Event.ACCEPTED, None, 1.0, 0.5).address == "c3:1"


def test_a_hint_to_a_stranger_is_followed_too() -> None:
    following = followed()
    following.after(Event.NOT_LEADER, "c9:1", 0.0, 0.5)
    assert following.address == "c9:1"
    following.after(Event.ACCEPTED, None, 1.0, 0.5)
    assert following.after(Event.SILENT, None, 0.0, 0.5).address in COORDINATORS


def test_a_silent_leader_is_left_for_the_others_at_once() -> None:
    following = followed("c1:1")
    step = following.after(Event.SILENT, None, 0.0, 0.5)
    assert step.address != "c1:1"
    assert step.wait_seconds == 0.0


def test_a_hint_to_the_one_that_was_just_silent_does_not_bring_the_search_back_to_it() -> None:
    following = followed("c1:1")
    following.after(Event.SILENT, None, 0.0, 0.5)
    asked = [following.after(Event.NOT_LEADER, "c1:1", 0.0, 0.5).address for _ in range(4)]
    assert "c1:1" not in asked


def test_a_busy_leader_is_asked_again_after_a_pause() -> None:
    following = followed("c1:1")
    step = following.after(Event.BUSY, None, 0.0, 0.5)
    assert step.address == "c1:1"
    assert step.wait_seconds > 0


def test_a_leader_that_refuses_this_node_is_asked_again_slowly() -> None:
    following = followed("c1:1")
    step = following.after(Event.REFUSED, None, 0.0, 0.0)
    assert (step.address, step.wait_seconds) == ("c1:1", REFUSED_SECONDS)


def test_coordinators_that_were_learnt_are_asked_in_the_next_search() -> None:
    following = Following(["c1:1"])
    following.after(Event.ACCEPTED, None, 1.0, 0.5)
    following.learn(["c4:1", ""])
    assert following.after(Event.SILENT, None, 0.0, 0.5).address == "c4:1"


@given(
    st.lists(st.tuples(st.sampled_from([Event.SILENT, Event.NOT_LEADER]), st.floats(0, 0.999)), min_size=40)
)
def test_a_search_without_a_leader_slows_down_and_never_ends(events: list[tuple[Event, float]]) -> None:
    following = followed()
    waits = [following.after(event, None, 0.0, chance).wait_seconds for event, chance in events]
    assert following.address in COORDINATORS
    assert sum(waits) >= 0.5  # 40 calls or more: the pauses between rounds have grown
    assert max(waits) <= 1.0


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (errors.NotLeaderError("no"), Event.NOT_LEADER),
        (errors.NoLeaderError("no"), Event.NOT_LEADER),
        (errors.FencedError("no"), Event.NOT_LEADER),
        (errors.UnavailableError("no"), Event.SILENT),
        (errors.TimedOutError("no"), Event.SILENT),
        (errors.OutcomeUnknownError("no"), Event.SILENT),
        (errors.UnauthenticatedError("no"), Event.SILENT),
        (errors.InternalError("no"), Event.SILENT),
        (errors.BusyError("no"), Event.BUSY),
        (errors.WrongClusterError("no"), Event.REFUSED),
        (errors.DuplicateNodeError("no"), Event.REFUSED),
        (errors.HistoryBehindError("no"), Event.REFUSED),
    ],
)
def test_errors_say_whom_to_ask(error: errors.QuorumFSError, event: Event) -> None:
    assert judge(error) is event
