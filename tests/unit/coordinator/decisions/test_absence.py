"""Nodes are stopped together only while a majority of voters and a replica of every chunk stay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordinator.decisions.absence import Picture, why_not_leave, why_not_without

VOTERS = frozenset({"c1", "c2", "c3"})
names = st.sampled_from(["c1", "c2", "c3", "d1", "d2", "d3"])


def test_one_of_three_may_go_and_two_may_not() -> None:
    well = Picture(VOTERS, frozenset())
    assert why_not_leave(well, ["c1"], [], None) == ""
    assert "quorum" in why_not_leave(well, ["c1", "c2"], [], None)
    one_down = Picture(VOTERS, frozenset({"c3"}))
    reason = why_not_leave(one_down, ["c1"], [], None)
    assert "c2 would stay" in reason
    assert "away are c3" in reason


def test_datanodes_may_go_without_a_quorum() -> None:
    """It is not them who would break it."""
    assert why_not_leave(Picture(VOTERS, frozenset({"c1", "c2"})), ["d1"], [], None) == ""


def test_of_a_group_only_so_many_are_away() -> None:
    group = ["d1", "d2", "d3"]
    picture = Picture(VOTERS, frozenset({"d3"}))
    assert "2 of 3" in why_not_leave(picture, ["d1"], group, 1)
    assert why_not_leave(picture, ["d1"], group, 2) == ""
    assert why_not_leave(picture, ["d1"], [], 1) == ""


def test_the_last_copies_are_told_by_number() -> None:
    assert why_not_without(0, ["d1"]) == ""
    assert why_not_without(1, []) == "1 chunk has no replica on any other node that is there"
    assert "7 chunks have" in why_not_without(7, ["d2"])


@given(away=st.frozensets(names), leaving=st.sets(names, min_size=1), most=st.integers(1, 6))
def test_what_is_allowed_leaves_a_majority_and_the_limit(
    away: frozenset[str], leaving: set[str], most: int
) -> None:
    if why_not_leave(Picture(VOTERS, away), leaving, sorted(leaving), most):
        return
    gone = away | leaving
    assert len(VOTERS - gone) >= 2 or not VOTERS & leaving
    assert len(gone & leaving) <= most
