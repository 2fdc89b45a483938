from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from datanode.store.delta import ReplicaChange
from datanode.store.holds import Hold
from datanode.store.layout import Birth, file_size
from datanode.store.rules import Condemnation, HeldError
from quorumfs.checksum import block_checksums, crc32c
from quorumfs.errors import (
    BusyError,
    ChunkNotFoundError,
    IntegrityError,
    InvalidArgumentError,
    NoSpaceError,
    PreconditionFailedError,
    SafetyGuardError,
    UnavailableError,
)
from quorumfs.ids import ChunkId
from quorumfs.limits import BLOCK_BYTES, MIB
from tests.unit.datanode.store.fakes import (
    BIRTH,
    UPLOAD,
    FlakyFiles,
    content,
    flip,
    opened,
    put,
    temporaries,
)

CHUNK = ChunkId(bytes(range(16)))
DATA = random.Random(1).randbytes(300_000)


def test_a_sealed_chunk_is_there_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        info = put(store, CHUNK, DATA)
        assert Path(info.file) == tmp_path / "chunks" / "00" / CHUNK.hex()
        assert content(store, CHUNK) == DATA
    with opened(tmp_path) as (store, _):
        assert content(store, CHUNK) == DATA
        assert store.info(CHUNK) == info
        assert info.header.birth == BIRTH
        assert len(store) == 1


