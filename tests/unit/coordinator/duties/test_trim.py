"""Replicas beyond what a chunk wants go: out of the metadata first, never below what is wanted, whoever leads."""

from __future__ import annotations

from typing import NoReturn

import pytest

from coordinator.decisions.collection import Birth, Found
from coordinator.duties.reconcile import EARLY_SECONDS, Reconcile
from coordinator.duties.trim import TrimDuty
from coordinator.metadata import invariants, queries
from coordinator.soft_state import known_nodes
from quorumfs.checksum import crc32c
from quorumfs.errors import BusyError, NotLeaderError, OutcomeUnknownError, UnavailableError
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.coordinator import DEAD_SECONDS, Coordinator
from tests.support.datanodes import Datanodes, tell
from tests.support.machines import commit_of
from tests.support.ops import delete, ref

NODES = ("d1", "d2", "d3", "d4")
LIVE = t.REPLICA_STATE_LIVE


@pytest.fixture
def nodes(leader: Coordinator) -> Datanodes:
    leader.lead(*NODES)
    return Datanodes(*NODES)


def next_leader(leader: Coordinator, nodes: Datanodes) -> TrimDuty:
    """A duty of a new leadership, in which the nodes were heard."""
    term = leader.soft.epoch().term + 1

    leader.soft.begin(1, term, known_nodes(leader.db), queries.applied_index(leader.db))
    for node in nodes.nodes.values():
        if node.reachable:
            leader.beat(node.node_id)
    return TrimDuty(leader.desk, leader.soft, nodes, leader.clock, leader.soft.epoch())


@pytest.fixture
def duty(leader: Coordinator, nodes: Datanodes) -> TrimDuty:
    return TrimDuty(leader.desk, leader.soft, nodes, leader.clock, leader.soft.epoch())


def store(leader: Coordinator, nodes: Datanodes, path: bytes, *on: str) -> bytes:
    """A file of one chunk whose replicas are where the metadata says."""
    chunk = leader.store(path, *on[:3])
    for node_id in on:
        nodes[node_id].chunks[chunk] = Found(Birth(1, 1, 0), 5, crc32c(bytes(5)))
        leader.become(chunk, node_id, LIVE)
    return chunk


def setrep(leader: Coordinator, path: bytes, replication: int) -> None:
    request = n.SetAttributesRequest(ref=ref(path), replication=replication)
    leader.batch(n.Op(set_attributes=request))


def there(nodes: Datanodes, chunk: bytes) -> set[str]:
    return {node.node_id for node in nodes.nodes.values() if chunk in node.chunks}


def settled(leader: Coordinator, nodes: Datanodes, chunk: bytes, want: int) -> None:
    """As many live replicas as wanted, and nothing else, in the metadata and on the disks."""
    found = leader.replicas(chunk)
    assert set(found.values()) == {"live"}
    assert len(found) == want
    assert there(nodes, chunk) == set(found)
    assert invariants.violations(leader.db) == []


def test_a_chunk_with_as_many_as_it_wants_is_left_alone(
    leader: Coordinator, nodes: Datanodes, duty: TrimDuty
) -> None:
    chunk = store(leader, nodes, b"/x", "d1", "d2", "d3")
    written = len(leader.consensus.proposed)
    duty.work()
    assert (nodes.orders, len(leader.consensus.proposed)) == (0, written)
    settled(leader, nodes, chunk, 3)


def test_one_too_many_goes_out_of_the_metadata_and_then_off_its_disk(
    leader: Coordinator, nodes: Datanodes, duty: TrimDuty
) -> None:
    chunk = store(leader, nodes, b"/x", *NODES)
    seen: list[set[str]] = []

    def look() -> None:
        answer = queries.answer(leader.db, n.ReadOp(layout=n.LayoutRequest(ref=ref(b"/x"))))
        seen.append({one.node_id for one in answer.layout.chunks[0].replicas})
        assert sorted(leader.replicas(chunk).values()) == ["deleting", "live", "live", "live"]
        assert queries.chunk_counts(leader.db, ()).under_replicated == 0

    nodes.before_orders = look
    duty.work()
    assert len(seen) == 1
    assert len(seen[0]) == 3
    settled(leader, nodes, chunk, 3)


def test_fewer_wanted_is_fewer_kept(leader: Coordinator, nodes: Datanodes, duty: TrimDuty) -> None:
    chunk = store(leader, nodes, b"/x", *NODES)
    setrep(leader, b"/x", 1)
    duty.work()
    settled(leader, nodes, chunk, 1)


