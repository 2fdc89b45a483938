"""Random histories of a journal on a disk that loses power, fails and fills up, against a model of what is durable.

The model knows two states: what the last completed sync covered, and what the process believes. After any end the
journal must be exactly the first; an end inside a call may also leave what that call was to make durable.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from coordinator.consensus.files import CorruptJournal, StorageFailure, StorageFull
from coordinator.consensus.journal import NOOP, Entry, Journal
from coordinator.consensus.records import (
    FRAME_HEAD_BYTES,
    SECTOR_BYTES,
    Frame,
    Kind,
    decode_header,
    read_frame,
    read_record,
)
from quorumfs.checksum import crc32c
from quorumfs.clock import ManualClock
from tests.support.fake_files import FakeFiles, PowerCut

DIRECTORY = Path("/disk/raft")
SEGMENT_BYTES = 32 * 1024
CAPACITY_SCARCE = 3 * SEGMENT_BYTES + 2000


@dataclass(frozen=True)
class State:
    """What a journal is, as a value."""

    entries: tuple[Entry, ...] = ((NOOP, 1, 0),)
    term: int = 0
    voted_for: str | None = None

    @property
    def first(self) -> int:
        return self.entries[0][1]

    @property
    def last(self) -> int:
        return self.entries[-1][1]

    def cut(self, start: int, stop: int) -> State:
        return replace(self, entries=self.entries[start - self.first : stop - self.first])

    def reset(self, index: int, term: int) -> State:
        kept = index <= self.last and self.entries[index - self.first][2] == term
        return self.cut(index, self.last + 1) if kept else replace(self, entries=((NOOP, index, term),))


class History:
    """One journal, its model, and the disk below."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.files = FakeFiles(self.random)
        self.durable = self.believed = State()
        self.ends = 0
        self.journal = self.open()

    def open(self) -> Journal:
        return Journal.open(
            DIRECTORY,
            self.files,
            ManualClock(),
            segment_bytes=SEGMENT_BYTES,
            cache_bytes=self.random.choice((0, 3000, 10**6)),
            random=self.random.randbytes,
        )

    # Calls

    def call(self, act: Callable[[], object], after: State, durable: bool = False) -> None:
        """Do it; it may be the last thing that this process does. `durable`: on return."""
        before, syncs = self.believed, self.journal.fsync.count
        promised = self.journal.has_room()
        self.tempt_fate()
        try:
            act()
            assert not (durable and self.journal.dirty)
        except StorageFull:
            assert not promised
            after = before
        except (PowerCut, StorageFailure):
            synced_on_the_way = self.journal.fsync.count > syncs
            self.die({before, after} if synced_on_the_way else {self.durable, before, after})
            return
        if self.journal.fsync.count > syncs:
            self.durable = before
        self.believed = after
        if not self.journal.dirty:
            self.durable = after

    def tempt_fate(self) -> None:
        random, files = self.random, self.files
        if random.random() < 0.03:
            files.die_before = files.changes + random.randint(1, 6)
        if random.random() < 0.01:
            files.fail_next(random.choice(("write", "sync_data")), errno.EIO, random.randrange(3))
        if random.random() < 0.02:
            files.capacity_bytes = random.choice((None, CAPACITY_SCARCE))

    def step(self) -> None:
        random, journal, now = self.random, self.journal, self.believed
        first, last = now.first, now.last
        match random.choices(
            ("append", "sync", "prepare", "truncate", "drop", "reset", "term", "read", "end"),
            (40, 25, 10, 4, 5, 1, 5, 6, 2),
        )[0]:
            case "append":
                command = self.command()
                term = now.entries[-1][2] + (random.random() < 0.1)
                after = replace(now, entries=(*now.entries, (command, last + 1, term)))
                self.call(lambda: journal.append(command, last + 1, term), after)
            case "sync":
                self.call(journal.sync, now, durable=True)
            case "prepare":
                self.call(journal.prepare, now)
            case "truncate" if last > first:
                index = random.randint(max(first + 1, last - 20), last)
                self.call(lambda: journal.truncate_from(index), now.cut(first, index))
            case "drop" if last > first:
                index = random.randint(first, last)
                self.call(lambda: journal.drop_to(index), now.cut(index, last + 1))
            case "reset":
                index, term = random.randint(first, last + 9), random.randint(0, now.entries[-1][2] + 2)
                self.call(lambda: journal.reset(index, term), now.reset(index, term))
            case "term":
                term, vote = now.term + random.choice((0, 1, 5)), random.choice((None, "c1", "c2"))
                if term == now.term and now.voted_for is not None:
                    vote = now.voted_for
                after = replace(now, term=term, voted_for=vote)
                self.call(lambda: journal.set_term(term, vote), after, durable=after != now)
            case "read":
                index = random.randint(first, last)
                found = journal.entries(index, 10**6, random.randint(1, 50))
                assert found == list(now.entries[index - first :][: len(found)])
            case "end":
                self.die({self.durable})

    def command(self) -> bytes:
        """Random bytes; sometimes the journal's own, so placed that they look like frames of it."""
        random = self.random
        if random.random() < 0.9:
            return random.randbytes(random.choice((0, 1, 40, 500, 513, 3000, 5000)))
        path = DIRECTORY / random.choice([one for one in self.files.names(DIRECTORY) if one != "lock"])
        start = random.randrange(20) * SECTOR_BYTES
        return bytes(SECTOR_BYTES - 49) + self.files.content(path)[start : start + 8 * SECTOR_BYTES]

    # Ends

    def die(self, possible: set[State]) -> None:
        """The process ends, perhaps with the machine; what comes back must be one of `possible`."""
        while True:
            self.ends += 1
            if self.random.random() < 0.7:
                self.files.crash()
            else:
                self.files.kill()
            if self.random.random() < 0.2:
                self.files.die_before = self.files.changes + self.random.randint(1, 4)
            self.files.capacity_bytes = None
            try:
                self.journal = self.open()
            except PowerCut:
                continue
            break
        self.files.die_before = None
        found = self.look()
        assert found in possible
        assert self.journal.synced_index == found.last
        assert not self.journal.dirty
        self.durable = self.believed = found

    def look(self) -> State:
        journal = self.journal
        entries = journal.entries(journal.first_index, 10**9, 10**9)
        assert journal.payload_bytes == sum(len(command) for command, _, _ in entries)
        return State(tuple(entries), journal.term, journal.voted_for)


