"""Soft state: what a leader remembers of one leadership."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.decisions.liveness import Liveness, Timing
from coordinator.soft.inventories import AT_ONCE_MAX, AT_ONCE_MIN, PAGE_SECONDS, SMALL_IDS
from coordinator.soft.orders import COMMAND_SECONDS, COPY_SECONDS_MAX
from coordinator.soft.signs import PROMISE_SECONDS, Signs
from coordinator.soft.silence import Silence
from coordinator.soft.turning import Turning
from coordinator.soft_state import INHERITED_SECONDS, KnownNode, NodeTable, Report, SoftState
from quorumfs.clock import ManualClock
from quorumfs.errors import BusyError, DuplicateNodeError
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

CHUNK = b"c" * 16


def known(node_id: str, **labels: str) -> KnownNode:
    info = m.NodeInfo(
        node_id=node_id, node_uuid=f"uuid-{node_id}", role=t.NODE_ROLE_DATANODE, labels=labels, incarnation=1
    )
    return KnownNode(info)


LABELS = {"d1": {"zone": "a"}}  # what nodes tell of themselves


def beat(node_id: str, sequence: int = 1, incarnation: int = 1, **fields: object) -> m.HeartbeatRequest:
    disks = [t.DiskInfo(disk_id="k", free_bytes=1000, total_bytes=2000, used_bytes=500, state="ok")]
    labels = LABELS.get(node_id, {})
    values: dict[str, object] = {
        "disks": disks,
        "node_uuid": f"uuid-{node_id}",
        "labels": labels,
        **fields,
    }
    return m.HeartbeatRequest(node_id=node_id, incarnation=incarnation, sequence=sequence, **values)  # type: ignore[arg-type]  # a test's shorthand


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def soft(clock: ManualClock) -> SoftState:
    state = SoftState(clock, Timing(3, 30))
    state.begin(1, 5, [known("d1", zone="a"), known("d2"), known("d3")])
    return state


def test_outside_of_a_leadership_nobody_is_believed(clock: ManualClock) -> None:
    state = SoftState(clock, Timing(3, 30))
    with pytest.raises(BusyError):
        state.heard(beat("d1"))
    with pytest.raises(BusyError):
        state.candidates()
    assert state.epoch() == t.Epoch()


def test_the_end_of_a_leadership_throws_everything_away(soft: SoftState) -> None:
    soft.heard(beat("d1"))
    soft.order("d1", "verify", m.Command(verify=m.VerifyCommand(chunk=CHUNK)), CHUNK)
    soft.keep_alive([b"u"], 7)
    soft.end()
    assert not soft.leading
    soft.begin(1, 6, [known("d1")])
    assert soft.deliver("d1") == []
    assert not soft.pulse("d1").heard


def test_an_unknown_node_has_to_register(soft: SoftState) -> None:
    assert not soft.heard(beat("d9"))


def test_a_node_with_the_same_name_and_another_identity_is_refused(soft: SoftState) -> None:
    soft.heard(beat("d1"))
    with pytest.raises(DuplicateNodeError, match="d1"):
        soft.heard(beat("d1", node_uuid="other"))


def test_a_process_from_before_the_last_start_is_refused(soft: SoftState) -> None:
    soft.heard(beat("d1", incarnation=4))
    with pytest.raises(DuplicateNodeError):
        soft.heard(beat("d1", incarnation=3))


def test_silence_is_told_once_per_change(soft: SoftState, clock: ManualClock) -> None:
    for node_id in ("d1", "d2", "d3"):
        soft.heard(beat(node_id))
    assert soft.judge() == []
    clock.advance(3)
    soft.heard(beat("d2"))
    assert {(one.node_id, one.after) for one in soft.judge()} == {
        ("d1", Liveness.SUSPECT),
        ("d3", Liveness.SUSPECT),
    }
    assert soft.judge() == []
    changed = pass_time(soft, clock, 27)
    assert changed == {"d1": Liveness.DEAD, "d2": Liveness.SUSPECT, "d3": Liveness.DEAD}


def pass_time(soft: SoftState, clock: ManualClock, seconds: int) -> dict[str, Liveness]:
    """Second by second, as the duty judges; what each node came to."""
    changed = {}
    for _ in range(seconds):
        clock.advance(1)
        changed.update({one.node_id: one.after for one in soft.judge()})
    return changed


def test_the_time_in_which_the_leader_itself_stood_still_is_nobodys_silence(
    soft: SoftState, clock: ManualClock
) -> None:
    """It was stopped, or starved: heartbeats came, and nobody was there to hear them."""
    for node_id in ("d1", "d2", "d3"):
        soft.heard(beat(node_id))
    soft.judge()
    clock.advance(40)
    assert soft.judge() == []
    assert soft.gone() == frozenset()
    assert set(pass_time(soft, clock, 3).values()) == {Liveness.SUSPECT}
    assert set(pass_time(soft, clock, 27).values()) == {Liveness.DEAD}


def test_a_standstill_of_the_leader_brings_no_dead_node_back(soft: SoftState, clock: ManualClock) -> None:
    soft.heard(beat("d1"))
    assert pass_time(soft, clock, 31)["d1"] is Liveness.DEAD
    clock.advance(40)
    assert soft.judge() == []
    assert soft.gone() == {"d1", "d2", "d3"}
    soft.heard(beat("d1", 2))
    assert [(one.node_id, one.after) for one in soft.judge()] == [("d1", Liveness.RETURNING)]
    clock.advance(40)
    assert soft.judge() == []  # it was not heard meanwhile, and nobody listened: it goes on returning
    assert set(pass_time(soft, clock, 3).values()) == {Liveness.DEAD}


def test_a_node_may_be_alive_until_this_leader_could_have_heard_it(
    soft: SoftState, clock: ManualClock
) -> None:
    assert soft.may_be_alive("d1")
    assert not soft.recently_heard("d1")
    assert not soft.may_be_alive("d9")
    pass_time(soft, clock, 3)
    assert not soft.may_be_alive("d1")
    soft.heard(beat("d1"))
    assert soft.may_be_alive("d1")
    pass_time(soft, clock, 30)
    clock.advance(40)
    assert not soft.may_be_alive("d1")  # it was dead before the leader stood still


def test_whoever_looks_first_after_a_standstill_of_the_leader_finds_nobody_dead(
    soft: SoftState, clock: ManualClock
) -> None:
    """Repair may be awake before the duty that judges."""
    for node_id in ("d1", "d2", "d3"):
        soft.heard(beat(node_id))
    soft.judge()
    clock.advance(40)
    assert soft.gone() == frozenset()
    assert {one.liveness for one in soft.candidates().values()} == {Liveness.ALIVE}


def test_a_leader_that_stands_still_as_soon_as_it_leads_finds_nobody_dead(
    soft: SoftState, clock: ManualClock
) -> None:
    clock.advance(40)
    assert soft.judge() == []
    assert soft.gone() == frozenset()


@pytest.fixture
def turning(clock: ManualClock) -> Turning:
    return Turning(clock, 3)


@pytest.fixture
def listening(clock: ManualClock, turning: Turning) -> SoftState:
    """A leader whose loop turns only when a test says so, whatever else in it runs."""
    state = SoftState(clock, Timing(3, 30), turning.deaf_until)
    state.begin(1, 5, [known("d1"), known("d2"), known("d3")])
    return state


def test_nobody_is_silent_while_the_loop_that_hears_stands_still_though_the_duties_look(
    listening: SoftState, clock: ManualClock, turning: Turning
) -> None:
    for node_id in ("d1", "d2", "d3"):
        listening.heard(beat(node_id))
    assert set(pass_time(listening, clock, 40).values()) <= {Liveness.ALIVE, Liveness.SUSPECT}
    assert listening.gone() == frozenset()
    turning.turned()
    assert listening.judge() == []  # what waits is about to be heard
    assert listening.gone() == frozenset()
    for second in range(31):
        clock.advance(1)
        turning.turned()
        listening.heard(beat("d1", 2 + second))
        listening.judge()
    assert listening.gone() == {"d2", "d3"}


def test_a_standstill_of_the_loop_that_nobody_saw_is_nobodys_silence(
    listening: SoftState, clock: ManualClock, turning: Turning
) -> None:
    for node_id in ("d1", "d2", "d3"):
        listening.heard(beat(node_id))
    clock.advance(29)
    turning.turned()
    clock.advance(2)
    turning.turned()
    assert listening.judge() == []
    assert {one.liveness for one in listening.candidates().values()} == {Liveness.ALIVE}


def test_uploads_and_sessions_whose_signs_of_life_could_not_be_heard_are_not_lifeless(
    listening: SoftState, clock: ManualClock, turning: Turning
) -> None:
    listening.keep_alive([b"u"], 7)
    clock.advance(61)
    assert listening.lifeless_uploads([b"u"], 60) == []
    turning.turned()
    assert listening.lifeless_sessions([7], 60) == []
    for _ in range(60):
        clock.advance(1)
        turning.turned()
    assert listening.lifeless_uploads([b"u"], 60) == [b"u"]
    assert listening.lifeless_sessions([7], 60) == [7]


def lapse(soft: SoftState, clock: ManualClock, silence_seconds: int) -> int:
    """d1 falls silent for so long, and is heard every second from then on: after how many it is alive again."""
    pass_time(soft, clock, silence_seconds)
    for seconds in range(60):
        soft.heard(beat("d1"))
        soft.judge()
        if soft.pulse("d1").liveness is Liveness.ALIVE:
            return seconds
        clock.advance(1)
    raise AssertionError("it is never alive again")


def test_a_node_that_flaps_is_trusted_later_each_time_until_it_was_steady_for_long(
    soft: SoftState, clock: ManualClock
) -> None:
    soft.heard(beat("d1"))
    assert [lapse(soft, clock, 4) for _ in range(3)] == [0, 3, 6]
    assert lapse(soft, clock, 31) == 12
    for _ in range(4 * 30 + 1):
        clock.advance(1)
        soft.heard(beat("d1"))
        soft.judge()
    assert lapse(soft, clock, 4) == 0


def test_the_leaders_own_standstill_is_no_lapse_of_a_node(soft: SoftState, clock: ManualClock) -> None:
    soft.heard(beat("d1"))
    soft.judge()
    for _ in range(5):
        clock.advance(4)
        soft.heard(beat("d1"))
        soft.judge()
    assert lapse(soft, clock, 4) == 0


def test_a_command_goes_with_the_next_answer_until_its_outcome_comes(
    soft: SoftState, clock: ManualClock
) -> None:
    soft.heard(beat("d1"))
    assert soft.order("d1", "verify", m.Command(verify=m.VerifyCommand(chunk=CHUNK)), CHUNK)
    (command,) = soft.deliver("d1")
    assert command.epoch == t.Epoch(history=1, term=5)
    assert soft.deliver("d1") == []
    clock.advance(COMMAND_SECONDS)
    assert [one.id for one in soft.deliver("d1")] == [command.id]
    soft.heard(beat("d1", 2, outcomes=[m.CommandOutcome(id=command.id, code=t.ERROR_CODE_OK)]))
    clock.advance(COMMAND_SECONDS)
    assert soft.deliver("d1") == []
    (done,) = soft.take_done(("verify",))
    assert done.order.chunk == CHUNK
    assert done.outcome is not None
    assert soft.take_done(("verify",)) == []


def test_a_copy_that_never_ends_is_given_up_though_its_node_lives(
    soft: SoftState, clock: ManualClock
) -> None:
    """A disk that hangs holds up who copies to it, and nothing else of the node: the chunk is copied elsewhere then."""
    soft.heard(beat("d1"))
    assert soft.order("d1", "replicate", m.Command(replicate=m.ReplicateCommand(chunk=CHUNK)), CHUNK)
    clock.advance(COPY_SECONDS_MAX)
    assert len(soft.deliver("d1")) == 1  # its time begins when it is told
    clock.advance(COPY_SECONDS_MAX - 1)
    assert len(soft.deliver("d1")) == 1
    assert len(soft.running("replicate")) == 1
    clock.advance(COMMAND_SECONDS)
    assert soft.deliver("d1") == []
    assert soft.running("replicate") == []
    assert [(one.order.chunk, one.outcome) for one in soft.take_done(("replicate",))] == [(CHUNK, None)]


def test_a_copy_for_the_leader_before_that_never_ends_is_not_waited_for(
    soft: SoftState, clock: ManualClock
) -> None:
    for sequence in range(1, int(COPY_SECONDS_MAX) + 1):
        soft.heard(beat("d1", sequence, load=m.NodeLoad(copying=[CHUNK])))
        assert soft.inherited() == [("d1", CHUNK)]
        clock.advance(1)
    clock.advance(INHERITED_SECONDS)
    soft.heard(beat("d1", 10_000, load=m.NodeLoad(copying=[CHUNK])))
    assert soft.inherited() == []
    soft.heard(beat("d1", 10_001))
    soft.heard(beat("d1", 10_002, load=m.NodeLoad(copying=[CHUNK])))
    assert soft.inherited() == [("d1", CHUNK)]  # another attempt


def test_the_same_order_is_queued_once(soft: SoftState) -> None:
    for _ in range(3):
        assert soft.order("d1", "verify", m.Command(verify=m.VerifyCommand(chunk=CHUNK)), CHUNK)
    assert len(soft.deliver("d1")) == 1


def test_an_outcome_nobody_waits_for_is_ignored(soft: SoftState) -> None:
    soft.heard(beat("d1", outcomes=[m.CommandOutcome(id=99)]))
    assert soft.take_done(("verify", "replicate")) == []


def test_orders_of_a_restarted_node_come_back_without_an_outcome(soft: SoftState) -> None:
    soft.heard(beat("d1"))
    soft.order("d1", "replicate", m.Command(replicate=m.ReplicateCommand(chunk=CHUNK)), CHUNK, "d2")
    soft.heard(beat("d1", incarnation=2))
    (done,) = soft.take_done(("replicate",))
    assert done.outcome is None
    assert soft.deliver("d1") == []


@pytest.mark.parametrize("spoke", [True, False])
def test_a_registration_of_the_process_that_spoke_already_ends_none_of_its_orders(
    soft: SoftState, spoke: bool
) -> None:
    """After a change of the leader its first heartbeat may be there before it registers."""
    if spoke:
        soft.heard(beat("d1", 7))
    soft.order("d1", "replicate", m.Command(replicate=m.ReplicateCommand(chunk=CHUNK)), CHUNK, "d2")
    soft.registered("d1", 1)
    assert soft.take_done(("replicate",)) == []
    assert [one.chunk for one in soft.running("replicate")] == [CHUNK]
    soft.heard(beat("d1", 8))
    assert soft.take_done(("replicate",)) == []
    assert len(soft.deliver("d1")) == 1


def test_an_order_that_waits_for_the_first_heartbeat_of_a_node_is_not_ended_by_it(soft: SoftState) -> None:
    soft.order("d1", "replicate", m.Command(replicate=m.ReplicateCommand(chunk=CHUNK)), CHUNK, "d2")
    soft.heard(beat("d1", incarnation=4))
    assert soft.take_done(("replicate",)) == []
    assert len(soft.deliver("d1")) == 1


@pytest.mark.parametrize(("node_uuid", "incarnation"), [("uuid-d1", 2), ("another", 1)])
def test_a_registration_of_another_process_ends_the_orders_of_the_one_before(
    soft: SoftState, node_uuid: str, incarnation: int
) -> None:
    soft.heard(beat("d1"))
    soft.order("d1", "replicate", m.Command(replicate=m.ReplicateCommand(chunk=CHUNK)), CHUNK, "d2")
    row = known("d1")
    row.info.node_uuid = node_uuid
    soft.learn_known(row, 20)
    soft.registered("d1", incarnation)
    assert [done.outcome for done in soft.take_done(("replicate",))] == [None]
    assert soft.deliver("d1") == []


def test_a_replaced_machine_whose_starts_are_counted_anew_is_heard(soft: SoftState) -> None:
    soft.heard(beat("d1", 9, incarnation=4))
    row = known("d1")
    row.info.node_uuid = "another"
    soft.learn_known(row, 20)
    soft.registered("d1", 1)
    assert soft.heard(beat("d1", 1, incarnation=1, node_uuid="another"))
    soft.heard(beat("d1", 2, incarnation=1, node_uuid="another", load=m.NodeLoad(write_streams=3)))
    assert soft.pulse("d1").load.write_streams == 3


def test_labels_that_operators_changed_reach_a_node_with_the_answer_to_its_next_heartbeat(
    soft: SoftState,
) -> None:
    soft.heard(beat("d1", 1, labels={"zone": "a"}))
    assert soft.deliver("d1") == []
    soft.set_known(NodeTable(20, (known("d1", zone="b", rack="7"), known("d2"), known("d3"))))
    soft.heard(beat("d1", 2, labels={"zone": "a", "host": "h", "rack": "7"}))
    (command,) = soft.deliver("d1")
    assert command.epoch == soft.epoch()
    assert (dict(command.set_labels.labels), list(command.set_labels.remove)) == ({"zone": "b"}, ["host"])
    soft.heard(beat("d1", 3, labels={"zone": "b", "rack": "7"}))
    assert soft.deliver("d1") == []
    assert soft.take_done(("set_labels",)) == []


def test_labels_are_told_once_per_heartbeat_until_the_node_has_them(
    soft: SoftState, clock: ManualClock
) -> None:
    for number in range(1, 4):
        soft.heard(beat("d2", number, labels={"zone": "old"}))
    assert len(soft.deliver("d2")) == 1
    clock.advance(COMMAND_SECONDS)
    assert soft.deliver("d2") == []
    soft.heard(beat("d2", 4, labels={"zone": "old"}))
    assert [list(one.set_labels.remove) for one in soft.deliver("d2")] == [["zone"]]


def test_command_ids_of_two_leaderships_differ(soft: SoftState) -> None:
    soft.order("d1", "verify", m.Command(verify=m.VerifyCommand(chunk=CHUNK)), CHUNK)
    before = {one.id for one in soft.deliver("d1")}
    soft.begin(1, 6, [known("d1")])
    soft.order("d1", "verify", m.Command(verify=m.VerifyCommand(chunk=CHUNK)), CHUNK)
    assert before.isdisjoint({one.id for one in soft.deliver("d1")})


def test_promised_space_is_subtracted_until_heartbeats_must_show_it(
    soft: SoftState, clock: ManualClock
) -> None:
    soft.heard(beat("d1"))
    soft.promise(["d1"], 600)
    assert soft.candidates()["d1"].free_bytes == 400
    clock.advance(PROMISE_SECONDS)
    assert soft.candidates()["d1"].free_bytes == 1000


def test_a_node_whose_disks_all_failed_says_so(soft: SoftState) -> None:
    soft.heard(beat("d1", disks=[t.DiskInfo(path="/disk0", state="failed", free_bytes=9)]))
    candidate = soft.candidates()["d1"]
    assert candidate.disk_trouble == "/disk0 is failed"
    assert candidate.free_bytes == 0


def test_an_inventory_is_whole_when_its_last_page_came_in_order(soft: SoftState) -> None:
    soft.heard(beat("d1"))
    assert soft.wanting_inventory() == ["d1"]
    assert soft.gather("d1")
    assert soft.wanting_inventory() == []
    (command,) = soft.deliver("d1")
    first = page(command.full_inventory.gather_id, 0, ids=b"a" * 16 + b"b" * 16)
    assert soft.inventory_page(first)
    assert soft.inventory_page(first)  # sent again after a lost answer
    assert soft.take_inventory() is None
    corrupt = m.ReplicaReport(chunk=b"d" * 16, state=t.REPLICA_STATE_CORRUPT)
    live = m.ReplicaReport(chunk=CHUNK, state=t.REPLICA_STATE_LIVE, disk_id="k")
    assert soft.inventory_page(page(command.full_inventory.gather_id, 1, last=True, replicas=[live, corrupt]))
    inventory = soft.take_inventory()
    assert inventory is not None
    assert inventory.live == {b"a" * 16, b"b" * 16, CHUNK}
    assert inventory.disks == {CHUNK: "k"}
    assert [one.chunk for one in inventory.troubled] == [b"d" * 16]


def test_an_inventory_with_a_lost_page_is_asked_for_again(soft: SoftState) -> None:
    soft.heard(beat("d1"))
    soft.gather("d1")
    (command,) = soft.deliver("d1")
    assert not soft.inventory_page(page(command.full_inventory.gather_id, 1, last=True))
    assert soft.take_inventory() is None
    assert soft.wanting_inventory() == ["d1"]


def test_an_inventory_of_which_nothing_comes_is_asked_for_again_soon_after_its_order_went_out(
    soft: SoftState, clock: ManualClock
) -> None:
    soft.heard(beat("d1"))
    assert soft.gather("d1")
    clock.advance(2.9)  # a node that is heard seldom has not been told yet
    soft.heard(beat("d1"))
    assert "d1" not in soft.wanting_inventory()
    (command,) = soft.deliver("d1")
    for _ in range(int(PAGE_SECONDS)):
        assert "d1" not in soft.wanting_inventory()
        soft.heard(beat("d1"))
        clock.advance(1)
    assert "d1" in soft.wanting_inventory()
    assert command.full_inventory.gather_id
    assert PAGE_SECONDS <= 20


def test_pages_of_an_older_gathering_are_refused(soft: SoftState) -> None:
    soft.heard(beat("d1"))
    soft.gather("d1")
    assert not soft.inventory_page(page(3, 0, last=True))


def page(gather_id: int, number: int, **fields: object) -> m.InventoryPage:
    values: dict[str, object] = {"node_id": "d1", "node_uuid": "uuid-d1", "incarnation": 1, **fields}
    return m.InventoryPage(gather_id=gather_id, page=number, **values)  # type: ignore[arg-type]  # a test's shorthand


def counted(monkeypatch: pytest.MonkeyPatch, of: type, name: str) -> list[str]:
    """One item for each call of that method from now on."""
    calls: list[str] = []
    method = getattr(of, name)

    def call(*given: Any) -> Any:
        calls.append(name)
        return method(*given)

    monkeypatch.setattr(of, name, call)
    return calls


def many(soft: SoftState, count: int) -> None:
    """So many nodes, all of them heard."""
    names = [f"n{number:03d}" for number in range(count)]
    soft.set_known(NodeTable(20, tuple(known(one) for one in names)))
    for node_id in names:
        soft.heard(beat(node_id))


def test_few_nodes_gather_at_once_and_more_when_they_have_little_to_tell(soft: SoftState) -> None:
    many(soft, 200)
    widest, rounds = 0, 0
    while asked := soft.wanting_inventory():
        rounds += 1
        widest = max(widest, len(asked))
        assert [one for one in asked if not soft.gather(one)] == []
        assert soft.wanting_inventory() == []
        for node_id in asked:
            gather_id = soft.deliver(node_id)[0].full_inventory.gather_id
            told = page(gather_id, 0, node_id=node_id, node_uuid=f"uuid-{node_id}", last=True)
            assert soft.inventory_page(told)
    assert AT_ONCE_MIN < widest <= AT_ONCE_MAX
    assert rounds < 200 / AT_ONCE_MIN / 2


def test_who_shall_tell_next_is_found_without_a_look_at_those_who_have_told(
    soft: SoftState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked with every page that is compared, of a thousand nodes."""
    many(soft, 200)
    looks = counted(monkeypatch, Silence, "judge")
    while asked := soft.wanting_inventory():
        for node_id in asked:
            soft.gather(node_id)
            gather_id = soft.deliver(node_id)[0].full_inventory.gather_id
            soft.inventory_page(page(gather_id, 0, node_id=node_id, node_uuid=f"uuid-{node_id}", last=True))
    assert len(looks) == 200
    soft.wanting_inventory()
    assert len(looks) == 200


