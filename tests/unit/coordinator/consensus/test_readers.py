"""The pool of reading connections: its pauses, and its end."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.consensus.database import open_writer
from coordinator.consensus.readers import Readers
from quorumfs.clock import ManualClock, SystemClock
from tests.support.fake_machine import FakeMachine


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "x.db"
    sqlite3.connect(path).close()
    with closing(open_writer(path)) as writer:
        writer.execute("BEGIN")
        FakeMachine().create(writer)
        writer.execute("COMMIT")
        yield path


@pytest.fixture
def readers(path: Path) -> Iterator[Readers]:
    readers = Readers(path, lambda: 1, SystemClock())
    yield readers
    readers.retire(lambda: None)


def begun(readers: Readers) -> sqlite3.Connection:
    connection = readers.begin()
    assert connection is not None
    return connection


def test_a_connection_serves_again(readers: Readers) -> None:
    first = begun(readers)
    readers.end(first)
    assert begun(readers) is first
    readers.end(first)


def test_none_begins_while_readers_are_asked_to_be_quiet(readers: Readers) -> None:
    began = threading.Event()

    def begin() -> None:
        readers.end(begun(readers))
        began.set()

    with readers.quiet(1.0):
        thread = threading.Thread(target=begin)
        thread.start()
        assert not began.wait(0.05)
    thread.join(10)
    assert began.is_set()


def test_a_writer_that_fails_lets_readers_begin_again(readers: Readers) -> None:
    with pytest.raises(ZeroDivisionError), readers.quiet(1.0):
        raise ZeroDivisionError
    readers.end(begun(readers))


def test_quiet_comes_as_soon_as_the_last_has_ended(readers: Readers) -> None:
    connection = begun(readers)
    ended = threading.Event()

    def end() -> None:
        ended.wait(10)
        readers.end(connection)

    thread = threading.Thread(target=end)
    thread.start()
    ended.set()
    with readers.quiet(60.0):
        assert readers.stats().active == 0
    thread.join()


def test_nobody_waits_for_a_reader_that_has_run_for_long(path: Path) -> None:
    clock = ManualClock()
    readers = Readers(path, lambda: 1, clock)
    connection = begun(readers)
    clock.advance(61)
    with readers.quiet(60.0):
        assert readers.stats().active == 1
    readers.end(connection)
    readers.retire(lambda: None)


def test_a_retired_pool_begins_no_more_and_tells_when_the_last_is_closed(readers: Readers) -> None:
    told: list[str] = []
    readers.end(begun(readers))
    connection = begun(readers)
    readers.retire(lambda: told.append("empty"))
    assert readers.begin() is None
    assert told == []
    readers.end(connection)
    assert told == ["empty"]
    with pytest.raises(sqlite3.ProgrammingError):
        connection.execute("SELECT 1")


def test_a_pool_nobody_used_is_empty_at_once(readers: Readers) -> None:
    told: list[str] = []
    readers.retire(lambda: told.append("empty"))
    assert told == ["empty"]


def test_a_file_that_cannot_be_opened_counts_for_nothing(tmp_path: Path) -> None:
    readers = Readers(tmp_path / "missing.db", lambda: 1, SystemClock())
    with pytest.raises(sqlite3.OperationalError):
        readers.begin()
    assert readers.stats().active == 0
    told: list[str] = []
    readers.retire(lambda: told.append("empty"))
    assert told == ["empty"]
