"""Nodes that leave: what repair makes of it, why a chunk cannot move, how fast the rest goes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.decisions.departure import Rate, eta_seconds, refusals
from coordinator.decisions.liveness import Liveness
from coordinator.decisions.placement import IN_MAINTENANCE, Candidate
from coordinator.decisions.repair import Damaged, plan

GIB = 1 << 30
INTENTS = ("normal", "draining", "decommissioning", "decommissioned", IN_MAINTENANCE)


def node(
    node_id: str, liveness: Liveness = Liveness.ALIVE, intent: str = "normal", free: int = GIB, zone: str = ""
) -> Candidate:
    return Candidate(node_id, liveness, intent=intent, free_bytes=free, largest_free_bytes=free, zone=zone)


def cluster(*nodes: Candidate) -> dict[str, Candidate]:
    return {one.node_id: one for one in nodes}


def chunk(*live: str, want: int = 3, others: tuple[str, ...] = ()) -> Damaged:
    return Damaged(bytes(16), 100, 7, want, live, others)


def copies(damaged: Damaged, nodes: dict[str, Candidate]) -> list[tuple[tuple[str, ...], str]]:
    made = plan([damaged], nodes, [], per_node=4, at_once=8, chance=random.Random(1).random).copies
    return [(one.sources, one.destination) for one in made]


# What repair makes of it


@pytest.mark.parametrize("intent", ["decommissioning", "decommissioned"])
def test_what_lies_on_a_leaving_node_is_a_source_and_does_not_count(intent: str) -> None:
    nodes = cluster(node("d1", intent=intent), node("d2"), node("d3"), node("d4"))
    ((sources, destination),) = copies(chunk("d1", "d2", "d3"), nodes)
    assert (sorted(sources), destination) == (["d1", "d2", "d3"], "d4")
    assert copies(chunk("d1", "d2", "d3", "d4"), nodes) == []
    ((sources, _),) = copies(chunk("d1", want=1), nodes)
    assert sources == ("d1",)


def test_nothing_is_moved_to_a_node_that_leaves_too() -> None:
    nodes = cluster(node("d1", intent="decommissioning"), node("d2", intent="decommissioning"), node("d3"))
    assert copies(chunk("d1", want=1), nodes) == [(("d1",), "d3")]
    assert copies(chunk("d1", "d3", want=2), nodes) == []


def test_the_zone_of_a_leaving_node_is_free_for_the_copy() -> None:
    nodes = cluster(
        node("d1", intent="decommissioning", zone="a"),
        node("d2", zone="b"),
        node("d3", zone="b"),
        node("d4", zone="a"),
    )
    assert [to for _, to in copies(chunk("d1", "d2", want=2), nodes)] == ["d4"]


def test_what_nobody_else_has_is_copied_before_a_node_rests() -> None:
    nodes = cluster(node("d1", intent=IN_MAINTENANCE), node("d2"), node("d3"), node("d4"))
    assert len(copies(chunk("d1", want=1), nodes)) == 1
    assert copies(chunk("d1", "d2", "d3"), nodes) == []
    assert copies(chunk("d1", "d2", want=2), nodes) == []
    both = {**nodes, "d2": node("d2", intent=IN_MAINTENANCE)}
    assert len(copies(chunk("d1", "d2", want=2), both)) == 1


def test_a_resting_node_that_is_silent_is_no_source() -> None:
    nodes = cluster(node("d1", Liveness.DEAD, IN_MAINTENANCE), node("d2"))
    assert copies(chunk("d1", want=1), nodes) == []


# Why a chunk cannot move


def test_each_node_is_named_with_the_rule_that_excludes_it() -> None:
    nodes = cluster(
        node("d1", intent="decommissioning"),
        node("d2"),
        node("d3", free=10),
        node("d4", Liveness.DEAD),
        node("d5", intent="draining"),
        node("d6", Liveness.SUSPECT),
    )
    told = {one.node_id: one.rule for one in refusals(nodes, ("d1", "d2"), 100)}
    assert told["d1"] == "it has a good replica already"
    assert told["d2"] == "it has a good replica already"
    assert told["d3"].startswith("full: 10 bytes free")
    assert told["d4"].startswith("dead")
    assert told["d5"] == "draining: takes no new data"
    assert told["d6"] == "suspect: gets no copies"


@given(
    st.dictionaries(
        st.sampled_from([f"d{k}" for k in range(6)]),
        st.tuples(st.sampled_from(Liveness), st.sampled_from(INTENTS), st.sampled_from([10, GIB])),
        min_size=1,
    ),
    st.sets(st.sampled_from([f"d{k}" for k in range(6)]), min_size=1),
    st.sets(st.sampled_from([f"d{k}" for k in range(6)])),
)
def test_a_chunk_is_blocked_exactly_when_repair_has_no_destination(
    kinds: dict[str, tuple[Liveness, str, int]], live: set[str], others: set[str]
) -> None:
    nodes = cluster(*(node(name, liveness, intent, free) for name, (liveness, intent, free) in kinds.items()))
    wanting = chunk(*sorted(live), want=9, others=tuple(sorted(others - live)))
    decided = plan([wanting], nodes, [], per_node=4, at_once=8, chance=random.Random(1).random)
    if not decided.lost:
        blocked = refusals(nodes, wanting.live, wanting.length)
        assert bool(blocked) == (not decided.copies)
        assert not blocked or {one.node_id for one in blocked} == nodes.keys()


# How fast


def test_the_rate_is_that_of_the_last_minute() -> None:
    rate = Rate()
    assert rate.bytes_per_second() is None
    rate.note(0.0, 1000)
    rate.note(1.0, 900)
    assert rate.bytes_per_second() is None  # too short to tell
    rate.note(5.0, 500)
    assert rate.bytes_per_second() == 100.0
    for second in range(6, 200):
        rate.note(float(second), 500)
    assert rate.bytes_per_second() == 0.0


def test_more_that_remains_is_no_negative_rate() -> None:
    rate = Rate()
    rate.note(0.0, 100)
    rate.note(10.0, 300)
    assert rate.bytes_per_second() == 0.0


@pytest.mark.parametrize(
    ("remaining", "rate", "expected"),
    [(0, None, 0.0), (100, 50.0, 2.0), (100, None, None), (100, 0.0, None)],
)
def test_the_end_is_told_when_it_can_be(remaining: int, rate: float | None, expected: float | None) -> None:
    assert eta_seconds(remaining, rate) == expected
