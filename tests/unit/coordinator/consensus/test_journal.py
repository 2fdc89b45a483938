"""The journal as its owner sees it: the log, terms, room, failures."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from pysyncobj.journal import Journal as PySyncObjJournal

from coordinator.consensus.files import CorruptJournal, RealFiles, StorageFailure, StorageFull
from coordinator.consensus.journal import NOOP, SLICE_ENTRIES_MAX, Journal
from coordinator.consensus.segments import reserve_of
from quorumfs.clock import SystemClock
from quorumfs.errors import InvalidArgumentError, PreconditionFailedError
from quorumfs.limits import ENTRY_BYTES_MAX, KIB, MIB
from tests.support.fake_files import FakeFiles
from tests.unit.coordinator.consensus.disks import (
    DIRECTORY,
    SEGMENT_BYTES,
    JournalDisk,
    fill,
    fill_up,
    numbers,
)

# The log


def test_a_new_journal_holds_the_entry_that_all_begin_with() -> None:
    disk = JournalDisk()
    assert not Journal.is_there(DIRECTORY, disk.files)
    journal = disk.open()
    assert Journal.is_there(DIRECTORY, disk.files)
    assert journal[:] == [(NOOP, 1, 0)]
    assert (journal.first_index, journal.last_index, journal.last_term, journal.synced_index) == (1, 1, 0, 1)
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId(), journal.getRaftCommitIndex()) == (
        0,
        None,
        1,
    )
    journal = disk.crashed()
    assert journal[0] == (NOOP, 1, 0)


def test_an_entry_can_be_read_at_once_and_counts_after_the_sync() -> None:
    disk = JournalDisk()
    journal = disk.open()
    journal.append(b"a", 2, 1)
    assert journal.dirty
    assert journal[-1] == (b"a", 2, 1)
    assert journal.synced_index == 1
    journal.sync()
    assert not journal.dirty
    assert journal.synced_index == 2
    assert disk.crashed()[:] == [(NOOP, 1, 0), (b"a", 2, 1)]


def test_what_was_not_synced_is_gone_after_a_power_cut() -> None:
    disk = JournalDisk()
    disk.open().append(b"a", 2, 1)
    assert len(disk.crashed()) == 1


def test_an_orderly_end_syncs_what_was_gathered() -> None:
    disk = JournalDisk()
    journal = disk.open()
    journal.append(b"a", 2, 1)
    journal.close()
    journal.close()
    assert disk.crashed().last_index == 2
    with pytest.raises(ValueError, match="closed"):
        journal.append(b"b", 3, 1)
    assert not journal.prepare()


def test_entries_follow_each_other_in_index_and_term() -> None:
    journal = JournalDisk().open()
    journal.append(b"a", 2, 5)
    for index, term in ((2, 5), (4, 5), (3, 4)):
        with pytest.raises(ValueError, match="does not follow"):
            journal.append(b"b", index, term)
    assert journal.last_index == 2


def test_a_truncation_is_durable_with_what_replaces_it() -> None:
    disk = JournalDisk()
    journal = disk.open()
    fill(journal, 4)
    journal.truncate_from(4)
    assert (journal.last_index, journal.synced_index) == (3, 3)
    assert disk.crashed().last_index == 5
    disk = JournalDisk()
    journal = disk.open()
    fill(journal, 4)
    journal.truncate_from(4)
    journal.append(b"other", 4, 2)
    assert journal.synced_index == 3
    journal.sync()
    assert disk.crashed()[2:] == [journal[2], (b"other", 4, 2)]


def test_truncating_behind_the_end_is_nothing_and_the_base_stays() -> None:
    journal = JournalDisk().open()
    fill(journal, 2)
    journal.truncate_from(4)
    assert not journal.dirty
    with pytest.raises(ValueError, match="begins at 1"):
        journal.truncate_from(1)


def test_compaction_keeps_the_base_with_its_command_and_frees_segments() -> None:
    disk = JournalDisk(cache_bytes=0)
    journal = disk.open()
    fill(journal, 60)
    assert len(disk.segments()) > 2
    journal.drop_to(55)
    assert (journal.first_index, journal.payload_bytes) == (55, 7 * 1000)
    assert numbers(journal) == list(range(55, 62))
    journal.sync()
    journal.prepare()
    assert len(disk.segments()) == 1
    journal = disk.crashed()
    assert numbers(journal) == list(range(55, 62))
    assert journal[0][1:] == (55, 1)


def test_compaction_goes_only_forward() -> None:
    journal = JournalDisk().open()
    fill(journal, 5)
    journal.drop_to(4)
    journal.sync()
    journal.drop_to(3)
    assert not journal.dirty
    with pytest.raises(ValueError, match="ends at 6"):
        journal.drop_to(7)


def test_the_margin_to_keep_is_told_in_bytes() -> None:
    journal = JournalDisk().open()
    fill(journal, 10)
    assert journal.index_keeping(3000) == 9
    assert journal.index_keeping(10**9) == 1


def test_a_snapshot_of_an_entry_that_the_log_has_keeps_what_follows() -> None:
    journal = JournalDisk().open()
    fill(journal, 5)
    journal.reset(4, 1)
    assert numbers(journal) == [4, 5, 6]


@pytest.mark.parametrize(("index", "term"), [(4, 2), (99, 7)])
def test_a_snapshot_of_another_history_begins_the_log_anew(index: int, term: int) -> None:
    disk = JournalDisk()
    journal = disk.open()
    fill(journal, 5)
    journal.reset(index, term)
    assert journal[:] == [(NOOP, index, term)]
    assert journal.synced_index < index
    journal.append(b"next", index + 1, term)
    journal.sync()
    assert disk.crashed()[:] == [(NOOP, index, term), (b"next", index + 1, term)]


def test_a_snapshot_before_the_base_is_refused() -> None:
    journal = JournalDisk().open()
    fill(journal, 5)
    journal.drop_to(3)
    with pytest.raises(ValueError, match="begins at 3"):
        journal.reset(2, 1)


def test_term_and_vote_are_durable_on_return() -> None:
    disk = JournalDisk()
    journal = disk.open()
    journal.append(b"a", 2, 0)
    journal.setCurrentTerm(3, "c2")
    assert not journal.dirty
    journal = disk.crashed()
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId(), journal.last_index) == (3, "c2", 2)
    journal.setCurrentTerm(4, None)
    journal = disk.crashed()
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (4, None)


def test_a_term_never_goes_back_and_the_same_again_costs_nothing() -> None:
    journal = JournalDisk().open()
    journal.set_term(3, "c2")
    syncs = journal.fsync.count
    journal.set_term(3, "c2")
    assert journal.fsync.count == syncs
    with pytest.raises(ValueError, match="before the present term 3"):
        journal.set_term(2, None)


@pytest.mark.parametrize("other", ["c1", None])
def test_a_vote_is_given_once_in_a_term(other: str | None) -> None:
    disk = JournalDisk()
    journal = disk.open()
    journal.set_term(3, None)
    journal.set_term(3, "c2")
    with pytest.raises(ValueError, match="voted for c2 already"):
        journal.set_term(3, other)
    assert disk.crashed().voted_for == "c2"


# Reading


@pytest.mark.parametrize("cache_bytes", [0, 5000, 10**6])
def test_entries_come_from_the_disk_as_from_memory(cache_bytes: int) -> None:
    journal = JournalDisk(cache_bytes=cache_bytes).open()
    fill(journal, 100, size=700)
    journal.append(b"gathered", 102, 1)
    assert numbers(journal)[:-1] == list(range(101))[:1] + list(range(2, 102))
    assert journal.entries(102, 10, 10) == [(b"gathered", 102, 1)]
    assert [index for _, index, _ in journal.entries(10, 2100, 99)] == [10, 11, 12]
    assert [index for _, index, _ in journal.entries(10, 1, 99)] == [10]
    assert [index for _, index, _ in journal.entries(100, 10**6, 99)] == [100, 101, 102]
    assert journal.entries(103, 10**6, 99) == []
    assert journal.entries(10, 10**6, 0) == []


def test_what_is_gone_cannot_be_read() -> None:
    journal = JournalDisk().open()
    fill(journal, 5)
    journal.drop_to(4)
    with pytest.raises(IndexError, match="begins at 4"):
        journal.entries(3, 100, 10)
    assert [journal.term_at(index) for index in (3, 4, 6, 7)] == [None, 1, 1, None]


def test_positions_and_slices_are_a_lists() -> None:
    journal = JournalDisk().open()
    fill(journal, 9)
    journal.drop_to(3)
    as_list = journal[0:8]
    assert [index for _, index, _ in as_list] == list(range(3, 11))
    for part in (slice(2, 5), slice(None, 3), slice(-3, None), slice(5, 5), slice(7, 99), slice(9, 12)):
        assert journal[part] == as_list[part]
    assert [journal[k] for k in (0, 3, -1, -8)] == [as_list[k] for k in (0, 3, -1, -8)]
    for position in (8, -9):
        with pytest.raises(IndexError):
            journal[position]
    with pytest.raises(ValueError, match="forwards"):
        journal[::-1]


def test_a_slice_without_an_end_is_bounded() -> None:
    journal = JournalDisk().open()
    for index in range(2, SLICE_ENTRIES_MAX + 10):
        if not journal.has_room():
            journal.sync()
            journal.prepare()
        journal.append(b"", index, 1)
    assert len(journal[3:]) == SLICE_ENTRIES_MAX
    assert len(journal[3:4200]) > SLICE_ENTRIES_MAX


def test_an_entry_that_rots_while_the_member_runs_is_not_handed_out() -> None:
    disk = JournalDisk(cache_bytes=0)
    journal = disk.open()
    fill(journal, 5)
    content = disk.files.content(disk.segments()[0])
    content[content.index(b"...")] ^= 1
    with pytest.raises(CorruptJournal, match="rejoin"):
        journal.entries(2, 10**6, 99)
    with pytest.raises(CorruptJournal):
        journal.sync()


# By the names of PySyncObj


def test_the_journal_has_every_name_that_pysyncobj_calls() -> None:
    names = [name for name in vars(PySyncObjJournal) if callable(getattr(PySyncObjJournal, name))]
    assert [name for name in names if not hasattr(Journal, name)] == []


def test_positions_are_turned_into_indexes() -> None:
    disk = JournalDisk()
    journal = disk.open()
    for index in range(2, 8):
        journal.add(b"x", index, 1)
    journal.deleteEntriesTo(3)
    assert journal.first_index == 4
    journal.deleteEntriesFrom(2)
    assert journal.last_index == 5
    journal.deleteEntriesFrom(9)
    journal.deleteEntriesTo(9)
    assert (journal.first_index, journal.last_index) == (5, 5)
    journal.setRaftCommitIndex(5)
    journal.onOneSecondTimer()
    with pytest.raises(ValueError, match="never cleared"):
        journal.clear()
    journal._destroy()
    assert disk.open().first_index == 5


# Room

CROWDED = SEGMENT_BYTES * 2 + 2000
"""Bytes of a disk on which one segment and one spare have room."""


def test_a_full_disk_is_told_before_anything_is_changed() -> None:
    disk = JournalDisk(capacity_bytes=CROWDED)
    journal = disk.open()
    assert journal.has_room()
    assert fill_up(journal) > 30
    fill_up(journal, size=0)
    last = journal.last_index
    assert not journal.has_room()
    with pytest.raises(StorageFull, match="goes on by itself"):
        journal.append(b"", last + 1, 1)
    with pytest.raises(StorageFull):
        journal.truncate_from(last)
    assert (journal.last_index, journal.dirty) == (last, False)
    assert disk.crashed().last_index == last


def test_a_member_on_a_full_disk_goes_on_when_there_is_room_again() -> None:
    disk = JournalDisk(capacity_bytes=CROWDED)
    journal = disk.open()
    fill_up(journal)
    assert not journal.prepare()
    disk.files.capacity_bytes = None
    assert journal.prepare()
    assert journal.has_room()
    fill(journal, 50)
    assert disk.crashed().last_index == journal.last_index


def test_room_is_denied_before_the_last_of_it_is_used() -> None:
    disk = JournalDisk(capacity_bytes=CROWDED)
    journal = disk.open()
    while journal.has_room():
        journal.append(b"." * 900, journal.last_index + 1, 1)
        journal.sync()
        journal.prepare()
    assert fill_up(journal) >= 8


def test_terms_and_votes_have_a_reserve_on_a_full_disk() -> None:
    disk = JournalDisk(capacity_bytes=CROWDED)
    journal = disk.open()
    fill_up(journal)
    votes = reserve_of(SEGMENT_BYTES) // 512
    for term in range(1, votes + 1):
        journal.set_term(term, "c1")
    for term in range(votes + 1, votes + 3):
        try:
            journal.set_term(term, "c1")
        except StorageFull:
            break
    else:
        raise AssertionError("the reserve never ended")
    assert journal.term == term - 1
    assert disk.crashed().term == term - 1


def test_an_entry_never_uses_the_reserve() -> None:
    disk = JournalDisk(capacity_bytes=CROWDED)
    journal = disk.open()
    fill_up(journal, size=0)
    for term in range(1, reserve_of(SEGMENT_BYTES) // 512 + 1):
        journal.set_term(term, None)


def test_compaction_on_a_full_disk_makes_the_room_it_needs() -> None:
    disk = JournalDisk(capacity_bytes=CROWDED)
    journal = disk.open()
    fill_up(journal)
    journal.drop_to(journal.last_index)
    journal.sync()
    assert journal.prepare()
    fill(journal, 10)
    assert disk.crashed().last_index == journal.last_index


def test_compaction_leaves_half_of_the_reserve_to_votes() -> None:
    disk = JournalDisk(capacity_bytes=CROWDED)
    journal = disk.open()
    fill_up(journal)
    for index in range(2, 9):
        with suppress(StorageFull):
            journal.drop_to(index)
            journal.sync()
    assert journal.first_index < 8
    for term in range(1, reserve_of(SEGMENT_BYTES) // 1024 + 1):
        journal.set_term(term, None)


def test_a_frame_that_does_not_fit_goes_whole_into_the_next_segment() -> None:
    disk = JournalDisk()
    journal = disk.open()
    for index in range(2, 22):
        journal.append(bytes(1000), index, 1)
    journal.sync()
    for index in range(22, 42):
        journal.append(bytes(1000), index, 1)
    assert len(disk.segments()) == 1
    journal.sync()
    assert len(disk.segments()) == 2
    assert disk.crashed().last_index == 41


def test_more_than_a_frame_takes_is_synced_on_the_way() -> None:
    disk = JournalDisk()
    journal = disk.open()
    for index in range(2, 50):
        journal.append(bytes(1000), index, 1)
    assert 1 < journal.synced_index < 49
    journal.sync()
    assert disk.crashed().last_index == 49


def test_an_entry_that_no_frame_can_hold_is_refused() -> None:
    journal = JournalDisk().open()
    with pytest.raises(ValueError, match="more than a frame takes"):
        journal.append(bytes(SEGMENT_BYTES), 2, 1)


def test_the_smallest_segments_that_settings_allow_take_the_largest_entries() -> None:
    files = FakeFiles(JournalDisk().random)
    journal = Journal.open(DIRECTORY, files, SystemClock(), segment_bytes=2 * ENTRY_BYTES_MAX)
    for index in range(2, 6):
        assert journal.has_room()
        journal.append(bytes(ENTRY_BYTES_MAX + KIB), index, 1)
        journal.sync()
        journal.prepare()


def test_a_new_journal_on_a_full_disk_is_refused() -> None:
    with pytest.raises(StorageFull):
        JournalDisk(capacity_bytes=1000).open()


def test_an_impossible_segment_size_is_refused() -> None:
    for size in (0, 1000, 16 * KIB + 1, 2048 * MIB):
        with pytest.raises(InvalidArgumentError):
            Journal.open(DIRECTORY, RealFiles(), SystemClock(), segment_bytes=size)


# Failures


@pytest.mark.parametrize("call", ["write", "sync_data"])
def test_after_a_failed_write_or_sync_every_call_raises_the_same(call: str) -> None:
    disk = JournalDisk()
    journal = disk.open()
    fill(journal, 3)
    journal.append(b"a", 5, 1)
    disk.files.fail_next(call, errno.EIO)
    with pytest.raises(StorageFailure, match="cannot be written: Input/output error") as failed:
        journal.sync()
    calls: list[Callable[[], object]] = [
        journal.sync,
        journal.prepare,
        lambda: journal.append(b"b", 6, 1),
        lambda: journal.set_term(9, None),
        lambda: journal.truncate_from(3),
        lambda: journal.drop_to(3),
        lambda: journal.reset(9, 9),
        lambda: journal.entries(2, 100, 10),
        lambda: journal[0],
    ]
    for again in calls:
        with pytest.raises(StorageFailure) as raised:
            again()
        assert raised.value is failed.value
    assert journal.synced_index == 4
    syncs = disk.files.calls["sync_data"]
    journal.close()
    assert disk.files.calls["sync_data"] == syncs


def test_what_a_failed_sync_left_in_the_cache_is_not_believed_by_the_next_process() -> None:
    disk = JournalDisk()
    journal = disk.open()
    fill(journal, 3)
    journal.append(b"a", 5, 1)
    disk.files.fail_next("sync_data", errno.EIO)
    with pytest.raises(StorageFailure):
        journal.sync()
    disk.files.kill()
    assert disk.open().last_index == 4


def test_a_disk_that_says_full_for_room_that_was_made_has_failed() -> None:
    disk = JournalDisk()
    journal = disk.open()
    journal.append(b"a", 2, 1)
    disk.files.fail_next("write", errno.ENOSPC)
    with pytest.raises(StorageFailure):
        journal.sync()


def test_a_failure_beside_the_loop_ends_the_journal_too() -> None:
    disk = JournalDisk()
    journal = disk.open()
    while journal.prepare() and len(disk.segments()) < 2:
        fill(journal, 1)
    journal.drop_to(journal.last_index)
    journal.sync()
    disk.files.fail_next("remove", errno.EIO)
    with pytest.raises(StorageFailure, match="made or removed"):
        journal.prepare()
    with pytest.raises(StorageFailure):
        journal.append(b"a", journal.last_index + 1, 9)


def test_being_short_of_descriptors_is_no_failure() -> None:
    disk = JournalDisk()
    journal = disk.open()
    while len(disk.segments()) < 2:
        journal.append(bytes(1000), journal.last_index + 1, 1)
        journal.sync()
    disk.files.fail_next("create", errno.EMFILE)
    assert not journal.prepare()
    assert journal.prepare()


def test_two_processes_never_have_one_journal_open() -> None:
    disk = JournalDisk()
    journal = disk.open()
    with pytest.raises(PreconditionFailedError, match="in use"):
        disk.open()
    journal.close()
    disk.open().close()


def test_a_journal_that_cannot_be_opened_lets_go_of_its_lock() -> None:
    disk = JournalDisk()
    disk.open().close()
    disk.files.fail_next("read", errno.EIO)
    with pytest.raises(StorageFailure, match="cannot be opened"):
        disk.open()
    disk.open().close()


# Numbers


def test_every_sync_is_timed_by_the_clock_that_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = JournalDisk()
    journal = disk.open()
    sync_data, seconds = disk.files.sync_data, iter((0.5, 2.0, 0.25))

    def slowly(fd: int) -> None:
        disk.clock.advance(next(seconds))
        sync_data(fd)

    monkeypatch.setattr(disk.files, "sync_data", slowly)
    for index in (2, 3, 4):
        journal.append(b"a", index, 1)
        journal.sync()
    assert (journal.fsync.count, journal.fsync.seconds_total, journal.fsync.seconds_max) == (3, 2.75, 2.0)


def test_an_orderly_restart_writes_a_seal_and_a_spare_and_no_more() -> None:
    disk = JournalDisk()
    journal = disk.open()
    fill(journal, 5)
    journal.close()
    writes = disk.files.calls["write"]
    disk.open()
    assert disk.files.calls["write"] == writes + 2


def test_the_disk_it_uses_is_segments_and_a_spare() -> None:
    disk = JournalDisk()
    journal = disk.open()
    assert journal.disk_bytes == 2 * SEGMENT_BYTES
    fill(journal, 30)
    assert journal.disk_bytes == 3 * SEGMENT_BYTES == disk.files.used_bytes()


def test_a_journal_on_a_real_disk_comes_back(tmp_path: Path) -> None:
    def opened() -> Journal:
        return Journal.open(
            tmp_path / "raft", RealFiles(), SystemClock(), segment_bytes=SEGMENT_BYTES, cache_bytes=0
        )

    journal = opened()
    fill(journal, 100)
    journal.drop_to(70)
    journal.set_term(4, "c3")
    journal.prepare()
    journal.close()
    journal = opened()
    assert numbers(journal) == list(range(70, 102))
    assert (journal.term, journal.voted_for) == (4, "c3")
    journal.close()
