"""The garbage collection's cycles, step by step, on real metadata and datanodes in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.duties import cycle
from coordinator.duties.collect import FIRST_SECONDS
from coordinator.duties.cycle import ALARM_OF_ANOTHER_LOG, Policy
from coordinator.metadata import garbage, invariants
from coordinator.metadata.contents import OF_ANOTHER_LOG, RESTORED
from coordinator.soft.cycles import SHRINK_GUARD
from quorumfs.errors import BusyError, Code, NotFoundError, OutcomeUnknownError
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from tests.support.datanodes import Datanodes, born
from tests.support.farm import GRACE_SECONDS, INTERVAL_SECONDS, NODES, Farm

STRAY = b"s" * 16


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    made = Farm(tmp_path)
    yield made
    assert invariants.violations(made.leader.db) == []
    made.leader.consensus.close()


def set_setting(farm: Farm, key: str, value: int) -> None:
    farm.leader.system(e.SystemCommand(set_setting=e.SetSetting(key=key, value=str(value))))


def test_what_was_deleted_goes_when_its_grace_is_over_and_not_before(farm: Farm) -> None:
    kept, gone = farm.store(b"/kept"), farm.store(b"/gone")
    farm.remove(b"/gone")
    farm.pass_time(GRACE_SECONDS / 2)
    report = farm.cycle()
    assert (report.outcome, report.condemned, report.deleted) == ("done", 0, 0)
    assert (report.marked, report.gathered) == (2, 6)
    farm.pass_time(GRACE_SECONDS)
    report = farm.cycle()
    assert (report.outcome, report.condemned, report.deleted) == ("done", 1, 1)
    assert farm.on(kept) == list(NODES)
    assert farm.on(gone) == []
    assert farm.state(gone) == "unknown"
    assert all(gone in node.quarantine for node in farm.nodes.nodes.values())


def test_a_dry_run_says_exactly_what_would_be_condemned_and_changes_nothing(farm: Farm) -> None:
    gone = farm.store(b"/gone")
    farm.stray(STRAY, "d1")
    farm.remove(b"/gone")
    farm.pass_time(2 * GRACE_SECONDS)
    farm.leader.consensus.proposed.clear()
    report = farm.cycle(dry_run=True)
    assert (report.outcome, report.would_condemn, report.strays) == ("done", [gone], 1)
    assert farm.leader.consensus.proposed == []
    assert farm.nodes.orders == 0
    assert farm.collect.last is None


def test_a_cycle_that_waits_for_inventories_says_that_it_gathers(farm: Farm) -> None:
    farm.collect.request(dry_run=False)
    farm.step_until("recall")
    farm.step_until("gather")
    farm.step_until("mark")


def test_an_open_upload_keeps_its_chunks_however_slow_it_is(farm: Farm) -> None:
    upload, made = farm.open(b"/slow")
    for _ in range(5):
        farm.pass_time(10 * GRACE_SECONDS)
        farm.cycle()
    assert farm.on(made.chunks[0].chunk) == list(NODES)
    assert farm.commit(upload, made) is Code.OK


def test_what_an_aborted_upload_leaves_is_garbage(farm: Farm) -> None:
    upload, made = farm.open(b"/x", "d1", "d2")
    farm.leader.batch(n.Op(abort_upload=n.AbortUploadRequest(upload=upload)))
    farm.pass_time(GRACE_SECONDS)
    assert farm.cycle().deleted == 1
    assert farm.on(made.chunks[0].chunk) == []


def test_a_chunk_that_no_table_knows_gets_a_grace_of_its_own(farm: Farm) -> None:
    farm.store(b"/x")
    farm.stray(STRAY, "d1", "d3")
    farm.pass_time(100 * GRACE_SECONDS)
    report = farm.cycle()
    assert (report.strays, report.adopted, report.condemned) == (1, 1, 0)
    assert farm.state(STRAY) == "orphan"
    farm.pass_time(GRACE_SECONDS)
    assert farm.cycle().deleted == 1
    assert farm.on(STRAY) == []


def test_neither_a_new_leader_nor_a_restart_begins_the_grace_anew(farm: Farm) -> None:
    farm.stray(STRAY, "d1")
    farm.cycle()
    for _ in range(4):
        farm.pass_time(GRACE_SECONDS / 4)
        farm.elect()
    assert farm.cycle().deleted == 1


def test_an_orphan_that_lies_where_no_table_says_so_goes_there_too(farm: Farm) -> None:
    chunk = farm.store(b"/x", "d1", "d2")
    farm.remove(b"/x")
    farm.nodes["d3"].chunks[chunk] = farm.nodes["d1"].chunks[chunk]  # a writer that was slow
    farm.pass_time(GRACE_SECONDS)
    report = farm.cycle()
    assert report.deleted == 1
    assert farm.on(chunk) == []


def test_the_inventory_of_an_unreachable_node_is_void_and_the_others_go_on(farm: Farm) -> None:
    chunk = farm.store(b"/x")
    farm.remove(b"/x")
    farm.stray(STRAY, "d3")
    farm.cycle()
    farm.nodes["d3"].reachable = False
    for _ in range(40):
        farm.pass_time(GRACE_SECONDS / 20)
        farm.leader.soft.judge()
    report = farm.cycle()
    assert report.outcome == "done"
    assert set(report.void) == {"d3"}
    assert farm.on(chunk) == ["d3"]
    assert farm.state(chunk) == "condemned"  # until d3 has confirmed
    assert farm.nodes["d3"].chunks.keys() == {chunk, STRAY}
    farm.nodes["d3"].reachable = True
    farm.nodes.beat(farm.leader)
    assert farm.cycle().deleted == 2
    assert farm.on(chunk) == farm.on(STRAY) == []


def test_a_node_that_tells_pages_out_of_order_is_not_believed(farm: Farm) -> None:
    farm.stray(STRAY, "d1")
    farm.stray(b"r" * 16, "d1")
    farm.nodes["d1"].chunks = dict.fromkeys([STRAY, b"r" * 16], farm.nodes["d1"].chunks[STRAY])
    farm.nodes["d1"].page_ids = 1
    ticket = farm.collect.request(dry_run=False)
    original = farm.leader.soft.inventory_page

    def twisted(page: object) -> bool:
        page.ids = page.ids[::-1] if page.node_id != "d1" else bytes(15)  # type: ignore[attr-defined]
        return original(page)  # type: ignore[arg-type]

    farm.leader.soft.inventory_page = twisted  # type: ignore[method-assign]
    report = farm.finish(ticket)
    assert (report.void["d1"], report.adopted) == ("its inventory did not come", 0)


def test_a_node_that_does_not_answer_orders_keeps_what_it_has_until_it_does(farm: Farm) -> None:
    chunk = farm.store(b"/x")
    farm.remove(b"/x")
    farm.pass_time(GRACE_SECONDS)

    def unplug() -> None:
        farm.nodes["d2"].reachable = False

    farm.nodes.before_orders = unplug
    report = farm.cycle()
    assert (report.outcome, report.deleted, set(report.void)) == ("done", 0, {"d2"})
    assert farm.on(chunk) == ["d2"]
    farm.nodes.before_orders = lambda: None
    farm.nodes["d2"].reachable = True
    assert farm.cycle().deleted == 1


def test_a_leader_that_dies_between_condemning_and_deleting_leaves_it_to_the_next(farm: Farm) -> None:
    chunk = farm.store(b"/x")
    farm.remove(b"/x")
    farm.pass_time(GRACE_SECONDS)
    farm.collect.request(dry_run=False)
    farm.step_until("sweep")
    assert (farm.state(chunk), farm.on(chunk)) == ("condemned", list(NODES))
    farm.elect()
    report = farm.cycle()
    assert (report.condemned, report.deleted) == (0, 1)
    assert farm.on(chunk) == []


def test_no_node_obeys_a_leader_that_was_deposed(farm: Farm) -> None:
    chunk = farm.store(b"/x")
    farm.remove(b"/x")
    farm.pass_time(GRACE_SECONDS)
    old = farm.collect
    old.request(dry_run=False)
    farm.step_until("sweep")
    farm.elect()
    for _ in range(20):
        farm.step(old)
    assert old.last is not None
    assert old.last.outcome == "done" or "over" in old.last.reason
    assert farm.on(chunk) == list(NODES)
    assert old.last.deleted == 0


def test_a_leader_that_knows_less_of_the_log_than_a_node_deletes_nothing_there(farm: Farm) -> None:
    chunk = farm.store(b"/x")
    farm.remove(b"/x")
    farm.pass_time(GRACE_SECONDS)
    farm.nodes["d1"].commit_index = 10**6
    report = farm.cycle()
    assert set(report.void) == {"d1"}
    assert farm.on(chunk) == ["d1"]


def test_an_order_that_a_heartbeat_has_overtaken_is_given_again(farm: Farm) -> None:
    """The node has heard of a later commit than the order names, by the same leader: clients went on writing."""
    chunk = farm.store(b"/x")
    farm.remove(b"/x")
    farm.pass_time(GRACE_SECONDS)
    overtaken: list[bool] = []

    def write_and_tell() -> None:
        if len(overtaken) % 2 == 0:
            farm.leader.system(e.SystemCommand(tick=e.Tick()))
            farm.nodes.beat(farm.leader)
        overtaken.append(True)

    farm.nodes.before_orders = write_and_tell
    report = farm.cycle()
    assert (report.deleted, report.void, len(overtaken)) == (1, {}, 2 * len(NODES))
    assert farm.on(chunk) == []


def test_a_node_that_hears_of_more_with_every_order_is_void_in_the_end(farm: Farm) -> None:
    farm.store(b"/x")
    farm.remove(b"/x")
    farm.pass_time(GRACE_SECONDS)

    def write_and_tell() -> None:
        farm.leader.system(e.SystemCommand(tick=e.Tick()))
        farm.nodes.beat(farm.leader)

    farm.nodes.before_orders = write_and_tell
    report = farm.cycle()
    assert (report.outcome, report.deleted, set(report.void)) == ("done", 0, set(NODES))


def test_what_was_born_in_another_log_waits_for_an_operator(farm: Farm) -> None:
    farm.stray(STRAY, "d1", history=1, index=10**6)
    other = farm.stray(b"t" * 16, "d2", history=2)
    farm.cycle()
    assert farm.state(STRAY) == "unknown"  # of this history, and from beyond its end: nothing is said of it
    assert garbage.story(farm.leader.db, other).hold == OF_ANOTHER_LOG
    farm.pass_time(100 * GRACE_SECONDS)
    assert farm.cycle().condemned == 0
    assert farm.on(other) == ["d2"]


def test_too_much_unexplained_garbage_stops_the_cycle_and_raises_an_alarm(farm: Farm) -> None:
    gone = farm.store(b"/gone")
    farm.remove(b"/gone")
    for k in range(101):
        farm.stray(k.to_bytes(16, "big"), "d1")
    farm.pass_time(GRACE_SECONDS)
    report = farm.cycle()
    assert (report.outcome, report.adopted, report.condemned) == ("stopped", 0, 0)
    assert farm.on(gone) == list(NODES)
    assert [code for code, *_ in farm.leader.soft.alarms()] == [SHRINK_GUARD]
    farm.nodes["d1"].chunks = {gone: farm.nodes["d1"].chunks[gone]}
    assert farm.cycle().outcome == "done"
    assert farm.leader.soft.alarms() == []


def test_the_shrink_guard_goes_by_its_setting(tmp_path: Path) -> None:
    farm = Farm(tmp_path, Policy(shrink_guard_percent=100.0))
    for k in range(101):
        farm.stray(k.to_bytes(16, "big"), "d1")
    assert farm.cycle().adopted == 101
    farm.leader.consensus.close()


def test_a_mass_removal_is_no_alarm(farm: Farm) -> None:
    chunks = [farm.store(b"/%d" % k) for k in range(120)]
    for k in range(120):
        farm.remove(b"/%d" % k)
    farm.pass_time(GRACE_SECONDS)
    assert farm.cycle().deleted == len(chunks)


def test_cycles_come_by_themselves_and_count_up(farm: Farm) -> None:
    for number in (1, 2, 3):
        farm.leader.clock.advance(FIRST_SECONDS if number == 1 else INTERVAL_SECONDS)
        farm.nodes.beat(farm.leader)
        farm.step()
        while farm.collect.phase():
            farm.step()
        assert farm.collect.last is not None
        assert farm.collect.last.cycle == number
    farm.elect()
    assert farm.cycle().cycle == 4


def test_a_paused_collection_condemns_and_deletes_nothing_also_under_the_next_leader(farm: Farm) -> None:
    chunk = farm.store(b"/x")
    farm.remove(b"/x")
    farm.pass_time(GRACE_SECONDS)
    farm.collect.request(dry_run=False)
    farm.step_until("mark")
    set_setting(farm, "gc.paused", 1)
    while farm.collect.phase():
        farm.step()
    assert farm.state(chunk) == "orphan"
    farm.elect()
    assert farm.cycle().outcome == "paused"
    set_setting(farm, "gc.paused", 0)
    assert farm.cycle().deleted == 1


def test_an_error_of_the_metadata_ends_the_cycle(farm: Farm) -> None:
    farm.store(b"/x")
    farm.remove(b"/x")
    farm.pass_time(GRACE_SECONDS)
    ticket = farm.collect.request(dry_run=False)
    farm.step_until("mark")
    farm.leader.consensus.refuse_with = BusyError("the queue is full")
    while farm.collect.phase():
        farm.collect.work()
    report = farm.collect.report(ticket)
    assert report is not None
    assert (report.outcome, report.reason) == ("failed", "the queue is full")
    farm.leader.consensus.refuse_with = None
    assert farm.cycle().deleted == 1


def test_a_run_is_known_by_its_ticket(farm: Farm) -> None:
    first = farm.collect.request(dry_run=True)
    assert farm.collect.report(first) is None
    assert farm.finish(first).outcome == "done"
    with pytest.raises(NotFoundError):
        farm.collect.report(99)
    for _ in range(8):
        farm.collect.request(dry_run=True)
    with pytest.raises(BusyError):
        farm.collect.request(dry_run=True)


def test_however_much_another_log_left_it_is_listed_and_stops_nothing(farm: Farm) -> None:
    """As after a restored backup: newer chunks wait for an operator, whose word suffices, and garbage goes on going."""
    gone = farm.store(b"/gone")
    farm.remove(b"/gone")
    left = [farm.stray(k.to_bytes(16, "big"), "d1", "d2", history=0) for k in range(150)]
    farm.pass_time(GRACE_SECONDS)
    report = farm.cycle()
    assert (report.outcome, report.adopted, report.deleted) == ("done", len(left), 1)
    assert farm.on(gone) == []
    assert [code for code, *_ in farm.leader.soft.alarms()] == [ALARM_OF_ANOTHER_LOG]
    assert garbage.candidates(farm.leader.db, b"", 1000, held=True) == left
    farm.pass_time(10 * GRACE_SECONDS)
    assert farm.cycle().condemned == 0
    farm.leader.system(e.SystemCommand(release=e.ReleaseChunks(chunks=left)))
    farm.pass_time(GRACE_SECONDS)
    assert farm.cycle().deleted == len(left)
    assert farm.leader.soft.alarms() == []
    assert [farm.on(chunk) for chunk in left] == [[]] * len(left)


def test_more_than_one_cycle_looks_at_of_another_log_is_no_alarm_of_the_shrink_guard(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cycle, "STRAYS_PER_CYCLE", 20)
    gone = farm.store(b"/gone")
    farm.remove(b"/gone")
    left = [farm.stray(k.to_bytes(16, "big"), "d1", history=0) for k in range(150)]
    farm.pass_time(GRACE_SECONDS)
    report = farm.cycle()
    assert (report.outcome, report.adopted, report.deleted) == ("done", 20, 1)
    assert farm.on(gone) == []
    assert [code for code, *_ in farm.leader.soft.alarms()] == [ALARM_OF_ANOTHER_LOG]
    farm.cycle()
    assert garbage.candidates(farm.leader.db, b"", 1000, held=True) == left[:40]


def test_more_unexplained_garbage_than_one_cycle_looks_at_stops_it_all_the_same(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cycle, "STRAYS_PER_CYCLE", 20)
    for k in range(150):
        farm.stray(k.to_bytes(16, "big"), "d1")
    assert farm.cycle().outcome == "stopped"
    assert [code for code, *_ in farm.leader.soft.alarms()] == [SHRINK_GUARD]


# After a restored backup


def released(farm: Farm, chunk: bytes) -> None:
    farm.leader.system(e.SystemCommand(release=e.ReleaseChunks(chunks=[chunk])))


def test_a_node_whose_quarantine_cannot_be_looked_through_is_void_and_the_cycle_goes_on(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it is not known whether the call was carried out."""
    farm.restore_backup(farm.leader.consensus.backup(), 2)
    original = type(farm.nodes).quarantined

    def broken(nodes: Datanodes, node_id: str, after: bytes, limit: int) -> list[bytes]:
        if node_id == "d2":
            raise OutcomeUnknownError("no answer came back")
        return original(nodes, node_id, after, limit)

    monkeypatch.setattr(type(farm.nodes), "quarantined", broken)
    report = farm.cycle()
    assert (report.outcome, set(report.void)) == ("done", {"d2"})


