"""A disk that hangs is found out, holds nobody but who asked it, and is no silence of the node's others."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from datanode.duties.answering import ASK_SECONDS, SILENT_SECONDS, Answers
from datanode.store.disk import Disk
from datanode.store.files import Files
from datanode.store.opening import open_disks
from quorumfs.clock import ManualClock
from tests.support.waiting import eventually


class HangingFiles(Files):
    """What lies in a directory of `hung` does not answer until it is taken out and `go_on` called."""

    def __init__(self) -> None:
        self.hung: set[Path] = set()
        self.fail: OSError | None = None
        self._goes_on = threading.Event()

    def go_on(self) -> None:
        self.hung.clear()
        self._goes_on.set()

    def overwrite(self, path: Path, content: bytes, offsets: Sequence[int]) -> None:
        if path.parent in self.hung:
            assert self._goes_on.wait(20)
        if self.fail is not None:
            raise self.fail
        super().overwrite(path, content, offsets)


class Bench:
    def __init__(self, directory: Path) -> None:
        self.files, self.clock = HangingFiles(), ManualClock()
        self.opened = open_disks([directory / "a", directory / "b"], 0, self.files)
        self.answers = Answers(self.opened.disks, self.clock)
        self._threads: list[threading.Thread] = []

    @property
    def disks(self) -> list[Disk]:
        return self.opened.disks

    def ask(self, number: int) -> str:
        return self.answers.duties[number].work()

    def hang(self, *numbers: int) -> None:
        """Ask these disks, which do not answer."""
        for number in numbers:
            self.files.hung.add(self.disks[number].path)
            duty = self.answers.duties[number]
            thread = threading.Thread(target=duty.work, daemon=True)
            thread.start()
            self._threads.append(thread)
            eventually(lambda duty=duty: duty._asked_at is not None)  # type: ignore[misc]

    def go_on(self) -> None:
        self.files.go_on()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.go_on()
    made.opened.close()


def test_disks_that_answer_are_no_trouble(bench: Bench) -> None:
    assert "answers after" in bench.ask(0)
    assert "answers after" in bench.ask(0)
    bench.clock.advance(10 * SILENT_SECONDS)
    assert bench.answers.check().ok
    assert bench.answers.silent() == []
    assert bench.answers.duties[0].answer_age_seconds == 10 * SILENT_SECONDS


def test_one_hung_disk_is_told_of_and_the_node_lives_by_the_other(bench: Bench) -> None:
    bench.hang(0)
    bench.clock.advance(SILENT_SECONDS - 1)
    assert bench.answers.silent() == []
    bench.clock.advance(ASK_SECONDS)
    assert "answers" in bench.ask(1)
    assert bench.answers.silent() == [f"disk {bench.disks[0].path} has not answered for 34 s"]
    assert bench.answers.check().ok
    assert bench.answers.check().liveness


def test_a_node_none_of_whose_disks_answers_is_not_alive_until_one_does(bench: Bench) -> None:
    bench.hang(0, 1)
    bench.clock.advance(SILENT_SECONDS)
    check = bench.answers.check()
    assert not check.ok
    assert str(bench.disks[1].path) in check.detail
    bench.go_on()
    assert bench.answers.check().ok


def test_a_failed_disk_has_answered_and_is_asked_no_more(bench: Bench) -> None:
    bench.files.fail = OSError(errno.EIO, "Input/output error")
    assert "says: Input/output error" in bench.ask(0)
    assert bench.disks[0].health()[0] == "failed"
    assert "is not asked" in bench.ask(0)
    bench.hang(1)
    bench.clock.advance(SILENT_SECONDS)
    assert not bench.answers.check().ok


def test_a_node_whose_disks_have_all_failed_is_not_started_again_for_it(bench: Bench) -> None:
    for disk in bench.disks:
        disk.fail("it is dead")
    bench.clock.advance(10 * SILENT_SECONDS)
    assert bench.answers.check().ok


def test_a_full_disk_answers(bench: Bench) -> None:
    bench.ask(0)
    bench.files.fail = OSError(errno.ENOSPC, "No space left on device")
    assert "No space left" in bench.ask(0)
    assert bench.disks[0].writable