def test_a_look_at_all_nodes_asks_the_time_once(soft: SoftState, monkeypatch: pytest.MonkeyPatch) -> None:
    many(soft, 200)
    asked = counted(monkeypatch, ManualClock, "monotonic")
    for look in (soft.judge, soft.gone, soft.candidates, soft.pulses, soft.wanting_inventory):
        asked.clear()
        look()
        assert len(asked) == 1, look


def test_how_all_datanodes_are_is_what_each_of_them_is(soft: SoftState, clock: ManualClock) -> None:
    soft.heard(beat("d1"))
    clock.advance(2.5)
    soft.heard(beat("d2"))
    clock.advance(1)
    coordinator = KnownNode(m.NodeInfo(node_id="c1", role=t.NODE_ROLE_COORDINATOR))
    soft.learn_known(coordinator, 30)
    assert soft.pulses() == {one: soft.pulse(one) for one in ("d1", "d2", "d3")}
    assert [one.liveness for one in soft.pulses().values()] == [
        Liveness.SUSPECT,
        Liveness.ALIVE,
        Liveness.SUSPECT,
    ]


def test_nodes_with_much_to_tell_do_it_few_at_once(soft: SoftState) -> None:
    many(soft, 40)
    ids = b"".join(number.to_bytes(16, "big") for number in range(SMALL_IDS + 1))
    while asked := soft.wanting_inventory():
        assert len(asked) <= AT_ONCE_MIN
        for node_id in asked:
            soft.gather(node_id)
            gather_id = soft.deliver(node_id)[0].full_inventory.gather_id
            soft.inventory_page(
                page(gather_id, 0, node_id=node_id, node_uuid=f"uuid-{node_id}", last=True, ids=ids)
            )


