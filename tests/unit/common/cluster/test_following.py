"""Whom a node asks next: pure decisions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.cluster.following import (
    REFUSED_SECONDS,
    TRIES_AT_ONCE,
    TRIES_PER_SECOND,
    Event,
    Following,
    judge,
)
from quorumfs import errors

COORDINATORS = ["c1:1", "c2:1", "c3:1"]


def followed(first: str | None = None) -> Following:
    return Following(COORDINATORS, first)


def test_a_leader_that_answers_is_asked_again_after_the_interval() -> None:
    following = followed("c2:1")
    step = following.after(Event.ACCEPTED, None, 1.0, 0.0, 0.0)
    assert (step.address, step.wait_seconds) == ("c2:1", 1.0)
    assert not following.searching
    assert following.after(Event.ACCEPTED, None, 1.0, 0.999, 0.0).wait_seconds == pytest.approx(
        0.9, abs=0.001
    )


def test_a_hint_is_followed_at_once() -> None:
    following = followed("c1:1")
    assert following.after(Event.NOT_LEADER, "c3:1", 0.0, 0.5, 0.0).address == "c3:1"
    assert following.after(Event.ACCEPTED, None, 1.0, 0.5, 0.0).address == "c3:1"


def test_a_hint_to_a_stranger_is_followed_too() -> None:
    following = followed()
    following.after(Event.NOT_LEADER, "c9:1", 0.0, 0.5, 0.0)
    assert following.address == "c9:1"
    following.after(Event.ACCEPTED, None, 1.0, 0.5, 0.0)
    assert following.after(Event.SILENT, None, 0.0, 0.5, 0.0).address in COORDINATORS


def test_a_silent_leader_is_left_for_the_others_at_once() -> None:
    following = followed("c1:1")
    step = following.after(Event.SILENT, None, 0.0, 0.5, 0.0)
    assert step.address != "c1:1"
    assert step.wait_seconds == 0.0


def test_a_hint_to_the_one_that_was_just_silent_does_not_bring_the_search_back_to_it() -> None:
    following = followed("c1:1")
    following.after(Event.SILENT, None, 0.0, 0.5, 0.0)
    asked = [following.after(Event.NOT_LEADER, "c1:1", 0.0, 0.5, 0.0).address for _ in range(4)]
    assert "c1:1" not in asked


def test_a_busy_leader_is_asked_again_after_a_pause() -> None:
    following = followed("c1:1")
    step = following.after(Event.BUSY, None, 0.0, 0.5, 0.0)
    assert step.address == "c1:1"
    assert step.wait_seconds > 0


def test_a_leader_that_refuses_this_node_is_asked_again_slowly() -> None:
    following = followed("c1:1")
    step = following.after(Event.REFUSED, None, 0.0, 0.0, 0.0)
    assert (step.address, step.wait_seconds) == ("c1:1", REFUSED_SECONDS)


def test_a_leader_that_goes_on_refusing_does_not_keep_a_node_from_one_that_would_not() -> None:
    """A group that leads an older history refuses whoever has obeyed a later one, whose leader is another."""
    following = followed("c1:1")
    following.after(Event.ACCEPTED, None, 1.0, 0.0, 0.0)
    step, asked = following.after(Event.SILENT, None, 0.0, 0.0, 0.0), 0
    while step.address != "c1:1":
        old = step.address == "c2:1"
        event, hint = (Event.REFUSED, None) if old else (Event.NOT_LEADER, "c2:1")
        before, now = step.address, 100.0 * asked
        step, asked = following.after(event, hint, 0.0, 0.0, now), asked + 1
        assert not old or step.wait_seconds >= REFUSED_SECONDS
        assert asked < 20, f"{before} is asked again and again"


def test_coordinators_that_were_learnt_are_asked_in_the_next_search() -> None:
    following = Following(["c1:1"])
    following.after(Event.ACCEPTED, None, 1.0, 0.5, 0.0)
    following.learn(["c4:1", ""])
    assert following.after(Event.SILENT, None, 0.0, 0.5, 0.0).address == "c4:1"


@given(
    st.lists(st.tuples(st.sampled_from([Event.SILENT, Event.NOT_LEADER]), st.floats(0, 0.999)), min_size=40)
)
def test_a_search_without_a_leader_slows_down_and_never_ends(events: list[tuple[Event, float]]) -> None:
    following = followed()
    waits: list[float] = []
    for event, chance in events:
        waits.append(following.after(event, None, 0.0, chance, sum(waits)).wait_seconds)
    assert following.address in COORDINATORS
    assert sum(waits) >= 0.5  # 40 calls or more: the pauses between rounds have grown
    assert max(waits) <= 1.0


@pytest.mark.parametrize("count", [3, 64])
def test_a_search_has_a_budget_however_many_there_are_to_ask_and_whatever_they_say(count: int) -> None:
    following = Following([f"c{number}:1" for number in range(count)])
    now, tries = 0.0, 0
    while now < 60:
        hint = f"c{(tries * 7 + 1) % count}:1"
        event = (Event.NOT_LEADER, Event.SILENT, Event.BUSY)[tries % 3]
        now += following.after(event, hint, 0.0, 0.0, now).wait_seconds
        tries += 1
    assert tries <= TRIES_AT_ONCE + 60 * TRIES_PER_SECOND + 1


def test_leaders_that_take_a_node_in_and_send_it_away_again_cannot_keep_it_running_in_circles() -> None:
    following = followed("c1:1")
    now, tries = 0.0, 0
    while now < 60:
        following.after(Event.ACCEPTED, None, 0.0, 0.5, now)  # a registration: the heartbeat follows at once
        now += following.after(Event.NOT_LEADER, "c2:1", 0.0, 0.5, now).wait_seconds
        tries += 2
    assert tries <= TRIES_AT_ONCE + 60 * TRIES_PER_SECOND + 2


def test_heartbeats_at_the_interval_take_nothing_of_the_budget() -> None:
    following = followed("c1:1")
    assert {following.after(Event.ACCEPTED, None, 0.1, 0.0, 0.1 * k).wait_seconds for k in range(1000)} == {
        0.1
    }


def test_a_leader_that_somebody_outside_names_is_asked_next_in_a_search_only() -> None:
    following = followed("c1:1")
    following.after(Event.ACCEPTED, None, 1.0, 0.5, 0.0)
    following.advise("c9:1")
    assert following.address == "c1:1"
    following.after(Event.SILENT, None, 0.0, 0.5, 0.0)
    following.advise("c9:1")
    assert following.address == "c9:1"
    following.after(Event.SILENT, None, 0.0, 0.5, 0.0)
    following.advise("c9:1")
    assert following.address != "c9:1"  # it was silent just now
    following.advise("c1:1")
    assert following.address != "c1:1"


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
