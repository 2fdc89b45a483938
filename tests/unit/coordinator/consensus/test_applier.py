"""The applier: entries in order, answers to those who wait, and a full disk waited out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coordinator.consensus.applier import GROUP_ENTRIES_MAX, Applier, Committed, Install, MakeDurable
from coordinator.consensus.files import StorageFull
from coordinator.consensus.interfaces import LogEntry
from coordinator.consensus.proposals import Waiting
from quorumfs.errors import OutcomeUnknownError


class Database(SimpleNamespace):
    """Remembers what was done to it; `full` makes the next call fail for want of room."""

    def __init__(self) -> None:
        super().__init__(
            applied_index=1, groups=[], installs=[], tried=[], full=False, full_for_checkpoints=False
        )

    def _room(self) -> None:
        if self.full:
            raise StorageFull("no room")

    def apply(self, entries: Sequence[LogEntry]) -> list[Any]:
        self._room()
        self.groups.append([entry.index for entry in entries])
        before, self.applied_index = self.applied_index, max(self.applied_index, entries[-1].index)
        return [
            None if entry.data is None or entry.index <= before else [b"done %d" % entry.index]
            for entry in entries
        ]

    def try_next(self, entry: LogEntry) -> None:
        self.tried.append(entry.index)

    def make_durable(self) -> int:
        self._room()
        return int(self.applied_index)

    def install(self, file: Path, index: int, term: int) -> None:
        self._room()
        self.installs.append(index)
        self.applied_index = index

    def checkpoint_if_needed(self) -> bool:
        if self.full_for_checkpoints:
            raise StorageFull("no room")
        return False


class Scene:
    def __init__(self) -> None:
        self.database = Database()
        self.told: list[Any] = []
        self.progress = 0  # how often it was told
        self.applier = Applier(
            self.database,  # type: ignore[arg-type]
            lambda: None,
            self._on_progress,
            lambda index, term: self.told.append(("installed", index)),
        )

    def _on_progress(self) -> None:
        self.progress += 1

    def entry(self, index: int, *, configuration: bytes | None = None) -> None:
        waiting = Waiting(b"", 1, 0.0, self.told.append)
        data = None if configuration is not None else b"data"
        self.applier.put(Committed(LogEntry(index, 1, data, configuration), [waiting]))


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_waiting_entries_are_applied_as_groups_in_order(scene: Scene) -> None:
    for index in range(2, GROUP_ENTRIES_MAX + 5):
        scene.entry(index)
    while scene.applier.waits:
        assert scene.applier.work()
    assert [len(group) for group in scene.database.groups] == [GROUP_ENTRIES_MAX, 3]
    assert scene.told == [b"done %d" % index for index in range(2, GROUP_ENTRIES_MAX + 5)]
    assert scene.applier.backlog_bytes == 0


def test_an_entry_is_tried_when_there_is_nothing_else_to_do_and_that_is_no_progress(scene: Scene) -> None:
    scene.applier.try_next(LogEntry(2, 1, b"data"))
    assert scene.applier.waits
    assert scene.applier.work()
    assert scene.database.tried == [2]
    assert (scene.database.groups, scene.progress, scene.applier.waits) == ([], 0, False)
    scene.entry(2)
    scene.applier.work()
    assert (scene.database.groups, scene.progress) == ([[2]], 1)


def test_nothing_is_tried_while_there_is_other_work(scene: Scene) -> None:
    scene.entry(2)
    scene.applier.try_next(LogEntry(3, 1, b"data"))
    scene.applier.work()
    assert scene.database.groups == [[2]]
    assert scene.database.tried == []
    assert not scene.applier.waits


def test_nothing_is_tried_on_a_full_disk(scene: Scene) -> None:
    scene.database.full_for_checkpoints = True
    scene.entry(2)
    scene.applier.work()
    scene.applier.try_next(LogEntry(3, 1, b"data"))
    assert not scene.applier.work()
    assert scene.database.tried == []


def test_an_entry_that_is_committed_before_it_was_tried_is_only_applied(scene: Scene) -> None:
    scene.applier.try_next(LogEntry(2, 1, b"data"))
    scene.entry(2)
    scene.applier.work()
    assert scene.database.tried == []
    assert scene.database.groups == [[2]]


def test_a_configuration_is_answered_when_it_is_applied(scene: Scene) -> None:
    scene.entry(2, configuration=b"members")
    scene.applier.work()
    assert scene.told == [b""]


def test_a_full_disk_is_waited_out_and_nothing_is_lost_or_done_twice(scene: Scene) -> None:
    scene.entry(2)
    scene.database.full = True
    assert not scene.applier.work()
    scene.entry(3)
    assert not scene.applier.work()
    assert scene.applier.disk_full
    scene.database.full = False
    while scene.applier.waits:
        assert scene.applier.work()
    assert scene.told == [b"done 2", b"done 3"]
    assert not scene.applier.disk_full


def test_a_checkpoint_that_found_no_room_is_tried_again_though_nothing_else_waits(scene: Scene) -> None:
    scene.database.full_for_checkpoints = True
    scene.entry(2)
    assert not scene.applier.work()
    assert scene.told == [b"done 2"]
    assert scene.applier.waits
    assert not scene.applier.work()
    assert scene.applier.disk_full
    scene.database.full_for_checkpoints = False
    assert scene.applier.work()
    assert not scene.applier.disk_full
    assert not scene.applier.waits


def test_what_was_applied_is_progress_though_the_checkpoint_after_it_found_no_room(scene: Scene) -> None:
    scene.database.full_for_checkpoints = True
    scene.entry(2)
    assert not scene.applier.work()
    assert scene.database.applied_index == 2
    assert (scene.applier.progress, scene.progress) == (1, 1)
    assert not scene.applier.work()
    assert (scene.applier.progress, scene.progress) == (1, 1)


def test_an_install_that_found_no_room_is_tried_again(scene: Scene, tmp_path: Path) -> None:
    scene.applier.put(Install(tmp_path / "snapshot", 50, 3))
    scene.database.full = True
    assert not scene.applier.work()
    scene.database.full = False
    assert scene.applier.work()
    assert (scene.database.installs, scene.told) == ([50], [("installed", 50)])


def test_a_snapshot_that_is_older_than_the_state_is_thrown_away(scene: Scene, tmp_path: Path) -> None:
    file = tmp_path / "snapshot"
    file.touch()
    scene.database.applied_index = 60
    scene.applier.put(Install(file, 50, 3))
    scene.applier.work()
    assert not file.exists()
    assert scene.told == [("installed", 0)]


def test_who_waits_for_an_entry_that_came_with_a_snapshot_is_told_that_the_outcome_is_unknown(
    scene: Scene, tmp_path: Path
) -> None:
    scene.applier.put(Install(tmp_path / "snapshot", 50, 3))
    scene.entry(50)
    scene.entry(51)
    while scene.applier.waits:
        assert scene.applier.work()
    installed, unknown, done = scene.told
    assert (installed, done) == (("installed", 50), b"done 51")
    assert isinstance(unknown, OutcomeUnknownError)


def test_jobs_of_other_kinds_keep_their_place_between_entries(scene: Scene, tmp_path: Path) -> None:
    scene.entry(2)
    scene.applier.put(MakeDurable())
    scene.applier.put(Install(tmp_path / "snapshot", 50, 3))
    scene.entry(51)
    scene.applier.work()
    scene.applier.work()
    assert scene.applier.durable_index == 2
    while scene.applier.waits:
        scene.applier.work()
    assert scene.told == [b"done 2", ("installed", 50), b"done 51"]