def test_every_upload_gets_its_full_time_again_under_a_new_leader(
    soft: SoftState, clock: ManualClock
) -> None:
    clock.advance(50)
    soft.begin(1, 6, [])
    clock.advance(59)
    assert soft.lifeless_uploads([b"u"], 60) == []
    clock.advance(1)
    assert soft.lifeless_uploads([b"u"], 60) == [b"u"]


def test_a_sign_of_life_gives_an_upload_and_a_session_their_time_again(
    soft: SoftState, clock: ManualClock
) -> None:
    clock.advance(50)
    soft.keep_alive([b"u"], 7)
    clock.advance(59)
    assert soft.lifeless_uploads([b"u", b"v"], 60) == [b"v"]
    assert soft.lifeless_sessions([7, 8], 60) == [8]
    clock.advance(1)
    assert soft.lifeless_sessions([7], 60) == [7]


def test_reports_are_taken_in_order_and_at_most_so_many(soft: SoftState) -> None:
    chunks = [bytes([k]) * 16 for k in range(5)]
    soft.heard(beat("d1", delta=[m.ReplicaReport(chunk=one, state=t.REPLICA_STATE_LIVE) for one in chunks]))
    assert [one.chunk for one in soft.take_reports(3)] == chunks[:3]
    assert [one.chunk for one in soft.take_reports(3)] == chunks[3:]