def test_an_empty_chunk_can_be_sealed(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        put(store, CHUNK, b"")
        assert content(store, CHUNK) == b""
        assert store.verify(CHUNK).ok


def test_sealing_syncs_the_file_before_it_gets_its_name_and_the_directory_after(tmp_path: Path) -> None:
    files = FlakyFiles()
    with opened(tmp_path, files=files) as (store, _):
        files.steps.clear()
        put(store, CHUNK, DATA)
        assert files.steps == ["create", "write", "write", "write", "sync_data", "rename", "sync_directory"]
        assert files.synced_directories[-1] == tmp_path / "chunks" / "00"


def test_a_block_that_does_not_match_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        writer = store.begin(CHUNK, UPLOAD, BIRTH)
        table = bytearray(block_checksums(DATA))
        table[5] ^= 1
        with pytest.raises(IntegrityError, match="block at 65536"):
            writer.append(0, DATA, bytes(table))
        writer.abort()
        assert temporaries(tmp_path) == []


def test_bytes_come_in_order_or_not_at_all(tmp_path: Path) -> None:
    part = DATA[:BLOCK_BYTES]
    with opened(tmp_path) as (store, _):
        writer = store.begin(CHUNK, UPLOAD, BIRTH)
        with pytest.raises(InvalidArgumentError):
            writer.append(BLOCK_BYTES, part, block_checksums(part))
        writer.append(0, part[:100], block_checksums(part[:100]))
        with pytest.raises(InvalidArgumentError):
            writer.append(100, part, block_checksums(part))
        writer.abort()
        with pytest.raises(InvalidArgumentError):
            writer.append(0, part, block_checksums(part))


@pytest.mark.parametrize(("length", "checksum"), [(len(DATA), 1), (len(DATA) - 1, crc32c(DATA))])
def test_an_end_that_does_not_fit_seals_nothing(tmp_path: Path, length: int, checksum: int) -> None:
    with opened(tmp_path) as (store, _):
        writer = store.begin(CHUNK, UPLOAD, BIRTH)
        writer.append(0, DATA, block_checksums(DATA))
        with pytest.raises(IntegrityError):
            writer.seal(length, checksum)
        assert CHUNK not in store
        assert temporaries(tmp_path) == []


def test_the_same_content_again_is_success_and_other_content_an_error(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        first = put(store, CHUNK, DATA)
        assert put(store, CHUNK, DATA) == first
        with pytest.raises(PreconditionFailedError, match="other content"):
            put(store, CHUNK, DATA[:-1])
        assert content(store, CHUNK) == DATA
        assert temporaries(tmp_path) == []


def test_two_writers_of_one_chunk_end_up_with_one_file(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        failures: list[BusyError] = []

        def write() -> None:
            try:
                put(store, CHUNK, DATA)
            except BusyError as error:
                failures.append(error)

        threads = [threading.Thread(target=write) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert content(store, CHUNK) == DATA
        assert len(failures) < 8
        assert temporaries(tmp_path) == []


@pytest.mark.parametrize("where", ["header", "data", "trailer"])
def test_a_flipped_byte_anywhere_never_passes_for_good(tmp_path: Path, where: str) -> None:
    with opened(tmp_path) as (store, _):
        path = Path(put(store, CHUNK, DATA).file)
        offset = {"header": 30, "data": 4096 + 150_000, "trailer": 4096 + len(DATA) + 30}[where]
        flip(path, offset)
        verdict = store.verify(CHUNK)
        assert not verdict.ok
        if where == "data":
            assert verdict.first_bad_offset == 150_000 // BLOCK_BYTES * BLOCK_BYTES
            with store.open_reader(CHUNK) as reader:
                assert reader.first_bad(0, BLOCK_BYTES) is None
                assert reader.first_bad(131072, BLOCK_BYTES) == 131072
        else:
            with pytest.raises(IntegrityError):
                store.open_reader(CHUNK)
            assert store.take_suspect() == CHUNK


@pytest.mark.parametrize("size", [0, 100, 4096, 4096 + 100_000, file_size(len(DATA)) - 1])
def test_a_file_that_was_cut_off_is_never_served(tmp_path: Path, size: int) -> None:
    with opened(tmp_path) as (store, _):
        path = Path(put(store, CHUNK, DATA).file)
        os.truncate(path, size)
        with pytest.raises(IntegrityError):
            store.open_reader(CHUNK)


def test_another_chunks_file_under_this_name_is_never_served(tmp_path: Path) -> None:
    other = ChunkId(b"\x00" + b"x" * 15)
    with opened(tmp_path) as (store, _):
        here, there = Path(put(store, CHUNK, DATA).file), Path(put(store, other, DATA).file)
        here.write_bytes(there.read_bytes())
        with pytest.raises(IntegrityError, match="holds chunk"):
            store.open_reader(CHUNK)


def test_a_corrupt_replica_is_put_aside_and_reported_and_may_come_again(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        path = Path(put(store, CHUNK, DATA).file)
        flip(path, 5000)
        store.mark_corrupt(CHUNK)
        assert not path.exists()
        assert (tmp_path / "quarantine" / "corrupt" / CHUNK.hex()).exists()
        assert [change.state for change in store.delta.pending(9)[0]] == [ReplicaChange.CORRUPT]
        with pytest.raises(ChunkNotFoundError):
            store.open_reader(CHUNK)
        assert not store.restore(CHUNK, Hold(1, 100))
        put(store, CHUNK, DATA)
        assert content(store, CHUNK) == DATA


def test_a_file_that_vanished_is_reported_missing(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        Path(put(store, CHUNK, DATA).file).unlink()
        with pytest.raises(ChunkNotFoundError):
            store.open_reader(CHUNK)
        assert CHUNK not in store
        assert [change.state for change in store.delta.pending(9)[0]] == [ReplicaChange.MISSING]


def test_a_condemned_chunk_goes_to_quarantine_and_comes_back(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        put(store, CHUNK, DATA)
        assert store.quarantine(CHUNK, Condemnation(50, 1))
        assert not store.quarantine(CHUNK, Condemnation(50, 1))
        assert (tmp_path / "quarantine" / f"{CHUNK.hex()}.50.1").exists()
    with opened(tmp_path) as (store, _):
        assert CHUNK not in store
        assert store.ids(b"", 10, quarantined=True) == [CHUNK]
        assert store.info(CHUNK).quarantined
        with pytest.raises(PreconditionFailedError, match="condemned at index 50"):
            store.begin(CHUNK, UPLOAD, BIRTH)
        assert store.restore(CHUNK, Hold(1, 60))
        assert content(store, CHUNK) == DATA
        assert store.delta.pending(9)[0][-1].state is ReplicaChange.SEALED
    with opened(tmp_path) as (store, _):
        assert content(store, CHUNK) == DATA


def test_a_restored_chunk_outlives_the_delete_that_was_on_its_way(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        put(store, CHUNK, DATA)
        assert store.restore(CHUNK, Hold(1, 60))
        with pytest.raises(SafetyGuardError, match="voided"):
            store.quarantine(CHUNK, Condemnation(60, 1))
    with opened(tmp_path) as (store, _):
        with pytest.raises(SafetyGuardError, match="voided"):
            store.quarantine(CHUNK, Condemnation(55, 1))
        assert store.quarantine(CHUNK, Condemnation(61, 1))


@pytest.mark.parametrize(
    ("birth", "history"), [(Birth(1, 50, 0), 1), (Birth(1, 51, 0), 1), (Birth(2, 1, 0), 1)]
)
def test_a_chunk_younger_than_its_condemnation_stays(tmp_path: Path, birth: Birth, history: int) -> None:
    with opened(tmp_path) as (store, _):
        put(store, CHUNK, DATA, birth)
        with pytest.raises(SafetyGuardError, match="born"):
            store.quarantine(CHUNK, Condemnation(50, history))
        assert content(store, CHUNK) == DATA


def test_a_chunk_that_an_earlier_history_restored_waits_for_a_release(tmp_path: Path) -> None:
    """Indexes of two histories say nothing about each other."""
    with opened(tmp_path) as (store, _):
        put(store, CHUNK, DATA)
        store.restore(CHUNK, Hold(1, 150))
        for index in (90, 200):
            with pytest.raises(HeldError, match="restored from quarantine in history 1"):
                store.quarantine(CHUNK, Condemnation(index, 2, fork_index=80))
        assert store.quarantine(CHUNK, Condemnation(90, 2, fork_index=80, released=True))


def test_a_chunk_younger_than_the_end_of_its_history_waits_for_a_release(tmp_path: Path) -> None:
    older, younger = ChunkId(b"1" * 16), ChunkId(b"2" * 16)
    with opened(tmp_path) as (store, _):
        put(store, older, DATA, Birth(1, 80, 0))
        put(store, younger, DATA, Birth(1, 81, 0))
        assert store.quarantine(older, Condemnation(200, 2, fork_index=80))
        with pytest.raises(HeldError, match="behind its end"):
            store.quarantine(younger, Condemnation(200, 2, fork_index=80))
        assert store.quarantine(younger, Condemnation(200, 2, fork_index=80, released=True))


def test_a_full_disk_is_an_answer_and_leaves_nothing(tmp_path: Path) -> None:
    files = FlakyFiles()
    with opened(tmp_path, files=files) as (store, _):
        writer = store.begin(CHUNK, UPLOAD, BIRTH)
        files.fail["write"] = 28
        with pytest.raises(NoSpaceError):
            writer.append(0, DATA, block_checksums(DATA))
        writer.abort()
        assert temporaries(tmp_path) == []
        assert store.usage()[0].state == "ok"
        del files.fail["write"]
        put(store, CHUNK, DATA)


class SmallDisk(FlakyFiles):
    """A file system of so many bytes."""

    def __init__(self, root: Path, size_bytes: int) -> None:
        super().__init__()
        self._root, self._size = root, size_bytes

    def space(self, path: Path) -> tuple[int, int]:
        used = sum(one.stat().st_size for one in self._root.rglob("*") if one.is_file())
        return self._size, self._size - used


def test_quarantine_makes_way_before_a_write_is_refused_the_oldest_first(tmp_path: Path) -> None:
    data = bytes(MIB)
    ids = [ChunkId(bytes([k]) * 16) for k in range(1, 5)]
    files = SmallDisk(tmp_path, 4 * MIB + MIB // 2)
    with opened(tmp_path, files=files) as (store, _):
        for chunk in ids:
            put(store, chunk, data)
        for index, chunk in ((70, ids[1]), (50, ids[0]), (60, ids[2])):
            store.quarantine(chunk, Condemnation(index, 1))
    with opened(tmp_path, files=files) as (store, _):
        put(store, ChunkId(b"n" * 16), data)
        assert store.ids(b"", 9, quarantined=True) == [ids[1], ids[2]]
        assert store.usage()[0].purged_early_chunks == 1
        assert content(store, ids[3]) == data
        put(store, ChunkId(b"m" * 16), data)
        put(store, ChunkId(b"o" * 16), data)
        assert store.ids(b"", 9, quarantined=True) == []
        with pytest.raises(NoSpaceError):
            put(store, ChunkId(b"p" * 16), data)


def test_directories_on_one_file_system_have_no_more_room_together_than_there_is(tmp_path: Path) -> None:
    files = FlakyFiles()
    files.available = 10 * MIB
    with opened(tmp_path / "a", tmp_path / "b", files=files) as (store, disks):
        one, other = store.usage()
        assert one.free_bytes == other.free_bytes == 5 * MIB
        assert one.total_bytes + other.total_bytes <= files.space(tmp_path)[0]
        disks.disks[0].refuse("a stranger's")
        one, other = store.usage()
        assert (one.total_bytes, other.free_bytes) == (0, 10 * MIB)


def test_what_an_earlier_history_condemned_does_not_make_way(tmp_path: Path) -> None:
    """A restored backup may refer to it, and the first cycle of its leader brings it back."""
    data = bytes(MIB)
    old, new = ChunkId(b"1" * 16), ChunkId(b"2" * 16)
    files = SmallDisk(tmp_path, 2 * MIB + MIB // 2)
    with opened(tmp_path, files=files) as (store, _):
        put(store, old, data)
        store.quarantine(old, Condemnation(50, 1))
    with opened(tmp_path, files=files, history=2) as (store, _):
        put(store, new, data)
        with pytest.raises(NoSpaceError):
            put(store, ChunkId(b"3" * 16), data)
        store.quarantine(new, Condemnation(60, 2))
        put(store, ChunkId(b"4" * 16), data)
        assert store.condemned() == [(old, 50)]
        assert store.restore(old, Hold(2, 70))
        assert content(store, old) == data


def test_a_quarantine_of_a_version_before_is_read_and_has_its_time(tmp_path: Path) -> None:
    """Its names tell no history."""
    with opened(tmp_path) as (store, _):
        put(store, CHUNK, DATA)
        store.quarantine(CHUNK, Condemnation(50, 1))
    quarantine = tmp_path / "quarantine"
    (quarantine / f"{CHUNK.hex()}.50.1").rename(quarantine / f"{CHUNK.hex()}.50")
    with opened(tmp_path) as (store, _):
        assert store.condemned() == [(CHUNK, 50)]
        assert store.spare_on(0) == []
        assert store.restore(CHUNK, Hold(1, 60))
        assert content(store, CHUNK) == DATA


def test_the_reserve_and_what_was_promised_are_not_given_away(tmp_path: Path) -> None:
    files = FlakyFiles()
    files.available = 10 * MIB
    with opened(tmp_path, files=files, reserve_bytes=4 * MIB) as (store, _):
        first = store.begin(CHUNK, UPLOAD, BIRTH, 5 * MIB)
        with pytest.raises(NoSpaceError):
            store.begin(ChunkId(b"2" * 16), UPLOAD, BIRTH, 2 * MIB)
        first.abort()
        store.begin(ChunkId(b"2" * 16), UPLOAD, BIRTH, 2 * MIB).abort()
        files.available = 4 * MIB
        assert store.usage()[0].state == "full"
        assert store.usage()[0].free_bytes == 0


@pytest.mark.parametrize("step", ["sync_data", "sync_directory", "rename"])
def test_a_disk_that_fails_to_sync_acknowledges_nothing_and_is_given_up(tmp_path: Path, step: str) -> None:
    files = FlakyFiles()
    with opened(tmp_path, files=files) as (store, _):
        files.fail[step] = 5
        with pytest.raises(UnavailableError):
            put(store, CHUNK, DATA)
        files.fail.clear()
        assert CHUNK not in store
        assert store.usage()[0].state == "failed"
        with pytest.raises(UnavailableError, match="no disk"):
            store.begin(CHUNK, UPLOAD, BIRTH)


def test_one_bad_sector_costs_a_chunk_and_several_the_disk(tmp_path: Path) -> None:
    files = FlakyFiles()
    with opened(tmp_path, files=files) as (store, _):
        ids = [ChunkId(bytes([k]) * 16) for k in range(3)]
        for chunk in ids:
            put(store, chunk, DATA)
        files.fail["read"] = 5
        for chunk in (ids[0], ids[0], ids[0], ids[1]):  # many may ask for the same bad sector
            with pytest.raises(IntegrityError):
                store.open_reader(chunk)
        assert store.usage()[0].state == "ok"
        with pytest.raises(IntegrityError):
            store.open_reader(ids[2])
        assert store.usage()[0].state == "failed"


@pytest.mark.parametrize("put_there", [Path.mkdir, lambda path: path.symlink_to("elsewhere"), os.mkfifo])
def test_what_is_no_file_in_the_place_of_chunks_costs_them_and_not_the_disk(
    tmp_path: Path, put_there: Callable[[Path], object]
) -> None:
    with opened(tmp_path) as (store, disks):
        ids = [ChunkId(bytes([k]) * 16) for k in range(4)]
        for chunk in ids:
            put(store, chunk, DATA)
            path = disks.disks[0].chunk_path(chunk)
            path.unlink()
            put_there(path)
        for chunk in ids:
            with pytest.raises(IntegrityError):
                store.open_reader(chunk)
        assert store.usage()[0].state == "ok"


def test_a_process_short_of_descriptors_does_not_blame_the_disk(tmp_path: Path) -> None:
    files = FlakyFiles()
    with opened(tmp_path, files=files) as (store, _):
        files.fail["create"] = 24
        with pytest.raises(BusyError):
            store.begin(CHUNK, UPLOAD, BIRTH)
        assert store.usage()[0].state == "ok"


def with_equal_room() -> FlakyFiles:
    """For disks of one file system, which others fill and empty meanwhile: of two the first is taken."""
    files = FlakyFiles()
    files.available = 1 << 30
    return files


def on_two_disks(tmp_path: Path) -> tuple[Path, Path]:
    """The disk failed, the chunk was copied anew to the other one of the node, and then the first was well again."""
    with opened(tmp_path / "a", tmp_path / "b", files=with_equal_room()) as (store, disks):
        first = Path(put(store, CHUNK, DATA).file)
        disks.disks[0].fail("three chunks could not be read")
        second = Path(put(store, CHUNK, DATA).file)
        assert len(store) == 1
    assert [first.parts[-4], second.parts[-4]] == ["a", "b"]
    return first, second


def test_a_chunk_on_two_disks_is_counted_on_both_and_deleted_from_both(tmp_path: Path) -> None:
    first, second = on_two_disks(tmp_path)
    with opened(tmp_path / "a", tmp_path / "b") as (store, _):
        for shard in range(256):
            store.measure(shard)
        assert [disk.used_bytes for disk in store.usage()] == [file_size(len(DATA))] * 2
        assert (store.ids(b"", 9), len(store)) == ([CHUNK], 1)
        assert store.quarantine(CHUNK, Condemnation(50, 1))
        assert not first.exists()
        assert not second.exists()
        assert [change.state for change in store.delta.pending(9)[0]] == [ReplicaChange.MISSING]
        assert [disk.used_bytes for disk in store.usage()] == [0, 0]
        assert store.purge(CHUNK, 50)
        assert store.holds_nothing()
        assert list(tmp_path.rglob(f"{CHUNK.hex()}*")) == []


def test_a_chunk_that_was_copied_away_from_a_failed_disk_is_deleted_there_too(tmp_path: Path) -> None:
    with opened(tmp_path / "a", tmp_path / "b", files=with_equal_room()) as (store, disks):
        first = Path(put(store, CHUNK, DATA).file)
        disks.disks[0].fail("three chunks could not be read")
        put(store, CHUNK, DATA)
        assert store.quarantine(CHUNK, Condemnation(50, 1))
        assert not first.exists()


@pytest.mark.parametrize("how", ["rots", "vanishes"])
def test_another_copy_takes_the_place_of_one_that_is_lost(tmp_path: Path, how: str) -> None:
    first, second = on_two_disks(tmp_path)
    with opened(tmp_path / "a", tmp_path / "b") as (store, _):
        if how == "rots":
            flip(first, 5000)
            store.mark_corrupt(CHUNK, store.verify(CHUNK).inode)
        else:
            first.unlink()
            with pytest.raises(ChunkNotFoundError):
                store.open_reader(CHUNK)
        (told,) = store.delta.pending(9)[0]
        assert (told.state, told.disk_id) == (ReplicaChange.SEALED, store.disks[1].disk_id)
        assert content(store, CHUNK) == DATA
        assert store.where(CHUNK)[1] == str(second)
        assert store.take_suspect() == CHUNK
        second.unlink()
        with pytest.raises(ChunkNotFoundError):
            store.open_reader(CHUNK)
        assert CHUNK not in store


def test_a_copy_on_a_disk_that_is_well_counts_rather_than_one_on_a_failed_disk(tmp_path: Path) -> None:
    _, second = on_two_disks(tmp_path)
    with opened(tmp_path / "a", tmp_path / "b") as (store, disks):
        assert not store.on_failed_disk(CHUNK)
        disks.disks[0].fail("three chunks could not be read")
        assert not store.on_failed_disk(CHUNK)
        assert put(store, CHUNK, DATA).file == str(second)
        disks.disks[1].fail("as well")
        assert store.on_failed_disk(CHUNK)


def test_a_chunk_restored_from_two_disks_comes_back_once_and_the_rest_goes_in_time(tmp_path: Path) -> None:
    on_two_disks(tmp_path)
    with opened(tmp_path / "a", tmp_path / "b") as (store, _):
        store.quarantine(CHUNK, Condemnation(50, 1))
        assert store.restore(CHUNK, Hold(1, 60))
        assert content(store, CHUNK) == DATA
        assert store.condemned() == [(CHUNK, 50)]
        assert store.purge(CHUNK, 50)
        assert content(store, CHUNK) == DATA


def test_lists_come_in_order_and_in_pages(tmp_path: Path) -> None:
    ids = sorted(ChunkId(os.urandom(16)) for _ in range(50))
    with opened(tmp_path) as (store, _):
        for chunk in ids:
            put(store, chunk, b"x")
        found: list[ChunkId] = []
        while page := store.ids(found[-1] if found else b"", 7):
            found += page
        assert found == ids


def test_sizes_are_learned_after_a_start(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        put(store, CHUNK, DATA)
        assert store.usage()[0].used_bytes == file_size(len(DATA))
    with opened(tmp_path) as (store, _):
        assert (store.usage()[0].chunks, store.usage()[0].used_bytes) == (1, 0)
        assert sum(store.measure(shard) for shard in range(256)) == 1
        assert store.usage()[0].used_bytes == file_size(len(DATA))
        assert sum(store.measure(shard) for shard in range(256)) == 0


def test_a_good_copy_takes_the_place_of_one_that_cannot_be_read(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        flip(Path(put(store, CHUNK, DATA).file), 30)
        put(store, CHUNK, DATA)
        assert content(store, CHUNK) == DATA
        assert (tmp_path / "quarantine" / "corrupt" / CHUNK.hex()).exists()
        assert store.delta.pending(9)[0][-1].state is ReplicaChange.SEALED


def test_a_replica_that_came_after_the_damaged_one_is_not_put_aside_for_it(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        flip(Path(put(store, CHUNK, DATA).file), 5000)
        first, second = store.verify(CHUNK), store.verify(CHUNK)
        store.mark_corrupt(CHUNK, first.inode)
        put(store, CHUNK, DATA)
        store.mark_corrupt(CHUNK, second.inode)
        assert content(store, CHUNK) == DATA


@pytest.mark.parametrize("name", ["AB" * 16, "ab " * 16, "ab" * 15, "ab" * 17, "ab" * 16 + ".1"])
def test_a_name_that_is_spelled_differently_is_no_chunk(tmp_path: Path, name: str) -> None:
    with opened(tmp_path):
        pass
    for shard in ("ab", "AB"):
        (tmp_path / "chunks" / shard).mkdir(exist_ok=True)
        (tmp_path / "chunks" / shard / name).write_bytes(b"x")
    with opened(tmp_path) as (store, _):
        assert len(store) == 0
        assert store.usage()[0].state == "ok"


@pytest.mark.parametrize("kind", ["directory", "link", "pipe"])
def test_what_is_not_a_plain_file_is_never_served(tmp_path: Path, kind: str) -> None:
    with opened(tmp_path) as (store, _):
        path = Path(put(store, CHUNK, DATA).file)
        path.rename(tmp_path / "elsewhere")
        match kind:
            case "directory":
                path.mkdir()
            case "link":
                path.symlink_to(tmp_path / "elsewhere")
            case "pipe":
                os.mkfifo(path)
        with pytest.raises(IntegrityError):
            store.open_reader(CHUNK)


def test_more_than_was_announced_does_not_go_into_the_reserve(tmp_path: Path) -> None:
    files = FlakyFiles()
    with opened(tmp_path, files=files, reserve_bytes=4 * MIB) as (store, _):
        files.available = 4 * MIB + 100_000
        writer = store.begin(CHUNK, UPLOAD, BIRTH, size_hint=0)
        with pytest.raises(NoSpaceError):
            writer.append(0, DATA, block_checksums(DATA))
        writer.abort()
        files.available = 20 * MIB
        put(store, CHUNK, DATA)
        assert store.disks[0].space()[1] == 16 * MIB


def test_a_new_data_directory_is_durable_up_to_what_was_there_before(tmp_path: Path) -> None:
    files = FlakyFiles()
    with opened(tmp_path / "new" / "data" / "disk0", files=files):
        assert {tmp_path, tmp_path / "new", tmp_path / "new" / "data"} <= set(files.synced_directories)


def test_a_condemned_chunk_whose_file_was_removed_by_hand_harms_no_disk(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        put(store, CHUNK, DATA)
        store.quarantine(CHUNK, Condemnation(50, 1))
        (tmp_path / "quarantine" / f"{CHUNK.hex()}.50.1").unlink()
        with pytest.raises(ChunkNotFoundError):
            store.info(CHUNK)
        assert not store.restore(CHUNK, Hold(1, 50))
        assert store.usage()[0].state == "ok"


def test_a_chunk_restored_by_two_at_once_is_there_once(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        put(store, CHUNK, DATA)
        store.quarantine(CHUNK, Condemnation(50, 1))
        outcomes: list[bool] = []
        threads = [
            threading.Thread(target=lambda: outcomes.append(store.restore(CHUNK, Hold(1, 50))))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes == [True] * 6
        assert content(store, CHUNK) == DATA
        assert store.usage()[0].state == "ok"


def test_a_restore_on_a_slow_disk_holds_up_no_reader(tmp_path: Path) -> None:
    syncing, may_end = threading.Event(), threading.Event()

    class Slow(FlakyFiles):
        def sync_data(self, fd: int) -> None:
            if may_slow.is_set():
                syncing.set()
                may_end.wait(20)
            super().sync_data(fd)

    may_slow, other = threading.Event(), ChunkId(b"o" * 16)
    with opened(tmp_path, files=Slow()) as (store, _):
        put(store, CHUNK, DATA)
        put(store, other, DATA)
        store.quarantine(CHUNK, Condemnation(50, 1))
        may_slow.set()
        restoring = threading.Thread(target=store.restore, args=(CHUNK, Hold(1, 50)))
        restoring.start()
        assert syncing.wait(10)
        assert content(store, other) == DATA
        assert restoring.is_alive()
        may_end.set()
        restoring.join(10)
        assert content(store, CHUNK) == DATA


def test_a_delete_that_finds_no_quarantine_is_not_taken_for_done(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        put(store, CHUNK, DATA)
        (tmp_path / "quarantine" / "corrupt").rmdir()
        (tmp_path / "quarantine").rmdir()
        with pytest.raises(UnavailableError):
            store.quarantine(CHUNK, Condemnation(50, 1))
        assert CHUNK in store


def test_what_an_earlier_history_condemned_is_brought_back_when_it_is_wanted_again_whatever_its_index(
    tmp_path: Path,
) -> None:
    with opened(tmp_path) as (store, _):
        put(store, CHUNK, DATA)
        assert store.quarantine(CHUNK, Condemnation(1000, 1))
        store.unquarantine(CHUNK, Hold(1, 60))
        assert store.ids(b"", 10, quarantined=True) == [CHUNK], "the same history knows of it later"
        store.unquarantine(CHUNK, Hold(2, 60))
        assert content(store, CHUNK) == DATA
