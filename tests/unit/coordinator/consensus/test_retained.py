"""What a member keeps in memory of its log."""

from __future__ import annotations

from coordinator.consensus.retained import NOWHERE, Retained


def log_of(sizes: list[int], cache_bytes: int = 10**6) -> Retained:
    retained = Retained(cache_bytes)
    retained.restart(5, 1, 1, 100, bytes(sizes[0]))
    for k, size in enumerate(sizes[1:], start=1):
        retained.append(2, 1, 100 + k, bytes(size))
    return retained


def test_entries_have_a_term_and_a_home() -> None:
    log = log_of([10, 20, 30])
    assert (log.first_index, log.last_index, len(log), log.last_term) == (5, 7, 3, 2)
    assert [log.term_at(index) for index in (4, 5, 6, 7, 8)] == [None, 1, 2, 2, None]
    assert [log.home(index) for index in (5, 6, 7)] == [(1, 100, 10), (1, 101, 20), (1, 102, 30)]


def test_dropping_and_truncating_leave_the_middle() -> None:
    log = log_of([10, 20, 30, 40, 50])
    log.drop_to(6, 2)
    log.truncate_from(9)
    assert (log.first_index, log.last_index) == (6, 8)
    assert log.home(6) == (1, 101, 20)
    assert log.payload_bytes == 90
    log.append(3, 2, 7, b"abc")
    assert log.home(9) == (2, 7, 3)
    assert log.payload_bytes == 93


def test_placing_gives_a_home_to_all_that_waited() -> None:
    log = log_of([1])
    log.append(1, NOWHERE, 24, b"a")
    log.append(1, NOWHERE, 50, b"b")
    log.place(6, 3, 4096)
    assert [log.home(index)[:2] for index in (5, 6, 7)] == [(1, 100), (3, 4120), (3, 4146)]


def test_the_cache_forgets_the_oldest_but_nothing_that_waits_for_the_disk() -> None:
    log = log_of([100] * 10, cache_bytes=250)
    log.trim_cache(synced_index=7)
    assert log.cached_from == 8
    log.trim_cache(synced_index=14)
    assert log.cached_from == 13
    assert log.cached(13) == bytes(100)
    log.truncate_from(11)
    assert log.cached_from == 11
    log.append(2, NOWHERE, 0, b"new")
    assert log.cached(11) == b"new"
    log.drop_to(11, 2)
    log.trim_cache(synced_index=0)
    assert log.cached_from == 11


def test_the_newest_bytes_are_found_by_their_amount() -> None:
    log = log_of([10, 20, 30, 40])
    assert [log.keeping(size) for size in (1000, 100, 99, 90, 89, 70, 69, 40, 39, 0)] == [
        5, 5, 6, 6, 7, 7, 8, 8, 8, 8,
    ]  # fmt: skip
    log.drop_to(6, 2)
    assert [log.keeping(size) for size in (90, 89, 70)] == [6, 7, 7]


def test_a_run_is_bound_by_bytes_and_number_but_has_one_entry() -> None:
    log = log_of([10, 20, 30, 40])
    assert [log.through(5, size, 99) for size in (0, 10, 29, 30, 60, 100, 999)] == [5, 5, 5, 6, 7, 8, 8]
    assert [log.through(6, 999, count) for count in (1, 2, 3)] == [6, 7, 8]
    log.drop_to(7, 2)
    assert log.through(7, 70, 99) == 8


def test_entries_of_which_nothing_is_known_are_nowhere_until_they_are_gone() -> None:
    log = Retained(1000)
    log.begin_unknown(5, 3, 9)
    assert (log.first_index, log.last_index, log.term_at(5), log.home(7)) == (5, 9, 3, (NOWHERE, 0, 0))
    log.append(4, 2, 8, b"ten")
    log.drop_to(8, 4)
    assert (log.term_at(8), log.home(8)[0], log.cached_from) == (4, NOWHERE, 10)
    log.drop_to(10, 4)
    assert log.home(10) == (2, 8, 3)
