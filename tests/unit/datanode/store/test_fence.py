from __future__ import annotations

import contextlib
import errno
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datanode.store import fence
from datanode.store.fence import EpochStore, NodeRecord
from datanode.store.layout import Birth
from datanode.store.opening import NodeDisks
from datanode.store.orders import Orders
from quorumfs.errors import Code, FencedError, HistoryBehindError, UnavailableError
from quorumfs.ids import ChunkId
from quorumfs.v1.types_pb2 import Epoch
from tests.unit.datanode.store.fakes import FlakyFiles, Killed, ReadOnly, content, flip, opened, put

CHUNK = ChunkId(b"c" * 16)


def loaded(disks: NodeDisks) -> EpochStore:
    store = EpochStore(disks.disks)
    store.load()
    return store


def on_disk(path: Path) -> NodeRecord | None:
    return fence.decode((path / fence.FILE).read_bytes())


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


@pytest.mark.parametrize("slot", [0, 1])
def test_damage_to_one_half_of_a_copy_forgets_nothing(tmp_path: Path, slot: int) -> None:
    with opened(tmp_path) as (_, disks):
        fences = loaded(disks)
        fences.obey(Epoch(history=1, term=4))
        fences.obey(Epoch(history=1, term=5))
    flip(tmp_path / fence.FILE, slot * fence.SLOT_BYTES + 12)
    with opened(tmp_path) as (_, disks):
        assert loaded(disks).epoch == (1, 5)
    with opened(tmp_path) as (_, disks):
        assert (loaded(disks).epoch, loaded(disks).incarnation) == ((1, 5), 4)


def test_an_epoch_is_kept_or_not_wherever_the_process_dies(tmp_path: Path) -> None:
    for steps in range(6):
        root = tmp_path / str(steps)
        with opened(root) as (_, disks):
            loaded(disks).obey(Epoch(history=1, term=4))
        files, obeyed = FlakyFiles(), False
        with contextlib.suppress(Killed), opened(root, files=files) as (_, disks):
            fences = loaded(disks)
            files.die_before = len(files.steps) + steps
            fences.obey(Epoch(history=1, term=5))
            obeyed = True
        with opened(root) as (_, disks):
            assert loaded(disks).epoch in ([(1, 5)] if obeyed else [(1, 4), (1, 5)])
    assert obeyed


