from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datanode.store import fence
from datanode.store.fence import EpochStore, NodeRecord
from datanode.store.layout import Birth
from datanode.store.orders import Orders
from quorumfs.clock import ManualClock
from quorumfs.errors import FencedError, HistoryBehindError, UnavailableError
from quorumfs.ids import ChunkId
from quorumfs.v1.types_pb2 import Epoch
from tests.unit.datanode.store.fakes import FlakyFiles, content, flip, opened, put

CHUNK = ChunkId(b"c" * 16)


def loaded(disks: object, clock: ManualClock | None = None) -> EpochStore:
    store = EpochStore(disks.disks, clock)  # type: ignore[attr-defined]  # NodeDisks, kept short here
    store.load()
    return store


def test_the_highest_epoch_is_obeyed_for_ever(tmp_path: Path) -> None:
    with opened(tmp_path) as (_, disks):
        fences = loaded(disks)
        fences.obey(Epoch(history=2, term=7))
        fences.obey(Epoch(history=2, term=7))
        with pytest.raises(FencedError, match="obeys epoch 2/7"):
            fences.obey(Epoch(history=2, term=6))
        with pytest.raises(FencedError):
            fences.obey(Epoch(history=1, term=900))
    with opened(tmp_path) as (_, disks):
        fences = loaded(disks)
        assert fences.epoch == (2, 7)
        with pytest.raises(FencedError):
            fences.obey(Epoch(history=2, term=6))
        fences.obey(Epoch(history=3, term=1))


def test_an_epoch_that_cannot_be_written_down_is_not_obeyed(tmp_path: Path) -> None:
    files = FlakyFiles()
    with opened(tmp_path, files=files) as (_, disks):
        fences = loaded(disks)
        fences.obey(Epoch(history=1, term=1))
        files.fail["write"] = errno.ENOSPC
        with pytest.raises(UnavailableError):
            fences.obey(Epoch(history=1, term=2))
        assert fences.epoch == (1, 1)
        del files.fail["write"]
        fences.obey(Epoch(history=1, term=2))


def test_the_highest_copy_counts_whichever_disk_has_it(tmp_path: Path) -> None:
    with opened(tmp_path / "a", tmp_path / "b") as (_, disks):
        fences = loaded(disks)
        fences.obey(Epoch(history=1, term=4))
        old = (tmp_path / "a" / fence.FILE).read_bytes()
        fences.obey(Epoch(history=1, term=5))
    (tmp_path / "a" / fence.FILE).write_bytes(old)
    with opened(tmp_path / "a", tmp_path / "b") as (_, disks):
        assert loaded(disks).epoch == (1, 5)


def test_a_damaged_copy_takes_its_disk_out_and_the_other_one_knows(tmp_path: Path) -> None:
    with opened(tmp_path / "a", tmp_path / "b") as (_, disks):
        loaded(disks).obey(Epoch(history=1, term=5))
    flip(tmp_path / "a" / fence.FILE, 12)
    with opened(tmp_path / "a", tmp_path / "b") as (store, disks):
        assert loaded(disks).epoch == (1, 5)
        assert [disk.state for disk in store.usage()] == ["failed", "ok"]


def test_a_node_whose_only_copy_is_damaged_does_not_begin_anew(tmp_path: Path) -> None:
    with opened(tmp_path) as (_, disks):
        loaded(disks).obey(Epoch(history=1, term=5))
    flip(tmp_path / fence.FILE, 12)
    with opened(tmp_path) as (_, disks), pytest.raises(UnavailableError):
        loaded(disks)


def test_the_incarnation_grows_with_every_start(tmp_path: Path) -> None:
    seen = []
    for _ in range(3):
        with opened(tmp_path) as (_, disks):
            seen.append(loaded(disks).incarnation)
    assert seen == [1, 2, 3]


def test_what_was_heard_of_commits_reaches_the_disk_within_its_lag(tmp_path: Path) -> None:
    clock = ManualClock()
    with opened(tmp_path) as (_, disks):
        fences = loaded(disks, clock)
        fences.obey(Epoch(history=1, term=1))
        fences.heard(100)
        assert fence.decode((tmp_path / fence.FILE).read_bytes()) == NodeRecord(1, 1, 0, 1)
        clock.advance(fence.LAG_SECONDS + 1)
        fences.heard(105)
        assert fence.decode((tmp_path / fence.FILE).read_bytes()) == NodeRecord(1, 1, 105, 1)
        fences.heard(90)
        assert (fences.commit_index, fences.told_commit_index) == (105, 90)
        fences.obey(Epoch(history=2, term=1))
        assert fences.commit_index == 0


def test_orders_are_carried_out_behind_the_fence(tmp_path: Path) -> None:
    young = ChunkId(b"y" * 16)
    absent = ChunkId(b"a" * 16)
    with opened(tmp_path) as (store, disks):
        fences = loaded(disks)
        orders = Orders(store, fences)
        put(store, CHUNK, b"old")
        put(store, young, b"young", Birth(1, 200, 0))
        fences.obey(Epoch(history=1, term=3))
        with pytest.raises(FencedError):
            orders.delete(Epoch(history=1, term=2), [(CHUNK, 100)])
        fences.heard(500)
        with pytest.raises(HistoryBehindError):
            orders.delete(Epoch(history=1, term=3), [(CHUNK, 100)], commit_index=400)
        assert content(store, CHUNK) == b"old"
        outcome = orders.delete(
            Epoch(history=1, term=4), [(CHUNK, 100), (young, 100), (absent, 100)], commit_index=500
        )
        assert (outcome.done, outcome.refused, outcome.absent) == ([CHUNK], [young], [absent])
        assert fence.decode((tmp_path / fence.FILE).read_bytes()) == NodeRecord(1, 4, 500, 1)
        back = orders.restore(Epoch(history=1, term=4), [CHUNK, absent], 100)
        assert (back.done, back.absent) == ([CHUNK], [absent])


@given(st.binary(max_size=64))
def test_hostile_records_are_no_records(raw: bytes) -> None:
    assert fence.decode(raw) is None


records = st.builds(NodeRecord, *[st.integers(0, 5)] * 4)


@given(records, records)
def test_joining_records_never_lowers_anything(one: NodeRecord, other: NodeRecord) -> None:
    both = one.joined(other)
    assert both == other.joined(one)
    assert both.epoch == max(one.epoch, other.epoch)
    assert both.incarnation == max(one.incarnation, other.incarnation)
    assert fence.decode(fence.encode(both)) == both
