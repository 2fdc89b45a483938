"""The Membership service: who is taken in, who is refused, and what a leader answers that is behind."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc.aio
import pytest

from coordinator.services.membership import MembershipService
from coordinator.services.tokens import TokenDesk
from coordinator.soft_state import SoftState
from quorumfs.errors import Code, InvalidArgumentError, NotLeaderError, PermissionDeniedError
from quorumfs.mint import system_random
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t
from tests.support.coordinator import SUSPECT_SECONDS, Coordinator, node_info
from tests.support.local_consensus import CLUSTER_ID


class Served:
    """The service, called as whichever node is named in the request."""

    def __init__(self, leader: Coordinator) -> None:
        self.leader = leader
        self.answered: list[str] = []
        self.service = MembershipService(
            leader.gateway,
            leader.soft,
            leader.own,
            1.0,
            TokenDesk(leader.gateway, system_random),
            self.answered.append,
        )

    def register(self, info: m.NodeInfo, caller: str = "", **fields: Any) -> m.RegisterResponse:
        request = m.RegisterRequest(node=info, **fields)
        call: Any = SimpleNamespace(node=caller or info.node_id)
        return self.leader.run(lambda: self.service.Register(request, call))

    def beat(self, node_id: str, caller: str = "", **fields: Any) -> m.HeartbeatResponse:
        request = self.leader.beat_of(node_id, **fields)
        call: Any = SimpleNamespace(node=caller or node_id)
        return self.leader.run(lambda: self.service.Heartbeat(request, call))

    @property
    def entries(self) -> int:
        return len(self.leader.consensus.proposed)


@pytest.fixture
def served(leader: Coordinator, monkeypatch: pytest.MonkeyPatch) -> Served:
    monkeypatch.setattr("coordinator.services.membership.require_node", lambda context: context.node)
    leader.begin()
    return Served(leader)


def epoch(term: int, history: int = 1) -> t.Epoch:
    return t.Epoch(history=history, term=term)


# Registration


def test_a_node_is_taken_in_and_told_who_leads(served: Served) -> None:
    answer = served.register(node_info("d1", labels={"zone": "a"}))
    assert answer.code == Code.OK
    assert (answer.cluster_id, answer.epoch, answer.leader.node_id) == (CLUSTER_ID, epoch(1), "c1")
    assert dict(answer.labels) == {"zone": "a"}
    assert served.beat("d1").code == Code.OK


def test_registering_again_writes_nothing(served: Served) -> None:
    served.register(node_info("d1"))
    entries = served.entries
    served.register(node_info("d1"))
    assert served.entries == entries
    served.register(node_info("d1", incarnation=2))  # a new start is told
    assert served.entries == entries + 1


def test_labels_that_operators_gave_or_changed_stay_and_write_nothing(served: Served) -> None:
    served.register(node_info("d1", labels={"zone": "a"}))
    command = e.SetNode(node_id="d1", labels={"rack": "r7", "zone": "b"})
    served.leader.system(e.SystemCommand(set_node=command))
    served.leader.begin()
    entries = served.entries
    answer = served.register(node_info("d1", labels={"zone": "a"}))
    assert dict(answer.labels) == {"rack": "r7", "zone": "b"}
    assert served.entries == entries
    served.register(node_info("d1", labels={"zone": "a", "disk": "ssd"}))
    assert served.entries == entries + 1


def test_a_label_that_operators_took_away_stays_away_and_writes_nothing(served: Served) -> None:
    served.register(node_info("d1", labels={"zone": "a", "disk": "ssd"}))
    served.leader.system(e.SystemCommand(set_node=e.SetNode(node_id="d1", remove_labels=["disk"])))
    served.leader.begin()
    entries = served.entries
    answer = served.register(node_info("d1", labels={"zone": "a", "disk": "ssd"}))
    assert dict(answer.labels) == {"zone": "a"}
    assert served.entries == entries


def test_the_view_tells_of_one_role_if_it_is_asked_for_one(served: Served) -> None:
    served.register(node_info("d1"))

    def told(role: t.NodeRole.ValueType) -> list[str]:
        request = m.GetClusterRequest(role=role)
        view: m.ClusterView = served.leader.run(lambda: served.service.GetCluster(request, None))
        return [one.info.node_id for one in view.nodes]

    assert told(t.NODE_ROLE_COORDINATOR) == ["c1", "c2", "c3"]
    assert told(t.NODE_ROLE_DATANODE) == ["d1"]
    assert told(t.NODE_ROLE_UNSPECIFIED) == ["c1", "c2", "c3", "d1"]


def test_a_node_speaks_for_itself_only(served: Served) -> None:
    assert served.register(node_info("d1")).code == Code.OK
    with pytest.raises(Exception, match="may not speak for d1"):
        served.register(node_info("d1"), caller="d2")
    with pytest.raises(Exception, match="may not speak for d1"):
        served.beat("d1", caller="d2")


def test_a_node_of_another_cluster_is_refused(served: Served) -> None:
    assert served.register(node_info("d1"), cluster_id="other").code == Code.WRONG_CLUSTER
    assert served.beat("d1", cluster_id="other").code == Code.WRONG_CLUSTER


def test_a_copied_disk_under_another_name_is_refused(served: Served) -> None:
    served.register(node_info("d1"))
    assert served.register(node_info("d2", node_uuid="uuid-d1")).code == Code.DUPLICATE_NODE


def test_a_registration_looks_at_no_other_node(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand register with every new leader."""
    served.register(node_info("d1"))
    monkeypatch.setattr(SoftState, "known", None)
    assert served.register(node_info("d2")).code == Code.OK
    assert served.register(node_info("d1")).code == Code.OK
    assert served.register(node_info("d3", node_uuid="uuid-d1")).code == Code.DUPLICATE_NODE


