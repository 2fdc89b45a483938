"""What a node knows of the leader and of the membership, and how it comes by it."""

from __future__ import annotations

import pytest

from common.cluster import ClusterNode, LeaderTracker, NodeManager, State
from common.cluster.sidecars import leader_in
from common.cluster.watching import ViewFromCoordinators
from quorumfs.clock import ManualClock
from quorumfs.errors import (
    Leader,
    NoLeaderError,
    NotFoundError,
    PreconditionFailedError,
    UnavailableError,
)
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t
from tests.unit.common.cluster.coordinators import Coordinators


def leader(number: int, term: int) -> Leader:
    return Leader(f"c{number}", f"c{number}:1", term=term)


def tracker() -> tuple[LeaderTracker, ManualClock]:
    clock = ManualClock()
    return LeaderTracker("d1", clock), clock


def test_the_view_says_who_how_and_how_old() -> None:
    known, clock = tracker()
    known.observe(leader(1, 4), "heartbeat")
    clock.advance(2.5)
    view = known.view()
    assert (view.leader.node_id, view.term, view.source, view.age_seconds) == ("c1", 4, "heartbeat", 2.5)


def test_hearsay_of_an_older_term_is_not_believed() -> None:
    known, _ = tracker()
    known.observe(leader(2, 5), "heartbeat")
    assert not known.observe(leader(1, 4), "hint")
    assert not known.observe(None, "poll")
    assert known.leader == leader(2, 5)


def test_who_was_there_is_believed_whatever_the_term() -> None:
    known, _ = tracker()
    known.observe(leader(2, 5), "poll")
    assert known.observe(leader(1, 1), "heartbeat")
    assert known.term == 1


def test_raft_can_say_that_nobody_leads() -> None:
    known, _ = tracker()
    known.observe(leader(1, 4), "raft")
    assert known.leader == leader(1, 4)
    known.observe(None, "raft", 5)
    assert known.view().leader.node_id == ""
    assert known.view().term == 5
    assert known.leader is None


def test_only_the_leader_that_does_not_answer_is_lost() -> None:
    known, _ = tracker()
    known.observe(leader(1, 4), "heartbeat")
    known.lost("c2:1")
    assert known.leader is not None
    known.lost("c1:1")
    assert known.leader is None


# The membership


def view(index: int, *nodes: str, cluster_id: str = "x") -> m.ClusterView:
    return m.ClusterView(
        cluster_id=cluster_id,
        index=index,
        nodes=[
            m.NodeView(info=m.NodeInfo(node_id=one, labels={"zone": one[-1]}, role=t.NODE_ROLE_DATANODE))
            for one in nodes
        ],
    )


def test_nodes_are_found_by_selector_role_and_id() -> None:
    manager = NodeManager(ManualClock())
    assert manager.age_seconds == float("inf")
    manager.update(view(1, "d2", "d1"))
    assert [node.info.node_id for node in manager.nodes()] == ["d1", "d2"]
    assert [node.info.node_id for node in manager.nodes("zone=2")] == ["d2"]
    assert manager.nodes(role=t.NODE_ROLE_COORDINATOR) == []
    assert manager.get("d1").info.node_id == "d1"
    with pytest.raises(NotFoundError):
        manager.get("d9")


def test_a_coordinator_that_lags_behind_does_not_set_the_view_back() -> None:
    clock = ManualClock()
    manager = NodeManager(clock)
    manager.update(view(10, "d1"))
    assert not manager.update(view(9, "d1", "d2"))
    clock.advance(31)
    assert manager.update(view(9, "d1", "d2"))  # better than nothing: the cluster may have been restored


def test_a_view_of_another_cluster_is_not_taken() -> None:
    manager = NodeManager(ManualClock())
    manager.update(view(1, "d1"))
    assert not manager.update(view(99, "d9", cluster_id="y"))
    assert manager.cluster_id == "x"


def watcher(coordinators: Coordinators) -> tuple[ViewFromCoordinators, LeaderTracker, NodeManager]:
    known, clock = tracker()
    manager = NodeManager(clock)
    return ViewFromCoordinators(coordinators, known, manager, ["c1:1", "c2:1"], lambda: 0.5), known, manager


def test_the_view_comes_from_any_coordinator_that_answers() -> None:
    coordinators = Coordinators(["c1:1", "c2:1"], leader="c2:1", dead={"c1:1"})
    watching, known, manager = watcher(coordinators)
    assert watching.work() == "c2:1 told of 2 nodes"
    assert known.view().source == "poll"
    assert manager.coordinators() == ["c1:1", "c2:1"]
    assert watching.wait() > 1


