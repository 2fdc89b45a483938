"""What a power cut leaves: everything that was made durable, and some prefix of what was applied after it."""

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.fake_machine import pairs_after, puts
from tests.unit.coordinator.consensus.databases import content, opened

SEEDS = range(12)
WAL_HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24


@dataclass(frozen=True, slots=True)
class Before:
    """A disk before its power went: the WAL is certain only up to `durable_bytes`, and what comes after it may still
    be what the file had before it was emptied (`former`)."""

    directory: Path
    wal: bytes
    former: bytes
    durable_bytes: int
    durable_index: int
    last_index: int
    rolling: bytes

    def cut(self, to: Path, wal: bytes) -> Path:
        shutil.copytree(self.directory, to, ignore=shutil.ignore_patterns("*-shm", "*-wal"))
        (to / "state-1.db-wal").write_bytes(wal)
        return to


def history(tmp_path: Path, chance: random.Random) -> Before:
    """Groups of entries, checkpoints, and one last `make_durable` at a random place."""
    database = opened(tmp_path / "before", checkpoint_bytes=chance.choice((64 << 10, 1 << 30)))
    wal = tmp_path / "before" / "state-1.db-wal"
    groups = [chance.randint(1, 20) for _ in range(60)]
    durable_after = chance.randrange(60)
    durable_bytes = 0
    former = b""
    for number, count in enumerate(groups):
        first = database.applied_index + 1
        database.apply(puts(first, first + count - 1))
        if number <= durable_after and database.checkpoint_if_needed():
            durable_bytes = 0
            former = wal.read_bytes()
        if number == durable_after:
            database.make_durable()
            written = wal.read_bytes()
            begun = (
                written[:WAL_HEADER_BYTES] != former[:WAL_HEADER_BYTES]
            )  # with the first frame after it was emptied
            durable_bytes = in_use(written) if begun else 0
    shutil.copytree(tmp_path / "before", tmp_path / "disk", ignore=shutil.ignore_patterns("*-shm"))
    rolling = database.rolling_at(database.applied_index)
    assert rolling is not None
    left = Before(
        tmp_path / "disk",
        wal.read_bytes(),
        former,
        durable_bytes,
        database.durable_index,
        database.applied_index,
        rolling,
    )
    database.close()
    return left


def in_use(wal: bytes) -> int:
    """Bytes of a WAL from its beginning that were written since it was emptied the last time."""
    page_bytes, salts = int.from_bytes(wal[8:12], "big"), wal[16:24]
    end = WAL_HEADER_BYTES
    while salts and wal[end + 8 : end + 16] == salts:
        end += FRAME_HEADER_BYTES + page_bytes
    return end if salts else 0


def check(before: Before, directory: Path) -> int:
    """The state that `directory` has is whole, not too old, and goes on to the same end; its index."""
    database = opened(directory)
    index = database.applied_index
    assert before.durable_index <= index <= before.last_index
    assert database.durable_index == index
    assert content(database) == pairs_after(index)
    database.apply(puts(index + 1, before.last_index))
    assert content(database) == pairs_after(before.last_index)
    assert database.rolling_at(before.last_index) == before.rolling
    database.close()
    return index


@pytest.mark.parametrize("seed", SEEDS)
def test_a_wal_cut_anywhere_after_the_durable_part_is_a_prefix(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    before = history(tmp_path, chance)
    lengths = [before.durable_bytes, len(before.wal), chance.randint(before.durable_bytes, len(before.wal))]
    found = [
        check(before, before.cut(tmp_path / f"cut-{number}", before.wal[:length]))
        for number, length in enumerate(lengths)
    ]
    assert found[0] == before.durable_index
    assert found[1] == before.last_index


@pytest.mark.parametrize("seed", SEEDS)
def test_a_tail_that_was_torn_is_never_taken_for_entries(tmp_path: Path, seed: int) -> None:
    chance = random.Random(1000 + seed)
    before = history(tmp_path, chance)
    check(before, before.cut(tmp_path / "torn", torn(before, chance)))


def torn(before: Before, chance: random.Random) -> bytes:
    """The WAL with sectors after the durable part that were not written, or written with something else.

    SQLite syncs the header of a WAL that begins anew before any frame comes behind it.
    """
    wal = bytearray(before.wal)
    for start in range(max(before.durable_bytes, WAL_HEADER_BYTES), len(wal), 512):
        fate = chance.random()
        length = min(512, len(wal) - start)
        if fate < 0.05:
            wal[start : start + length] = before.former[start : start + length].ljust(length, b"\0")
        elif fate < 0.1:
            wal[start : start + length] = chance.randbytes(length)
        elif fate < 0.12:
            wal[start + chance.randrange(length)] ^= 1 << chance.randrange(8)
    return bytes(wal)
