"""A peer that does not answer is left alone for a while, and tried again."""

from __future__ import annotations

import pytest

from quorumfs.clock import ManualClock
from quorumfs.errors import FencedError, QuorumFSError, TimedOutError, UnavailableError
from quorumfs.rpc.circuit import PAUSES, Circuits

SILENCE = TimedOutError("no answer")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def circuits(clock: ManualClock) -> Circuits:
    return Circuits(clock, lambda: 0.999)


def call(circuits: Circuits, error: QuorumFSError | None, peer: str = "d1") -> bool:
    """Whether it was let through."""
    try:
        circuits.admit(peer)
    except UnavailableError:
        return False
    circuits.ended(peer, error)
    return True


def test_who_answers_is_always_called(circuits: Circuits) -> None:
    assert all(call(circuits, None) for _ in range(100))


def test_a_refusal_is_an_answer(circuits: Circuits) -> None:
    assert all(call(circuits, FencedError("a later leader")) for _ in range(100))


def test_who_is_silent_costs_one_deadline_now_and_then(circuits: Circuits, clock: ManualClock) -> None:
    tried = 0
    for _ in range(600):
        tried += call(circuits, SILENCE)
        clock.advance(0.1)
    assert 4 <= tried <= 8
    assert call(circuits, SILENCE, "d2")  # nobody else is left alone for it


def test_one_call_decides_for_all_that_wait(circuits: Circuits, clock: ManualClock) -> None:
    call(circuits, SILENCE)
    clock.advance(PAUSES.most_seconds)
    circuits.admit("d1")
    with pytest.raises(UnavailableError):
        circuits.admit("d1")
    circuits.ended("d1", None)
    circuits.admit("d1")
    circuits.admit("d1")


def test_a_trial_that_never_ended_does_not_close_it_for_ever(circuits: Circuits, clock: ManualClock) -> None:
    call(circuits, SILENCE)
    clock.advance(PAUSES.most_seconds)
    circuits.admit("d1")
    clock.advance(PAUSES.most_seconds)
    circuits.admit("d1")
