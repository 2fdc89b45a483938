"""Placement: where replicas go, and what is said when they cannot go anywhere."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from coordinator.decisions.liveness import Liveness
from coordinator.decisions.placement import Candidate, Wanted, place

GIB = 1 << 30


def node(number: int, **changes: object) -> Candidate:
    values: dict[str, object] = {
        "node_id": f"d{number}",
        "free_bytes": 100 * GIB,
        "largest_free_bytes": 100 * GIB,
        "host": f"h{number}",
    }
    return Candidate(**{**values, **changes})  # type: ignore[arg-type]  # a test's shorthand


candidates = st.lists(
    st.builds(
        node,
        st.integers(0, 30),
        liveness=st.sampled_from(list(Liveness)),
        takes_data=st.sampled_from([True, True, True, False]),
        intent=st.sampled_from(["normal", "normal", "draining"]),
        heard=st.booleans(),
        free_bytes=st.integers(0, 200),
        largest_free_bytes=st.integers(0, 200),
        disk_trouble=st.sampled_from(["", "", "sda is failed"]),
        write_streams=st.integers(0, 100),
        zone=st.sampled_from(["", "a", "b", "c"]),
        rack=st.sampled_from(["", "r1", "r2"]),
    ),
    max_size=12,
    unique_by=lambda one: one.node_id,
)


@given(candidates, st.integers(1, 5), st.integers(1, 3), st.integers(0, 150), st.integers())
def test_no_two_replicas_lie_on_one_node_and_every_chosen_node_may_take_data(
    nodes: list[Candidate], replicas: int, minimum: int, size: int, seed: int
) -> None:
    wanted = Wanted(replicas, min(minimum, replicas), size, frozenset({"d3"}))
    decision = place(nodes, wanted, random.Random(seed).random)
    by_id = {one.node_id: one for one in nodes}
    assert len(set(decision.node_ids)) == len(decision.node_ids) <= replicas
    if decision.node_ids:
        assert len(decision.node_ids) >= wanted.minimum
    for chosen in (by_id[node_id] for node_id in decision.node_ids):
        assert chosen.takes_data
        assert chosen.intent == "normal"
        assert chosen.liveness in (Liveness.ALIVE, Liveness.SUSPECT)
        assert chosen.node_id != "d3"
        assert not chosen.disk_trouble
        assert not chosen.heard or min(chosen.free_bytes, chosen.largest_free_bytes) >= size


@given(candidates, st.integers(1, 5), st.integers(0, 150), st.integers())
def test_without_a_placement_every_node_is_named_with_the_rule_that_excluded_it(
    nodes: list[Candidate], replicas: int, size: int, seed: int
) -> None:
    decision = place(nodes, Wanted(replicas, replicas, size), random.Random(seed).random)
    if not decision.node_ids:
        assert {one.node_id for one in decision.refusals} == {one.node_id for one in nodes}
        assert all(one.rule for one in decision.refusals)
        for one in nodes:
            assert one.node_id in decision.explain()


@given(candidates, st.integers(1, 5), st.integers())
def test_the_same_chance_gives_the_same_placement(nodes: list[Candidate], replicas: int, seed: int) -> None:
    wanted = Wanted(replicas, 1, 10)
    first = place(nodes, wanted, random.Random(seed).random)
    assert place(list(reversed(nodes)), wanted, random.Random(seed).random) == first


@given(st.integers())
def test_replicas_are_spread_over_zones_before_anything_else(seed: int) -> None:
    nodes = [node(k, zone="abc"[k % 3], free_bytes=1 + k * GIB) for k in range(9)]
    decision = place(nodes, Wanted(3, 2, 1), random.Random(seed).random)
    assert sorted(int(one[1:]) % 3 for one in decision.node_ids) == [0, 1, 2]


def test_two_nodes_of_one_host_are_taken_only_when_there_is_no_other() -> None:
    nodes = [node(1, host="x"), node(2, host="x"), node(3, host="y")]
    for seed in range(50):
        decision = place(nodes, Wanted(2, 2, 1), random.Random(seed).random)
        assert "d3" in decision.node_ids
    assert len(place(nodes, Wanted(3, 2, 1), random.random).node_ids) == 3


def test_a_node_with_more_room_gets_more_chunks() -> None:
    nodes = [node(1, free_bytes=100 * GIB), node(2, free_bytes=300 * GIB)]
    chance = random.Random(7).random
    taken = Counter(place(nodes, Wanted(1, 1, 1), chance).node_ids[0] for _ in range(2000))
    assert 2.4 < taken["d2"] / taken["d1"] < 3.8


def test_the_first_replica_lies_on_the_clients_host() -> None:
    nodes = [node(k) for k in range(6)]
    for seed in range(30):
        assert place(nodes, Wanted(3, 2, 1, near_host="h4"), random.Random(seed).random).node_ids[0] == "d4"


def test_a_suspect_node_is_used_only_to_reach_the_minimum() -> None:
    nodes = [node(1), node(2), node(3, liveness=Liveness.SUSPECT)]
    assert set(place(nodes, Wanted(3, 2, 1), random.random).node_ids) == {"d1", "d2"}
    assert set(place(nodes[1:], Wanted(3, 2, 1), random.random).node_ids) == {"d2", "d3"}


def test_a_node_not_heard_yet_is_used_after_those_that_were() -> None:
    nodes = [node(1, heard=False, free_bytes=0, largest_free_bytes=0), node(2), node(3)]
    assert set(place(nodes, Wanted(2, 2, 1), random.random).node_ids) == {"d2", "d3"}
    assert len(place(nodes, Wanted(3, 2, 1), random.random).node_ids) == 3


def test_a_full_node_says_how_full_it_is() -> None:
    decision = place([node(1, free_bytes=5, largest_free_bytes=5)], Wanted(1, 1, 64), random.random)
    assert decision.node_ids == ()
    assert decision.explain() == "d1: full: 5 bytes free on its emptiest disk, 64 needed"