def test_a_full_disk_is_no_reason_to_lose_the_leader(tmp_path: Path) -> None:
    class Full(FlakyFiles):
        def replace_file(self, path: Path, content: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with opened(tmp_path) as (_, disks):
        loaded(disks).obey(Epoch(history=1, term=1))
    with opened(tmp_path, files=Full()) as (_, disks):
        fences = loaded(disks)
        fences.obey(Epoch(history=1, term=2))
        fences.heard(Epoch(history=1, term=2), 40)
        fences.settle()
    assert on_disk(tmp_path) == NodeRecord(1, 2, 40, 2)


def test_a_node_on_a_read_only_disk_serves_reads_and_obeys_nobody(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, disks):
        loaded(disks).obey(Epoch(history=1, term=1))
        put(store, CHUNK, b"good")
    with opened(tmp_path, files=ReadOnly()) as (store, disks):
        fences = loaded(disks)
        assert content(store, CHUNK) == b"good"
        for term in (1, 2):
            with pytest.raises(UnavailableError):
                fences.obey(Epoch(history=1, term=term))
        with pytest.raises(FencedError):
            fences.obey(Epoch(history=1, term=0))


def test_a_node_that_joined_a_cluster_and_lost_its_record_does_not_begin_anew(tmp_path: Path) -> None:
    with opened(tmp_path) as (_, disks):
        loaded(disks)
        disks.join("cluster-1")
    (tmp_path / fence.FILE).unlink()
    with opened(tmp_path) as (_, disks), pytest.raises(UnavailableError, match="no record"):
        loaded(disks)
    with opened(tmp_path / "new") as (_, disks):
        assert loaded(disks).epoch == (0, 0)


def test_a_disk_that_is_added_later_gets_a_copy(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as (_, disks):
        disks.join("cluster-1")
        EpochStore(disks.disks)
        (tmp_path / "a" / fence.FILE).write_bytes(fence.encode(NodeRecord(1, 3, 9, 1)) * 2)
    with opened(tmp_path / "a", tmp_path / "b") as (_, disks):
        loaded(disks)
    assert on_disk(tmp_path / "b") == NodeRecord(1, 3, 9, 2)


def test_a_damaged_copy_takes_its_disk_out_and_the_other_one_knows(tmp_path: Path) -> None:
    with opened(tmp_path / "a", tmp_path / "b") as (_, disks):
        loaded(disks).obey(Epoch(history=1, term=5))
    spoil(tmp_path / "a" / fence.FILE)
    with opened(tmp_path / "a", tmp_path / "b") as (store, disks):
        assert loaded(disks).epoch == (1, 5)
        assert [disk.state for disk in store.usage()] == ["failed", "ok"]


def test_a_node_whose_only_copy_is_damaged_does_not_begin_anew(tmp_path: Path) -> None:
    with opened(tmp_path) as (_, disks):
        loaded(disks).obey(Epoch(history=1, term=5))
    spoil(tmp_path / fence.FILE)
    with opened(tmp_path) as (_, disks), pytest.raises(UnavailableError, match="damaged"):
        loaded(disks)


def spoil(path: Path) -> None:
    """Damage both halves."""
    for slot in (0, 1):
        flip(path, slot * fence.SLOT_BYTES + 12)


def test_the_incarnation_grows_with_every_start(tmp_path: Path) -> None:
    seen = []
    for _ in range(3):
        with opened(tmp_path) as (_, disks):
            seen.append(loaded(disks).incarnation)
    assert seen == [1, 2, 3]


def test_what_was_heard_of_commits_is_kept_when_it_is_settled_and_never_goes_back(tmp_path: Path) -> None:
    first = Epoch(history=1, term=1)
    with opened(tmp_path) as (_, disks):
        fences = loaded(disks)
        fences.obey(first)
        fences.heard(first, 105)
        assert on_disk(tmp_path) == NodeRecord(1, 1, 0, 1)
        fences.settle()
        assert on_disk(tmp_path) == NodeRecord(1, 1, 105, 1)
        fences.heard(first, 90)
        assert (fences.commit_index, fences.told_commit_index) == (105, 90)
        fences.obey(Epoch(history=1, term=2))
        assert (fences.commit_index, on_disk(tmp_path)) == (105, NodeRecord(1, 2, 105, 1))
        fences.obey(Epoch(history=2, term=1))
        assert fences.commit_index == 0


def test_what_a_deposed_leader_told_does_not_count_for_its_successor(tmp_path: Path) -> None:
    with opened(tmp_path) as (_, disks):
        fences = loaded(disks)
        fences.obey(Epoch(history=2, term=1))
        fences.heard(Epoch(history=1, term=9), 700)
        assert (fences.commit_index, fences.told_commit_index) == (0, 0)


def test_hearing_of_commits_never_waits_for_a_disk_that_is_slow(tmp_path: Path) -> None:
    writing, may_end = threading.Event(), threading.Event()

    class Slow(FlakyFiles):
        slow = False

        def sync_data(self, fd: int) -> None:
            if self.slow:
                writing.set()
                may_end.wait(20)
            super().sync_data(fd)

    files, epoch = Slow(), Epoch(history=1, term=1)
    with opened(tmp_path, files=files) as (_, disks):
        fences = loaded(disks)
        fences.obey(epoch)
        fences.heard(epoch, 1)
        files.slow = True
        settling = threading.Thread(target=fences.settle)
        settling.start()
        assert writing.wait(10)
        fences.obey(epoch)
        fences.heard(epoch, 2)
        assert settling.is_alive()
        may_end.set()
        settling.join(10)
        assert on_disk(tmp_path) == NodeRecord(1, 1, 1, 1)
        fences.settle()
    assert on_disk(tmp_path) == NodeRecord(1, 1, 2, 1)


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
        fences.heard(Epoch(history=1, term=3), 500)
        with pytest.raises(HistoryBehindError):
            orders.delete(Epoch(history=1, term=3), [(CHUNK, 100)], commit_index=400)
        assert content(store, CHUNK) == b"old"
        outcome = orders.delete(
            Epoch(history=1, term=4), [(CHUNK, 100), (young, 100), (absent, 100)], commit_index=500
        )
        assert (outcome.done, outcome.refused, outcome.absent) == ([CHUNK], [young], [absent])
        assert on_disk(tmp_path) == NodeRecord(1, 4, 500, 1)
        back = orders.restore(Epoch(history=1, term=4), [CHUNK, absent], 100)
        assert (back.done, back.absent) == ([CHUNK], [absent])


def test_one_order_that_a_full_disk_refuses_does_not_hold_up_the_others(tmp_path: Path) -> None:
    other = ChunkId(b"d" * 16)

    class Full(FlakyFiles):
        def rename(self, old: Path, new: Path) -> None:
            if old.name == CHUNK.hex():
                raise OSError(errno.ENOSPC, "No space left on device")
            super().rename(old, new)

    epoch = Epoch(history=1, term=1)
    with opened(tmp_path) as (store, _):
        put(store, CHUNK, b"x")
        put(store, other, b"x")
    with opened(tmp_path, files=Full()) as (store, disks):
        outcome = Orders(store, loaded(disks)).delete(epoch, [(CHUNK, 100), (other, 100)])
        assert (outcome.refused, outcome.done) == ([CHUNK], [other])
        assert outcome.error is not None
        assert outcome.error.code is Code.NO_SPACE


@given(st.binary(max_size=3 * fence.SLOT_BYTES))
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
