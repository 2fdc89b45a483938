"""The door: which member it opens to, and its threads, of which none may end alone."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.lifecycle import ExitCode
from coordinator.consensus.bell import Bell
from coordinator.consensus.door import STARTS_WITHOUT_LOG_MAX, Consensus
from coordinator.consensus.files import CorruptJournal, StorageFailure
from coordinator.consensus.guard import BrokenInvariantError
from coordinator.consensus.identity import Identity
from coordinator.consensus.settings import ConsensusSettings
from quorumfs.clock import ManualClock
from quorumfs.mint import system_random
from quorumfs.v1 import membership_pb2 as m


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


@pytest.mark.parametrize(("applied_index", "starts"), [(5000, 2), (1, STARTS_WITHOUT_LOG_MAX + 1)])
def test_a_member_whose_log_is_gone_is_refused_at_every_start(
    tmp_path: Path, applied_index: int, starts: int
) -> None:
    """It has forgotten votes and acknowledged entries; trying again brings them back no more than the first time."""
    genesis = m.GenesisRequest(
        cluster_id="cluster", history=1, members=[m.Member(node_id="c1", member_uuid="uuid-1")]
    )
    identity = replace(Identity.accept(tmp_path, genesis, "c1"), boot_counter=starts)
    database: Any = type("", (), {"applied_index": applied_index})()
    for _ in range(3):
        with pytest.raises(CorruptJournal, match="the log is gone"):
            Consensus(
                settings=ConsensusSettings("127.0.0.1", 0),
                database=database,
                identity=identity,
                directory=tmp_path,
                secret=b"secret",
                clock=ManualClock(),
                random=system_random,
                fatal=lambda message, status: pytest.fail(message),
                fetch_snapshot=lambda address, at_least, into: pytest.fail(address),
            )


def test_files_are_not_closed_under_a_thread_that_a_slow_disk_holds_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its descriptor could be another file's by the time it writes."""
    monkeypatch.setattr("coordinator.consensus.door.STOP_SECONDS", 0.0)
    synced = threading.Event()
    closed: list[str] = []
    door: Any = object.__new__(Consensus)
    door._stopping = threading.Event()
    door._apply_work, door._journal_work = Bell(), threading.Event()
    door._threads = [threading.Thread(target=synced.wait, name="raft", daemon=True)]
    for part in ("_links", "_readers", "_core", "_journal", "_database"):
        setattr(door, part, Part(part, closed))
    door._threads[0].start()
    door.stop(transfer=False)
    synced.set()
    assert closed == []


class Part:
    """Of the door; tells when it is closed."""

    def __init__(self, name: str, closed: list[str]) -> None:
        self._name = name
        self._closed = closed

    def wake(self) -> None: ...

    def stop(self, seconds: float) -> None: ...

    def end(self) -> None:
        self._closed.append(self._name)

    close = end
