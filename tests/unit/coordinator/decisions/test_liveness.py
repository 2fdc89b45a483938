"""Liveness: what silence says."""

from __future__ import annotations

import pytest

from coordinator.decisions.liveness import Liveness, Signs, Timing, judge, with_margin

TIMING = Timing(suspect_seconds=3, dead_seconds=30)
LEADING_SINCE = 100.0


@pytest.mark.parametrize(
    ("silence", "state"),
    [
        (0.0, Liveness.ALIVE),
        (2.9, Liveness.ALIVE),
        (3.0, Liveness.SUSPECT),
        (29.9, Liveness.SUSPECT),
        (30.0, Liveness.DEAD),
        (3000.0, Liveness.DEAD),
    ],
)
def test_silence_makes_suspect_then_dead(silence: float, state: Liveness) -> None:
    assert judge(Signs(last_heard=1000.0), TIMING, LEADING_SINCE, 1000.0 + silence) is state


def test_a_new_leader_gives_everybody_the_full_time_to_report() -> None:
    unheard = Signs(last_heard=None)
    assert judge(unheard, TIMING, LEADING_SINCE, LEADING_SINCE + 29) is not Liveness.DEAD
    assert judge(unheard, TIMING, LEADING_SINCE, LEADING_SINCE + 30) is Liveness.DEAD


def test_a_heartbeat_from_before_this_leadership_does_not_shorten_the_time() -> None:
    early = Signs(last_heard=LEADING_SINCE - 500)
    assert judge(early, TIMING, LEADING_SINCE, LEADING_SINCE + 29) is not Liveness.DEAD


def test_a_dead_node_that_is_heard_again_is_returning_before_it_is_alive() -> None:
    back = Signs(last_heard=500.0, heard_since=500.0, was=Liveness.DEAD)
    assert judge(back, TIMING, LEADING_SINCE, 500.5) is Liveness.RETURNING
    steady = Signs(last_heard=503.0, heard_since=500.0, was=Liveness.RETURNING)
    assert judge(steady, TIMING, LEADING_SINCE, 503.0) is Liveness.ALIVE


def test_a_returning_node_that_falls_silent_is_dead_again() -> None:
    flapping = Signs(last_heard=500.0, heard_since=499.0, was=Liveness.RETURNING)
    assert judge(flapping, TIMING, LEADING_SINCE, 504.0) is Liveness.DEAD


@pytest.mark.parametrize(("lapses", "seconds"), [(2, 3), (3, 6), (4, 12), (5, 24), (6, 30), (1000, 30)])
def test_one_that_falls_silent_again_and_again_must_be_heard_for_longer_and_longer(
    lapses: int, seconds: float
) -> None:
    for was in (Liveness.SUSPECT, Liveness.RETURNING):
        early = Signs(last_heard=500.0 + seconds - 0.5, heard_since=500.0, was=was, lapses=lapses)
        assert judge(early, TIMING, LEADING_SINCE, 500.0 + seconds - 0.1) is was
        assert judge(early, TIMING, LEADING_SINCE, 500.0 + seconds) is Liveness.ALIVE


def test_what_was_never_suspect_is_not_held_back() -> None:
    steady = Signs(last_heard=500.0, heard_since=499.0, was=Liveness.ALIVE, lapses=7)
    assert judge(steady, TIMING, LEADING_SINCE, 500.5) is Liveness.ALIVE


def test_a_suspect_node_is_alive_with_its_next_heartbeat() -> None:
    heard = Signs(last_heard=500.0, heard_since=500.0, was=Liveness.SUSPECT)
    assert judge(heard, TIMING, LEADING_SINCE, 500.0) is Liveness.ALIVE


@pytest.mark.parametrize(("suspect", "dead"), [(3.0, 30.0), (1.5, 4.0), (0.6, 1.0), (60.0, 3600.0)])
def test_what_is_configured_is_the_latest_though_the_leader_looks_only_now_and_then(
    suspect: float, dead: float
) -> None:
    timing = with_margin(suspect, dead, heartbeat_seconds=0.3)
    assert timing.suspect_seconds == max(suspect * 0.9, suspect - 0.5)
    assert timing.dead_seconds == max(dead * 0.9, dead - 0.5)
    assert judge(Signs(1000.0), timing, 0.0, 1000.0 + suspect - min(0.1, suspect / 20)) is Liveness.SUSPECT
    assert judge(Signs(1000.0), timing, 0.0, 1000.0 + dead - min(0.25, dead / 20)) is Liveness.DEAD


def test_a_node_whose_heartbeats_are_in_time_is_not_suspect_however_close_the_two_are_configured() -> None:
    timing = with_margin(suspect_seconds=1.1, dead_seconds=1.2, heartbeat_seconds=1.0)
    assert judge(Signs(1000.0), timing, 0.0, 1001.04) is Liveness.ALIVE
    assert judge(Signs(1000.0), timing, 0.0, 1001.06) is Liveness.SUSPECT
    assert judge(Signs(1000.0), timing, 0.0, 1001.11) is Liveness.DEAD