def test_what_a_restored_log_refers_to_comes_back_from_quarantine(farm: Farm) -> None:
    chunk, other = farm.store(b"/x"), farm.store(b"/garbage")
    farm.remove(b"/garbage")
    image = farm.leader.consensus.backup()
    farm.remove(b"/x")
    farm.pass_time(GRACE_SECONDS)
    assert farm.cycle().deleted == 2
    assert farm.on(chunk) == []
    farm.restore_backup(image, 2)
    farm.nodes["d3"].reachable = False
    report = farm.cycle()
    assert (report.recalled, farm.on(chunk), farm.on(other)) == (2, ["d1", "d2"], [])
    farm.nodes["d3"].reachable = True
    farm.pass_time(1.0)
    assert farm.cycle().recalled == 1
    assert farm.on(chunk) == list(NODES)
    assert farm.cycle().recalled == 0
    farm.pass_time(10 * GRACE_SECONDS)
    farm.cycle()
    assert (farm.on(chunk), farm.state(chunk)) == (list(NODES), "referenced")


def test_what_a_disk_does_not_give_back_holds_up_neither_the_others_nor_the_collection(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cycle, "PER_ENTRY", 1)
    chunks = sorted(farm.store(b"/%d" % k, "d1", "d2") for k in range(3))
    farm.store(b"/later")
    image = farm.leader.consensus.backup()
    for k in range(3):
        farm.remove(b"/%d" % k)
    farm.pass_time(GRACE_SECONDS)
    assert farm.cycle().deleted == 3
    farm.restore_backup(image, 2)
    farm.nodes["d1"].stuck = {chunks[0]}
    farm.remove(b"/later")
    farm.pass_time(GRACE_SECONDS)
    report = farm.cycle()
    assert (report.recalled, report.void, report.deleted) == (5, {}, 1)
    assert [farm.on(chunk) for chunk in chunks] == [["d2"], ["d1", "d2"], ["d1", "d2"]]
    farm.nodes["d1"].stuck = set()
    assert farm.cycle().recalled == 1
    assert farm.on(chunks[0]) == ["d1", "d2"]
    assert farm.cycle().recalled == 0


