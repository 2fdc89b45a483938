"""Which sparse chunks are rewritten together."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from coordinator.decisions.repacking import choose


@dataclass(frozen=True)
class One:
    length: int
    live_bytes: int
    want: int = 3


def test_those_that_give_back_most_go_first_and_fit() -> None:
    found = [One(100, 40), One(100, 10), One(100, 30), One(1000, 400)]
    assert choose(found, 50) == [1, 2]
    assert choose(found, 450) == [1, 2, 3]
    assert choose([One(1000, 400)], 50) == []
    assert choose([], 50) == []


def test_a_pack_has_one_number_of_replicas() -> None:
    found = [One(100, 10, 2), One(100, 10, 3), One(100, 10, 3), One(100, 10, 2), One(90, 10, 3)]
    assert choose(found, 100) == [1, 2, 4]


@given(
    st.lists(
        st.builds(
            lambda live, dead, want: One(live + dead, live, want),
            st.integers(1, 50),
            st.integers(1, 50),
            st.integers(1, 3),
        ),
        max_size=20,
    ),
    st.integers(1, 100),
)
def test_what_is_chosen_fits_together_whatever_is_found(found: list[One], most: int) -> None:
    chosen = choose(found, most)
    assert sum(found[at].live_bytes for at in chosen) <= most
    assert len({found[at].want for at in chosen}) <= 1
    assert chosen == sorted(set(chosen))
    assert chosen or all(one.live_bytes > most for one in found)
