"""Replicas move from fuller nodes to emptier ones; domains and exclusions hold, and there is an end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.decisions.balance import Move, Rules, excess_bytes, givers, mean_share, plan, taking_part
from coordinator.decisions.liveness import Liveness
from coordinator.decisions.placement import IN_MAINTENANCE, Candidate
from coordinator.decisions.trim import Held, trim

ROOM = 1000
RULES = Rules(0.05, 1000)


def node(node_id: str, used: int, zone: str = "", room: int = ROOM) -> Candidate:
    return Candidate(
        node_id, used_bytes=used, free_bytes=room - used, largest_free_bytes=room - used, zone=zone
    )


def nodes(*given: Candidate) -> dict[str, Candidate]:
    return {one.node_id: one for one in given}


def chunks(number: int, *on: str, length: int = 10, want: int = 0) -> list[Held]:
    return [Held(f"{on[0]}{k}".encode().ljust(16), length, 7, want or len(on), on) for k in range(number)]


def applied(moves: list[Move], found: dict[str, Candidate]) -> dict[str, Candidate]:
    after = dict(found)
    for one in moves:
        for node_id, by in ((one.source, -one.length), (one.destination, one.length)):
            old = after[node_id]
            after[node_id] = replace(old, used_bytes=old.used_bytes + by, free_bytes=old.free_bytes - by)
    return after


def test_an_empty_node_is_filled_until_all_are_within_the_threshold() -> None:
    found = nodes(node("d1", 400), node("d2", 400), node("d3", 400), node("d4", 0))
    moves = plan(chunks(40, "d1", "d2", "d3"), found, RULES)
    assert {one.destination for one in moves} == {"d4"}
    assert {one.source for one in moves} == {"d1", "d2", "d3"}
    after = applied(moves, found)
    assert givers(after, RULES.threshold) == []
    assert excess_bytes(after) < excess_bytes(found)


def test_nothing_moves_between_nodes_that_are_even_enough() -> None:
    found = nodes(node("d1", 400), node("d2", 440), node("d3", 420))
    assert givers(found, 0.05) == []
    assert plan(chunks(40, "d1", "d2"), found, RULES) == []


def test_how_full_a_node_is_goes_by_its_size() -> None:
    found = nodes(node("d1", 400), node("d2", 4000, room=10_000), node("d3", 400))
    assert givers(found, 0.05) == []


@pytest.mark.parametrize(
    "said",
    [
        {"intent": "draining"},
        {"intent": IN_MAINTENANCE},
        {"intent": "decommissioning"},
        {"liveness": Liveness.SUSPECT},
        {"heard": False},
        {"used_bytes": 0, "free_bytes": 0, "largest_free_bytes": 0, "disk_trouble": "/disk is failed"},
    ],
    ids=str,
)
def test_whoever_is_excluded_neither_gives_nor_takes(said: dict[str, object]) -> None:
    empty, full = replace(node("d4", 0), **said), replace(node("d1", 900), **said)
    assert plan(chunks(40, "d2", "d3"), nodes(node("d2", 400), node("d3", 400), empty), RULES) == []
    found = nodes(full, node("d2", 400), node("d3", 400), node("d4", 400))
    assert plan(chunks(40, "d1", "d2", "d3"), found, RULES) == []


def test_no_zone_is_given_up() -> None:
    found = nodes(node("d1", 800, "a"), node("d2", 300, "b"), node("d3", 300, "c"), node("d4", 0, "b"))
    assert plan(chunks(20, "d1", "d2", "d3"), found, RULES) == []
    moves = plan(chunks(20, "d1", "d3"), found, RULES)
    assert {(one.source, one.destination) for one in moves} == {("d1", "d4")}


def test_only_settled_chunks_move() -> None:
    found = nodes(node("d1", 800), node("d2", 300), node("d3", 300), node("d4", 0))
    (one,) = chunks(1, "d1", "d2")
    for held in (
        replace(one, want=0),
        replace(one, want=1),
        replace(one, want=3),
        replace(one, lost=("d3",)),
        replace(one, leaving=("d3",)),
        replace(one, others=("d4",)),
    ):
        assert plan([held], found, RULES) == []
    assert len(plan([one], found, RULES)) == 1


def test_no_more_is_planned_than_asked_for_and_than_there_is_room() -> None:
    found = nodes(node("d1", 800), node("d2", 400), node("d4", 0))
    assert len(plan(chunks(40, "d1"), found, Rules(0.05, 3))) == 3
    found["d4"] = replace(found["d4"], largest_free_bytes=25)
    assert [one.destination for one in plan(chunks(40, "d1"), found, RULES)].count("d4") == 2


made = st.dictionaries(
    st.sampled_from([f"d{k}" for k in range(6)]),
    st.builds(
        Candidate,
        node_id=st.just(""),
        liveness=st.sampled_from((Liveness.ALIVE, Liveness.ALIVE, Liveness.ALIVE, Liveness.DEAD)),
        intent=st.sampled_from(("normal", "normal", "normal", "draining")),
        free_bytes=st.integers(0, 1000),
        largest_free_bytes=st.integers(0, 1000),
        used_bytes=st.integers(0, 1000),
        zone=st.sampled_from(("", "a", "b", "c")),
        rack=st.sampled_from(("", "r")),
        host=st.sampled_from(("", "h")),
    ),
    min_size=2,
).map(lambda found: {node_id: replace(one, node_id=node_id) for node_id, one in found.items()})
held = st.lists(
    st.builds(
        lambda number, length, on: Held(number.to_bytes(16, "big"), length, 7, len(on), tuple(on)),
        st.integers(0, 2**64),
        st.integers(1, 300),
        st.lists(st.sampled_from([f"d{k}" for k in range(6)]), min_size=1, max_size=3, unique=True),
    ),
    max_size=20,
    unique_by=lambda one: one.chunk,
)


@given(made, held, st.floats(0.01, 0.5))
def test_every_move_brings_the_nodes_together_and_costs_no_domain(
    found: dict[str, Candidate], given: list[Held], threshold: float
) -> None:
    by_chunk = {one.chunk: one for one in given}
    moves = plan(given, found, Rules(threshold, 100))
    part = taking_part(found)
    now = dict(found)
    for move in moves:
        one = by_chunk.pop(move.chunk)  # each moves once
        assert move.source in one.live
        assert move.destination not in one.live
        assert {move.source, move.destination} <= part.keys()
        assert spread(applied([move], now)) <= spread(now)
        now = applied([move], now)
        zones_before = {now[node_id].zone or node_id for node_id in one.live if node_id in now}
        zones_after = {
            now[node_id].zone or node_id
            for node_id in {*one.live, move.destination} - {move.source}
            if node_id in now
        }
        assert len(zones_after) >= len(zones_before)
        decided = trim(replace(one, live=(*one.live, move.destination)), now)
        assert decided is not None
        assert all(now[node_id].used_bytes >= 0 for node_id in now)


def spread(found: dict[str, Candidate]) -> float:
    part = taking_part(found).values()
    mean = mean_share(part)
    return round(sum(one.room_bytes * (one.used_share - mean) ** 2 for one in part), 6)
