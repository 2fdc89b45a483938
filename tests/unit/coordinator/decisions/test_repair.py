"""Repair: which copies are ordered."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from coordinator.decisions.liveness import Liveness
from coordinator.decisions.placement import IN_MAINTENANCE, SLOW_STREAMS_MIN, Candidate, crowding, tier_of
from coordinator.decisions.repair import FULL_BYTES, SMALL_PER_FULL, Damaged, Plan, Running, plan, weigh

GIB = 1 << 30


def node(
    node_id: str, liveness: Liveness = Liveness.ALIVE, zone: str = "", intent: str = "normal"
) -> Candidate:
    return Candidate(
        node_id, liveness, intent=intent, free_bytes=GIB, largest_free_bytes=GIB, zone=zone, host=node_id
    )


def cluster(*nodes: Candidate) -> dict[str, Candidate]:
    return {one.node_id: one for one in nodes}


def chunk(number: int, *live: str, others: tuple[str, ...] = ()) -> Damaged:
    return Damaged(number.to_bytes(16, "big"), 100, 7, 3, live, others)


def decide(damaged: list[Damaged], nodes: dict[str, Candidate], running: list[Running] | None = None) -> Plan:
    return plan(damaged, nodes, running or [], per_node=2, at_once=8, chance=random.Random(1).random)


FIVE = cluster(*(node(f"d{k}") for k in range(1, 6)))


def test_a_chunk_with_one_copy_comes_before_one_with_two() -> None:
    decided = plan(
        [chunk(1, "d1", "d2"), chunk(2, "d3")], FIVE, [], per_node=2, at_once=1, chance=random.random
    )
    assert [int.from_bytes(one.chunk, "big") for one in decided.copies] == [2]
    assert decided.waiting == 1


def test_a_copy_goes_to_a_node_without_any_replica_of_the_chunk() -> None:
    for seed in range(20):
        decided = plan(
            [chunk(1, "d1", others=("d2", "d3"))],
            FIVE,
            [],
            per_node=2,
            at_once=8,
            chance=random.Random(seed).random,
        )
        assert decided.copies[0].destination in ("d4", "d5")
        assert decided.copies[0].sources == ("d1",)


def test_a_dead_node_is_neither_source_nor_destination() -> None:
    nodes = cluster(node("d1"), node("d2", Liveness.DEAD), node("d3"), node("d4", Liveness.DEAD))
    decided = decide([chunk(1, "d1", "d2")], nodes)
    assert decided.copies[0].sources == ("d1",)
    assert decided.copies[0].destination == "d3"


def test_a_suspect_node_may_be_the_source_but_not_the_destination() -> None:
    nodes = cluster(node("d1", Liveness.SUSPECT), node("d2", Liveness.SUSPECT))
    decided = decide([chunk(1, "d1")], nodes)
    assert decided.copies == ()
    assert decided.lost == ()
    assert decided.waiting == 1


def test_a_chunk_without_a_source_is_named_as_lost() -> None:
    decided = decide([chunk(1), chunk(2, "d9")], FIVE)
    assert decided.copies == ()
    assert len(decided.lost) == 2


def test_a_copy_that_runs_is_not_ordered_again() -> None:
    running = [Running(chunk(1).chunk, "d3", "d1")]
    assert decide([chunk(1, "d1", "d2")], FIVE, running).copies == ()


def test_a_copy_goes_to_a_zone_that_has_none() -> None:
    nodes = cluster(node("d1", zone="a"), node("d2", zone="a"), node("d3", zone="b"), node("d4", zone="a"))
    assert decide([chunk(1, "d1", "d2")], nodes).copies[0].destination == "d3"


def placed(node_id: str, zone: str, rack: str, host: str = "", streams: int = 0) -> Candidate:
    return replace(node(node_id, zone=zone), rack=rack, host=host or node_id, write_streams=streams)


def test_a_copy_goes_to_a_rack_that_has_none_when_each_zone_has_one() -> None:
    nodes = cluster(
        placed("d1", "a", "r1"), placed("d2", "b", "r1"), placed("d3", "a", "r1"), placed("d4", "a", "r2")
    )
    for seed in range(20):
        decided = plan(
            [chunk(1, "d1", "d2")], nodes, [], per_node=2, at_once=8, chance=random.Random(seed).random
        )
        assert [one.destination for one in decided.copies] == ["d4"]


def test_a_copy_goes_to_a_host_that_has_none_when_there_are_no_other_labels() -> None:
    nodes = cluster(
        placed("d1", "", "", "h1"),
        placed("d2", "", "", "h1"),
        placed("d3", "", "", "h2"),
        placed("d4", "", "", "h3"),
    )
    for seed in range(20):
        decided = plan(
            [chunk(1, "d1", "d3")], nodes, [], per_node=2, at_once=8, chance=random.Random(seed).random
        )
        assert [one.destination for one in decided.copies] == ["d4"]


def test_a_copy_goes_to_the_zone_that_has_the_fewest_when_all_have_some() -> None:
    nodes = cluster(*(placed(f"d{k}", zone, "") for k, zone in enumerate("aabab", start=1)))
    wanting = replace(chunk(1, "d1", "d2", "d3"), replication=4)
    for seed in range(20):
        decided = plan([wanting], nodes, [], per_node=2, at_once=8, chance=random.Random(seed).random)
        assert [one.destination for one in decided.copies] == ["d5"]


def test_a_copy_goes_to_a_slow_node_only_when_no_other_can_take_it() -> None:
    slow = placed("d3", "b", "", streams=SLOW_STREAMS_MIN)
    nodes = cluster(placed("d1", "a", ""), placed("d2", "a", ""), slow, placed("d4", "a", ""))
    assert decide([chunk(1, "d1", "d2")], nodes).copies[0].destination == "d4"
    del nodes["d4"]
    assert decide([chunk(1, "d1", "d2")], nodes).copies[0].destination == "d3"


def test_a_copy_keeps_apart_from_the_replica_of_a_node_in_maintenance() -> None:
    away = replace(node("d1", Liveness.DEAD, zone="a", intent=IN_MAINTENANCE))
    nodes = cluster(away, node("d2", zone="b"), node("d3", zone="a"), node("d4", zone="c"))
    for seed in range(20):
        decided = plan(
            [chunk(1, "d1", "d2")], nodes, [], per_node=2, at_once=8, chance=random.Random(seed).random
        )
        assert [one.destination for one in decided.copies] == ["d4"]


fleets = st.lists(
    st.builds(
        placed,
        st.integers(1, 12).map("d{}".format),
        st.sampled_from(["", "a", "b", "c"]),
        st.sampled_from(["", "r1", "r2"]),
        st.sampled_from(["", "h1", "h2", "h3"]),
        st.sampled_from([0, 0, SLOW_STREAMS_MIN]),
    ),
    min_size=2,
    max_size=12,
    unique_by=lambda one: one.node_id,
)


@given(fleets, st.integers(1, 3), st.integers())
def test_no_other_node_would_have_been_quicker_or_farther_from_the_replicas_that_live(
    fleet: list[Candidate], copies: int, seed: int
) -> None:
    nodes = cluster(*fleet)
    live = fleet[: min(copies, len(fleet) - 1)]
    wanting = replace(chunk(1, *(one.node_id for one in live)), replication=4)
    (copy,) = plan([wanting], nodes, [], per_node=2, at_once=8, chance=random.Random(seed).random).copies

    def worth(one: Candidate) -> tuple[int, ...]:
        return (tier_of(one).value, *crowding(one, live))

    assert nodes[copy.destination] not in live
    assert worth(nodes[copy.destination]) == min(worth(one) for one in fleet if one not in live)


def test_a_draining_node_gives_but_does_not_take() -> None:
    nodes = cluster(node("d1", intent="draining"), node("d2", intent="draining"), node("d3"))
    decided = decide([chunk(1, "d1")], nodes)
    assert decided.copies[0].sources == ("d1",)
    assert decided.copies[0].destination == "d3"


THREE = cluster(*(node(f"d{k}") for k in range(1, 4)))


def test_with_no_other_node_a_bad_replica_is_replaced_where_it_is() -> None:
    decided = decide([chunk(1, "d2", "d3", others=("d1",))], THREE)
    assert [(one.destination, one.sources) for one in decided.copies] == [("d1", ("d2", "d3"))]


def test_a_bad_replica_is_not_replaced_while_another_node_is_only_busy() -> None:
    nodes = cluster(*THREE.values(), node("d4"))
    running = [Running(chunk(k).chunk, "d4", "d9") for k in (7, 8)]
    decided = decide([chunk(1, "d2", "d3", others=("d1",))], nodes, running)
    assert decided.copies == ()
    assert decided.waiting == 1


def test_a_node_that_has_a_good_replica_never_gets_another() -> None:
    for seed in range(20):
        chance = random.Random(seed).random
        decided = plan([chunk(1, "d1", "d2")], THREE, [], per_node=2, at_once=8, chance=chance)
        assert [one.destination for one in decided.copies] == ["d3"]
    assert decide([chunk(1, "d1", "d2")], cluster(node("d1"), node("d2"))).waiting == 1


def test_a_second_copy_goes_to_another_zone_than_the_one_under_way() -> None:
    zones = {"d1": "a", "d2": "b", "d3": "b", "d4": "c"}
    nodes = cluster(*(node(node_id, zone=zone) for node_id, zone in zones.items()))
    for seed in range(20):
        chance = random.Random(seed).random
        running = [Running(chunk(1).chunk, "d2", "d1")]
        decided = plan([chunk(1, "d1")], nodes, running, per_node=2, at_once=8, chance=chance)
        assert [one.destination for one in decided.copies] == ["d4"]


def test_what_a_node_in_maintenance_has_counts_as_there() -> None:
    away = node("d1", Liveness.DEAD, intent=IN_MAINTENANCE)
    nodes = cluster(away, node("d2"), node("d3"), node("d4"), node("d5"))
    assert decide([chunk(1, "d1", "d2", "d3")], nodes).copies == ()
    (copy,) = decide([chunk(1, "d1", "d2")], nodes).copies
    assert copy.sources == ("d2",)
    assert decide([chunk(1, "d1", "d2")], nodes, [Running(chunk(1).chunk, "d3", "d2")]).copies == ()


def test_of_small_chunks_more_wait_at_a_node_than_it_copies_at_once() -> None:
    """An order and its outcome take heartbeats; were it one small chunk at a time, that would be all the time."""

    def copies(length: int) -> int:
        damaged = [replace(chunk(number, "d1", "d2"), length=length) for number in range(200)]
        chance = random.Random(1).random
        decided = plan(damaged, FIVE, [], per_node=2, at_once=256, chance=chance, weight=weigh)
        return len(decided.copies)

    assert copies(FULL_BYTES) == copies(64 << 20) == 4
    assert copies(64 << 10) == 4 * SMALL_PER_FULL
    running = [Running(chunk(k).chunk, "d3", "d1", weigh(FULL_BYTES)) for k in (301, 302)]
    chance = random.Random(1).random
    decided = plan([chunk(1, "d1")], FIVE, running, per_node=2, at_once=9, chance=chance, weight=weigh)
    assert decided.waiting == 1


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.sets(st.sampled_from(sorted(FIVE)))),
        max_size=40,
        unique_by=lambda x: x[0],
    ),
    st.integers(1, 4),
    st.integers(0, 10),
)
def test_no_node_gets_more_work_than_it_may_have(
    rows: list[tuple[int, set[str]]], per_node: int, at_once: int
) -> None:
    damaged = [chunk(number, *sorted(live)) for number, live in rows]
    decided = plan(damaged, FIVE, [], per_node=per_node, at_once=at_once, chance=random.Random(3).random)
    work = Counter(one.destination for one in decided.copies) + Counter(
        one.sources[0] for one in decided.copies
    )
    assert all(number <= per_node for number in work.values())
    assert len(decided.copies) <= at_once
    for copy in decided.copies:
        holders = next(one.live for one in damaged if one.chunk == copy.chunk)
        assert copy.destination not in holders
        assert set(copy.sources) <= set(holders)
