"""The threads of the door: none of them may end alone."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from common.lifecycle import ExitCode
from coordinator.consensus.door import Consensus
from coordinator.consensus.files import StorageFailure
from coordinator.consensus.guard import BrokenInvariantError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("a bug"), ExitCode.FAILURE),
        (OSError("a disk"), ExitCode.SICK_DISK),
        (sqlite3.OperationalError("a database"), ExitCode.SICK_DISK),
        (StorageFailure("a sync", OSError("a device")), ExitCode.SICK_DISK),
        (BrokenInvariantError("a log that cannot be"), ExitCode.SICK_DISK),
    ],
)
def test_a_thread_that_fails_ends_the_process_and_says_why(error: Exception, code: ExitCode) -> None:
    ended: list[tuple[str, int]] = []
    door: Any = object.__new__(Consensus)
    door._fatal = lambda message, status: ended.append((message, status))

    def run() -> None:
        raise error

    door._guarded(run)
    [(message, status)] = ended
    assert status == code
    assert str(error) in message
