"""What the database on a disk and the one of the simulation both promise."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coordinator.consensus import snapshots
from coordinator.consensus.database import Database
from coordinator.consensus.interfaces import DatabaseDoor, LogEntry
from quorumfs.errors import InternalError, UnavailableError
from tests.support.fake_machine import (
    FakeMachine,
    MachineBrokenError,
    hash_of_pairs,
    pairs,
    pairs_after,
    put,
    puts,
)
from tests.support.memory_database import MemoryDatabase
from tests.support.waiting import eventually

Make = Callable[[str], DatabaseDoor]


@pytest.fixture(params=["disk", "memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    made: list[DatabaseDoor] = []

    def new(name: str) -> DatabaseDoor:
        if request.param == "memory":
            database: DatabaseDoor = MemoryDatabase(FakeMachine(), hash_of_pairs)
        else:
            (tmp_path / name).mkdir()
            database = Database.open(tmp_path / name, FakeMachine(), state_hash=hash_of_pairs)
        made.append(database)
        return database

    yield new
    for database in made:
        database.close()


@pytest.fixture
def database(make: Make) -> DatabaseDoor:
    return make("one")


def content(database: DatabaseDoor) -> dict[int, bytes]:
    with database.reader() as tx:
        return pairs(tx)


def test_a_new_database_is_empty_durable_and_of_index_1(database: DatabaseDoor) -> None:
    assert (database.applied_index, database.applied_term, database.cluster_ms()) == (1, 0, 0)
    assert database.durable_index == 1
    assert database.rolling_at(1) == bytes(32)
    assert content(database) == {}


def test_entries_are_applied_in_order_with_one_answer_per_item(database: DatabaseDoor) -> None:
    answers = database.apply([put(2, 5, "a"), LogEntry(3, 1, None), put(4, 5, "b", term=2)])
    assert answers == [[b"2 put 5 a"], None, [b"4 put 5 b"]]
    assert (database.applied_index, database.applied_term, database.cluster_ms()) == (4, 2, 40)
    assert content(database) == {5: b"b"}


def test_no_entries_are_no_work(database: DatabaseDoor) -> None:
    assert database.apply([]) == []
    assert database.applied_index == 1


def test_entries_that_were_applied_before_are_skipped(database: DatabaseDoor) -> None:
    database.apply(puts(2, 5))
    assert database.apply(puts(3, 6)) == [None, None, None, [b"6 put 6 v6"]]
    assert content(database) == pairs_after(6)


def test_a_gap_in_the_entries_is_refused_and_nothing_of_them_stays(database: DatabaseDoor) -> None:
    with pytest.raises(InternalError, match="entry 4 came where 3 is the next"):
        database.apply([put(2), put(4)])
    assert database.applied_index == 1
    assert content(database) == {}


def test_what_the_machine_raises_undoes_the_transaction(database: DatabaseDoor) -> None:
    with pytest.raises(MachineBrokenError):
        database.apply([put(2), LogEntry(3, 1, b"broken")])
    assert database.applied_index == 1
    assert content(database) == {}
    assert database.rolling_at(2) is None


def test_two_that_applied_the_same_in_other_groups_have_the_same_rolling_hashes(make: Make) -> None:
    one, other = make("one"), make("other")
    one.apply(puts(2, 9))
    for entry in puts(2, 9):
        other.apply([entry])
    assert all(one.rolling_at(index) == other.rolling_at(index) is not None for index in range(1, 10))
    assert one.rolling_at(10) is None


def test_rolling_hashes_are_forgotten_after_a_while_but_never_mistaken(database: DatabaseDoor) -> None:
    database.apply(puts(2, 4100))
    assert database.rolling_at(4) is None
    assert database.rolling_at(4100) != database.rolling_at(5)


def test_a_marked_state_is_hashed_as_it_was_at_that_entry(make: Make) -> None:
    one, other = make("one"), make("other")
    one.apply([*puts(2, 4), LogEntry(5, 1, b"mark"), *puts(6, 9)])
    other.apply([*puts(2, 4), LogEntry(5, 1, b"mark")])
    eventually(lambda: one.hash_at(5) is not None and other.hash_at(5) is not None)
    assert one.hash_at(5) == other.hash_at(5)
    assert one.applied_index == 9
    assert one.hash_at(4) is None


def test_marks_end_no_answers(database: DatabaseDoor) -> None:
    answers = database.apply([put(2), LogEntry(3, 1, b"mark"), LogEntry(4, 1, b"mark"), put(5)])
    assert answers == [[b"2 put 2 x"], [b"3 mark"], [b"4 mark"], [b"5 put 5 x"]]


def test_only_the_hashes_of_the_last_marks_are_kept(database: DatabaseDoor) -> None:
    for index in range(2, 30):
        database.apply([LogEntry(index, 1, b"mark")])
        eventually(lambda index=index: database.hash_at(index) is not None)
    assert database.hash_at(13) is None
    assert database.hash_at(14) is not None


def test_what_was_made_durable_is_said(database: DatabaseDoor) -> None:
    database.apply(puts(2, 4))
    assert database.durable_index == 1
    assert database.make_durable() == 4
    database.apply(puts(5, 6))
    assert database.durable_index == 4


def test_a_reader_cannot_write(database: DatabaseDoor) -> None:
    with database.reader() as tx, pytest.raises(sqlite3.OperationalError):
        tx.execute("DELETE FROM raft_state")
    database.apply([put(2)])


def test_a_snapshot_tells_its_index_and_becomes_the_state_of_another(make: Make, tmp_path: Path) -> None:
    source, target = make("source"), make("target")
    source.apply(puts(2, 50))
    made = snapshots.make(source, tmp_path)
    assert (made.index, made.term, made.size) == (50, 1, made.path.stat().st_size)
    assert made.sha256 == snapshots.sha256_of(made.path)
    assert snapshots.verify(made.path, lambda _: None) == (50, 1)
    target.apply(puts(2, 3))
    target.install(made.path, 50, 1)
    assert not made.path.exists()
    assert (target.applied_index, target.applied_term, target.durable_index) == (50, 1, 50)
    assert target.cluster_ms() == 500
    assert target.rolling_at(50) == source.rolling_at(50)
    assert target.rolling_at(3) is None
    assert target.apply(puts(50, 51)) == [None, [b"51 put 2 v51"]]
    assert content(target) == pairs_after(51)


def test_a_snapshot_is_refused_that_is_not_newer_or_not_what_it_is_said_to_be(
    make: Make, tmp_path: Path
) -> None:
    source, target = make("source"), make("target")
    source.apply(puts(2, 5))
    target.apply(puts(2, 5))
    made = snapshots.make(source, tmp_path)
    with pytest.raises(ValueError, match="not newer"):
        target.install(made.path, 5, 1)
    with pytest.raises(ValueError, match="the snapshot is of"):
        target.install(made.path, 6, 1)
    assert made.path.exists()
    target.apply(puts(6, 7))
    assert content(target) == pairs_after(7)


def test_a_closed_database_gives_no_reader(database: DatabaseDoor) -> None:
    database.close()
    with pytest.raises(UnavailableError), database.reader():
        raise AssertionError


def test_an_entry_that_is_tried_is_seen_by_nobody_until_it_is_applied(make: Make) -> None:
    database, other = make("one"), make("other")
    for one in (database, other):
        one.apply(puts(2, 4))
    database.try_next(put(5, 5, "v5"))
    assert database.applied_index == 4
    assert database.rolling_at(5) is None
    assert database.apply([put(5, 5, "v5"), put(6, 6, "v6")]) == [[b"5 put 5 v5"], [b"6 put 6 v6"]]
    other.apply(puts(5, 6))
    assert database.rolling_at(6) == other.rolling_at(6)
    assert content(database) == content(other) == pairs_after(6)


def test_readers_see_nothing_of_what_is_tried(database: DatabaseDoor) -> None:
    database.try_next(put(2))
    assert content(database) == {}
    assert database.apply([put(2)]) == [[b"2 put 2 x"]]
    assert content(database) == {2: b"x"}


@pytest.mark.parametrize(
    "committed", [put(2, 9, "other"), put(2, term=2), LogEntry(2, 1, None)], ids=["data", "term", "none"]
)
def test_another_entry_than_the_one_that_was_tried_leaves_nothing_of_it(
    database: DatabaseDoor, committed: LogEntry
) -> None:
    database.try_next(put(2, 8, "tried"))
    database.apply([committed])
    assert database.applied_term == committed.term
    assert 8 not in content(database)
    assert database.apply([put(3)]) == [[b"3 put 3 x"]]


def test_entries_that_do_not_come_next_are_not_tried(database: DatabaseDoor) -> None:
    database.apply([put(2)])
    for entry in (put(2, 7), put(4, 7)):
        database.try_next(entry)
        assert database.apply([put(2)]) == [None]
    assert content(database) == {2: b"x"}


def test_what_fails_when_it_is_tried_fails_when_it_is_applied(database: DatabaseDoor) -> None:
    database.try_next(LogEntry(2, 1, b"broken"))
    database.try_next(put(2))
    assert database.apply([put(2)]) == [[b"2 put 2 x"]]
    database.try_next(LogEntry(3, 1, b"broken"))
    with pytest.raises(MachineBrokenError):
        database.apply([LogEntry(3, 1, b"broken")])


def test_a_mark_that_was_tried_is_hashed_once_it_is_applied(database: DatabaseDoor) -> None:
    database.try_next(LogEntry(2, 1, b"mark"))
    database.try_next(put(2))
    database.apply([put(2)])
    database.try_next(LogEntry(3, 1, b"mark"))
    assert database.hash_at(3) is None
    assert database.apply([LogEntry(3, 1, b"mark"), put(4)]) == [[b"3 mark"], [b"4 put 4 x"]]
    eventually(lambda: database.hash_at(3) is not None)
    with database.reader() as tx:
        tx.execute("SELECT 1")
    assert database.hash_at(2) is None


def test_a_snapshot_is_installed_over_what_is_tried(make: Make, tmp_path: Path) -> None:
    database, other = make("one"), make("other")
    other.apply(puts(2, 6))
    other.snapshot(tmp_path / "snapshot")
    database.try_next(put(2, 9, "tried"))
    database.install(tmp_path / "snapshot", 6, 1)
    assert content(database) == pairs_after(6)
    assert database.apply([put(7)]) == [[b"7 put 7 x"]]


def test_what_is_tried_is_durable_and_emptied_for_nobody(database: DatabaseDoor) -> None:
    database.apply([put(2)])
    database.try_next(put(3))
    assert database.make_durable() == 2
    database.checkpoint_if_needed()
    assert content(database) == {2: b"x"}
    assert database.apply([put(3)]) == [[b"3 put 3 x"]]
