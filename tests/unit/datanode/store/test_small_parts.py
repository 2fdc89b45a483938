from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datanode.store import holds
from datanode.store.delta import Change, Delta, ReplicaChange
from datanode.store.disk import GroupSync
from datanode.store.files import Files
from datanode.store.holds import Hold
from datanode.store.index import Index, Quarantined
from datanode.store.layout import Birth
from datanode.store.rules import Condemnation
from datanode.store.scrub import Scrubber, verify_suspect
from quorumfs.checksum import crc32c
from quorumfs.errors import SafetyGuardError
from quorumfs.ids import ChunkId
from tests.unit.datanode.store.fakes import flip, opened, put

A, B = ChunkId(b"a" * 16), ChunkId(b"b" * 16)


def test_a_change_is_told_until_it_is_acknowledged() -> None:
    delta = Delta()
    delta.add(Change(A, ReplicaChange.SEALED, "disk"))
    delta.add(Change(B, ReplicaChange.SEALED, "disk"))
    told, mark = delta.pending(10)
    assert [change.chunk for change in told] == [A, B]
    delta.add(Change(A, ReplicaChange.CORRUPT, "disk"))
    delta.acknowledge(mark)
    told, mark = delta.pending(10)
    assert [(change.chunk, change.state) for change in told] == [(A, ReplicaChange.CORRUPT)]
    delta.acknowledge(mark)
    assert delta.pending(10) == ([], 0)


def test_what_did_not_fit_into_a_heartbeat_is_not_acknowledged_with_it() -> None:
    delta = Delta()
    for k in range(5):
        delta.add(Change(ChunkId(bytes([k]) * 16), ReplicaChange.SEALED, "disk"))
    told, mark = delta.pending(3)
    delta.acknowledge(mark)
    assert len(told) == 3
    assert len(delta) == 2


def test_the_feed_is_bounded() -> None:
    delta = Delta(entries_max=3)
    for k in range(10):
        delta.add(Change(ChunkId(bytes([k]) * 16), ReplicaChange.SEALED, "disk"))
    assert [change.chunk[0] for change in delta.pending(10)[0]] == [7, 8, 9]


@given(st.binary(max_size=200))
def test_hostile_holds_are_cut_off_where_they_go_wrong(tail: bytes) -> None:
    good = holds.encode(A, Hold(1, 5)) + holds.encode(B, Hold(1, 7)) + holds.encode(A, Hold(1, 9))
    found, end = holds.decode(good + tail)
    assert found.items() >= {A: Hold(1, 9), B: Hold(1, 7)}.items()
    assert end >= len(good)


@pytest.mark.parametrize("byte", [0, 20, 35])
def test_a_damaged_hold_does_not_void_those_behind_it(tmp_path: Path, byte: int) -> None:
    with opened(tmp_path) as (store, _):
        for chunk in (A, B):
            put(store, chunk, b"x", Birth(1, 1, 0))
        store.restore(A, Hold(1, 5))
        store.restore(B, Hold(1, 7))
    raw = bytearray((tmp_path / holds.FILE).read_bytes())
    raw[byte] ^= 4
    (tmp_path / holds.FILE).write_bytes(raw)
    with opened(tmp_path) as (store, _):
        with pytest.raises(SafetyGuardError, match="voided"):
            store.quarantine(B, Condemnation(6, 1))
        store.restore(A, Hold(1, 5))
    with opened(tmp_path) as (_, disks):
        kept = holds.Holds(disks.disks[0])
        kept.load()
        assert (kept.of(A), kept.of(B)) == (Hold(1, 5), Hold(1, 7))
    assert holds.damaged((tmp_path / holds.FILE).read_bytes()) == 1


