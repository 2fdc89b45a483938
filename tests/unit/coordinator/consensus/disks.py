"""A journal on a disk in memory, opened again and again."""

from __future__ import annotations

from pathlib import Path
from random import Random

from coordinator.consensus.files import StorageFull
from coordinator.consensus.journal import CACHE_BYTES, Journal
from quorumfs.clock import ManualClock
from tests.support.fake_files import FakeFiles

DIRECTORY = Path("/disk/raft")
SEGMENT_BYTES = 32 * 1024


class JournalDisk:
    def __init__(
        self, capacity_bytes: int | None = None, cache_bytes: int = CACHE_BYTES, seed: int = 7
    ) -> None:
        self.random = Random(seed)
        self.files = FakeFiles(self.random, capacity_bytes)
        self.clock = ManualClock()
        self.cache_bytes = cache_bytes

    def open(self) -> Journal:
        return Journal.open(
            DIRECTORY,
            self.files,
            self.clock,
            segment_bytes=SEGMENT_BYTES,
            cache_bytes=self.cache_bytes,
            random=self.random.randbytes,
        )

    def crashed(self) -> Journal:
        """The machine loses power and starts again."""
        self.files.crash()
        return self.open()

    def segments(self) -> list[Path]:
        return [DIRECTORY / name for name in self.files.names(DIRECTORY) if name.startswith("segment-")]


def fill(journal: Journal, count: int, size: int = 1000, term: int = 1) -> None:
    """Synced entries, each in a frame of its own, with spare segments as they are needed."""
    for _ in range(count):
        index = journal.last_index + 1
        journal.append(index.to_bytes(8, "big").ljust(size, b"."), index, term)
        journal.sync()
        journal.prepare()


def fill_up(journal: Journal, size: int = 900) -> int:
    """Append until it is refused; how many entries that took."""
    for count in range(10_000):
        try:
            journal.append(b"." * size, journal.last_index + 1, 1)
        except StorageFull:
            return count
        journal.sync()
        journal.prepare()
    raise AssertionError("it never was full")


def numbers(journal: Journal) -> list[int]:
    """The indexes as the commands tell them; the base of a new journal is 0."""
    found = journal.entries(journal.first_index, 10**9, 10**9)
    return [int.from_bytes(command[:8], "big") if len(command) > 1 else 0 for command, _, _ in found]
