"""The Control service: what operators may do to nodes, and what they are shown."""

from __future__ import annotations

from typing import Any

import pytest

from common.log_buffer import LogBuffer
from coordinator.services.collection import CollectionDesk
from coordinator.services.control import ControlService
from coordinator.services.events import KINDS, EventBook
from coordinator.services.nodes import MAINTENANCE_SECONDS_MAX, NodeDesk
from coordinator.services.tokens import TokenDesk
from coordinator.soft_state import node_table
from quorumfs.errors import Code
from quorumfs.mint import system_random
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.house.generate import ROOT
from tests.support.coordinator import DEAD_SECONDS, SUSPECT_SECONDS, Coordinator, node_info
from tests.support.ops import ref

CALL: Any = None


class Served:
    def __init__(self, leader: Coordinator) -> None:
        self.leader = leader
        anything: Any = None
        self.hurried: list[bool] = []
        self.buffer = LogBuffer()
        self.service = ControlService(
            leader.gateway,
            leader.soft,
            leader.own,
            anything,
            anything,
            leader.clock,
            backups=anything,
            events=EventBook(self.buffer, leader.own.info.node_id),
            collection=CollectionDesk(
                leader.gateway,
                leader.soft,
                anything,
                lambda: None,
                leader.clock,
                grace_seconds=5,
                interval_seconds=60,
            ),
            nodes=NodeDesk(leader.gateway, leader.soft),
            tokens=TokenDesk(leader.gateway, system_random),
            durability=anything,
            balancing=anything,
            repair_status=a.RepairStatus,
            repair_now=lambda: self.hurried.append(True),
            alarms=list,
        )

    def set_node(self, node_id: str, action: str, **fields: Any) -> a.ActionResponse:
        request = a.SetNodeRequest(node_id=node_id, action=action, **fields)
        return self.leader.run(lambda: self.service.SetNode(request, CALL))

    def forget(self, node_id: str, force: bool = False) -> a.ActionResponse:
        request = a.ForgetNodeRequest(node_id=node_id, force=force)
        return self.leader.run(lambda: self.service.ForgetNode(request, CALL))

    def decommissions(self, node_id: str) -> a.Decommissions:
        request = a.GetDecommissionRequest(node_id=node_id)
        return self.leader.run(lambda: self.service.GetDecommission(request, CALL))

    def status(self) -> a.ClusterStatus:
        return self.leader.run(lambda: self.service.GetClusterStatus(a.GetClusterStatusRequest(), CALL))


@pytest.fixture
def served(leader: Coordinator) -> Served:
    leader.lead("d1", "d2", "d3", "d4")
    return Served(leader)


def intent(leader: Coordinator, node_id: str) -> int:
    return leader.soft.known()[node_id].intent


def silence(leader: Coordinator, *silent: str) -> None:
    leader.pass_time(DEAD_SECONDS + 1, *(one for one in ("d1", "d2", "d3", "d4") if one not in silent))


# What operators say of a node


def test_a_drained_node_takes_no_data_until_it_is_undrained(leader: Coordinator, served: Served) -> None:
    assert served.set_node("d1", "drain").code == Code.OK
    assert leader.soft.candidates()["d1"].intent == "draining"
    assert served.set_node("d1", "undrain").code == Code.OK
    assert leader.soft.candidates()["d1"].intent == "normal"


def test_maintenance_has_an_end(leader: Coordinator, served: Served) -> None:
    assert served.set_node("d1", "maintenance", seconds=60.0).code == Code.OK
    assert intent(leader, "d1") == t.NODE_INTENT_MAINTENANCE
    for seconds in (0.0, -1.0, float("nan"), float("inf"), MAINTENANCE_SECONDS_MAX * 2):
        assert served.set_node("d2", "maintenance", seconds=seconds).code == Code.INVALID_ARGUMENT
    assert intent(leader, "d2") == t.NODE_INTENT_NORMAL


def test_what_is_left_of_a_maintenance_is_shown(leader: Coordinator, served: Served) -> None:
    served.set_node("d1", "maintenance", seconds=60.0)
    leader.clock.advance(20.0)
    left = {one.info.node_id: one.maintenance_seconds for one in served.status().view.nodes}
    assert left["d1"] == pytest.approx(40.0, abs=0.1)
    assert left["d2"] == 0.0