def test_a_dead_node_that_returns_is_too_much_once_it_is_trusted(
    leader: Coordinator, nodes: Datanodes, duty: TrimDuty
) -> None:
    chunk = store(leader, nodes, b"/x", *NODES)
    leader.pass_time(DEAD_SECONDS + 1, "d2", "d3", "d4")
    duty.work()
    assert there(nodes, chunk) == set(NODES)
    leader.beat("d1")
    leader.soft.judge()
    duty.work()
    assert there(nodes, chunk) == set(NODES)
    leader.pass_time(4, *NODES)
    duty.work()
    settled(leader, nodes, chunk, 3)


def test_nothing_goes_while_one_that_shall_stay_has_not_what_it_is_said_to_have(
    leader: Coordinator, nodes: Datanodes, duty: TrimDuty
) -> None:
    chunk = store(leader, nodes, b"/x", *NODES)
    for node_id in NODES[:2]:
        del nodes[node_id].chunks[chunk]
    for _ in range(3):
        duty.work()
    assert nodes.orders == 0
    assert set(leader.replicas(chunk).values()) == {"live"}
    reconcile = Reconcile(leader.desk, leader.soft, leader.clock)
    nodes.beat(leader)
    reconcile.work()
    assert list(leader.replicas(chunk).values()).count("live") < len(NODES)  # it is known by now
    assert there(nodes, chunk) == {"d3", "d4"}


def test_nothing_goes_while_one_that_shall_stay_does_not_answer(
    leader: Coordinator, nodes: Datanodes, duty: TrimDuty
) -> None:
    chunk = store(leader, nodes, b"/x", *NODES)
    nodes["d2"].reachable = False
    nodes["d3"].reachable = False
    duty.work()
    assert (nodes.orders, set(leader.replicas(chunk).values())) == (0, {"live"})


def test_a_node_that_does_not_take_the_order_is_told_again(
    leader: Coordinator, nodes: Datanodes, duty: TrimDuty
) -> None:
    chunk = store(leader, nodes, b"/x", *NODES)

    def cut() -> None:
        for node in nodes.nodes.values():
            node.reachable = False

    nodes.before_orders = cut
    duty.work()
    assert sorted(leader.replicas(chunk).values()) == ["deleting", "live", "live", "live"]
    assert there(nodes, chunk) == set(NODES)
    nodes.before_orders = lambda: None
    for node in nodes.nodes.values():
        node.reachable = True
    duty.work()
    settled(leader, nodes, chunk, 3)


