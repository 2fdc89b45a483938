"""What the collection makes of what it was told."""

from __future__ import annotations

import pytest

from coordinator.decisions.collection import (
    SHRINK_CHUNKS_MIN,
    Birth,
    Found,
    Room,
    absent,
    account,
    deletions,
    may_adopt,
    shrinks,
    unexplained_strays,
    unrecorded,
)
from coordinator.decisions.packed import PAGE_IDS, PackedIds, Walk, in_order, split

A, B, C, D = (bytes([letter]) * 16 for letter in b"abcd")


def test_packed_ids_are_a_set_in_order() -> None:
    ids = PackedIds.of([C, A, B, A])
    assert (list(ids), len(ids), ids) == ([A, B, C], 3, {A, B, C})
    assert A in ids
    assert D not in ids
    assert 5 not in ids
    assert (ids.between(b"", None), ids.between(A, B), ids.between(C, None)) == ([A, B, C], [B], [])
    with pytest.raises(IndexError):
        ids[3]


def test_a_walk_takes_every_id_once_whatever_the_pages() -> None:
    ids = [number.to_bytes(16, "big") for number in range(0, 10 * PAGE_IDS, 3)]
    for step in (1, 5, PAGE_IDS, 4 * PAGE_IDS):
        walk = Walk(PackedIds.of(ids))
        taken: list[bytes] = []
        for last in range(0, 10 * PAGE_IDS, step):
            through = last.to_bytes(16, "big")
            page = walk.take(through)
            assert all(one <= through for one in page)
            taken += page
        assert taken + walk.take(None) == ids
        assert walk.take(None) == []


def test_ids_are_in_order_when_each_comes_behind_the_last() -> None:
    assert in_order([])
    assert in_order([A, B])
    assert not in_order([B, A])
    assert not in_order([A, A])
    assert not in_order([B], after=B)
    assert split(A + B + b"rest") == [A, B]


def test_what_nodes_list_and_no_table_knows_is_found_page_by_page() -> None:
    listed = {"d2": PackedIds.of([A, D]), "d1": PackedIds.of([B, C, D])}
    walks = {node_id: Walk(ids) for node_id, ids in listed.items()}
    assert absent([A], walks, A) == {}
    assert absent([], walks, B) == {B: ["d1"]}
    assert absent([], walks, None) == {C: ["d1"], D: ["d1", "d2"]}
    assert absent([], walks, None) == {}
    assert unrecorded(D, ["d1"], listed) == ["d2"]


def test_a_stray_is_what_was_born_before_the_mark_or_in_another_history() -> None:
    def born(history: int, index: int) -> Found:
        return Found(Birth(history, index, 0), 1, 1)

    assert may_adopt(born(2, 10), history=2, mark_index=10)
    assert not may_adopt(born(2, 11), history=2, mark_index=10)
    assert may_adopt(born(1, 11), history=2, mark_index=10)
    assert not may_adopt(Found(Birth(2, 1, 0), 1, 1, quarantined=True), history=2, mark_index=10)
    assert not may_adopt(None, history=2, mark_index=10)


def test_the_shrink_guard_wants_a_number_and_a_part() -> None:
    assert not shrinks(SHRINK_CHUNKS_MIN, SHRINK_CHUNKS_MIN, 10.0)
    assert shrinks(SHRINK_CHUNKS_MIN + 1, SHRINK_CHUNKS_MIN + 1, 10.0)
    assert not shrinks(1000, 10_000, 10.0)
    assert shrinks(1001, 10_000, 10.0)


def test_only_nodes_that_count_get_orders() -> None:
    condemned = [(A, 5, ["d1", "d2"]), (B, 6, ["d2"])]
    assert deletions(condemned, {"d1"}) == {"d1": [(A, 5)]}
    assert deletions(condemned, {"d1", "d2"}) == {"d1": [(A, 5)], "d2": [(A, 5), (B, 6)]}


def test_the_classes_add_up_to_what_the_disks_report() -> None:
    room = Room(total=1000, free=400, used=300, quarantined=50)
    lengths = {"referenced": 200, "orphan": 40, "condemned": 5, "uploading": 5}
    found = account({"a": room}, {(kind, "a"): length for kind, length in lengths.items()})
    kinds = (found.referenced, found.uploading, found.orphan, found.condemned)
    assert kinds == (200, 5, 40, 5)
    assert found.unaccounted == 50
    assert sum(kinds) + found.unaccounted + room.free + room.quarantined + found.other == room.total


def test_a_heartbeat_that_is_older_than_the_metadata_makes_no_class_negative() -> None:
    found = account({"a": Room(total=100, free=50, used=0, quarantined=0)}, {("referenced", ""): 80})
    assert (found.unaccounted, found.other) == (0, 0)


def test_what_lies_on_a_failed_disk_is_in_no_class() -> None:
    """It has no room to report: its bytes would be more than the disks have."""
    rooms = {"good": Room(100, 60, 30, 5), "failed": Room(0, 0, 500, 70)}
    found = account(rooms, {("referenced", "good"): 20, ("referenced", "failed"): 480, ("orphan", "good"): 7})
    assert (found.room, found.referenced, found.orphan) == (Room(100, 60, 30, 5), 20, 7)
    assert (found.unaccounted, found.other) == (3, 5)


def test_strays_that_nobody_looked_at_count_as_those_that_somebody_did() -> None:
    assert unexplained_strays(0, 0, 0) == 0
    assert unexplained_strays(10, 10, 4) == 4
    assert unexplained_strays(300, 100, 0) == 0
    assert unexplained_strays(300, 100, 100) == 300
    assert unexplained_strays(300, 100, 50) == 150