def test_who_gave_up_waiting_and_registers_again_writes_no_second_entry(served: Served) -> None:
    """A leader that is late for a thousand of them would only be later by it."""
    request = m.RegisterRequest(node=node_info("d1"))
    call: Any = SimpleNamespace(node="d1")

    async def late_twice_then_patient() -> m.RegisterResponse:
        for _ in range(2):
            waiting = asyncio.ensure_future(served.service.Register(request, call))
            while not served.entries:
                await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        return await served.service.Register(request, call)

    assert served.leader.run(late_twice_then_patient).code == Code.OK
    assert served.entries == 1


def test_a_registration_that_says_something_else_does_not_wait_for_the_one_before(served: Served) -> None:
    call: Any = SimpleNamespace(node="d1")

    async def one_start_after_the_other() -> None:
        starts = [m.RegisterRequest(node=node_info("d1", incarnation=number)) for number in (1, 2)]
        answers = await asyncio.gather(*(served.service.Register(one, call) for one in starts))
        assert [one.code for one in answers] == [Code.OK, Code.OK]

    served.leader.run(one_start_after_the_other)
    assert served.entries == 2
    known = served.leader.soft.known_as("d1")
    assert known is not None
    assert known.info.incarnation == 2


def test_a_refusal_reaches_also_who_asks_while_the_first_waits(served: Served) -> None:
    call: Any = SimpleNamespace(node="d1")
    request = m.RegisterRequest(node=node_info("d1", labels={"": "nothing"}))

    async def both() -> list[m.RegisterResponse]:
        return await asyncio.gather(*(served.service.Register(request, call) for _ in range(2)))

    assert [one.code for one in served.leader.run(both)] == [Code.INVALID_ARGUMENT] * 2


def test_another_machine_under_a_known_name_comes_in_only_empty_and_when_the_first_is_silent(
    served: Served,
) -> None:
    served.register(node_info("d1"))
    served.beat("d1")
    other = node_info("d1", node_uuid="other")
    assert served.register(other, empty=True).code == Code.DUPLICATE_NODE
    served.leader.clock.advance(SUSPECT_SECONDS)
    assert served.register(other, empty=False).code == Code.DUPLICATE_NODE
    assert served.register(other, empty=True).code == Code.OK
    assert served.beat("d1").code == Code.DUPLICATE_NODE  # the first one comes back


