"""What datanodes report and what the metadata says come together."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from coordinator.duties import doubts
from coordinator.duties.reconcile import (
    EARLY_SECONDS,
    HEALED_SECONDS,
    IDLE_SECONDS,
    PAGE_PAUSE_SECONDS,
    UNDECIDED_SECONDS,
    Reconcile,
)
from coordinator.metadata import queries
from quorumfs.checksum import crc32c
from quorumfs.errors import BusyError
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.coordinator import Coordinator
from tests.support.machines import commit_of
from tests.support.ops import delete

LIVE, CORRUPT, MISSING = t.REPLICA_STATE_LIVE, t.REPLICA_STATE_CORRUPT, t.REPLICA_STATE_MISSING


@pytest.fixture
def duty(leader: Coordinator) -> Reconcile:
    leader.lead("d1", "d2", "d3", "d4")
    return Reconcile(leader.desk, leader.soft, leader.clock)


def report(
    chunk: bytes, state: t.ReplicaState.ValueType = LIVE, node: str = "d1", **fields: int
) -> m.ReplicaReport:
    return m.ReplicaReport(chunk=chunk, state=state, disk_id=f"disk-{node}", **fields)  # type: ignore[arg-type]


def sealed(chunk: bytes, node: str, length: int = 5, checksum: int = crc32c(bytes(5))) -> m.ReplicaReport:
    return report(chunk, LIVE, node, length=length, checksum=checksum)


def verifications(commands: list[m.Command]) -> dict[bytes, int]:
    """Chunk -> number of the command."""
    return {one.verify.chunk: one.id for one in commands if one.WhichOneof("command") == "verify"}


def inventory(leader: Coordinator, node: str, *chunks: bytes) -> None:
    """Answer the order for a full inventory that waits for the node."""
    (order,) = [one for one in leader.beat(node) if one.WhichOneof("command") == "full_inventory"]
    page = m.InventoryPage(
        node_id=node,
        node_uuid=f"uuid-{node}",
        incarnation=1,
        gather_id=order.full_inventory.gather_id,
        last=True,
        ids=b"".join(sorted(chunks)),
    )
    assert leader.soft.inventory_page(page)


def verdict(leader: Coordinator, node: str, number: int, code: t.ErrorCode.ValueType) -> None:
    ack = t.ReplicaAck(node_id=node, disk_id=f"disk-{node}", durable=True)
    leader.beat(node, outcomes=[m.CommandOutcome(id=number, code=code, ack=ack)])


def test_a_report_that_agrees_writes_nothing(leader: Coordinator, duty: Reconcile) -> None:
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    leader.beat("d1", delta=[sealed(chunk, "d1"), report(chunk)])
    duty.work()
    assert leader.consensus.proposed == []


def test_what_a_node_lost_or_found_damaged_is_written(leader: Coordinator, duty: Reconcile) -> None:
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    leader.beat("d1", delta=[report(chunk, CORRUPT)])
    leader.beat("d2", delta=[report(chunk, MISSING, "d2")])
    duty.work()
    assert leader.replicas(chunk) == {"d1": "corrupt", "d2": "missing", "d3": "live"}
    assert len(leader.consensus.proposed) == 1


def test_a_replica_that_the_commit_did_not_name_is_added(leader: Coordinator, duty: Reconcile) -> None:
    chunk = leader.store(b"/x", "d1", "d2")
    leader.beat("d3", delta=[sealed(chunk, "d3")])
    duty.work()
    assert leader.replicas(chunk) == {"d1": "live", "d2": "live", "d3": "live"}


def test_a_chunk_under_way_is_left_alone_until_it_is_handed_in(leader: Coordinator, duty: Reconcile) -> None:
    upload = leader.opened(b"/x")
    made = leader.allocated(upload, 5, nodes=("d1", "d2", "d3"))
    chunk = made.chunks[0].chunk
    for node in ("d1", "d2", "d3"):
        leader.beat(node, delta=[sealed(chunk, node)])
    duty.work()
    assert leader.consensus.proposed == []
    # The client heard of two of the three before it committed.
    leader.batch(n.Op(commit_upload=commit_of(upload, made, [5], ("d1", "d2"))))
    leader.clock.advance(EARLY_SECONDS)
    duty.work()
    assert leader.replicas(chunk) == {"d1": "live", "d2": "live", "d3": "live"}
    assert len(leader.consensus.proposed) == 1


@pytest.mark.parametrize("last", [LIVE, MISSING])
def test_of_several_reports_about_one_replica_the_last_counts(
    leader: Coordinator, duty: Reconcile, last: t.ReplicaState.ValueType
) -> None:
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    told = [report(chunk, MISSING), sealed(chunk, "d1")]
    for one in told if last == LIVE else reversed(told):
        leader.beat("d1", delta=[one])
    duty.work()
    assert leader.replicas(chunk)["d1"] == ("live" if last == LIVE else "missing")


def test_a_report_of_an_aborted_upload_is_forgotten(leader: Coordinator, duty: Reconcile) -> None:
    upload = leader.opened(b"/x")
    made = leader.allocated(upload, 5, nodes=("d1", "d2", "d3"))
    leader.beat("d1", delta=[sealed(made.chunks[0].chunk, "d1")])
    duty.work()
    leader.batch(n.Op(abort_upload=n.AbortUploadRequest(upload=upload)))
    for _ in range(3):
        leader.clock.advance(EARLY_SECONDS)
        duty.work()
    assert leader.consensus.proposed == []


def test_a_report_is_kept_until_the_log_has_it(leader: Coordinator, duty: Reconcile) -> None:
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    leader.beat("d1", delta=[report(chunk, CORRUPT)])
    leader.consensus.refuse_with = BusyError("the queue is full")
    with pytest.raises(BusyError):
        duty.work()
    leader.consensus.refuse_with = None
    duty.work()
    assert leader.replicas(chunk)["d1"] == "corrupt"


def test_a_finding_is_kept_until_the_log_has_it(leader: Coordinator, duty: Reconcile) -> None:
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    leader.soft.order("d1", "verify", m.Command(verify=m.VerifyCommand(chunk=chunk)), chunk)
    (number,) = verifications(leader.beat("d1")).values()
    verdict(leader, "d1", number, t.ERROR_CODE_CORRUPT)
    leader.consensus.refuse_with = BusyError("the queue is full")
    with pytest.raises(BusyError):
        duty.work()
    leader.consensus.refuse_with = None
    duty.work()
    assert leader.replicas(chunk)["d1"] == "corrupt"


def test_whole_but_other_content_is_no_copy(leader: Coordinator, duty: Reconcile) -> None:
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    leader.beat("d1", delta=[sealed(chunk, "d1", length=4)])
    leader.beat("d4", delta=[sealed(chunk, "d4", checksum=1)])
    duty.work()
    assert leader.replicas(chunk) == {"d1": "corrupt", "d2": "live", "d3": "live"}


@pytest.mark.parametrize("before", [CORRUPT, MISSING])
def test_a_bad_replica_that_is_only_listed_again_must_be_verified(
    leader: Coordinator, duty: Reconcile, before: t.ReplicaState.ValueType
) -> None:
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    leader.become(chunk, "d1", before)
    duty.work()
    inventory(leader, "d1", chunk)
    duty.work()
    duty.work()
    assert leader.replicas(chunk)["d1"] != "live"
    (number,) = verifications(leader.beat("d1")).values()
    verdict(leader, "d1", number, t.ERROR_CODE_OK)
    duty.work()
    assert leader.replicas(chunk)["d1"] == "live"


def test_a_good_replica_sealed_in_place_of_a_bad_one_counts_at_once(
    leader: Coordinator, duty: Reconcile
) -> None:
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    leader.become(chunk, "d1", CORRUPT)
    leader.beat("d1", delta=[sealed(chunk, "d1")])
    duty.work()
    assert leader.replicas(chunk)["d1"] == "live"


def test_what_is_missing_from_an_inventory_is_only_doubted(leader: Coordinator, duty: Reconcile) -> None:
    there = leader.store(b"/there", "d1", "d2", "d3")
    gone = leader.store(b"/gone", "d1", "d2", "d3")
    unknown = leader.store(b"/unknown", "d2", "d3")
    duty.work()
    inventory(leader, "d1", there, unknown, b"garbage".ljust(16))
    duty.work()
    asked = verifications(leader.beat("d1"))
    assert set(asked) == {gone}
    assert leader.replicas(gone)["d1"] == "live"
    verdict(leader, "d1", asked[gone], t.ERROR_CODE_CHUNK_NOT_FOUND)
    duty.work()
    assert leader.replicas(gone)["d1"] == "missing"
    assert leader.replicas(unknown) == {"d1": "live", "d2": "live", "d3": "live"}


def test_a_verification_that_found_nothing_out_is_asked_for_again(
    leader: Coordinator, duty: Reconcile
) -> None:
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    leader.soft.order("d1", "verify", m.Command(verify=m.VerifyCommand(chunk=chunk)), chunk)
    (number,) = verifications(leader.beat("d1")).values()
    verdict(leader, "d1", number, t.ERROR_CODE_BUSY)
    duty.work()
    assert verifications(leader.beat("d1")) == {}
    leader.clock.advance(UNDECIDED_SECONDS)
    leader.beat("d1")
    duty.work()
    assert set(verifications(leader.beat("d1"))) == {chunk}


def test_a_node_with_many_doubts_does_not_keep_others_waiting(
    leader: Coordinator, duty: Reconcile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.soft.orders.COMMANDS_PER_NODE_MAX", 2)
    mine = [leader.store(b"/%d" % k, "d1", "d2") for k in range(6)]
    yours = leader.store(b"/yours", "d2", "d3")
    duty.work()
    inventory(leader, "d1")
    duty.work()
    inventory(leader, "d3")
    duty.work()
    assert yours in verifications(leader.beat("d3"))
    assert len(verifications(leader.beat("d1"))) == 2
    assert len(mine) == 6


def test_doubts_about_a_dead_node_are_dropped_and_made_again_when_it_returns(
    leader: Coordinator, duty: Reconcile
) -> None:
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    duty.work()
    inventory(leader, "d1")
    duty.work()
    leader.pass_time(31, "d2", "d3", "d4")
    leader.soft.withdraw("d1")  # as the liveness duty does
    duty.work()
    assert leader.beat("d1") == []
    duty.work()
    inventory(leader, "d1")
    duty.work()
    assert set(verifications(leader.beat("d1"))) == {chunk}


def test_more_doubts_than_are_kept_are_found_by_another_inventory(
    leader: Coordinator, duty: Reconcile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubts, "DOUBTS_PER_NODE_MAX", 2)
    for k in range(3):
        leader.store(b"/%d" % k, "d1", "d2")
    duty.work()
    inventory(leader, "d1")
    duty.work()
    duty.work()
    kinds = [one.WhichOneof("command") for one in leader.beat("d1")]
    assert sorted(kinds) == ["full_inventory", "verify", "verify"]


def test_an_inventory_that_could_not_be_compared_is_asked_for_again(
    leader: Coordinator, duty: Reconcile, monkeypatch: pytest.MonkeyPatch
) -> None:
    duty.work()
    inventory(leader, "d1")

    def busy(*_: object) -> None:
        raise BusyError("too many questions wait")

    with monkeypatch.context() as patch:
        patch.setattr(leader.desk, "look", busy)
        with pytest.raises(BusyError):
            duty.work()
    duty.work()
    assert [one.WhichOneof("command") for one in leader.beat("d1")] == ["full_inventory"]


def test_what_the_metadata_does_not_know_or_has_condemned_is_not_its_business(
    leader: Coordinator, duty: Reconcile
) -> None:
    chunk = leader.store(b"/x", "d1", "d2")
    leader.batch(delete(b"/x", purge=True))
    leader.system(
        e.SystemCommand(reap_trash=e.ReapTrash(limit=100)),
        e.SystemCommand(set_setting=e.SetSetting(key="gc.grace_ms", value="0")),
        e.SystemCommand(condemn=e.CondemnChunks(chunks=[chunk], cycle=1)),
    )
    leader.beat("d3", delta=[sealed(chunk, "d3"), sealed(b"?" * 16, "d3"), report(b"short")])
    duty.work()
    assert leader.consensus.proposed == []


def test_a_corrupt_replica_that_was_healed_elsewhere_is_forgotten_as_one(
    leader: Coordinator, duty: Reconcile
) -> None:
    """Its node has put the bytes aside; nothing would ever report that replica again."""
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    leader.become(chunk, "d1", CORRUPT)
    leader.clock.advance(HEALED_SECONDS)
    duty.work()
    assert verifications(leader.beat("d1")) == {}  # it is not healed yet
    leader.become(chunk, "d4", LIVE)
    leader.clock.advance(HEALED_SECONDS)
    duty.work()
    number = verifications(leader.beat("d1"))[chunk]
    verdict(leader, "d1", number, t.ERROR_CODE_CHUNK_NOT_FOUND)
    duty.work()
    assert leader.replicas(chunk) == {"d1": "missing", "d2": "live", "d3": "live", "d4": "live"}
    assert queries.chunk_counts(leader.db, ()).corrupt == 0
    leader.clock.advance(HEALED_SECONDS)
    duty.work()
    assert leader.replicas(chunk) == {"d2": "live", "d3": "live", "d4": "live"}


def test_what_is_missing_is_remembered_while_it_is_wanted_and_no_longer(
    leader: Coordinator, duty: Reconcile
) -> None:
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    leader.become(chunk, "d1", MISSING)
    leader.clock.advance(HEALED_SECONDS)
    duty.work()
    assert leader.replicas(chunk)["d1"] == "missing"
    leader.become(chunk, "d4", LIVE)
    leader.clock.advance(HEALED_SECONDS)
    duty.work()
    assert leader.replicas(chunk) == {"d2": "live", "d3": "live", "d4": "live"}
    leader.beat("d1", delta=[sealed(chunk, "d1")])  # it was there after all
    duty.work()
    assert leader.replicas(chunk)["d1"] == "live"


def test_what_is_there_again_is_not_forgotten_with_what_was_missing(
    leader: Coordinator, duty: Reconcile
) -> None:
    """Two duties looked at the same state, and the other's entry came first."""
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    forget = e.ReplicaUpdate(chunk=chunk, node_id="d4", only_if=MISSING)
    leader.become(chunk, "d4", LIVE)
    leader.system(e.SystemCommand(update_replicas=e.UpdateReplicas(updates=[forget])))
    assert leader.replicas(chunk)["d4"] == "live"


