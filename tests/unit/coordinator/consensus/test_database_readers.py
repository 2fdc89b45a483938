"""Reading while entries are applied."""

import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.consensus.database import Database
from coordinator.consensus.interfaces import LogEntry
from coordinator.consensus.readers import IDLE_MAX, SLOW_SECONDS
from quorumfs.clock import ManualClock
from tests.support.fake_machine import pairs, pairs_after, puts
from tests.unit.coordinator.consensus.databases import content, opened


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def database(tmp_path: Path, clock: ManualClock) -> Iterator[Database]:
    database = opened(tmp_path / "c1", clock=clock)
    yield database
    database.close()


def fill(index: int) -> LogEntry:
    """About a megabyte of WAL."""
    return LogEntry(index, 1, b"fill 1200 1000")


def test_a_reader_sees_one_state_however_much_is_applied_meanwhile(database: Database) -> None:
    database.apply(puts(2, 10))
    with database.reader() as tx:
        database.apply(puts(11, 20))
        assert pairs(tx) == pairs_after(10)
    assert content(database) == pairs_after(20)


def test_a_cursor_that_was_left_open_holds_no_later_reader_in_the_past(database: Database) -> None:
    database.apply(puts(2, 10))
    with database.reader() as tx:
        left_open = tx.execute("SELECT * FROM pair")
        assert left_open.fetchone() is not None
    database.apply(puts(11, 20))
    assert content(database) == pairs_after(20)
    assert database.reader_stats().stale == 1


def test_a_reader_that_holds_the_writers_lock_for_a_moment_is_waited_for(
    database: Database, tmp_path: Path
) -> None:
    """It does when it comes upon the index of the WAL while that is being changed."""
    answers: list[object] = []
    with closing(sqlite3.connect(tmp_path / "c1" / "state-1.db", isolation_level=None)) as reader:
        reader.execute("BEGIN IMMEDIATE")
        writer = threading.Thread(target=lambda: answers.append(database.apply(puts(2, 2))))
        writer.start()
        writer.join(0.05)
        assert answers == []
        reader.execute("ROLLBACK")
        writer.join()
    assert answers == [[[b"2 put 2 v2"]]]


def test_an_error_of_one_reader_does_not_reach_the_next(database: Database) -> None:
    with pytest.raises(sqlite3.OperationalError), database.reader() as tx:
        tx.execute("SELECT nothing FROM nowhere")
    assert content(database) == {}
    assert database.reader_stats().active == 0


def test_readers_in_many_threads_see_whole_states_that_never_go_back(database: Database) -> None:
    stop = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        before = 0
        while not stop.is_set():
            least = database.applied_index
            with database.reader() as tx:
                (index,) = tx.execute("SELECT applied_index FROM raft_state").fetchone()
                if pairs(tx) != pairs_after(index) or index < max(before, least):
                    wrong.append((before, least, index))
            before = index

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for first in range(2, 600, 4):
        database.apply(puts(first, first + 3))
        database.checkpoint_if_needed()
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_long_reader_is_counted_while_it_runs_and_afterwards(
    database: Database, clock: ManualClock
) -> None:
    with database.reader():
        clock.advance(SLOW_SECONDS + 1)
        assert (database.reader_stats().active, database.reader_stats().slow) == (1, 1)
    assert (database.reader_stats().active, database.reader_stats().slow) == (0, 1)
    with database.reader():
        pass
    assert database.reader_stats().slow == 1


def test_only_some_connections_are_kept(database: Database) -> None:
    readers = [database.reader() for _ in range(IDLE_MAX + 3)]
    connections = [reader.__enter__() for reader in readers]
    for reader in readers:
        reader.__exit__(None, None, None)
    closed = 0
    for connection in connections:
        try:
            connection.execute("SELECT 1")
        except sqlite3.ProgrammingError:
            closed += 1
    assert closed == 3


def test_the_wal_is_emptied_when_it_has_grown(database: Database) -> None:
    assert not database.checkpoint_if_needed()
    database.apply([fill(2)])
    assert database.checkpoint_if_needed()
    assert database.wal_bytes == 0
    assert not database.checkpoint_if_needed()
    assert content(database).keys() == {2 << 20 | key for key in range(1200)}


def test_the_file_of_the_wal_is_written_again_from_its_beginning_and_grows_no_more(tmp_path: Path) -> None:
    database = opened(tmp_path / "c1", checkpoint_bytes=256 << 10)
    wal = tmp_path / "c1" / "state-1.db-wal"
    emptied, sizes = 0, set()
    for index in range(2, 400):
        database.apply([LogEntry(index, 1, b"fill 4 1000")])
        if database.checkpoint_if_needed():
            emptied += 1
            assert database.wal_bytes == 0
            sizes.add(wal.stat().st_size)
    database.close()
    assert 5 < emptied < 40
    assert all(256 << 10 <= size <= 512 << 10 for size in sizes)


def test_how_far_the_wal_is_in_use_is_known_after_a_new_start(tmp_path: Path) -> None:
    database = opened(tmp_path / "c1", checkpoint_bytes=1 << 30)
    database.apply([LogEntry(index, 1, b"fill 4 1000") for index in range(2, 400)])
    database.checkpoint_if_needed()
    before = database.wal_bytes
    shutil.copytree(tmp_path / "c1", tmp_path / "c2", ignore=shutil.ignore_patterns("*-shm"))
    database.close()
    again = opened(tmp_path / "c2", checkpoint_bytes=1 << 30)
    again.checkpoint_if_needed()
    assert again.wal_bytes == before > 512 << 10
    again.close()


def test_a_wal_that_readers_made_large_is_cut_off(database: Database, tmp_path: Path) -> None:
    with database.reader():
        for index in range(2, 8):
            database.apply([fill(index)])
            database.checkpoint_if_needed()
    database.apply([fill(8)])
    assert database.checkpoint_if_needed()
    assert [path.stat().st_size for path in tmp_path.rglob("*-wal")] == [0]


def test_a_long_reader_keeps_the_wal_but_not_the_writer(database: Database, clock: ManualClock) -> None:
    with database.reader() as tx:
        clock.advance(60)
        for index in range(2, 8):
            database.apply([fill(index)])
            assert database.checkpoint_if_needed()
        assert database.wal_bytes > 5 << 20
        assert pairs(tx) == {}
    database.apply([fill(8)])
    assert database.checkpoint_if_needed()
    assert database.wal_bytes == 0


def test_readers_that_never_leave_a_gap_are_made_to(tmp_path: Path) -> None:
    database = opened(tmp_path / "c1", checkpoint_bytes=64 << 10)
    stop = threading.Event()
    turn = threading.Semaphore(0)

    def overlap() -> None:
        """Always in a transaction: the next begins before this one ends."""
        reader = database.reader()
        reader.__enter__()
        turn.release()
        while not stop.is_set():
            reader.__exit__(None, None, None)
            reader = database.reader()
            reader.__enter__()
        reader.__exit__(None, None, None)

    threads = [threading.Thread(target=overlap) for _ in range(2)]
    for thread in threads:
        thread.start()
        turn.acquire()
    largest = 0
    for index in range(2, 200):
        database.apply([LogEntry(index, 1, b"fill 16 1000")])
        database.checkpoint_if_needed()
        largest = max(largest, database.wal_bytes)
    stop.set()
    for thread in threads:
        thread.join()
    database.close()
    assert largest < 1 << 20
