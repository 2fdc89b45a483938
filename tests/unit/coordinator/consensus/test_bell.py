"""The bell: one wait for each time it was rung, or more than once, before."""

from __future__ import annotations

import threading

from coordinator.consensus.bell import Bell


def test_rung_once_or_twice_it_lets_one_wait_through() -> None:
    bell = Bell()
    for times in (1, 2):
        assert not bell.rung
        for _ in range(times):
            bell.ring()
        assert bell.rung
        bell.wait()
    assert not bell.rung


def test_who_waits_is_woken() -> None:
    bell = Bell()
    thread = threading.Thread(target=bell.wait, daemon=True)
    thread.start()
    bell.ring()
    thread.join(10)
    assert not thread.is_alive()