def run(seed: int, steps: int) -> int:
    history = History(seed)
    for _ in range(steps):
        history.step()
        assert history.journal.last_index == history.believed.last
    assert history.look() == history.believed
    return history.ends


@pytest.mark.parametrize("seed", range(60))
def test_a_journal_is_after_any_end_what_it_was_at_a_sync(seed: int) -> None:
    assert run(seed, steps=400) > 0


@pytest.mark.long
@pytest.mark.parametrize("block", range(10))
def test_a_journal_survives_thousands_of_ends(block: int) -> None:
    for seed in range(1000 + 200 * block, 1200 + 200 * block):
        run(seed, steps=1000)


# Bit rot


def synced_frames(files: FakeFiles) -> list[tuple[Path, Frame]]:
    """All frames of the chain, oldest first; the last one may be a seal."""
    paths = [DIRECTORY / name for name in files.names(DIRECTORY) if name.startswith("segment-")]
    headers = [decode_header(bytes(files.content(path)))[0] for path in paths]
    found = []
    for k, (path, header) in enumerate(zip(paths, headers, strict=True)):
        data, offset = memoryview(bytes(files.content(path))), SECTOR_BYTES
        stop = headers[k + 1].first_sequence if k + 1 < len(headers) else 1 << 60
        while (frame := read_frame(data, offset, crc32c(header.journal_id))) and frame.sequence < stop:
            found.append((path, frame))
            offset = frame.end
    return found


def grown_history(seed: int) -> tuple[History, State]:
    """A closed journal of some segments, and what it was before its last sync."""
    history = History(seed)
    journal, random = history.journal, history.random
    for _ in range(random.randint(5, 80)):
        for _ in range(random.randint(1, 3)):
            journal.append(history.command(), journal.last_index + 1, journal.last_term)
        journal.sync()
        if random.random() < 0.1 and journal.last_index > 9:
            journal.drop_to(random.randint(journal.first_index, journal.last_index))
            journal.sync()
        journal.prepare()
    journal.append(b"before", journal.last_index + 1, journal.last_term)
    journal.set_term(9, "c1")
    before = history.look()
    journal.append(b"last", journal.last_index + 1, journal.last_term)
    journal.close()
    return history, before


def damage(history: History, path: Path, start: int, end: int) -> None:
    """Flip a bit, or lose a sector."""
    random, data = history.random, history.files.content(path)
    at = random.randrange(start, end)
    if random.random() < 0.8:
        data[at] ^= 1 << random.randrange(8)
        return
    sector = at // SECTOR_BYTES * SECTOR_BYTES
    lost = random.choice((bytes(SECTOR_BYTES), random.randbytes(SECTOR_BYTES)))
    data[sector : sector + SECTOR_BYTES] = lost


def damage_what_has_a_successor(seed: int) -> None:
    history, _ = grown_history(seed)
    path, frame = history.random.choice(synced_frames(history.files)[:-1])
    before = bytes(history.files.content(path))
    damage(history, path, frame.offset if history.random.random() < 0.9 else 0, frame.end)
    if history.files.content(path) != before:
        with pytest.raises(CorruptJournal):
            history.open()


def damage_the_last(seed: int) -> None:
    """The seal tells damage from a torn write; without it nothing does."""
    history, before = grown_history(seed)
    (path, frame), (_, seal) = synced_frames(history.files)[-2:]
    content = history.files.content(path)
    assert read_record(memoryview(bytes(content)), seal.offset + FRAME_HEAD_BYTES).kind is Kind.SEAL
    damage(history, path, frame.offset, frame.end)
    if history.random.random() < 0.5:
        with pytest.raises(CorruptJournal):
            history.open()
    content[seal.offset : seal.end] = bytes(SECTOR_BYTES)
    history.journal = history.open()
    assert history.look() == before


@pytest.mark.parametrize("seed", range(0, 100, 10))
def test_damage_to_a_frame_that_has_a_successor_is_never_passed_over(seed: int) -> None:
    for one in range(seed, seed + 10):
        damage_what_has_a_successor(one)


def test_damage_to_the_last_frame_is_told_from_a_torn_write_by_its_seal_only() -> None:
    for seed in range(50):
        damage_the_last(seed)


@pytest.mark.long
def test_damage_is_never_passed_over_in_thousands_of_journals() -> None:
    for seed in range(5000, 10000):
        damage_what_has_a_successor(seed)
