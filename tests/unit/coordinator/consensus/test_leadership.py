"""What a majority's echoes prove and grant; how old a follower's state is, by what its leaders told."""

from __future__ import annotations

import math

import pytest

from coordinator.consensus.leadership import LEASE_SHARE, NEVER, Beats, Freshness

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


def test_a_lease_counts_from_when_the_round_was_sent_and_by_what_each_peer_promises() -> None:
    beats = Beats(("b", "c", "d", "e"))
    beats.restart(0.0)
    first, second = beats.send(1.0), beats.send(2.0)
    beats.echo("b", second, 0.1)
    assert beats.lease_until == NEVER
    beats.echo("c", first, 0.2)
    assert beats.lease_until == pytest.approx(1.0 + 0.2 * LEASE_SHARE)
    beats.echo("d", second, 0.1)
    assert beats.lease_until == pytest.approx(2.0 + 0.1 * LEASE_SHARE)
    beats.echo("e", second, 0.0)
    beats.echo("d", first, 0.1)
    beats.echo("c", second + 1, 9.0)
    assert beats.lease_until == pytest.approx(2.0 + 0.1 * LEASE_SHARE)


def test_there_is_no_lease_before_an_election_nor_after_a_leadership_nor_beyond_it() -> None:
    beats = Beats(("b", "c"))
    assert beats.lease_until == NEVER
    beats.restart(0.0)
    beats.echo("b", beats.send(1.0), 0.1)
    assert beats.lease_until > 1.0
    beats.give_up_lease()
    beats.echo("b", beats.send(2.0), 0.1)
    assert beats.lease_until == NEVER
    beats.restart(3.0)
    assert beats.lease_until == NEVER
    beats.echo("c", beats.send(3.0), 0.1)
    assert beats.lease_until > 3.0


def test_an_echo_of_a_round_that_a_majority_is_past_changes_nothing() -> None:
    beats = Beats(("b", "c"))
    beats.restart(0.0)
    first, second = beats.send(1.0), beats.send(2.0)
    beats.echo("b", second, 0.1)
    assert beats.quorum_sent_at(2.1) == 2.0
    beats.echo("c", first, 5.0)
    assert beats.lease_until == pytest.approx(2.0 + 0.1 * LEASE_SHARE)


def test_a_group_of_one_needs_no_promise() -> None:
    beats = Beats(())
    beats.restart(0.0)
    assert beats.lease_until == math.inf
    for moment in range(1000):
        beats.send(float(moment))
        beats.quorum_sent_at(float(moment))
    assert len(beats._sent) < 10, "nothing is kept of rounds that need no echo"
    beats.set_peers(("b", "c"))
    assert beats.lease_until == NEVER