def test_labels_are_set_and_removed(leader: Coordinator, served: Served) -> None:
    assert served.set_node("d1", "labels", labels={"zone": "a", "rack": "r1"}).code == Code.OK
    assert served.set_node("d1", "labels", remove_labels=["rack"]).code == Code.OK
    assert dict(leader.soft.known()["d1"].info.labels) == {"zone": "a"}
    assert served.set_node("d1", "labels", labels={"a b": "c"}).code == Code.INVALID_ARGUMENT


def test_what_is_not_known_is_refused(served: Served) -> None:
    assert served.set_node("d9", "drain").code == Code.NOT_FOUND
    assert served.set_node("d1", "explode").code == Code.INVALID_ARGUMENT
    assert served.set_node("d9", "decommission").code == Code.NOT_FOUND


def test_a_follower_does_nothing_and_names_the_leader(leader: Coordinator, served: Served) -> None:
    leader.consensus.depose("c2")
    for answer in (served.set_node("d1", "drain"), served.forget("d1")):
        assert answer.code == Code.NOT_LEADER
        assert answer.error.leader.node_id == "c2"


# Forgetting


def test_a_node_that_is_alive_or_a_member_is_not_forgotten(served: Served) -> None:
    assert served.forget("d1", force=True).code == Code.SAFETY_GUARD
    assert served.forget("c2", force=True).code == Code.SAFETY_GUARD


def test_a_new_leader_forgets_no_node_that_it_could_not_have_heard_yet(
    leader: Coordinator, served: Served
) -> None:
    leader.begin()
    assert served.forget("d1", force=True).code == Code.SAFETY_GUARD
    leader.pass_time(SUSPECT_SECONDS, "d2", "d3", "d4")
    assert served.forget("d1", force=True).code == Code.OK


def test_a_dead_node_is_forgotten_once_its_chunks_are_elsewhere(leader: Coordinator, served: Served) -> None:
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    silence(leader, "d1")
    refused = served.forget("d1")
    assert refused.code == Code.SAFETY_GUARD
    assert "1 chunks" in refused.error.message
    leader.become(chunk, "d4", t.REPLICA_STATE_LIVE)
    assert served.forget("d1").code == Code.OK
    assert leader.replicas(chunk).keys() == {"d2", "d3", "d4"}
    assert "d1" not in leader.soft.known()


def test_a_node_that_is_gone_for_good_may_be_forgotten_by_force(leader: Coordinator, served: Served) -> None:
    leader.store(b"/x", "d1", "d2", "d3")
    silence(leader, "d1")
    assert served.forget("d1", force=True).code == Code.OK


def test_the_last_copies_on_a_node_are_named(leader: Coordinator, served: Served) -> None:
    chunk = leader.store(b"/x", "d1", "d2")
    leader.become(chunk, "d2", t.REPLICA_STATE_CORRUPT)
    silence(leader, "d1")
    refused = served.forget("d1")
    assert refused.code == Code.SAFETY_GUARD
    assert f"of 1 no other node that stays has a replica: chunk {chunk.hex()} of /x" in refused.error.cause


def test_replicas_on_nodes_that_are_dead_too_are_no_reason_to_forget(
    leader: Coordinator, served: Served
) -> None:
    leader.store(b"/x", "d1", "d2")
    served.leader.batch(n.Op(set_attributes=n.SetAttributesRequest(ref=ref(b"/x"), replication=1)))
    silence(leader, "d1", "d2")
    assert served.forget("d1").code == Code.SAFETY_GUARD
    leader.pass_time(2 * DEAD_SECONDS, "d2", "d3", "d4")
    assert served.forget("d1").code == Code.OK


# Leaving


