"""`quorumfs.testing` without a cluster: waiting, and cleaning up after a start that failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from quorumfs.errors import NoLeaderError, TimedOutError, UnavailableError
from quorumfs.local.cluster import DevCluster
from quorumfs.testing import LocalCluster, wait_for


def test_waiting_gives_the_first_true_answer() -> None:
    answers = iter([None, 0, "", 7])
    assert wait_for(lambda: next(answers), 5.0) == 7


def test_errors_of_the_cluster_and_failed_assertions_mean_not_yet() -> None:
    errors = iter([NoLeaderError("nobody"), AssertionError("no")])

    def condition() -> bool:
        for error in errors:
            raise error
        return True

    assert wait_for(condition, 5.0)


def test_what_never_comes_true_is_told_with_its_last_error() -> None:
    def condition() -> bool:
        raise NoLeaderError("nobody leads")

    with pytest.raises(TimedOutError, match="nobody leads"):
        wait_for(condition, 0.01, "a leader")


def test_a_bug_in_a_condition_is_not_waited_for() -> None:
    with pytest.raises(ZeroDivisionError):
        wait_for(lambda: 1 // 0, 5.0)


def test_a_start_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def up(self: DevCluster, *_: object, **__: object) -> None:
        (self.directory / "c1").mkdir(parents=True)
        raise UnavailableError("c1 ended while starting")

    monkeypatch.setattr(DevCluster, "up", up)
    monkeypatch.setattr("quorumfs.testing.free_base_port", lambda nodes: 12_000)
    with pytest.raises(UnavailableError):
        LocalCluster(directory=tmp_path / "cluster").start()
    assert not (tmp_path / "cluster").exists()


def test_a_cluster_that_was_not_started_says_so() -> None:
    with pytest.raises(RuntimeError):
        _ = LocalCluster().coordinators
