"""Waits that end when nothing comes."""

from __future__ import annotations

import threading

import pytest

from quorumfs.watchdog import Watchdog
from tests.support.shortage import no_more_threads


def test_a_wait_that_takes_too_long_is_cancelled_and_knows_it() -> None:
    dog, cancelled = Watchdog(), threading.Event()
    with dog.limit(0.01, cancelled.set) as watch:
        assert cancelled.wait(20)
    assert watch.expired
    dog.close()


def test_a_short_wait_is_noticed_beside_a_long_one() -> None:
    dog, long, short = Watchdog(), threading.Event(), threading.Event()
    with dog.limit(60, long.set) as first, dog.limit(0.01, short.set) as second:
        assert short.wait(20)
        assert (first.expired, second.expired) == (False, True)
    dog.close()
    assert not long.is_set()


def test_a_wait_that_ends_in_time_is_left_alone() -> None:
    dog, cancelled = Watchdog(), threading.Event()
    with dog.limit(0.05, cancelled.set) as watch:
        pass
    assert not cancelled.wait(0.2)
    assert not watch.expired
    dog.close()


def test_closing_ends_the_thread() -> None:
    before = set(threading.enumerate())
    dog = Watchdog()
    with dog.limit(60, lambda: None):
        dog.close()
        dog.close()
    assert set(threading.enumerate()) <= before


def test_waits_have_their_limit_again_once_a_thread_can_be_started() -> None:
    dog, cancelled = Watchdog(), threading.Event()
    with no_more_threads(), pytest.raises(RuntimeError), dog.limit(60, lambda: None):
        pass
    with dog.limit(0.01, cancelled.set):
        assert cancelled.wait(20)
    dog.close()