def test_an_alarm_keeps_its_beginning(soft: SoftState, clock: ManualClock) -> None:
    assert soft.raise_alarm("x", "first")
    began = clock.wall_ms()
    clock.advance(10)
    assert not soft.raise_alarm("x", "second")
    assert soft.alarms() == [("x", "second", began)]
    assert soft.clear_alarm("x")
    assert soft.alarms() == []


def test_an_older_node_table_never_takes_the_place_of_a_newer_one(soft: SoftState) -> None:
    draining = KnownNode(known("d1").info, t.NODE_INTENT_DRAINING)
    soft.set_known(NodeTable(20, (draining, known("d2"))))
    soft.set_known(NodeTable(19, (known("d1"), known("d2"), known("d3"))))
    assert soft.known() == {"d1": draining, "d2": known("d2")}
    soft.set_known(NodeTable(20, (known("d1"),)))
    assert soft.known() == {"d1": known("d1")}


def test_a_row_that_was_read_alone_outlives_an_older_table_and_no_newer_one(soft: SoftState) -> None:
    new, draining = known("d9"), KnownNode(known("d2").info, t.NODE_INTENT_DRAINING)
    soft.set_known(NodeTable(20, (known("d1"), known("d2"))))
    soft.learn_known(new, 25)
    soft.learn_known(draining, 19)
    assert soft.known() == {"d1": known("d1"), "d2": known("d2"), "d9": new}
    soft.set_known(NodeTable(22, (known("d1"), draining)))
    assert soft.known() == {"d1": known("d1"), "d2": draining, "d9": new}
    soft.set_known(NodeTable(26, (known("d1"),)))
    soft.learn_known(new, 25)
    assert soft.known() == {"d1": known("d1")}


