"""Duties: failures are counted and waited out, never fatal."""

from __future__ import annotations

import threading

import pytest

from common.workers import Workers, WorkerThread
from quorumfs.backoff import Backoff
from quorumfs.errors import InvalidArgumentError, NotFoundError


class Duty:
    def __init__(self, name: str = "duty", pause: float = 3600.0) -> None:
        self.name = name
        self.pause = pause
        self.failing = False
        self.worked = threading.Semaphore(0)

    def work(self) -> str:
        self.worked.release()
        if self.failing:
            raise RuntimeError("the disk is on fire")
        return "did one thing"

    def wait(self) -> float:
        return self.pause


def thread_of(duty: Duty) -> WorkerThread:
    return WorkerThread(duty, backoff=Backoff(1.0, 8.0), chance=lambda: 1.0)


def test_a_unit_is_counted_and_told() -> None:
    thread = thread_of(Duty(pause=7.0))
    assert thread.once() == 7.0
    status = thread.status()
    assert (status.runs, status.failures, status.last) == (1, 0, "did one thing")


def test_failures_pause_longer_and_longer_and_success_forgets_them() -> None:
    duty = Duty(pause=0.5)
    thread = thread_of(duty)
    duty.failing = True
    assert [thread.once() for _ in range(5)] == [1.0, 2.0, 4.0, 8.0, 8.0]
    status = thread.status()
    assert (status.runs, status.failures, status.last) == (5, 5, "failed: the disk is on fire")
    duty.failing = False
    assert thread.once() == 0.5
    duty.failing = True
    assert thread.once() == 1.0


def test_a_failing_duty_stays_alive_and_is_shown_as_failed() -> None:
    duty = Duty()
    duty.failing = True
    workers = Workers([duty])
    workers.start()
    try:
        assert duty.worked.acquire(timeout=10)
        workers.wake("duty")
        assert duty.worked.acquire(timeout=10)
    finally:
        assert workers.stop() == []
    assert workers.statuses()[0].failures == 2
    assert workers.duties()[0].state == "stopped"


def test_wake_ends_the_pause() -> None:
    duty = Duty()
    workers = Workers([duty])
    workers.start()
    try:
        assert duty.worked.acquire(timeout=10)
        workers.wake("duty")
        assert duty.worked.acquire(timeout=10)
    finally:
        assert workers.stop() == []


def test_a_paused_duty_works_again_when_resumed() -> None:
    duty = Duty()
    workers = Workers([duty])
    workers.control("duty", "pause")
    workers.start()
    try:
        assert workers.duties()[0].state == "paused"
        workers.control("duty", "resume")
        assert duty.worked.acquire(timeout=10)
    finally:
        assert workers.stop() == []


def test_stop_names_a_duty_that_does_not_end() -> None:
    release = threading.Event()
    entered = threading.Event()

    class Stuck(Duty):
        def work(self) -> str:
            entered.set()
            release.wait(30)
            return "at last"

    workers = Workers([Stuck("stuck"), Duty("other")])
    workers.start()
    try:
        assert entered.wait(10)
        assert workers.stop(seconds=0.05) == ["stuck"]
    finally:
        release.set()
    assert workers.stop(10) == []


def test_a_duty_has_one_name_and_knows_three_actions() -> None:
    workers = Workers([Duty("one")])
    with pytest.raises(InvalidArgumentError):
        workers.add(Duty("one"))
    with pytest.raises(NotFoundError, match="there is no duty 'two'"):
        workers.wake("two")
    with pytest.raises(InvalidArgumentError):
        workers.control("one", "dance")