def test_another_machine_under_a_known_name_waits_until_a_new_leader_could_have_heard_the_first(
    served: Served,
) -> None:
    """Else a change of leaders is its chance: all that the first one holds would be struck."""
    leader = served.leader
    for node in ("d1", "d2"):
        served.register(node_info(node), empty=True)
    chunk = leader.store(b"/x", "d1", "d2")
    other = node_info("d1", node_uuid="other")
    leader.begin()
    assert served.register(other, empty=True).code == Code.DUPLICATE_NODE
    assert served.beat("d1").code == Code.OK
    leader.clock.advance(10 * SUSPECT_SECONDS)  # it stood still: the first one beat, and nobody listened
    assert served.register(other, empty=True).code == Code.DUPLICATE_NODE
    assert leader.replicas(chunk).keys() == {"d1", "d2"}
    leader.pass_time(SUSPECT_SECONDS, "d2")
    assert served.register(other, empty=True).code == Code.OK


def test_a_copy_of_a_disk_that_is_started_elsewhere_does_not_displace_the_first(served: Served) -> None:
    """It counts its starts from where the first one was, so it seems to be a later start."""
    served.register(node_info("d1"))
    served.beat("d1")
    assert served.register(node_info("d1", grpc="else:1", incarnation=2)).code == Code.DUPLICATE_NODE
    assert served.beat("d1").code == Code.OK
    assert served.register(node_info("d1", incarnation=2)).code == Code.OK  # a start where it was
    served.leader.pass_time(SUSPECT_SECONDS)
    assert served.register(node_info("d1", grpc="else:1", incarnation=3)).code == Code.OK  # it was moved


def test_an_emptied_node_loses_its_replicas(served: Served) -> None:
    leader = served.leader
    for node in ("d1", "d2", "d3"):
        served.register(node_info(node), empty=True)
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    entries = served.entries
    served.register(node_info("d1"), empty=False)
    assert served.entries == entries
    served.register(node_info("d1"), empty=True)
    assert leader.replicas(chunk).keys() == {"d2", "d3"}


def test_a_follower_says_who_leads(served: Served) -> None:
    served.leader.consensus.depose("c2")
    answer = served.register(node_info("d1"))
    assert (answer.code, answer.leader.node_id) == (Code.NOT_LEADER, "c2")
    assert served.beat("d1").leader.node_id == "c2"


# Heartbeats


def test_a_node_that_is_not_known_is_told_to_register(served: Served) -> None:
    answer = served.beat("d9")
    assert answer.code == Code.OK
    assert answer.acknowledged_sequence == 0
    assert [one.WhichOneof("command") for one in answer.commands] == ["register"]


def test_a_leader_that_has_only_just_begun_is_busy(served: Served) -> None:
    served.leader.soft.end()
    assert served.beat("d1").code == Code.BUSY


class Stream:
    """A stream of that node's heartbeats: what it sends, and what it was answered."""

    def __init__(self, node: str, *sent: bytes) -> None:
        self.node = node
        self.waiting = [*sent]
        self.answers: list[m.HeartbeatResponse] = []

    async def read(self) -> Any:
        return self.waiting.pop(0) if self.waiting else grpc.aio.EOF

    async def write(self, raw: bytes) -> None:
        self.answers.append(m.HeartbeatResponse.FromString(raw))


def stream(served: Served, caller: str, *sent: bytes) -> Stream:
    call = Stream(caller, *sent)
    served.leader.run(lambda: served.service.HeartbeatStream(None, call))
    return call


def raw_beat(served: Served, node_id: str) -> bytes:
    return served.leader.beat_of(node_id).SerializeToString()


def test_a_stream_answers_one_heartbeat_after_the_other(served: Served) -> None:
    served.register(node_info("d1"))
    call = stream(served, "d1", *(raw_beat(served, "d1") for _ in range(3)))
    assert [(one.code, one.acknowledged_sequence) for one in call.answers] == [
        (Code.OK, k) for k in (1, 2, 3)
    ]