def test_a_datanode_asks_for_the_coordinators_alone() -> None:
    """A leader of a thousand datanodes would have to tell each of them of the thousand."""
    coordinators = Coordinators(["c1:1", "c2:1"], leader="c1:1")
    watcher(coordinators)[0].work()
    assert [one.role for one in coordinators.asked] == [t.NODE_ROLE_COORDINATOR]


def test_a_view_that_nobody_tells_names_everybody_that_was_asked() -> None:
    coordinators = Coordinators(["c1:1", "c2:1"], dead={"c1:1"}, stopped={"c2:1"})
    with pytest.raises(NoLeaderError) as failed:
        watcher(coordinators)[0].work()
    assert "c1:1" in failed.value.cause
    assert "c2:1" in failed.value.cause


def sidecar_watcher(
    coordinators: Coordinators, says: dict[str, str]
) -> tuple[ViewFromCoordinators, LeaderTracker, list[str], list[str]]:
    """Also: whom it asked, and what it advised. `says`: what the sidecar there answers."""
    known, clock = tracker()
    asked: list[str] = []
    advised: list[str] = []

    def ask(address: str, seconds: float) -> str:
        asked.append(address)
        if address not in says:
            raise NoLeaderError(f"{address} knows of no leader")
        return says[address]

    watching = ViewFromCoordinators(
        coordinators,
        known,
        NodeManager(clock),
        ["c1:1", "c2:1"],
        lambda: 0.5,
        own_sidecar=lambda: "d1:2",
        ask_sidecar=ask,
        advise=advised.append,
    )
    return watching, known, asked, advised


def test_a_node_whose_coordinators_are_silent_asks_its_sidecar_who_leads() -> None:
    coordinators = Coordinators(["c1:1", "c2:1"], dead={"c1:1", "c2:1"})
    watching, known, _, advised = sidecar_watcher(coordinators, {"d1:2": "c9:1"})
    with pytest.raises(NoLeaderError, match="no coordinator tells"):
        watching.work()
    assert advised == ["c9:1"]
    assert known.leader is None  # a rumour: who is named has to take the node first


def test_sidecars_are_asked_in_turn_one_at_a_time_and_only_while_nobody_leads() -> None:
    coordinators = Coordinators(["c1:1", "c2:1"])
    watching, _, asked, advised = sidecar_watcher(coordinators, {"c2:2": "c2:1"})
    for _ in range(4):
        watching.work()
    assert asked == ["d1:2", "c1:2", "c2:2", "d1:2"]
    assert advised == ["c2:1"]
    coordinators.leader = "c2:1"
    for _ in range(4):
        watching.work()
    assert len(asked) == 4


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{}", b'{"leader": 5}', b'{"leader": {"grpc": 7}}', b'{"leader": {"grpc": "nowhere"}}'],
)
def test_a_sidecar_that_answers_something_else_is_no_source(raw: bytes) -> None:
    with pytest.raises(UnavailableError):
        leader_in(raw, "d1:2")


def test_a_sidecar_names_the_leaders_address_or_that_there_is_none() -> None:
    assert (
        leader_in(b'{"leader": {"node_id": "c1", "grpc": "10.0.0.1:7400"}, "term": 3}', "d1:2")
        == "10.0.0.1:7400"
    )
    with pytest.raises(NoLeaderError):
        leader_in(b'{"leader": null, "error": {}}', "d1:2")


# The coordinator's half


def test_a_coordinator_is_told_by_raft_and_reads_its_own_tables() -> None:
    node = ClusterNode.for_coordinator(
        lambda: m.NodeInfo(node_id="c1"), lambda: view(3, "d1"), clock=ManualClock()
    )
    assert node.state.name == State.WAITING_FOR_GENESIS.name
    node.joined("x")
    assert node.state.name == State.STARTING.name
    node.set_ready(True)
    assert node.state.name == State.RUNNING.name
    node.observe_leader(leader(1, 3))
    assert node.leader_view().source == "raft"
    assert [check.ok for check in node.checks()] == [True]
    assert node.heartbeat_age_seconds() == 0.0


def test_draining_can_be_taken_back_until_the_node_stops() -> None:
    node = ClusterNode.for_coordinator(lambda: m.NodeInfo(node_id="c1"), lambda: view(1), "x")
    with pytest.raises(PreconditionFailedError):
        node.cancel_draining()
    node.begin_draining()
    assert node.state.name == State.DRAINING.name
    node.cancel_draining()
    assert node.state.name == State.STARTING.name
    node.begin_stopping()
    for late in (node.begin_draining, node.cancel_draining):
        with pytest.raises(PreconditionFailedError):
            late()
