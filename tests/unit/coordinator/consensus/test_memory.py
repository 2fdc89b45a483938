"""What a member remembers of its peers' starts and of its own."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from coordinator.consensus.files import StorageFull
from coordinator.consensus.memory import FILE, DurableMemory, boot_number, boots_lacking, was_set_back
from tests.support.fake_files import FakeFiles

DIRECTORY = Path("/disk")


@pytest.fixture
def files() -> FakeFiles:
    files = FakeFiles(Random(7))
    files.make_directory(DIRECTORY)
    return files


def test_a_disk_that_was_set_back_counts_its_starts_on_from_what_is_remembered(files: FakeFiles) -> None:
    remembered, shown = boot_number(9, 5), boot_number(4, 7)
    assert was_set_back(shown, remembered)
    DurableMemory(DIRECTORY, files).mute(3, boots_lacking(shown, remembered))
    files.crash()
    memory = DurableMemory(DIRECTORY, files)
    assert memory.muted_term == 3
    memory.unmute()
    memory.note_boot("uuid-1", 1)
    after = DurableMemory(DIRECTORY, files)
    assert after.muted_term is None
    assert not was_set_back(boot_number(5 + after.boots_ahead, 0), remembered)


def test_what_a_full_disk_did_not_take_is_told_again(files: FakeFiles) -> None:
    memory = DurableMemory(DIRECTORY, files)
    files.capacity_bytes = 0
    with pytest.raises(StorageFull):
        memory.mute(3, 6)
    assert (memory.muted_term, memory.boots_ahead) == (3, 0)


def test_a_file_of_an_earlier_version_is_read(files: FakeFiles) -> None:
    fd = files.create(DIRECTORY / FILE)
    files.write(fd, json.dumps({"boots": {"uuid-1": 12}, "muted_term": None}).encode(), 0)
    files.close(fd)
    memory = DurableMemory(DIRECTORY, files)
    assert (memory.boot_of("uuid-1"), memory.muted_term, memory.boots_ahead) == (12, None, 0)