def test_a_stream_ends_with_the_first_heartbeat_that_is_refused(served: Served) -> None:
    served.register(node_info("d1"))
    served.leader.consensus.depose("c2")
    call = stream(served, "d1", raw_beat(served, "d1"), raw_beat(served, "d1"))
    (answer,) = call.answers
    assert (answer.code, answer.leader.node_id) == (Code.NOT_LEADER, "c2")
    assert len(call.waiting) == 1


def test_a_node_speaks_for_itself_on_a_stream_too(served: Served) -> None:
    served.register(node_info("d1"))
    with pytest.raises(PermissionDeniedError):
        stream(served, "d2", raw_beat(served, "d1"))


def test_bytes_that_are_no_heartbeat_are_refused_as_what_they_are(served: Served) -> None:
    with pytest.raises(InvalidArgumentError):
        stream(served, "d1", b"\xff\xff\xff")


def test_a_coordinator_that_stops_ends_the_streams(served: Served) -> None:
    served.register(node_info("d1"))

    class Silent(Stream):
        async def read(self) -> Any:
            if self.waiting:
                return self.waiting.pop(0)
            await served.service.end_streams()
            return await asyncio.Event().wait()

    call = Silent("d1", raw_beat(served, "d1"))
    with pytest.raises(asyncio.CancelledError):
        served.leader.run(lambda: served.service.HeartbeatStream(None, call))
    assert len(call.answers) == 1


# Who knows more than the leader


def test_a_leader_that_was_deposed_finds_out_by_a_nodes_heartbeat_and_raises_no_alarm(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.register(node_info("d1"))
    leader = served.leader

    def deposed(question: Any, done: Any) -> None:
        leader.consensus.depose("c2")
        done(NotLeaderError("c1 does not lead"))

    monkeypatch.setattr(leader.consensus, "read", deposed)
    answer = served.beat("d1", highest_epoch=epoch(2), highest_commit_index=10**6)
    assert (answer.code, answer.leader.node_id) == (Code.NOT_LEADER, "c2")
    assert leader.soft.alarms() == []


def test_a_leader_that_hears_from_no_majority_does_not_accuse_itself(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.register(node_info("d1"))
    monkeypatch.setattr("coordinator.services.membership.CONFIRM_SECONDS", 0.01)
    monkeypatch.setattr(served.leader.consensus, "read", lambda question, done: None)
    assert served.beat("d1", highest_epoch=epoch(2)).code == Code.BUSY
    assert served.leader.soft.alarms() == []


@pytest.mark.parametrize(
    ("highest", "commit_index"), [(epoch(1), 10**6), (epoch(2), 0), (epoch(1, history=2), 0)]
)
def test_coordinators_that_lost_what_a_node_has_heard_of_raise_an_alarm(
    served: Served, highest: t.Epoch, commit_index: int
) -> None:
    served.register(node_info("d1"))
    answer = served.beat("d1", highest_epoch=highest, highest_commit_index=commit_index)
    assert answer.code == Code.HISTORY_BEHIND
    assert [code for code, _, _ in served.leader.soft.alarms()] == ["history_behind"]
    refused = served.register(node_info("d1"), highest_epoch=highest, highest_commit_index=commit_index)
    assert refused.code == Code.HISTORY_BEHIND


def test_what_a_node_heard_of_an_older_history_means_nothing(served: Served) -> None:
    served.register(node_info("d1"))
    beaten = served.beat("d1", highest_epoch=epoch(99, history=0), highest_commit_index=10**6)
    assert beaten.code == Code.OK


# Inventories


def test_a_page_that_nobody_asked_for_is_refused(served: Served) -> None:
    served.register(node_info("d1"))
    page = m.InventoryPage(node_id="d1", node_uuid="uuid-d1", incarnation=1, gather_id=7, last=True)
    call: Any = SimpleNamespace(node="d1")
    answer = served.leader.run(lambda: served.service.ReportInventory(page, call))
    assert answer.code == Code.INVALID_ARGUMENT


def test_each_heartbeat_is_counted_by_its_answer(served: Served) -> None:
    served.beat("d1")
    served.register(node_info("d1"))
    served.beat("d1")
    served.leader.consensus.depose(None)
    served.beat("d1")
    assert served.answered == ["register", "ok", "not_leader"]
