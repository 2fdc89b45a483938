"""What is more than enough may go; what counts stays, in as many zones as before."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.decisions.liveness import Liveness
from coordinator.decisions.placement import DECOMMISSIONING, IN_MAINTENANCE, Candidate
from coordinator.decisions.trim import Held, Trim, Verdict, counting, judge, trim

INTENTS = ("normal", "draining", DECOMMISSIONING, IN_MAINTENANCE)


def nodes(*ids: str, **zones: str) -> dict[str, Candidate]:
    return {
        node_id: Candidate(node_id, zone=zones.get(node_id, ""), free_bytes=100, used_bytes=10)
        for node_id in ids
    }


def held(*live: str, want: int = 3, lost: tuple[str, ...] = (), leaving: tuple[str, ...] = ()) -> Held:
    return Held(b"c" * 16, 5, 7, want, live, lost, leaving)


def test_as_many_as_wanted_stay() -> None:
    found = nodes("d1", "d2", "d3", "d4")
    assert trim(held("d1", "d2", "d3"), found) is None
    assert trim(held("d1", "d2"), found) is None
    decided = trim(held("d1", "d2", "d3", "d4"), found)
    assert decided is not None
    assert (len(decided.drop), len(decided.keep)) == (1, 3)
    assert {*decided.drop, *decided.keep} == set(found)


def test_the_fullest_node_gives() -> None:
    found = nodes("d1", "d2", "d3", "d4")
    found["d3"] = replace(found["d3"], used_bytes=90)
    assert trim(held("d1", "d2", "d3", "d4"), found) == Trim(("d3",), ("d1", "d2", "d4"))


def test_no_zone_is_given_up_for_a_full_node() -> None:
    found = nodes("d1", "d2", "d3", "d4", d1="a", d2="a", d3="b", d4="c")
    found["d4"] = replace(found["d4"], used_bytes=90)
    decided = trim(held("d1", "d2", "d3", "d4"), found)
    assert decided is not None
    assert decided.drop[0] in ("d1", "d2")


@pytest.mark.parametrize(
    "away",
    [
        {"liveness": Liveness.DEAD},
        {"liveness": Liveness.SUSPECT},
        {"liveness": Liveness.RETURNING},
        {"heard": False},
        {"intent": IN_MAINTENANCE},
        {"intent": DECOMMISSIONING},
    ],
    ids=str,
)
def test_what_may_not_be_there_does_not_count(away: dict[str, object]) -> None:
    found = nodes("d1", "d2", "d3", "d4")
    found["d1"] = replace(found["d1"], **away)
    decided = trim(held("d1", "d2", "d3", "d4"), found)
    assert decided is None or decided == Trim(("d1",), ("d2", "d3", "d4"))


def test_lost_disks_and_nodes_that_are_emptied_give_first() -> None:
    found = nodes("d1", "d2", "d3", "d4", "d5")
    found["d5"] = replace(found["d5"], intent=DECOMMISSIONING)
    assert trim(held("d1", "d2", "d3", "d5", lost=("d4",)), found) == Trim(("d4", "d5"), ("d1", "d2", "d3"))
    assert trim(held("d1", "d2", "d5", lost=("d4",)), found) is None


def test_garbage_is_left_to_the_collection() -> None:
    found = nodes("d1", "d2")
    assert trim(held("d1", "d2", want=0), found) is None
    assert judge(held("d1", want=0, leaving=("d2",)), found) == Verdict()


def test_what_leaves_goes_waits_or_is_taken_back() -> None:
    found = nodes("d1", "d2", "d3", "d4")
    assert judge(held("d1", "d2", "d3", leaving=("d4",)), found) == Verdict(("d4",), (), ("d1", "d2", "d3"))
    found["d3"] = replace(found["d3"], liveness=Liveness.SUSPECT)
    assert judge(held("d1", "d2", "d3", leaving=("d4",)), found) == Verdict()
    found["d3"] = replace(found["d3"], liveness=Liveness.DEAD)
    assert judge(held("d1", "d2", "d3", leaving=("d4",)), found) == Verdict(back=("d4",))
    assert judge(held("d1", "d2", leaving=("d4",)), found) == Verdict(back=("d4",))


candidates = st.dictionaries(
    st.sampled_from([f"d{k}" for k in range(8)]),
    st.builds(
        Candidate,
        node_id=st.just(""),
        liveness=st.sampled_from(Liveness),
        intent=st.sampled_from(INTENTS),
        heard=st.booleans(),
        free_bytes=st.integers(0, 100),
        used_bytes=st.integers(0, 100),
        zone=st.sampled_from(("", "a", "b", "c")),
        rack=st.sampled_from(("", "r1", "r2")),
        host=st.sampled_from(("", "h1", "h2")),
    ),
).map(lambda found: {node_id: replace(one, node_id=node_id) for node_id, one in found.items()})
places = st.lists(st.sampled_from([f"d{k}" for k in range(8)]), unique=True, max_size=8)


@given(candidates, places, st.integers(0, 8), st.integers(0, 8), st.integers(0, 5))
def test_nothing_that_is_needed_goes(
    found: dict[str, Candidate], on: list[str], first: int, second: int, want: int
) -> None:
    live, lost, leaving = on[:first], on[first : first + second], on[first + second :]
    one = held(*live, want=want, lost=tuple(lost), leaving=tuple(leaving))
    before = counting(live, found)
    decided = trim(one, found)
    if decided is not None:
        kept = counting([node_id for node_id in live if node_id not in decided.drop], found)
        assert want > 0
        assert len(kept) >= want
        assert [node.node_id for node in kept] == list(decided.keep)
        assert set(decided.drop) <= {*live, *lost}
        assert not {*decided.drop} & {*decided.keep}
        assert zones(kept) >= min(want, zones(before))
    verdict = judge(one, found)
    assert not (verdict.go and verdict.back)
    if verdict.go:
        assert len(before) >= want > 0
    if verdict.back:
        assert len(before) < want


def zones(of: list[Candidate]) -> int:
    return len({one.zone or one.node_id for one in of})
