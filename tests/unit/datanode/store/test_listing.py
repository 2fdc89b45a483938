"""A store that has just been started knows no name yet, and answers as if it knew all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from datanode.duties.commands import Outcomes
from datanode.duties.content import Content
from datanode.duties.upkeep import LIST_REST_SECONDS_MAX, LISTED_SECONDS, ListDuty
from datanode.store.holds import Hold
from datanode.store.rules import Condemnation
from datanode.transfer.admission import Gate
from quorumfs.checksum import crc32c
from quorumfs.clock import SystemClock
from quorumfs.errors import BusyError, ChunkNotFoundError, PreconditionFailedError
from quorumfs.ids import ChunkId
from tests.unit.datanode.store.fakes import BIRTH, UPLOAD, FlakyFiles, content, flip, opened, put, temporaries

A, B, C = (ChunkId(letter * 16) for letter in (b"a", b"b", b"c"))
OTHER = ChunkId(b"a" * 15 + b"z")  # in the directory of A


class Watched(FlakyFiles):
    """Remembers which directories were listed; `refuse` one of them with an error."""

    def __init__(self) -> None:
        super().__init__()
        self.listed: list[str] = []
        self.refuse: dict[str, int] = {}

    def names(self, path: Path) -> Iterator[str]:
        self.listed.append(path.name)
        if path.name in self.refuse:
            raise OSError(self.refuse[path.name], os.strerror(self.refuse[path.name]))
        return super().names(path)

    @property
    def shards_listed(self) -> set[str]:
        return {name for name in self.listed if len(name) == 2}

    def synced(self, chunk: ChunkId) -> bool:
        return any(path.name == f"{chunk[0]:02x}" for path in self.synced_directories)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A disk with A, B and C; C was deleted."""
    with opened(tmp_path, listed=False) as (store, _):
        for chunk in (A, B, C):
            put(store, chunk, chunk)
        store.quarantine(C, Condemnation(99, 1))
    return tmp_path


def test_a_start_lists_no_directory_of_chunks_and_a_read_lists_the_one_it_needs(stored: Path) -> None:
    files = Watched()
    with opened(stored, files=files, listed=False) as (store, _):
        assert files.shards_listed == set()
        assert content(store, A) == A
        assert files.shards_listed == {"61"}


def test_a_chunk_that_is_not_here_is_not_found_before_everything_is_listed(stored: Path) -> None:
    files = Watched()
    with opened(stored, files=files, listed=False) as (store, _):
        with pytest.raises(ChunkNotFoundError):
            store.open_reader(OTHER)
        assert OTHER not in store
        assert files.shards_listed == {"61"}


def test_a_chunk_can_be_read_before_its_name_is_durable_but_is_not_counted(stored: Path) -> None:
    """A process that was killed between renaming and syncing acknowledged nothing: until the directory is synced its
    chunk may be gone with the next loss of power."""
    for count in (
        lambda store: A in store,
        lambda store: store.info(A),
        lambda store: store.where(A),
        lambda store: store.verify(A),
        lambda store: store.has_file(A),
        lambda store: store.on_failed_disk(A),
        lambda store: store.ids(b"", 1),
        lambda store: put(store, A, A),
    ):
        files = Watched()
        with opened(stored, files=files, listed=False) as (store, _):
            files.synced_directories.clear()
            assert content(store, A) == A
            assert not files.synced(A)
            count(store)
            assert files.synced(A)


def test_a_copy_whose_name_cannot_be_made_durable_is_none_to_count_on(stored: Path) -> None:
    files = Watched()
    with opened(stored, files=files, listed=False) as (store, disks):
        files.fail["sync_directory"] = errno.EIO
        assert store.on_failed_disk(A)
        assert disks.disks[0].health()[0] == "failed"
        assert content(store, A) == A


def test_what_a_crash_left_is_removed_before_a_file_of_the_same_name_is_made(stored: Path) -> None:
    left = [stored / "chunks" / "61" / f"{chunk.hex()}.1.tmp" for chunk in (A, OTHER)]
    for path in left:
        path.write_bytes(b"half")
    with opened(stored, listed=False) as (store, _):
        writer = store.begin(OTHER, UPLOAD, BIRTH, 1)
        assert len(temporaries(stored)) == 1
        store.listing.finish()
        assert len(temporaries(stored)) == 1, "what is being written here is no rest of a crash"
        writer.abort()
    assert temporaries(stored) == []


def test_pages_of_ids_are_whole_before_everything_is_listed(stored: Path) -> None:
    files = Watched()
    with opened(stored, files=files, listed=False) as (store, _):
        assert store.ids(b"", 1) == [A]
        assert "62" not in files.shards_listed, "no more is listed than the page needs"
        assert store.ids(A, 9) == [B]
        assert store.ids(b"", 9, quarantined=True) == [C]


def test_an_inventory_right_after_a_start_has_all_chunks(stored: Path) -> None:
    with opened(stored, listed=False) as (store, _):
        told = Content(store, Outcomes(), Gate("writes", 1), Gate("reads", 1))
        assert b"".join(page.ids for page in told.inventory()) == A + B


def test_a_node_says_that_it_is_empty_only_when_it_is(stored: Path, tmp_path: Path) -> None:
    with opened(stored, listed=False) as (store, _):
        assert not store.holds_nothing()
        store.quarantine(A, Condemnation(99, 1))
        store.quarantine(B, Condemnation(99, 1))
    with opened(stored, listed=False) as (store, _):
        assert not store.holds_nothing(), "what lies in quarantine is here"
    with opened(tmp_path / "one", listed=False) as (store, _):
        put(store, A, A)
    with opened(tmp_path / "one", listed=False) as (store, _):
        assert not store.holds_nothing()
    with opened(tmp_path / "new", listed=False) as (store, _):
        assert store.holds_nothing()


