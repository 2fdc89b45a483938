"""How old a follower's state is, by what its leaders told."""

from __future__ import annotations

from coordinator.consensus.leadership import NEVER, Freshness

OF_TERM_TWO = dict.fromkeys(range(10, 30), 2).get


def test_nothing_is_known_of_a_state_before_a_leader_was_heard() -> None:
    found = Freshness()
    found.applied(20, OF_TERM_TWO)
    assert found.as_of == NEVER


def test_a_state_is_as_of_the_message_whose_committed_entries_it_has() -> None:
    found = Freshness()
    found.heard(1.0, 2, 12)
    found.applied(11, OF_TERM_TWO)
    assert found.as_of == NEVER
    found.applied(12, OF_TERM_TWO)
    assert found.as_of == 1.0


def test_who_hears_a_leader_and_takes_nothing_in_grows_old() -> None:
    found = Freshness()
    found.heard(1.0, 2, 12)
    found.applied(12, OF_TERM_TWO)
    for moment in range(2, 100):
        found.heard(float(moment), 2, 13)
        found.applied(12, OF_TERM_TWO)
    assert found.as_of == 1.0


def test_a_state_that_always_lags_a_little_is_known_to_be_no_older_than_that() -> None:
    found = Freshness()
    for index in range(10, 30):
        found.heard(float(index), 2, index)
        found.applied(index - 3, OF_TERM_TWO)
        assert index < 16 or found.as_of >= index - 6


def test_a_leader_that_was_just_elected_does_not_know_yet_what_is_committed() -> None:
    found = Freshness()
    found.heard(5.0, 3, 12)
    found.applied(20, OF_TERM_TWO)
    assert found.as_of == NEVER
    found.heard(6.0, 3, 21)
    found.applied(21, lambda index: 3 if index == 21 else 2)
    assert found.as_of == 6.0


def test_a_leader_knows_by_its_last_round() -> None:
    found = Freshness()
    found.led(4.0)
    found.led(3.0)
    assert found.as_of == 4.0