def test_a_node_table_that_comes_after_the_end_is_not_kept(soft: SoftState) -> None:
    soft.end()
    soft.set_known(NodeTable(20, (known("d1"),)))
    assert soft.known() == {}
    soft.begin(1, 6, [known("d2")], 30)
    soft.set_known(NodeTable(20, (known("d1"),)))
    assert soft.known() == {"d2": known("d2")}


def test_the_orders_of_a_forgotten_node_come_back_without_an_outcome(soft: SoftState) -> None:
    soft.heard(beat("d1"))
    soft.order("d1", "verify", m.Command(verify=m.VerifyCommand(chunk=CHUNK)), CHUNK)
    soft.set_known(NodeTable(20, (known("d2"),)))
    (done,) = soft.take_done(("verify",))
    assert done.outcome is None


def test_a_heartbeat_that_was_overtaken_is_a_sign_of_life_and_no_news(
    soft: SoftState, clock: ManualClock
) -> None:
    soft.heard(beat("d1", 2))
    clock.advance(2)
    old = m.ReplicaReport(chunk=CHUNK, state=t.REPLICA_STATE_LIVE)
    assert soft.heard(beat("d1", 1, delta=[old], disks=[]))
    assert soft.take_reports(10) == []
    assert soft.candidates()["d1"].free_bytes == 1000
    assert soft.pulse("d1").age_seconds == 0