def test_a_deleted_chunk_is_known_right_after_a_start(stored: Path) -> None:
    with opened(stored, listed=False) as (store, _), pytest.raises(PreconditionFailedError):
        store.begin(C, UPLOAD, BIRTH)
    with opened(stored, listed=False) as (store, _):
        assert store.info(C).quarantined
        assert store.where(C)[2]
        assert store.has_file(C)
    for condemned in (
        lambda store: store.condemned(),
        lambda store: store.spare_on(0),
    ):
        with opened(stored, listed=False) as (store, _):
            assert condemned(store) == [(C, 99)]
    with opened(stored, listed=False) as (store, _):
        store.unquarantine(C, Hold(1, 99))
        assert content(store, C) == C


def test_a_deleted_chunk_comes_back_or_goes_for_good_right_after_a_start(stored: Path) -> None:
    with opened(stored, listed=False) as (store, _):
        assert store.restore(C, Hold(1, 99))
        assert content(store, C) == C
        store.quarantine(C, Condemnation(100, 1))
    with opened(stored, listed=False) as (store, _):
        assert store.purge(C, 100)
        assert not store.has_file(C)


def test_wrong_bytes_are_put_aside_and_known_right_after_a_start(stored: Path) -> None:
    flip(stored / "chunks" / "61" / A.hex(), 4096)
    with opened(stored, listed=False) as (store, _):
        store.mark_corrupt(A)
        assert A not in store
        store.listing.finish()
        assert len(store) == 1
    with opened(stored, listed=False) as (store, _):
        assert store.corrupt() == [A]
    with opened(stored, listed=False) as (store, _):
        assert store.quarantine(A, Condemnation(99, 1))
        assert store.corrupt() == []


def test_a_chunk_is_deleted_on_all_its_disks_right_after_a_start(tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    with opened(one, two, listed=False) as (store, _):
        here = Path(put(store, A, A).file)
    there = (two if one in here.parents else one) / "chunks" / "61" / A.hex()
    there.write_bytes(here.read_bytes())
    with opened(one, two, listed=False) as (store, _):
        assert store.quarantine(A, Condemnation(99, 1))
        assert not here.exists()
        assert not there.exists()


def test_a_directory_that_cannot_be_listed_hides_no_other(stored: Path) -> None:
    files = Watched()
    files.refuse["61"] = errno.EIO
    with opened(stored, files=files) as (store, disks):
        assert disks.disks[0].health()[0] == "failed"
        assert content(store, B) == B
        with pytest.raises(ChunkNotFoundError):
            store.open_reader(A)


def test_a_node_short_of_descriptors_is_busy_and_lists_later(stored: Path) -> None:
    files = Watched()
    files.refuse["61"] = errno.EMFILE
    with opened(stored, files=files, listed=False) as (store, disks):
        with pytest.raises(BusyError):
            store.open_reader(A)
        assert disks.disks[0].health()[0] == "ok"
        files.refuse.clear()
        assert content(store, A) == A


def test_a_rest_that_cannot_be_removed_hides_no_chunk(stored: Path) -> None:
    (stored / "chunks" / "61" / f"{A.hex()}.1.tmp").write_bytes(b"half")
    files = Watched()
    with opened(stored, files=files, listed=False) as (store, _):
        files.fail["remove"] = errno.EIO
        assert content(store, A) == A


def test_sizes_are_learned_of_what_was_not_listed_before(stored: Path) -> None:
    with opened(stored, listed=False) as (store, _):
        assert store.measure(A[0]) == 1
        assert store.usage()[0].used_bytes > 0


def test_the_duty_lists_all_and_then_rests(stored: Path) -> None:
    files = Watched()
    with opened(stored, files=files, listed=False) as (store, _):
        duty = ListDuty(store, SystemClock())
        units = 0
        while duty.wait() < LISTED_SECONDS:
            duty.work()
            units += 1
        assert len(files.shards_listed) == 256
        assert files.synced(A)
        assert (store.usage()[0].chunks, store.usage()[0].quarantined_chunks) == (2, 1)
        assert units < 600, "a unit is one directory, listed or synced"


def test_who_waited_for_a_listing_does_not_list_again(stored: Path) -> None:
    """By then somebody may be writing there: a second listing would take that for the rest of a crash."""
    files = Watched()
    with opened(stored, files=files, listed=False) as (store, _):
        once = store.listing._listed[A[0]]

        class Turn:
            def __enter__(self) -> None:
                once.done = True

            def __exit__(self, *_: object) -> None: ...

        once._turn = Turn()  # type: ignore[assignment]  # another one listed it meanwhile
        store.listing.list(A[0])
        assert files.shards_listed == set()


@pytest.mark.parametrize(("took", "rest"), [(0.01, 0.01), (9.0, LIST_REST_SECONDS_MAX)])
def test_the_duty_rests_as_long_as_a_directory_took_so_that_callers_get_on(
    stored: Path, took: float, rest: float
) -> None:
    class Slow(SystemClock):
        def __init__(self) -> None:
            self.now = 0.0

        def monotonic(self) -> float:
            self.now += took
            return self.now

    with opened(stored, listed=False) as (store, _):
        duty = ListDuty(store, Slow())
        duty.work()
        assert duty.wait() == pytest.approx(rest)


def test_a_chunk_sealed_again_right_after_a_start_is_the_one_that_is_there(stored: Path) -> None:
    with opened(stored, listed=False) as (store, _):
        assert put(store, A, A).header.checksum == crc32c(A)
        with pytest.raises(PreconditionFailedError):
            put(store, B, b"other")
