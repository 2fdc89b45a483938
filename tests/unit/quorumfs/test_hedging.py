"""When a late answer is asked for twice: late is relative, and hedges are a small part of the load."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumfs.hedging import HEDGES_PER_STREAM, Hedging
from quorumfs.limits import HEDGE_SECONDS_MAX, HEDGE_SECONDS_MIN


def test_the_delay_follows_what_answers_take() -> None:
    quick, slow = Hedging(), Hedging()
    for k in range(100):
        quick.answered(0.001)
        slow.answered(0.08 + 0.01 * (k % 3))
    assert quick.delay_seconds() == HEDGE_SECONDS_MIN
    assert 0.09 < slow.delay_seconds() < 0.3


@given(st.lists(st.floats(0, 100), max_size=50))
def test_the_delay_stays_within_its_bounds(seconds: list[float]) -> None:
    hedging = Hedging()
    for one in seconds:
        hedging.answered(one)
        assert HEDGE_SECONDS_MIN <= hedging.delay_seconds() <= HEDGE_SECONDS_MAX


def test_hedges_are_no_more_than_a_twentieth_of_the_streams() -> None:
    hedging, streams = Hedging(), 10_000
    in_hand = 2
    sent = 0
    for _ in range(streams):
        hedging.opened()
        sent += hedging.spend()
    assert sent <= streams * HEDGES_PER_STREAM + in_hand
    assert sent >= streams * HEDGES_PER_STREAM - 1


@pytest.mark.parametrize("streams", [0, 1000])
def test_what_was_not_needed_is_not_saved_up(streams: int) -> None:
    hedging = Hedging()
    for _ in range(streams):
        hedging.opened()
    assert [hedging.spend() for _ in range(4)] == [True, True, False, False]