def test_an_intent_is_not_ended_by_another_by_accident(leader: Coordinator, served: Served) -> None:
    assert served.set_node("d1", "decommission").code == Code.OK
    for action in ("drain", "maintenance", "end_maintenance"):
        refused = served.set_node("d1", action, seconds=60.0)
        assert refused.code == Code.PRECONDITION_FAILED
        assert "d1 is decommissioning" in refused.error.message
    assert served.set_node("d1", "decommission").code == Code.OK
    assert served.set_node("d1", "recommission").code == Code.OK
    assert intent(leader, "d1") == t.NODE_INTENT_NORMAL
    assert served.set_node("d1", "drain").code == Code.OK
    assert served.set_node("d1", "maintenance", seconds=60.0).code == Code.PRECONDITION_FAILED
    assert served.set_node("d1", "recommission").code == Code.PRECONDITION_FAILED
    assert served.set_node("d1", "decommission").code == Code.OK
    assert served.set_node("d1", "undrain").code == Code.OK
    assert served.set_node("d1", "maintenance", seconds=60.0).code == Code.OK
    assert served.set_node("d1", "end_maintenance").code == Code.OK
    assert served.set_node("d1", "end_maintenance").code == Code.OK
    assert intent(leader, "d1") == t.NODE_INTENT_NORMAL


def test_a_coordinator_holds_nothing_that_could_be_moved(leader: Coordinator, served: Served) -> None:
    info = node_info("c9", role=t.NODE_ROLE_COORDINATOR)
    leader.system(e.SystemCommand(register_node=e.RegisterNode(node=info)))
    leader.soft.set_known(node_table(leader.db))
    for action in ("decommission", "drain"):
        assert served.set_node("c9", action).code == Code.INVALID_ARGUMENT
    assert served.set_node("c9", "maintenance", seconds=60.0).code == Code.INVALID_ARGUMENT
    assert served.set_node("c9", "undrain").code == Code.OK


def test_a_leaving_node_tells_what_remains_and_what_keeps_it(leader: Coordinator, served: Served) -> None:
    stuck = leader.store(b"/stuck", "d1", "d2", "d3", length=7)
    leader.become(stuck, "d4", t.REPLICA_STATE_LIVE)
    leader.store(b"/moves", "d1", "d2", "d3")
    served.set_node("d1", "decommission")
    (told,) = served.decommissions("d1").nodes
    assert (told.remaining_chunks, told.remaining_bytes, told.total_chunks) == (1, 5, 2)
    assert list(told.blockers) == []
    assert not told.HasField("eta_seconds")
    assert [one.node_id for one in served.decommissions("").nodes] == ["d1"]
    served.set_node("d4", "drain")
    leader.become(stuck, "d4", t.REPLICA_STATE_MISSING)
    leader.store(b"/also", "d1", "d2", "d3")
    (told,) = served.decommissions("d1").nodes
    assert told.remaining_chunks == 3
    blocker = next(one for one in told.blockers if one.chunk == stuck)
    assert (list(blocker.paths), blocker.reason, blocker.length) == (["/stuck"], "no_place", 7)
    assert "d4: draining: takes no new data" in blocker.refusals
    assert "d2: it has a good replica already" in blocker.refusals


def test_only_leaving_nodes_are_told_of(leader: Coordinator, served: Served) -> None:
    assert list(served.decommissions("d1").nodes) == []
    assert served.decommissions("d9").error.code == Code.NOT_FOUND
    leader.consensus.depose("c2")
    assert served.decommissions("").error.code == Code.NOT_LEADER


# The status


def test_the_status_counts_what_is_hurt(leader: Coordinator, served: Served) -> None:
    leader.store(b"/x", "d1", "d2", "d3")
    leader.store(b"/y", "d1", "d2")
    status = served.status()
    assert (status.files, status.chunks, status.under_replicated, status.missing) == (2, 2, 1, 0)
    silence(leader, "d1")
    assert served.status().under_replicated == 2
    silence(leader, "d1", "d2")
    status = served.status()
    assert (status.under_replicated, status.missing) == (1, 1)


def test_what_is_away_for_maintenance_is_not_hurt(leader: Coordinator, served: Served) -> None:
    leader.store(b"/x", "d1", "d2", "d3")
    served.set_node("d1", "maintenance", seconds=3600.0)
    silence(leader, "d1")
    assert served.status().under_replicated == 0


