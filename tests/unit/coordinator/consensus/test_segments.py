"""The files below the journal: spares made beside the loop, and what is removed when."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from random import Random

import pytest

from coordinator.consensus.segments import Segments, segment_name
from tests.support.fake_files import FakeFiles

DIRECTORY = Path("/disk/raft")
SIZE = 16 * 1024


class Slow(FakeFiles):
    """Waits in `write` until it is let go."""

    def __init__(self) -> None:
        super().__init__(Random(1))
        self.entered, self.go = threading.Event(), threading.Event()

    def write(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        self.entered.set()
        assert self.go.wait(10)
        super().write(fd, data, offset)


def made(files: FakeFiles) -> Segments:
    files.make_directory(DIRECTORY)
    return Segments(DIRECTORY, files, SIZE)


def grown(files: FakeFiles, count: int) -> Segments:
    segments = made(files)
    for number in range(1, count + 1):
        assert segments.prepare()
        segments.begin(number, bytes([number]) * 512, b"end".ljust(512, b"\0"))
    return segments


def test_a_spare_is_zeros_of_full_size_and_becomes_the_current_segment() -> None:
    files = FakeFiles(Random(1))
    segments = made(files)
    assert segments.prepare()
    assert segments.prepare()
    assert files.content(DIRECTORY / "spare-1.tmp") == bytes(SIZE)
    segments.begin(1, b"b" * 1024)
    assert not segments.has_spare
    assert files.names(DIRECTORY) == [segment_name(1)]
    assert segments.write(b"frame".ljust(512, b"\0")) == 1024
    assert segments.read(1, 1024, 5) == b"frame"
    with pytest.raises(ValueError, match="no spare"):
        segments.begin(2, b"")


def test_the_older_segment_is_told_that_it_has_a_successor() -> None:
    files = FakeFiles(Random(1))
    grown(files, 2)
    assert files.content(DIRECTORY / segment_name(1))[512:515] == b"end"
    assert files.content(DIRECTORY / segment_name(2))[512:515] == bytes(3)


def test_segments_are_removed_oldest_first_each_durably() -> None:
    files = FakeFiles(Random(1))
    segments = grown(files, 4)
    segments.retire(4)
    assert len(files.names(DIRECTORY)) == 4
    files.fail_next("sync_directory", errno.EIO, after=1)
    with pytest.raises(OSError, match="Input/output"):
        segments.prepare()
    assert [name for name in files.names(DIRECTORY) if "segment" in name] == [
        segment_name(3),
        segment_name(4),
    ]
    segments.prepare()
    assert [name for name in files.names(DIRECTORY) if "segment" in name] == [segment_name(4)]
    assert segments.disk_bytes == 2 * SIZE


def test_a_spare_for_which_there_is_no_room_leaves_nothing_behind() -> None:
    files = FakeFiles(Random(1), capacity_bytes=SIZE - 1)
    segments = made(files)
    assert not segments.prepare()
    assert files.names(DIRECTORY) == []
    files.capacity_bytes = None
    assert segments.prepare()


def test_a_disk_is_full_when_it_had_no_room_for_a_spare_and_not_while_one_is_made() -> None:
    files = Slow()
    segments = made(files)
    assert not segments.disk_full
    beside = threading.Thread(target=segments.prepare)
    beside.start()
    assert files.entered.wait(10)
    assert not segments.disk_full
    files.go.set()
    beside.join(10)
    crowded = made(FakeFiles(Random(1), capacity_bytes=SIZE - 1))
    crowded.prepare()
    assert crowded.disk_full


def test_what_was_removed_makes_room_for_a_spare() -> None:
    files = FakeFiles(Random(1))
    segments = grown(files, 4)
    segments.retire(4)
    files.capacity_bytes = 4 * SIZE
    assert segments.prepare()
    assert not segments.disk_full


def test_a_second_preparation_beside_the_first_does_nothing() -> None:
    files = Slow()
    segments = made(files)
    beside = threading.Thread(target=segments.prepare)
    beside.start()
    assert files.entered.wait(10)
    assert not segments.prepare()
    files.go.set()
    beside.join(10)
    assert segments.has_spare
    assert files.calls["create"] == 1


def test_closing_during_a_preparation_leaves_no_descriptor_open() -> None:
    files = Slow()
    segments = made(files)
    beside = threading.Thread(target=segments.prepare)
    beside.start()
    assert files.entered.wait(10)
    segments.close()
    segments.close()
    files.go.set()
    beside.join(10)
    assert files.open_descriptors() == 0
    assert not segments.prepare()
