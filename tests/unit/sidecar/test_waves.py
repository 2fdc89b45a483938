"""The order of a rolling restart: followers, datanodes by failure domain, the leader last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.waves import Waiting, next_wave, still


def coordinator(node_id: str) -> Waiting:
    return Waiting(node_id, True, {})


def datanode(node_id: str, **labels: str) -> Waiting:
    return Waiting(node_id, False, labels)


def waves(nodes: list[Waiting], leader: str, max_unavailable: int) -> list[list[str]]:
    found = []
    while wave := next_wave(nodes, leader, max_unavailable):
        found.append(wave)
        nodes = still(nodes, wave)
    assert nodes == []
    return found


def test_followers_go_first_one_by_one_and_the_leader_last() -> None:
    nodes = [coordinator("c1"), coordinator("c2"), coordinator("c3"), datanode("d1")]
    assert waves(nodes, "c2", 5) == [["c1"], ["c3"], ["d1"], ["c2"]]


def test_a_leader_that_changed_meanwhile_is_last_all_the_same() -> None:
    nodes = [coordinator("c2"), coordinator("c3"), datanode("d1")]
    assert next_wave(nodes, "c3", 1) == ["c2"]


def test_datanodes_of_one_zone_go_together_and_never_of_two() -> None:
    nodes = [datanode(f"d{k}", zone="ab"[k % 2]) for k in range(5)]
    assert waves(nodes, "c1", 2) == [["d0", "d2"], ["d4"], ["d1", "d3"]]


def test_without_zones_racks_count_then_hosts_then_each_node_for_itself() -> None:
    racks = [
        datanode("d1", rack="r1"),
        datanode("d2", rack="r1"),
        datanode("d3", host="h"),
        datanode("d4", host="h"),
    ]
    assert waves(racks, "c1", 9) == [["d3", "d4"], ["d1", "d2"]]
    assert waves([datanode("d1"), datanode("d2")], "c1", 9) == [["d1"], ["d2"]]


NODES = st.lists(
    st.builds(
        Waiting,
        st.from_regex(r"[cd][0-9]{1,2}", fullmatch=True),
        st.booleans(),
        st.dictionaries(st.sampled_from(["zone", "rack", "host", "x"]), st.sampled_from(["", "a", "b"])),
    ),
    unique_by=lambda one: one.node_id,
)


@given(NODES, st.integers(1, 4), st.data())
def test_everybody_has_a_turn_once_and_no_wave_is_too_large(
    nodes: list[Waiting], max_unavailable: int, data: st.DataObject
) -> None:
    leader = data.draw(st.sampled_from([one.node_id for one in nodes if one.is_coordinator] or [""]))
    by_id = {one.node_id: one for one in nodes}
    found = waves(nodes, leader, max_unavailable)
    assert sorted(node_id for wave in found for node_id in wave) == sorted(by_id)
    for wave in found:
        assert len(wave) <= max_unavailable
        assert len({by_id[node_id].domain for node_id in wave}) == 1
        assert len(wave) == 1 or not any(by_id[node_id].is_coordinator for node_id in wave)
    if leader:
        assert found[-1] == [leader]