def test_what_happened_is_told_and_followed(leader: Coordinator, served: Served) -> None:
    served.buffer.append("info", "node.dead", '{"event": "node.dead", "node": "d1", "silence_seconds": 30.2}')
    served.buffer.append("debug", "node.dead", "{}")
    served.buffer.append("info", "a.detail", '{"event": "a.detail"}')

    async def events(follow: bool, after: int = 0) -> list[a.Event]:
        found = []
        request = a.ListEventsRequest(follow=follow, after_id=after)
        async for event in served.service.ListEvents(request, CALL):
            found.append(event)
            if follow and len(found) == 2:
                break
            served.buffer.append("info", "control.done", '{"detail": "d1 is forgotten"}')
        return found

    (dead,) = leader.run(lambda: events(False))
    assert (dead.kind, dead.node_id, dead.message) == (
        "node.dead",
        leader.own.info.node_id,
        "d1 is dead: not heard for 30.2 s",
    )
    assert dict(dead.fields) == {"node": "d1", "silence_seconds": "30.2"}
    _, done = leader.run(lambda: events(True))
    assert done.message == "by an operator: d1 is forgotten"
    later = leader.run(lambda: events(False, done.id))
    assert [event.id for event in later] == [done.id + 1]


def test_every_kind_of_event_is_one_that_is_logged() -> None:
    logged = "".join(
        path.read_text() for room in ("coordinator", "common") for path in (ROOT / room).rglob("*.py")
    )
    states = {"node.alive", "node.suspect", "node.dead"}  # made of the state's name
    assert {kind for kind in KINDS if logged.count(f'"{kind}"') < 2} - states == set()


def test_repair_is_the_leaders_to_tell(leader: Coordinator, served: Served) -> None:
    ask = a.GetRepairRequest()
    assert not leader.run(lambda: served.service.GetRepair(ask, CALL)).HasField("error")
    leader.consensus.depose("c2")
    assert leader.run(lambda: served.service.GetRepair(ask, CALL)).error.code == Code.NOT_LEADER


def test_repair_is_hurried_by_the_leader_alone(leader: Coordinator, served: Served) -> None:
    ask = a.RunRepairRequest()
    assert not leader.run(lambda: served.service.RunRepair(ask, CALL)).HasField("error")
    leader.consensus.depose("c2")
    assert leader.run(lambda: served.service.RunRepair(ask, CALL)).error.code == Code.NOT_LEADER
    assert served.hurried == [True]


def test_datanodes_are_told_to_scrub_and_to_stop(leader: Coordinator, served: Served) -> None:
    def say(*node_ids: str, **fields: Any) -> a.ActionResponse:
        request = a.ControlScrubRequest(node_ids=node_ids, **fields)
        return leader.run(lambda: served.service.ControlScrub(request, CALL))

    assert say("d1", bytes_per_second=7).code == Code.OK
    assert say("d1", stop=True).code == Code.OK
    orders = [one.scrub for one in leader.beat("d1")]
    assert [(one.stop, one.bytes_per_second) for one in orders] == [(False, 7), (True, 0)]
    silence(leader, "d1")
    told = say()
    assert told.detail == "told to scrub: d2, d3, d4; not heard, and not told: d1"
    assert say("d1").code == Code.PRECONDITION_FAILED
    assert say("d9").code == Code.NOT_FOUND


def test_a_setting_is_an_entry(leader: Coordinator, served: Served) -> None:
    served.set_node("d1", "drain")
    item = leader.consensus.proposed[-1].item
    (command,) = e.SystemBatch.FromString(item.system).commands
    assert command.set_node.node_id == "d1"


def test_a_member_that_does_not_lead_tells_what_waits_for_repair_only_when_that_will_do(
    served: Served,
) -> None:
    leader = served.leader
    leader.lead("d1", "d2", "d3")
    leader.become(leader.store(b"/x", "d1", "d2", "d3"), "d3", t.REPLICA_STATE_CORRUPT)
    led = leader.run(lambda: served.service.GetRepair(a.GetRepairRequest(), CALL))
    assert led.authoritative
    leader.consensus.depose("c2")
    refused = leader.run(lambda: served.service.GetRepair(a.GetRepairRequest(), CALL))
    assert Code(refused.error.code) is Code.NOT_LEADER
    told = leader.run(lambda: served.service.GetRepair(a.GetRepairRequest(stale=True), CALL))
    assert (told.authoritative, told.pending, told.HasField("error")) == (False, 1, False)


def test_the_state_hash_is_told_with_the_rest_of_raft(served: Served) -> None:
    told = served.leader.run(lambda: served.service.GetRaft(a.GetRaftRequest(), CALL))
    assert (told.state_hash.node_id, told.state_hash.index) == ("c1", told.applied_index)
    assert told.state_hash.rolling