def test_a_torn_hold_is_overwritten_by_the_next(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        put(store, A, b"x")
        put(store, B, b"x")
        store.restore(A, Hold(1, 5))
    with (tmp_path / holds.FILE).open("ab") as file:
        file.write(b"torn")
    with opened(tmp_path) as (store, _):
        store.restore(B, Hold(1, 7))
    with opened(tmp_path) as (_, disks):
        kept = holds.Holds(disks.disks[0])
        kept.load()
        assert (kept.of(A), kept.of(B)) == (Hold(1, 5), Hold(1, 7))


def test_holds_of_an_earlier_version_count_by_their_index_and_are_not_written_any_more(
    tmp_path: Path,
) -> None:
    body = bytes.fromhex("61" * 16 + "0500000000000000")
    (tmp_path / holds.OLD_FILE).write_bytes(body + crc32c(body).to_bytes(4, "little"))
    chunk = ChunkId(b"a" * 16)
    with opened(tmp_path) as (store, disks):
        put(store, chunk, b"x", Birth(1, 1, 0))
        with pytest.raises(SafetyGuardError, match="voided"):
            store.quarantine(chunk, Condemnation(5, 3))
        store.restore(chunk, Hold(3, 4))
        kept = holds.Holds(disks.disks[0])
        kept.load()
        assert kept.of(chunk) == Hold(3, 4)
    assert len((tmp_path / holds.OLD_FILE).read_bytes()) == 28


def test_the_index_counts_what_it_holds() -> None:
    index = Index()
    index.add(A, 0)
    index.add(B, 1, 500)
    index.measured(A, 0, 300)
    index.measured(A, 0, 300)
    assert [index.used_bytes(disk) for disk in (0, 1)] == [300, 500]
    assert [index.count(disk) for disk in (0, 1)] == [1, 1]
    index.remove(A)
    index.measured(A, 0, 300)
    assert (A in index, len(index), index.used_bytes(0)) == (False, 1, 0)
    index.set_aside(A, Quarantined(0, 5, 300))
    index.set_aside(A, Quarantined(0, 5, 400))
    assert (index.quarantined_bytes(0), index.condemned_count(0)) == (400, 1)
    index.take_back(A, Quarantined(0, 5))
    assert (index.quarantined_bytes(0), index.condemned_count(0), index.aside(A)) == (0, 0, None)


def test_the_index_knows_every_file_that_was_put_aside_and_which_can_come_back() -> None:
    index = Index()
    rotten = Quarantined(0, None, 100, corrupt=True)
    older, newer = Quarantined(0, 5, 200, 1), Quarantined(1, 6, 200, 1)
    for one in (rotten, older, newer):
        index.set_aside(A, one)
    assert index.all_aside(A) == (newer, older, rotten)
    assert [index.quarantined_bytes(disk) for disk in (0, 1)] == [300, 200]
    assert (index.condemned(), index.condemned(0), index.corrupt()) == ([(A, 6), (A, 5)], [(A, 5)], [A])
    for one in (newer, older):
        index.take_back(A, one)
    assert index.aside(A) == rotten


def test_waiting_threads_share_one_directory_sync(tmp_path: Path) -> None:
    first_runs, may_end = threading.Event(), threading.Event()

    class SlowFiles(Files):
        syncs = 0

        def sync_directory(self, path: Path) -> None:
            SlowFiles.syncs += 1
            first_runs.set()
            may_end.wait(10)

    group = GroupSync(SlowFiles())
    threads = [threading.Thread(target=group.sync, args=(tmp_path,)) for _ in range(9)]
    threads[0].start()
    first_runs.wait(10)
    for thread in threads[1:]:
        thread.start()
    # The eight that came later wait for a second one: the first began before they asked.
    while not group._gathering or sum(thread.is_alive() for thread in threads) < 9:
        threading.Event().wait(0.001)
    may_end.set()
    for thread in threads:
        thread.join(10)
    assert 2 <= SlowFiles.syncs <= 3


def test_the_scrubber_reads_everything_and_knows_its_place_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        ids = [ChunkId(bytes([k]) * 16) for k in range(4)]
        for chunk in ids:
            put(store, chunk, b"data" * 1000)
        flip(Path(store.where(ids[2])[1]), 5000)
        scrubber = Scrubber(store)
        scrubber.load()
        assert [scrubber.step().ok for _ in range(2)] == [True, True]
        scrubber.save()
        scrubber = Scrubber(store)
        scrubber.load()
        step = scrubber.step()
        assert (step.chunk, step.ok) == (ids[2], False)
        assert ids[2] not in store
        assert scrubber.step().chunk == ids[3]
        assert scrubber.step().chunk is None
        assert scrubber.position.round == 1
        assert scrubber.step().chunk == ids[0]


def test_a_suspect_is_verified_and_only_a_damaged_one_goes(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        put(store, A, b"good" * 100)
        put(store, B, b"bad" * 100)
        flip(Path(store.where(B)[1]), 4100)
        store.suspect(A)
        store.suspect(B)
        assert verify_suspect(store) == (A, True)
        assert verify_suspect(store) == (B, False)
        assert verify_suspect(store) is None
        assert (A in store, B in store) == (True, False)


def test_when_there_is_too_much_to_tell_losses_are_told_first() -> None:
    delta = Delta(entries_max=3)
    delta.add(Change(A, ReplicaChange.CORRUPT, "disk"))
    for k in range(10):
        delta.add(Change(ChunkId(bytes([k]) * 16), ReplicaChange.SEALED, "disk"))
    assert [change.chunk[0] for change in delta.pending(10)[0]] == [A[0], 8, 9]


def test_a_directory_sync_that_breaks_off_leaves_nobody_waiting(tmp_path: Path) -> None:
    first_runs, may_end = threading.Event(), threading.Event()

    class Broken(Files):
        def sync_directory(self, path: Path) -> None:
            first_runs.set()
            may_end.wait(10)
            raise MemoryError

    group, failures = GroupSync(Broken()), []

    def sync() -> None:
        try:
            group.sync(tmp_path)
        except MemoryError as error:
            failures.append(error)

    threads = [threading.Thread(target=sync) for _ in range(4)]
    threads[0].start()
    first_runs.wait(10)
    for thread in threads[1:]:
        thread.start()
    may_end.set()
    for thread in threads:
        thread.join(10)
    assert len(failures) == 4
