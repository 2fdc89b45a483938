"""Scrubbing's pace, what is purged and when, what is settled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from datanode.duties.upkeep import (
    PURGE_SECONDS,
    ROOM_BYTES,
    MeasureDuty,
    PurgeDuty,
    ScrubDuty,
    SettleDuty,
    VerifyDuty,
)
from datanode.store.chunks import ChunkStore
from datanode.store.fence import EpochStore
from datanode.store.holds import Hold
from datanode.store.layout import file_size
from datanode.store.rules import Condemnation
from datanode.store.scrub import Scrubber
from quorumfs.clock import ManualClock
from quorumfs.errors import SafetyGuardError
from quorumfs.ids import ChunkId
from quorumfs.limits import MIB
from quorumfs.v1.types_pb2 import Epoch
from tests.unit.datanode.store.fakes import FlakyFiles, flip, opened, put

A, B = ChunkId(b"a" * 16), ChunkId(b"b" * 16)
DATA = b"d" * 100_000


def let_pass(duty: PurgeDuty, clock: ManualClock, seconds: float) -> str:
    """Move the clock in the steps in which the duty looks."""
    said = ""
    for _ in range(int(seconds / PURGE_SECONDS)):
        clock.advance(PURGE_SECONDS)
        said = duty.work()
    return said


def purging(
    store: ChunkStore, clock: ManualClock, *, led: bool = True, history: Callable[[], int] = lambda: 1
) -> PurgeDuty:
    return PurgeDuty(store, 3600.0, lambda: led, clock, history)


def test_a_condemned_chunk_is_removed_when_its_time_in_quarantine_is_over(tmp_path: Path) -> None:
    clock = ManualClock()
    with opened(tmp_path) as (store, _):
        put(store, A, DATA)
        put(store, B, DATA)
        duty = purging(store, clock)
        store.quarantine(A, Condemnation(50, 1))
        let_pass(duty, clock, 1800)
        store.quarantine(B, Condemnation(50, 1))
        assert let_pass(duty, clock, 1500) == "0 purged, 2 in quarantine"
        let_pass(duty, clock, 600)
        assert store.ids(b"", 9, quarantined=True) == [B]
        assert [path.name for path in (tmp_path / "quarantine").iterdir() if path.is_file()] == [
            f"{B.hex()}.50.1"
        ]
        assert store.usage()[0].quarantined_bytes == file_size(len(DATA))


def test_time_in_which_nobody_leads_does_not_count(tmp_path: Path) -> None:
    clock = ManualClock()
    with opened(tmp_path) as (store, _):
        put(store, A, DATA)
        store.quarantine(A, Condemnation(50, 1))
        let_pass(purging(store, clock, led=False), clock, 10_000)
        assert store.restore(A, Hold(1, 50))


def test_a_machine_that_slept_purges_nothing_when_it_wakes(tmp_path: Path) -> None:
    clock = ManualClock()
    with opened(tmp_path) as (store, _):
        put(store, A, DATA)
        store.quarantine(A, Condemnation(50, 1))
        duty = purging(store, clock)
        duty.work()
        clock.advance(86_400)
        assert duty.work() == "0 purged, 1 in quarantine"


def test_a_chunk_that_was_restored_and_condemned_again_has_its_whole_time(tmp_path: Path) -> None:
    clock = ManualClock()
    with opened(tmp_path) as (store, _):
        put(store, A, DATA)
        store.quarantine(A, Condemnation(50, 1))
        duty = purging(store, clock)
        let_pass(duty, clock, 3000)
        store.restore(A, Hold(1, 50))
        store.quarantine(A, Condemnation(60, 1))
        assert let_pass(duty, clock, 3000) == "0 purged, 1 in quarantine"


def test_a_new_history_of_the_log_gives_the_quarantine_its_whole_time_again(tmp_path: Path) -> None:
    """It may have gone back behind the deletion, and want the chunk."""
    clock, history = ManualClock(), [1]
    with opened(tmp_path) as (store, _):
        put(store, A, DATA)
        store.quarantine(A, Condemnation(50, 1))
        duty = purging(store, clock, history=lambda: history[0])
        let_pass(duty, clock, 3000)
        history[0] = 2
        assert let_pass(duty, clock, 3000) == "0 purged, 1 in quarantine"
        assert let_pass(duty, clock, 900) == "0 purged, 0 in quarantine"


class Full(FlakyFiles):
    """A file system on which each file takes so much that only a few have room."""

    def space(self, path: Path) -> tuple[int, int]:
        count = sum(1 for one in path.rglob("*") if one.is_file() and len(one.name) >= 32)
        return 10 * ROOM_BYTES, (3 - count) * ROOM_BYTES


def test_under_pressure_quarantine_goes_before_its_time_if_a_leader_is_there(tmp_path: Path) -> None:
    clock = ManualClock()
    with opened(tmp_path, files=Full()) as (store, _):
        put(store, A, DATA)
        store.quarantine(A, Condemnation(50, 1))
        purging(store, clock).work()
        assert store.condemned() == [(A, 50)]
        put(store, B, DATA)
        put(store, ChunkId(b"c" * 16), DATA)
        purging(store, clock, led=False).work()
        assert store.condemned() == [(A, 50)]
        purging(store, clock).work()
        assert store.condemned() == []
        assert store.usage()[0].purged_early_chunks == 1


def test_wrong_bytes_are_kept_for_a_look(tmp_path: Path) -> None:
    clock = ManualClock()
    with opened(tmp_path) as (store, _):
        put(store, A, DATA)
        store.mark_corrupt(A)
        let_pass(purging(store, clock), clock, 10_000)
        assert (tmp_path / "quarantine" / "corrupt" / A.hex()).exists()


def corrupt_files(path: Path) -> list[str]:
    return sorted(one.name for one in (path / "quarantine" / "corrupt").iterdir())


def test_wrong_bytes_of_a_deleted_chunk_go_when_their_time_in_quarantine_is_over(tmp_path: Path) -> None:
    clock = ManualClock()
    with opened(tmp_path) as (store, _):
        put(store, A, DATA)
        store.mark_corrupt(A)
        duty = purging(store, clock)
        let_pass(duty, clock, 10_000)
        with pytest.raises(SafetyGuardError, match="born"):
            store.quarantine(A, Condemnation(5, 1))
        assert store.quarantine(A, Condemnation(50, 1))
        assert not store.quarantine(A, Condemnation(50, 1))
        let_pass(duty, clock, 3000)
        assert corrupt_files(tmp_path) == [f"{A.hex()}.50.1"]
    with opened(tmp_path) as (store, _):
        assert store.condemned() == [(A, 50)]
        assert not store.restore(A, Hold(1, 60))
        store.unquarantine(A, Hold(1, 60))
        assert A not in store
        let_pass(purging(store, clock), clock, 4000)
        assert corrupt_files(tmp_path) == []
        assert store.holds_nothing()


def test_a_chunk_is_deleted_with_wrong_bytes_of_it_that_lay_beside_it(tmp_path: Path) -> None:
    clock = ManualClock()
    with opened(tmp_path) as (store, _):
        put(store, A, DATA)
        store.mark_corrupt(A)
        put(store, A, DATA)
        assert store.quarantine(A, Condemnation(50, 1))
        assert sorted(store.condemned()) == [(A, 50), (A, 50)]
        assert store.restore(A, Hold(1, 60))
        assert store.verify(A).ok
        assert corrupt_files(tmp_path) == [f"{A.hex()}.50.1"]
        assert store.quarantine(A, Condemnation(70, 1))
    with opened(tmp_path) as (store, _):
        let_pass(purging(store, clock), clock, 4000)
        assert [one for one in (tmp_path / "quarantine").rglob("*") if one.is_file()] == []


def test_wrong_bytes_on_a_disk_that_refuses_do_not_hold_up_a_deletion(tmp_path: Path) -> None:
    files = FlakyFiles()
    with opened(tmp_path, files=files) as (store, _):
        put(store, A, DATA)
        store.mark_corrupt(A)
        files.fail["rename"] = 30
        assert not store.quarantine(A, Condemnation(50, 1))
        assert store.corrupt() == [A]


def test_wrong_bytes_of_a_deleted_replica_do_not_keep_a_good_one_away(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        put(store, A, DATA)
        store.mark_corrupt(A)
        store.quarantine(A, Condemnation(50, 1))
        put(store, A, DATA)
        assert store.verify(A).ok


@pytest.mark.parametrize("waited", [False, True])
def test_wrong_bytes_that_were_there_long_enough_make_way_first(tmp_path: Path, waited: bool) -> None:
    clock = ManualClock()
    with opened(tmp_path, files=Full()) as (store, _):
        put(store, A, DATA)
        put(store, B, DATA)
        store.mark_corrupt(A)
        duty = purging(store, clock)
        if waited:
            let_pass(duty, clock, 4200)
        put(store, ChunkId(b"c" * 16), DATA)
        store.quarantine(B, Condemnation(50, 1))
        assert corrupt_files(tmp_path) == [A.hex()]
        duty.work()
        assert corrupt_files(tmp_path) == ([] if waited else [A.hex()])
        assert store.condemned() == ([(B, 50)] if waited else [])
        assert store.usage()[0].purged_early_chunks == 1


def test_what_was_condemned_before_a_restart_is_counted_in_bytes_and_purged_too(tmp_path: Path) -> None:
    clock = ManualClock()
    with opened(tmp_path) as (store, _):
        put(store, A, DATA)
        store.quarantine(A, Condemnation(50, 1))
    with opened(tmp_path) as (store, _):
        measure = MeasureDuty(store)
        for _ in range(256):
            measure.work()
        assert store.usage()[0].quarantined_bytes == file_size(len(DATA))
        let_pass(purging(store, clock), clock, 4000)
        assert store.usage()[0].quarantined_bytes == 0
        assert store.condemned() == []


def test_commits_that_were_heard_are_settled(tmp_path: Path) -> None:
    with opened(tmp_path) as (_, disks):
        fence = EpochStore(disks.disks)
        fence.load()
        fence.obey(Epoch(history=1, term=1))
        fence.heard(Epoch(history=1, term=1), 77)
        assert SettleDuty(fence).work() == "commit index 77 is kept"
    with opened(tmp_path) as (_, disks):
        again = EpochStore(disks.disks)
        again.load()
        assert again.commit_index == 77


def scrubbing(
    store: ChunkStore, used: int, period: float, most: int, clock: ManualClock | None = None
) -> ScrubDuty:
    return ScrubDuty(Scrubber(store), lambda: used, period, most, clock or ManualClock())


def rested(duty: ScrubDuty, clock: ManualClock) -> float:
    """Let time pass as the duty wants it, until it reads again; how many seconds that took."""
    began = clock.monotonic()
    while True:
        clock.advance(duty.wait())
        if duty.work() != "rests":
            return clock.monotonic() - began


@pytest.mark.parametrize(
    ("used", "period", "most", "pause"),
    [
        (MIB, MIB / 50_000, MIB, 2.0),  # the period asks for 50 kB/s
        (MIB, 1.0, 10_000, 10.0),  # the bound is lower than what the period asks for
        (0, 100.0, MIB, 3600.0),  # an empty disk that gets its first chunk: never longer than an hour
    ],
)
def test_the_scrubber_keeps_the_pace_that_its_period_asks_for(
    tmp_path: Path, used: int, period: float, most: int, pause: float
) -> None:
    clock = ManualClock()
    with opened(tmp_path) as (store, _):
        put(store, A, DATA)
        duty = scrubbing(store, used, period, most, clock)
        assert duty.work() == f"chunk {A.hex()} is good"
        assert rested(duty, clock) == pytest.approx(pause)


def test_the_scrubber_does_not_rest_for_an_hour_because_sizes_were_not_known_yet_when_it_read(
    tmp_path: Path,
) -> None:
    clock, used = ManualClock(), [0]
    with opened(tmp_path) as (store, _):
        put(store, A, DATA)
        duty = ScrubDuty(Scrubber(store), lambda: used[0], 1.0, MIB, clock)
        duty.work()
        used[0] = MIB  # learned, a moment after the start
        assert rested(duty, clock) <= 10.0


def test_the_scrubber_tells_where_it_is(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        put(store, A, DATA)
        clock = ManualClock()
        scrub = scrubbing(store, 100, 10.0, 1000, clock)
        told = scrub.figures()
        assert (told.round, told.progress, told.bytes, told.bytes_per_second) == (0, 0.0, 0, 10.0)
        scrub.work()
        told = scrub.figures()
        assert (told.progress, told.bytes) == (int.from_bytes(A[:4], "big") / 2**32, len(DATA))
        rested(scrub, clock)
        assert (scrub.figures().round, scrub.figures().bytes) == (1, 0)
        scrub.control(stop=True)
        assert (scrub.figures().stopped, scrub.figures().bytes_per_second) == (True, 0.0)
        scrub.control(stop=False, bytes_per_second=77)
        assert (scrub.figures().stopped, scrub.figures().bytes_per_second) == (False, 77.0)


def test_the_scrubber_puts_aside_what_is_damaged_and_stops_by_order(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        put(store, A, DATA)
        put(store, B, DATA)
        flip(Path(store.where(A)[1]), 5000)
        duty = scrubbing(store, MIB, 1.0, MIB)
        assert duty.work() == f"chunk {A.hex()} is damaged and was put aside"
        duty.control(stop=True)
        assert duty.work() == "stopped by order"
        duty.control(stop=False)
        assert duty.work() == f"chunk {B.hex()} is good"


def test_a_suspect_is_judged_by_its_duty(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        put(store, A, DATA)
        flip(Path(store.where(A)[1]), 5000)
        duty = VerifyDuty(store)
        assert (duty.work(), duty.wait()) == ("no chunk is suspected", 1.0)
        store.suspect(A)
        assert duty.work() == f"chunk {A.hex()} is damaged and was put aside"
        assert A not in store
