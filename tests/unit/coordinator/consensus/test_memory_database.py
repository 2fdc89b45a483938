"""What only the database of the simulation does: crashes of the caller's choice."""

from pathlib import Path

import pytest

from tests.support.fake_machine import FakeMachine, hash_of_pairs, pairs, pairs_after, puts
from tests.support.memory_database import MemoryDatabase


def after_crash(database: MemoryDatabase, number: int) -> MemoryDatabase:
    return MemoryDatabase.from_image(
        database.crash(lambda count: number % count), FakeMachine(), hash_of_pairs
    )


def history(*, keep_images: bool) -> MemoryDatabase:
    database = MemoryDatabase(FakeMachine(), hash_of_pairs, keep_images=keep_images)
    database.apply(puts(2, 4))
    database.make_durable()
    for first in (5, 8, 11):
        database.apply(puts(first, first + 2))
    return database


@pytest.mark.parametrize(("number", "index"), [(0, 4), (1, 7), (2, 10), (3, 13)])
def test_a_crash_leaves_any_state_since_the_last_durable_one(number: int, index: int) -> None:
    left = after_crash(history(keep_images=True), number)
    assert (left.applied_index, left.durable_index) == (index, index)
    with left.reader() as tx:
        assert pairs(tx) == pairs_after(index)
    left.apply(puts(index + 1, 20))
    with left.reader() as tx:
        assert pairs(tx) == pairs_after(20)


def test_without_images_a_crash_leaves_the_durable_state_or_the_newest() -> None:
    assert after_crash(history(keep_images=False), 0).applied_index == 4
    assert after_crash(history(keep_images=False), 1).applied_index == 13


def test_an_installed_snapshot_survives_every_crash(tmp_path: Path) -> None:
    database = history(keep_images=True)
    source = history(keep_images=False)
    source.apply(puts(14, 30))
    source.snapshot(tmp_path / "copy")
    database.install(tmp_path / "copy", 30, 1)
    assert after_crash(database, 0).applied_index == 30
