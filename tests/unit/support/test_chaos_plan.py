from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from tests.support.chaos_plan import (
    FLAP_SECONDS,
    FLAPPING_SECONDS_MIN,
    PACE_SECONDS,
    ROLES,
    SECONDS,
    Pair,
    cut_pairs,
    flaps,
    make_plan,
)

CARDS = Counter(f"{harm} {role}" for harm, roles in ROLES.items() for role in roles)


def test_a_seed_is_one_plan_and_another_seed_another() -> None:
    assert make_plan(7, 60, ROLES) == make_plan(7, 60, ROLES)
    assert make_plan(7, 60, ROLES) != make_plan(8, 60, ROLES)


@pytest.mark.parametrize("seed", range(20))
def test_every_harm_is_done_to_every_role_however_short_the_run_is(seed: int) -> None:
    assert Counter(map(str, make_plan(seed, 5, ROLES))) == CARDS


def test_a_longer_run_does_everything_equally_often() -> None:
    counts = Counter(map(str, make_plan(1, 4.5 * PACE_SECONDS * CARDS.total(), ROLES)))
    assert counts == Counter(dict.fromkeys(CARDS, 4))


def test_nothing_but_partitions_gives_each_its_time() -> None:
    steps = make_plan(1, 90, {"partition"})
    assert Counter(step.role for step in steps) == Counter(ROLES["partition"])


def test_steps_come_in_order_within_the_run_and_last_as_long_as_their_kind_may() -> None:
    steps = make_plan(3, 600, ROLES)
    assert [step.at for step in steps] == sorted(step.at for step in steps)
    assert steps[0].at >= 0
    assert steps[-1].at < 600
    for step in steps:
        shortest, longest = SECONDS.get(step.harm, (0, 0))
        assert shortest <= step.seconds <= longest + (FLAPPING_SECONDS_MIN if step.role == "flapping" else 0)
        assert 0 <= step.pick < 1


def test_what_cannot_be_done_here_is_left_out() -> None:
    assert {step.harm for step in make_plan(1, 60, {"kill", "flip"})} == {"kill", "flip"}


C, D, K = ("c1", "c2", "c3"), ("d1", "d2", "d3"), ("k1", "k2")


def cut(shape: str, pick: float = 0.5) -> frozenset[Pair]:
    return cut_pairs(shape, pick, "c2", C, D, K)


def test_a_leader_is_cut_off_from_its_followers_both_ways_or_one() -> None:
    mute = {("c2", "c1"), ("c2", "c3")}
    deaf = {("c1", "c2"), ("c3", "c2")}
    assert cut("mute") == mute
    assert cut("deaf") == deaf
    assert cut("leader") == mute | deaf


def test_a_leader_is_cut_off_from_one_follower_or_from_datanodes_that_clients_still_reach() -> None:
    assert cut("follower") in [{("c2", "c1"), ("c1", "c2")}, {("c2", "c3"), ("c3", "c2")}]
    for pick in range(20):
        pairs = cut("datanodes", pick / 20)
        assert len(pairs) in (4, 6)
        assert all("c2" in pair and {*pair} & {*D} for pair in pairs)


@pytest.mark.parametrize("pick", [k / 30 for k in range(30)])
def test_two_groups_are_cut_and_inside_each_all_is_well(pick: float) -> None:
    for shape in ("minority", "groups"):
        pairs = cut(shape, pick)
        everybody = {*C, *D, *K}
        side = reachable(pairs, everybody, min(pairs)[0])
        there, back = (
            {(a, b) for a in side for b in everybody - side},
            {(b, a) for a in side for b in everybody - side},
        )
        assert pairs in (there, there | back)
    minority = cut("minority", pick)
    with_leader = reachable(minority, {*C, *D, *K}, "c2")
    assert with_leader & {*C} == {"c2"}
    assert len(with_leader & {*K}) == 1
    assert 1 <= len(with_leader & {*D}) < 3


def reachable(pairs: frozenset[Pair], everybody: set[str], start: str) -> set[str]:
    """Those with whom `start` can talk, in both directions."""
    return {one for one in everybody if (start, one) not in pairs and (one, start) not in pairs}


def test_a_flapping_link_is_one_of_the_others_cut_for_a_second_or_three() -> None:
    assert all(cut("flapping", pick / 10) for pick in range(10))
    shortest, longest = FLAP_SECONDS
    assert all(shortest <= one <= longest for one in islice(flaps(0.3), 50))
    assert [*islice(flaps(0.3), 5)] == [*islice(flaps(0.3), 5)]