@pytest.mark.parametrize("step", range(1, 4))
def test_a_leader_that_dies_at_any_step_is_followed_by_one_that_goes_on(
    leader: Coordinator, nodes: Datanodes, duty: TrimDuty, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Steps: the entry before, the order, the entry after; each is done, and nobody hears of it."""
    chunk = store(leader, nodes, b"/x", *NODES)
    taken = iter(range(1, 99))

    def die() -> None:
        if next(taken) == step:
            raise OutcomeUnknownError("the leader is dead")

    propose, order = leader.desk.propose, nodes.delete

    def propose_and_die(commands: list[e.SystemCommand]) -> object:
        done = propose(commands)
        die()
        return done

    def order_and_die(node_id: str, orders: object) -> object:
        done = order(node_id, orders)  # type: ignore[arg-type]
        if next(taken) == step:
            raise NotLeaderError("the leader is dead") if step != 2 else BusyError("cut off")
        return done

    with monkeypatch.context() as patch:
        patch.setattr(leader.desk, "propose", propose_and_die)
        patch.setattr(nodes, "delete", order_and_die)
        try:
            duty.work()
        except (OutcomeUnknownError, NotLeaderError):
            pass
    assert len(there(nodes, chunk)) >= 3
    assert sum(state == "live" for state in leader.replicas(chunk).values()) >= 3
    after = next_leader(leader, nodes)
    after.work()
    settled(leader, nodes, chunk, 3)
    assert after.work().endswith("0 replicas went")


def test_a_deposed_leader_deletes_nothing(leader: Coordinator, nodes: Datanodes, duty: TrimDuty) -> None:
    chunk = store(leader, nodes, b"/x", *NODES)
    next_leader(leader, nodes)
    with pytest.raises(NotLeaderError):
        duty.work()
    assert (nodes.orders, set(leader.replicas(chunk).values())) == (0, {"live"})


def test_what_leaves_is_taken_back_when_the_others_are_lost(
    leader: Coordinator, nodes: Datanodes, duty: TrimDuty
) -> None:
    chunk = store(leader, nodes, b"/x", *NODES)
    nodes["d1"].reachable = False
    leader.system(
        e.SystemCommand(trim=e.TrimReplicas(replicas=[e.TrimReplicas.One(chunk=chunk, node_id="d1")]))
    )
    leader.become(chunk, "d2", t.REPLICA_STATE_CORRUPT)
    nodes["d1"].reachable = True
    duty.work()
    assert leader.replicas(chunk)["d1"] == "missing"
    assert nodes["d1"].void_below[chunk] == queries.applied_index(leader.db) - 1
    reconcile = Reconcile(leader.desk, leader.soft, leader.clock)
    leader.clock.advance(1)
    nodes.beat(leader)
    reconcile.work()
    assert leader.replicas(chunk)["d1"] == "live"
    assert invariants.violations(leader.db) == []


def test_nothing_counts_again_before_its_node_has_voided_the_order_to_delete_it(
    leader: Coordinator, nodes: Datanodes, duty: TrimDuty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order may be at the node still, behind others on a slow disk; a look at the bytes would find them."""

    def late(node_id: str, *order: object) -> NoReturn:
        raise UnavailableError(f"{node_id} did not answer in time")

    chunk = store(leader, nodes, b"/x", *NODES)
    setrep(leader, b"/x", 1)
    with monkeypatch.context() as slow:
        slow.setattr(nodes, "delete", late)
        slow.setattr(nodes, "restore", late)
        _go_back(leader, duty, chunk)
    duty.work()
    assert sorted(leader.replicas(chunk).values()) == ["corrupt", "missing", "missing", "missing"]
    for node_id, state in leader.replicas(chunk).items():
        if state == "missing":
            assert verifications(leader.beat(node_id)) == [chunk]
            assert nodes[node_id].void_below[chunk] > 0


def _go_back(leader: Coordinator, duty: TrimDuty, chunk: bytes) -> None:
    """Three are to be deleted when the one that was to stay rots; nobody takes an order."""
    duty.work()
    assert sorted(leader.replicas(chunk).values()) == ["deleting"] * 3 + ["live"]
    (kept,) = [node_id for node_id, state in leader.replicas(chunk).items() if state == "live"]
    leader.become(chunk, kept, t.REPLICA_STATE_CORRUPT)
    duty.work()
    for node_id in {*NODES} - {kept}:
        assert verifications(leader.beat(node_id)) == []
        assert leader.replicas(chunk)[node_id] == "deleting"


def verifications(commands: list[m.Command]) -> list[bytes]:
    return [one.verify.chunk for one in commands if one.WhichOneof("command") == "verify"]


def test_a_replica_on_a_lost_disk_is_forgotten_when_there_are_enough_others(
    leader: Coordinator, nodes: Datanodes, duty: TrimDuty
) -> None:
    chunk = store(leader, nodes, b"/x", *NODES)
    lost = [t.DiskInfo(disk_id="disk-d3", state="failed")]
    leader.beat("d3", disks=lost)
    duty.work()
    assert set(leader.replicas(chunk)) == {"d1", "d2", "d4"}


def test_what_nothing_refers_to_is_left_to_the_collection(
    leader: Coordinator, nodes: Datanodes, duty: TrimDuty
) -> None:
    chunk = store(leader, nodes, b"/x", *NODES)
    leader.batch(delete(b"/x", purge=True))
    leader.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=10)))
    duty.work()
    assert (nodes.orders, set(leader.replicas(chunk).values())) == (0, {"live"})