def test_what_an_operator_restored_after_the_backup_waits_for_a_release(farm: Farm) -> None:
    """The restored log takes it for garbage; the nodes know better, however high or low the index of the order is."""
    chunk = farm.store(b"/x")
    farm.remove(b"/x")
    image = farm.leader.consensus.backup()
    farm.pass_time(GRACE_SECONDS)
    assert farm.cycle().deleted == 1
    for _ in range(20):
        farm.pass_time(1.0)  # the index of the hold is far above the backup's
    for node in farm.nodes.nodes.values():
        assert node.restore(farm.leader.soft.epoch(), [chunk], farm.leader.consensus.status().commit_index)
    farm.restore_backup(image, 2)
    farm.pass_time(GRACE_SECONDS)
    assert farm.cycle().deleted == 0
    assert farm.on(chunk) == list(NODES)
    assert garbage.story(farm.leader.db, chunk).hold == RESTORED
    released(farm, chunk)
    farm.pass_time(GRACE_SECONDS)
    assert farm.cycle().deleted == 1
    assert farm.on(chunk) == []


def test_a_node_keeps_what_is_younger_than_the_restore_even_if_the_leader_condemns_it(farm: Farm) -> None:
    chunk = farm.store(b"/x")
    farm.remove(b"/x")
    farm.restore_backup(farm.leader.consensus.backup(), 2)
    fork = garbage.cluster(farm.leader.db)
    assert fork is not None
    for node in farm.nodes.nodes.values():
        node.chunks[chunk] = born(1, fork.fork_index + 1)
    farm.pass_time(GRACE_SECONDS)
    assert farm.cycle().deleted == 0
    assert farm.on(chunk) == list(NODES)
    released(farm, chunk)
    farm.pass_time(GRACE_SECONDS)
    assert farm.cycle().deleted == 1


def test_a_paused_collection_still_brings_back_what_a_restored_log_refers_to(farm: Farm) -> None:
    chunk = farm.store(b"/x")
    set_setting(farm, "gc.paused", 1)
    image = farm.leader.consensus.backup()
    set_setting(farm, "gc.paused", 0)
    farm.remove(b"/x")
    farm.pass_time(GRACE_SECONDS)
    assert farm.cycle().deleted == 1
    farm.restore_backup(image, 2)
    report = farm.cycle()
    assert (report.outcome, report.recalled, farm.on(chunk)) == ("paused", 3, list(NODES))
