from __future__ import annotations

import threading

import pytest

from dfsctl.parallel import Failure, for_each, raise_failures
from quorumfs.errors import NoLeaderError, NotFoundError, PartialError


def test_every_item_is_worked_on_and_single_failures_are_told() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item % 10 == 3:
            raise NotFoundError(f"{item} is gone")
        done.append(item)

    failures = for_each(range(100), work, str)
    assert len(done) == 90
    assert sorted(one.path for one in failures) == sorted(str(k) for k in range(3, 100, 10))


def test_what_concerns_all_ends_it_at_once() -> None:
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        raise NoLeaderError("nobody leads")

    with pytest.raises(NoLeaderError):
        for_each(range(10_000), work, str, threads=2)
    assert len(begun) < 100


def test_a_local_file_that_cannot_be_read_is_one_failure() -> None:
    def work(item: str) -> None:
        raise PermissionError(13, "Permission denied", item)

    (failure,) = for_each(["x"], work, str)
    assert failure.error.exit_code == 6


def test_no_more_than_the_threads_work_at_once() -> None:
    now, most, lock = 0, 0, threading.Lock()

    def work(_: int) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        with lock:
            now -= 1

    for_each(range(500), work, str, threads=3)
    assert 1 <= most <= 3


def test_one_failure_alone_is_told_as_it_is_and_several_as_partial() -> None:
    failure = Failure("/x", NotFoundError("gone"))
    raise_failures([], 5, "stored")
    with pytest.raises(NotFoundError):
        raise_failures([failure], 0, "stored")
    with pytest.raises(PartialError, match="1 of 6 entries were not stored"):
        raise_failures([failure], 5, "stored")