def test_pages_go_round_until_everything_is_trimmed(
    leader: Coordinator, nodes: Datanodes, duty: TrimDuty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.duties.trim.LOOK_AT", 3)
    monkeypatch.setattr("coordinator.duties.trim.PER_ROUND", 2)
    chunks = [store(leader, nodes, b"/%d" % k, *NODES) for k in range(10)]
    for _ in range(10):
        duty.work()
    for chunk in chunks:
        settled(leader, nodes, chunk, 3)


# With the others


def test_reports_about_what_is_being_deleted_are_passed_over(leader: Coordinator, nodes: Datanodes) -> None:
    chunk = store(leader, nodes, b"/x", *NODES)
    leader.system(
        e.SystemCommand(trim=e.TrimReplicas(replicas=[e.TrimReplicas.One(chunk=chunk, node_id="d1")]))
    )
    reconcile = Reconcile(leader.desk, leader.soft, leader.clock)
    for state in (LIVE, t.REPLICA_STATE_CORRUPT, t.REPLICA_STATE_MISSING):
        report = m.ReplicaReport(chunk=chunk, state=state, disk_id="disk-d1", length=5, checksum=1)
        leader.beat("d1", delta=[report])
        reconcile.work()
        assert leader.replicas(chunk)["d1"] == "deleting"
    leader.become(chunk, "d1", LIVE)
    assert leader.replicas(chunk)["d1"] == "deleting"


def test_an_inventory_from_before_the_deletion_brings_nothing_back(
    leader: Coordinator, nodes: Datanodes, duty: TrimDuty
) -> None:
    chunk = store(leader, nodes, b"/x", *NODES)
    reconcile = Reconcile(leader.desk, leader.soft, leader.clock)
    reconcile.work()  # asks for inventories
    orders = {
        node_id: [one for one in leader.beat(node_id) if one.WhichOneof("command") == "full_inventory"]
        for node_id in NODES
    }
    for node_id, (order,) in orders.items():
        tell(leader, nodes[node_id], order.full_inventory.gather_id)
    duty.work()
    for _ in NODES:
        reconcile.work()
    settled(leader, nodes, chunk, 3)
    nodes.beat(leader)  # the doubted replica is verified, and is not there
    reconcile.work()
    settled(leader, nodes, chunk, 3)


@pytest.mark.parametrize("is_new", [False, True], ids=["an old leader", "a new leader"])
def test_a_report_that_waited_for_the_end_of_its_upload_brings_nothing_back(
    leader: Coordinator, nodes: Datanodes, duty: TrimDuty, is_new: bool
) -> None:
    reconcile = Reconcile(leader.desk, leader.soft, leader.clock)
    if is_new:  # it hears the nodes for the first time
        leader.begin()
    upload = leader.opened(b"/x")
    made = leader.allocated(upload, 5, nodes=NODES)
    chunk, checksum = made.chunks[0].chunk, crc32c(bytes(5))
    leader.clock.advance(1)
    for node_id in NODES:
        nodes[node_id].chunks[chunk] = Found(Birth(1, 1, 0), 5, checksum)
        sealed = m.ReplicaReport(
            chunk=chunk, state=LIVE, disk_id=f"disk-{node_id}", length=5, checksum=checksum
        )
        leader.beat(node_id, delta=[sealed])
    reconcile.work()
    leader.batch(n.Op(commit_upload=commit_of(upload, made, [5], NODES)))
    duty.work()
    settled(leader, nodes, chunk, 3)
    leader.clock.advance(EARLY_SECONDS)
    for _ in range(2):
        reconcile.work()
        settled(leader, nodes, chunk, 3)
        nodes.beat(leader)  # what was doubted is verified, and is not there


def test_what_was_verified_before_the_deletion_brings_nothing_back(
    leader: Coordinator, nodes: Datanodes, duty: TrimDuty
) -> None:
    """The node was told to verify, has found the bytes, and is heard only after it has deleted them."""
    chunk = store(leader, nodes, b"/x", *NODES)
    reconcile = Reconcile(leader.desk, leader.soft, leader.clock)
    found = {node_id: verified(leader, node_id, chunk, t.ERROR_CODE_OK) for node_id in NODES}
    leader.clock.advance(1)
    duty.work()
    for node_id, outcome in found.items():
        leader.beat(node_id, outcomes=[outcome])
    for _ in range(2):
        reconcile.work()
        settled(leader, nodes, chunk, 3)
        nodes.beat(leader)


def test_what_was_not_there_before_it_was_taken_back_counts_when_it_is(
    leader: Coordinator, nodes: Datanodes, duty: TrimDuty
) -> None:
    """The node had looked while the replica lay in quarantine, and is heard after that has come back."""
    chunk = store(leader, nodes, b"/x", *NODES)
    reconcile = Reconcile(leader.desk, leader.soft, leader.clock)
    leader.system(
        e.SystemCommand(trim=e.TrimReplicas(replicas=[e.TrimReplicas.One(chunk=chunk, node_id="d1")]))
    )
    absent = verified(leader, "d1", chunk, t.ERROR_CODE_CHUNK_NOT_FOUND)
    leader.clock.advance(1)
    leader.become(chunk, "d2", t.REPLICA_STATE_CORRUPT)
    duty.work()
    assert leader.replicas(chunk)["d1"] == "missing"
    leader.beat("d1", outcomes=[absent])
    leader.clock.advance(1)
    for _ in range(2):
        reconcile.work()
        nodes.beat(leader)
    reconcile.work()
    assert leader.replicas(chunk)["d1"] == "live"


def verified(
    leader: Coordinator, node_id: str, chunk: bytes, code: t.ErrorCode.ValueType
) -> m.CommandOutcome:
    """What a node found that was told to verify, and that it has not told yet."""
    leader.soft.order(node_id, "verify", m.Command(verify=m.VerifyCommand(chunk=chunk)), chunk)
    (order,) = [one for one in leader.beat(node_id) if one.WhichOneof("command") == "verify"]
    ack = t.ReplicaAck(node_id=node_id, disk_id=f"disk-{node_id}", durable=True)
    return m.CommandOutcome(id=order.id, code=code, ack=ack)
