"""Which bodies go to datanodes, and which stay in the metadata."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordinator.decisions.packing import Body, Rules, choose

RULES = Rules(threshold_bytes=1000, age_ms=100, pack_bytes_min=50, pack_bytes_max=200)


def some(*lengths: int, want: int = 3, birth_ms: int = 0) -> list[Body]:
    return [
        Body(bytes([want, number, birth_ms]), length, want, birth_ms) for number, length in enumerate(lengths)
    ]


def test_young_bodies_below_the_threshold_stay() -> None:
    assert choose(1000, some(10, 100), True, 99, RULES) == ()
    assert choose(0, [], True, 10_000, RULES) == ()


def test_above_the_threshold_the_oldest_go_until_the_pack_is_full() -> None:
    bodies = some(100, 50, 50, 1)
    assert choose(1001, bodies, True, 0, RULES) == bodies[:3]


def test_a_body_larger_than_a_pack_goes_alone() -> None:
    bodies = some(500, 1)
    assert choose(1001, bodies, True, 0, RULES) == bodies[:1]


def test_old_bodies_go_once_they_are_worth_a_pack() -> None:
    old, young = some(20, 29), some(100, birth_ms=50)
    assert choose(149, old + young, True, 120, RULES) == ()
    more = some(20, 29, 1)
    assert choose(150, more + young, True, 120, RULES) == more


def test_bodies_that_hide_others_do_not_wait() -> None:
    old = some(1, 1)
    assert choose(2, old, False, 100, RULES) == old


def test_a_pack_has_one_number_of_replicas() -> None:
    few, many = some(40, want=2), some(30, 30, want=3)
    assert choose(100, few + many, True, 100, RULES) == many


@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 3), st.integers(0, 200)), max_size=30),
    st.integers(0, 3000),
    st.booleans(),
    st.integers(0, 300),
)
def test_a_pack_holds_candidates_of_one_kind_in_their_order(
    rows: list[tuple[int, int, int]], inline_bytes: int, is_all: bool, now_ms: int
) -> None:
    bodies = [Body(bytes([k]), *row) for k, row in enumerate(sorted(rows, key=lambda row: row[2]))]
    pack = list(choose(inline_bytes, bodies, is_all, now_ms, RULES))
    assert pack == [body for body in bodies if body in pack]
    assert len({body.want for body in pack}) <= 1
    assert len(pack) <= 1 or sum(body.length for body in pack) <= RULES.pack_bytes_max
    if inline_bytes <= RULES.threshold_bytes:
        assert all(now_ms - body.birth_ms >= RULES.age_ms for body in pack)
    elif bodies:
        assert pack