def test_a_sealed_replica_is_reported_with_its_length_and_checksum_and_since_when_its_node_looked(
    soft: SoftState, clock: ManualClock
) -> None:
    """Since the leadership began, or since the heartbeat before."""
    one = m.ReplicaReport(chunk=CHUNK, state=t.REPLICA_STATE_LIVE, disk_id="k", length=5, checksum=7)
    began = clock.monotonic()
    clock.advance(1)
    soft.heard(beat("d1", delta=[one]))
    clock.advance(1)
    soft.heard(beat("d1", 2, delta=[one]))
    wanted = [Report("d1", CHUNK, "k", t.REPLICA_STATE_LIVE, 5, 7, since) for since in (began, began + 1)]
    assert soft.take_reports(10) == wanted


def test_a_dead_node_takes_no_place_among_those_that_gather(soft: SoftState, clock: ManualClock) -> None:
    soft.heard(beat("d1"))
    pass_time(soft, clock, 30)
    soft.heard(beat("d2"))
    assert soft.wanting_inventory() == ["d2"]


def test_a_forgotten_node_takes_no_place_among_those_that_gather(soft: SoftState) -> None:
    """It fell silent before it got the order, and was forgotten before it was dead."""
    soft.heard(beat("d1"))
    for number in range(2, 12):
        node_id = f"n{number}"
        soft.learn_known(known(node_id), number)
        soft.heard(beat(node_id))
        assert soft.wanting_inventory()
        assert soft.gather(node_id)
        soft.set_known(NodeTable(number + 1, (known("d1"),)))
    assert soft.wanting_inventory() == ["d1"]


def test_what_a_node_has_promised_away_is_forgotten_second_by_second(
    soft: SoftState, clock: ManualClock
) -> None:
    soft.heard(beat("d1"))
    for _ in range(10):
        soft.promise(["d1"], 50)
        clock.advance(0.1)
    assert soft.candidates()["d1"].free_bytes == 500
    clock.advance(1)
    soft.promise(["d1"], 100)
    clock.advance(PROMISE_SECONDS - 1)
    assert soft.candidates()["d1"].free_bytes == 900


def test_signs_of_life_that_are_too_many_push_out_the_oldest() -> None:
    signs: Signs[int] = Signs(most=3)
    for key in (1, 2, 3):
        signs.note(key, 10.0)
    signs.note(1, 20.0)
    signs.note(4, 20.0)
    assert signs.take_silent([1, 2, 3, 4], 10.0, 5.0, 20.0) == [2, 3]