def test_what_is_deleted_between_a_look_and_its_entry_is_looked_at_again(
    leader: Coordinator, duty: Reconcile, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    leader.beat("d4", delta=[sealed(chunk, "d4")])
    propose = leader.desk.propose

    def deleted(commands: Sequence[e.SystemCommand]) -> Sequence[e.SystemResult.One]:
        leader.clock.advance(0.1)
        leader.become(chunk, "d4", LIVE)
        leader.soft.touched("d4", [chunk])
        leader.become(chunk, "d4", t.REPLICA_STATE_UNSPECIFIED)
        return propose(commands)

    with monkeypatch.context() as patched:
        patched.setattr(leader.desk, "propose", deleted)
        duty.work()
    leader.clock.advance(1)
    number = verifications(leader.beat("d4"))[chunk]
    verdict(leader, "d4", number, t.ERROR_CODE_CHUNK_NOT_FOUND)
    duty.work()
    assert leader.replicas(chunk)["d4"] == "missing"


def test_what_is_only_promised_to_a_node_cannot_be_missing_there(
    leader: Coordinator, duty: Reconcile
) -> None:
    """It was looked for because of an earlier replica; the move to that node goes on."""
    chunk = leader.store(b"/x", "d1", "d2", "d3")
    leader.become(chunk, "d4", t.REPLICA_STATE_PENDING)
    leader.beat("d4", delta=[report(chunk, MISSING, "d4")])
    duty.work()
    assert leader.replicas(chunk)["d4"] == "pending"


def test_inventories_that_came_are_compared_one_after_the_other(leader: Coordinator, duty: Reconcile) -> None:
    """A thousand nodes have a short one each."""
    duty.work()
    for node in ("d1", "d2", "d3"):
        inventory(leader, node)
    for _ in range(3):
        duty.work()
        assert duty.wait() == PAGE_PAUSE_SECONDS
    duty.work()
    assert duty.wait() == IDLE_SECONDS
