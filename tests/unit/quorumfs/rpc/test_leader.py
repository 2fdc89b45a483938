"""Finding the leader, as a dialogue: who is asked, what it says, who is asked next."""

from __future__ import annotations

import pytest

from quorumfs.backoff import Backoff
from quorumfs.rpc.leader import Outcome, Route, Step

NOT, SILENT, BUSY = Outcome.NOT_LEADER, Outcome.SILENT, Outcome.BUSY
BACKOFF = Backoff(first_seconds=1.0, most_seconds=8.0)


def route(*known: str, leader: str | None = None) -> Route:
    return Route(known, leader, BACKOFF)


def test_the_believed_leader_is_asked_first() -> None:
    assert route("a", "b", "c", leader="b").begin() == Step("b")
    assert route("a", "b", "c").begin() == Step("a")
    assert route("a", leader="x").begin() == Step("x")


def test_a_hint_is_followed_at_once() -> None:
    way = route("a", "b", "c")
    assert way.after("a", NOT, "c", 0) == Step("c")


def test_a_hint_to_a_coordinator_never_heard_of_is_followed() -> None:
    way = route("a")
    assert way.after("a", NOT, "new", 0) == Step("new")


def test_a_hint_to_the_one_that_was_silent_is_not_followed() -> None:
    way = route("a", "b", "c", leader="a")
    assert way.after("a", SILENT, None, 0) == Step("b")
    assert way.after("b", NOT, "a", 0) == Step("c")


def test_after_a_round_there_is_a_pause_that_grows() -> None:
    way = route("a", "b")
    assert way.after("a", NOT, None, 1.0) == Step("b")
    assert way.after("b", NOT, None, 1.0) == Step("a", 1.0)
    assert way.after("a", NOT, None, 1.0) == Step("b")
    assert way.after("b", NOT, None, 1.0) == Step("a", 2.0)


def test_a_dead_leader_is_left_out_while_the_others_elect() -> None:
    way = route("a", "b", "c", leader="a")
    step = way.after("a", SILENT, None, 0)
    asked = []
    for _ in range(6):
        asked.append(step.address)
        step = way.after(step.address, NOT, "a", 0)
    assert "a" not in asked
    assert way.after(step.address, NOT, "c", 0).address in ("c", "b")


def test_a_dead_leader_that_came_back_is_asked_again_in_the_end() -> None:
    way = route("a", "b", "c", leader="a")
    step = way.after("a", SILENT, None, 0)
    for _ in range(12):
        if step.address == "a":
            return
        step = way.after(step.address, NOT, None, 0)
    pytest.fail("a was never asked again")


def test_two_that_point_at_each_other_do_not_make_a_loop_without_pauses() -> None:
    way = route("a", "b")
    step, waited = way.begin(), 0.0
    for _ in range(20):
        step = way.after(step.address, NOT, "b" if step.address == "a" else "a", 0.5)
        waited += step.wait_seconds
    assert waited > 10


def test_a_busy_leader_is_asked_again_after_a_pause() -> None:
    way = route("a", "b", leader="b")
    assert way.after("b", BUSY, None, 1.0) == Step("b", 1.0)
    assert way.after("b", BUSY, None, 1.0) == Step("b", 2.0)


def test_when_all_are_silent_all_are_asked_again() -> None:
    way = route("a", "b")
    assert way.after("a", SILENT, None, 1.0) == Step("b")
    assert way.after("b", SILENT, None, 1.0) == Step("a", 1.0)


def test_a_single_coordinator_is_asked_again_and_again() -> None:
    way = route("a")
    assert way.after("a", SILENT, None, 1.0) == Step("a", 1.0)
    assert way.after("a", NOT, None, 1.0) == Step("a", 2.0)


def test_chance_makes_the_pause_shorter_by_at_most_half() -> None:
    assert route("a").after("a", NOT, None, 0.0).wait_seconds == 0.5


def test_nobody_known_is_an_error() -> None:
    with pytest.raises(ValueError, match="coordinator"):
        route()
