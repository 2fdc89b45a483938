"""What operators ask of the garbage collection, and tell it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import pytest

from coordinator.duties.collect import RUNS_KEPT
from coordinator.metadata import invariants
from coordinator.services import asking
from coordinator.services.collection import CollectionDesk, wire
from coordinator.soft.cycles import Report
from quorumfs.errors import (
    BusyError,
    InvalidArgumentError,
    NotFoundError,
    NotLeaderError,
    PreconditionFailedError,
)
from quorumfs.limits import GC_QUARANTINE_MS
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import entries_pb2 as e
from tests.support.farm import GRACE_SECONDS, NODES, Farm

STRAY = b"s" * 16


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    made = Farm(tmp_path)
    yield made
    assert invariants.violations(made.leader.db) == []
    made.leader.consensus.close()


@pytest.fixture
def desk(farm: Farm) -> CollectionDesk:
    leader = farm.leader
    return CollectionDesk(
        leader.gateway,
        leader.soft,
        lambda: farm.nodes,
        lambda: farm.collect,
        leader.clock,
        grace_seconds=5.0,
        interval_seconds=60.0,
    )


def explain(farm: Farm, desk: CollectionDesk, chunk: bytes) -> a.ChunkStory:
    return farm.leader.run(lambda: desk.explain(chunk))


def deleted(farm: Farm) -> bytes:
    """A chunk that is in quarantine everywhere, and in no table."""
    chunk = farm.store(b"/gone")
    farm.remove(b"/gone")
    farm.pass_time(GRACE_SECONDS)
    assert farm.cycle().deleted == 1
    return chunk


def test_the_status_counts_and_has_the_last_cycle(farm: Farm, desk: CollectionDesk) -> None:
    farm.store(b"/x")
    farm.remove(b"/x")
    farm.cycle()
    told = farm.leader.run(desk.status)
    assert (told.state, told.phase, told.cycle, told.candidates) == ("idle", "none", 1, 1)
    assert (told.grace_seconds, told.last_cycle.outcome) == (GRACE_SECONDS, "done")
    assert told.authoritative


def test_a_chunk_is_explained_through_its_whole_life(farm: Farm, desk: CollectionDesk) -> None:
    chunk = farm.store(b"/x")
    told = explain(farm, desk, chunk)
    assert (told.state, told.referenced_by, told.seen_on) == ("referenced", ["/x"], list(NODES))
    assert told.held_by == "files refer to it"
    farm.remove(b"/x")
    told = explain(farm, desk, chunk)
    assert (told.state, told.last_referenced_by, told.held_by) == ("orphan", ["/x"], "its grace is not over")
    assert told.earliest_sweep_wall_ms == farm.leader.clock.wall_ms() + GRACE_SECONDS * 1000
    assert told.deleted_at_index > 0
    farm.pass_time(GRACE_SECONDS)
    farm.cycle()
    told = explain(farm, desk, chunk)
    assert (told.state, told.quarantined_on) == ("quarantined", list(NODES))
    farm.stray(STRAY, "d1")
    assert explain(farm, desk, STRAY).state == "stray"
    assert explain(farm, desk, b"n" * 16).state == "unknown"
    with pytest.raises(InvalidArgumentError):
        explain(farm, desk, b"short")


def test_what_keeps_all_chunks_keeps_each(farm: Farm, desk: CollectionDesk) -> None:
    """A collection that is paused, or stopped by the shrink guard, deletes nothing however old it is."""
    chunk, old = farm.store(b"/x"), farm.store(b"/y")
    farm.remove(b"/y")
    farm.pass_time(GRACE_SECONDS)
    farm.collect.request(dry_run=False)
    farm.step_until("sweep")
    farm.remove(b"/x")
    farm.leader.run(lambda: desk.control(a.ControlGcRequest(pause=True)))
    assert explain(farm, desk, chunk).held_by == "its grace is not over"
    farm.pass_time(GRACE_SECONDS)
    farm.leader.soft.judge()
    for one in (chunk, old):
        assert "paused" in explain(farm, desk, one).held_by
    (told,) = farm.leader.run(lambda: desk.candidates(a.ListCandidatesRequest())).chunks
    assert "paused" in told.held_by
    farm.leader.run(lambda: desk.control(a.ControlGcRequest(resume=True)))
    assert explain(farm, desk, chunk).held_by == ""
    for k in range(101):
        farm.stray(k.to_bytes(16, "big"), "d1")
    while farm.collect.phase():
        farm.step()
    assert farm.cycle().outcome == "stopped"
    assert "shrink guard" in explain(farm, desk, chunk).held_by


def test_it_is_told_where_a_chunk_was_seen_and_when(farm: Farm, desk: CollectionDesk) -> None:
    chunk = farm.store(b"/x")
    farm.cycle()
    listed = farm.leader.clock.wall_ms()
    farm.nodes["d2"].reachable = False
    del farm.nodes["d3"].chunks[chunk]
    now = farm.leader.clock.wall_ms()
    found = {one.node_id: (one.state, one.wall_ms) for one in explain(farm, desk, chunk).sightings}
    assert found.keys() == set(NODES)
    assert found["d1"] == ("live", now)
    for node_id in ("d2", "d3"):
        state, at = found[node_id]
        assert state == "listed"
        assert 0 < at <= listed
    farm.elect()
    assert [one.state for one in explain(farm, desk, chunk).sightings] == ["live", "recorded", "recorded"]


def test_what_is_restored_comes_back_everywhere_and_stays_until_it_is_released(
    farm: Farm, desk: CollectionDesk
) -> None:
    chunk = deleted(farm)
    detail = farm.leader.run(lambda: desk.restore([chunk]))
    assert "3 replicas" in detail
    assert farm.on(chunk) == list(NODES)
    farm.pass_time(10 * GRACE_SECONDS)
    assert farm.cycle().condemned == 0
    told = explain(farm, desk, chunk)
    assert (told.state, "gc release" in told.held_by) == ("orphan", True)
    (held,) = farm.leader.run(lambda: desk.candidates(a.ListCandidatesRequest(held=True))).chunks
    assert held.chunk == chunk
    assert "1 of 1" in farm.leader.run(lambda: desk.release([chunk]))
    with pytest.raises(NotFoundError, match="none of the 1 chunks is held"):
        farm.leader.run(lambda: desk.release([chunk]))
    assert farm.cycle().condemned == 0
    farm.pass_time(GRACE_SECONDS)
    assert farm.cycle().deleted == 1
    assert farm.on(chunk) == []


def test_a_delete_that_is_on_its_way_does_not_undo_a_restore(farm: Farm, desk: CollectionDesk) -> None:
    chunk = farm.store(b"/x")
    farm.remove(b"/x")
    farm.pass_time(GRACE_SECONDS)
    ticket = farm.collect.request(dry_run=False)
    farm.step_until("sweep")
    restored: list[bytes] = []

    def in_between() -> None:
        if not restored:
            restored.append(chunk)
            farm.leader.run(lambda: desk.restore([chunk]))

    farm.nodes.before_orders = in_between
    report = farm.finish(ticket)
    assert (restored, report.deleted) == ([chunk], 0)
    assert farm.on(chunk) == list(NODES)
    farm.pass_time(10 * GRACE_SECONDS)
    assert farm.cycle().deleted == 0
    assert farm.on(chunk) == list(NODES)


def test_a_restore_voids_nothing_that_comes_after_its_entry(farm: Farm, desk: CollectionDesk) -> None:
    """Else nodes would refuse for ever what was released and condemned before they heard of the restore."""
    chunk = farm.store(b"/x")
    farm.remove(b"/x")
    system, condemned = desk._system, []

    async def overtaken(command: e.SystemCommand) -> int:
        done = await system(command)
        if command.HasField("restore"):
            farm.leader.system(e.SystemCommand(release=e.ReleaseChunks(chunks=[chunk])))
            farm.pass_time(GRACE_SECONDS)
            (found,) = farm.leader.system(e.SystemCommand(condemn=e.CondemnChunks(chunks=[chunk])))
            condemned.append(found.number)
        return done

    with patch.object(desk, "_system", overtaken):
        farm.leader.run(lambda: desk.restore([chunk]))
    assert condemned == [1]
    assert farm.on(chunk) == list(NODES)
    assert farm.cycle().deleted == 1
    assert farm.on(chunk) == []


def test_a_node_that_does_not_answer_is_named_and_the_chunk_is_held_all_the_same(
    farm: Farm, desk: CollectionDesk
) -> None:
    chunk = farm.store(b"/x")
    farm.remove(b"/x")
    farm.nodes["d2"].reachable = False
    assert "d2 does not answer" in farm.leader.run(lambda: desk.restore([chunk]))
    farm.nodes["d2"].reachable = True
    farm.pass_time(10 * GRACE_SECONDS)
    assert farm.cycle().deleted == 0
    assert farm.on(chunk) == list(NODES)


def test_it_is_said_what_a_node_could_not_bring_back(farm: Farm, desk: CollectionDesk) -> None:
    chunk = deleted(farm)
    farm.nodes["d2"].stuck = {chunk}
    detail = farm.leader.run(lambda: desk.restore([chunk]))
    assert "2 replicas" in detail
    assert "d2: 1 were not brought back: its disk is read-only" in detail


def test_what_lies_in_quarantine_has_its_story_until_it_is_purged_or_brought_back(
    farm: Farm, desk: CollectionDesk
) -> None:
    wall_ms = farm.leader.clock.wall_ms()
    chunk = deleted(farm)

    def told() -> list[a.ChunkStory]:
        listed = farm.leader.run(lambda: desk.candidates(a.ListCandidatesRequest(quarantined=True))).chunks
        return [explain(farm, desk, chunk), *listed]

    for one in told():
        assert (one.chunk, one.state, one.quarantined_on) == (chunk, "quarantined", list(NODES))
        assert (one.last_referenced_by, one.length) == (["/gone"], 5)
        assert 0 < one.deleted_at_index < one.condemned_index
        assert abs(one.since_wall_ms - wall_ms) < 1000
    farm.leader.run(lambda: desk.restore([chunk]))
    (back,) = told()
    assert (back.state, back.last_referenced_by, back.quarantined_on) == ("orphan", ["/gone"], [])
    farm.leader.run(lambda: desk.release([chunk]))
    farm.pass_time(GRACE_SECONDS)
    assert farm.cycle().deleted == 1
    for node in farm.nodes.nodes.values():
        node.quarantine.clear()
    (gone,) = told()
    assert (gone.state, gone.last_referenced_by) == ("unknown", ["/gone"])
    farm.pass_time(2 * GC_QUARANTINE_MS / 1000)
    farm.cycle()
    (gone,) = told()
    assert (gone.state, gone.last_referenced_by, gone.deleted_at_index) == ("unknown", [], 0)


def test_what_is_nowhere_cannot_be_restored(farm: Farm, desk: CollectionDesk) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        farm.leader.run(lambda: desk.restore([STRAY]))
    assert explain(farm, desk, STRAY).state == "unknown"


def test_candidates_and_quarantine_come_in_pages(farm: Farm, desk: CollectionDesk) -> None:
    chunks = sorted(farm.store(b"/%d" % k) for k in range(5))
    for k in range(5):
        farm.remove(b"/%d" % k)

    def pages(**fields: Any) -> list[bytes]:
        found: list[bytes] = []
        after = b""
        while True:
            request = a.ListCandidatesRequest(after=after, limit=2, **fields)
            page = farm.leader.run(lambda request=request: desk.candidates(request))
            found += [one.chunk for one in page.chunks]
            after = page.next
            if not after:
                return found

    assert pages() == chunks
    farm.pass_time(GRACE_SECONDS)
    farm.cycle()
    assert pages() == []
    assert pages(quarantined=True) == chunks
    farm.nodes["d1"].reachable = False
    assert pages(quarantined=True, node_id="d1") == []
    assert pages(quarantined=True) == chunks


def test_a_node_that_hangs_is_not_waited_for_longer_than_an_operator_waits(
    farm: Farm, desk: CollectionDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = deleted(farm)
    let_go = threading.Event()
    listed, seen = farm.nodes.quarantined, farm.nodes.find

    def hanging(answer: Callable[..., Any]) -> Callable[..., Any]:
        def ask(node_id: str, *about: Any) -> Any:
            if node_id == "d1":
                let_go.wait(30.0)
            return answer(node_id, *about)

        return ask

    monkeypatch.setattr(asking, "NODE_SECONDS", 0.1)
    monkeypatch.setattr(farm.nodes, "quarantined", hanging(listed))
    monkeypatch.setattr(farm.nodes, "find", hanging(seen))

    async def ask_both() -> tuple[list[str], list[str]]:
        try:
            told = await desk.candidates(a.ListCandidatesRequest(quarantined=True))
            story = await desk.explain(chunk)
        finally:
            let_go.set()
        return list(told.silent_nodes), list(story.quarantined_on)

    assert farm.leader.run(ask_both) == (["d1"], ["d2", "d3"])


def test_a_cycle_tells_how_many_replicas_it_brought_back() -> None:
    assert wire(Report(dry_run=False, recalled=3), ticket=1).recalled == 3


def test_nodes_whose_quarantine_is_not_known_are_named(farm: Farm, desk: CollectionDesk) -> None:
    deleted(farm)

    def silent(**fields: Any) -> list[str]:
        request = a.ListCandidatesRequest(quarantined=True, **fields)
        return list(farm.leader.run(lambda: desk.candidates(request)).silent_nodes)

    assert silent() == []
    farm.nodes["d1"].reachable = False
    assert silent() == ["d1"]
    assert silent(node_id="d2") == []
    with patch.object(farm.leader.soft, "recently_heard", lambda node_id: node_id != "d2"):
        assert silent() == ["d1", "d2"]


def test_a_run_is_begun_waited_for_and_looked_after(farm: Farm, desk: CollectionDesk) -> None:
    async def run(**fields: Any) -> a.GcReport:
        return await desk.run(a.RunGcRequest(**fields))

    begun = farm.leader.run(run)
    assert (begun.outcome, begun.ticket) == ("running", 1)
    farm.finish(1)
    assert farm.leader.run(lambda: run(ticket=1, wait=True)).outcome == "done"
    with pytest.raises(NotFoundError):
        farm.leader.run(lambda: run(ticket=7))

    def is_asked(ticket: int) -> bool:
        try:
            farm.collect.report(ticket)
        except NotFoundError:
            return False
        return True

    async def waiting() -> a.GcReport:
        asked = asyncio.create_task(run(dry_run=True, wait=True))
        while not is_asked(2):
            await asyncio.sleep(0)
        await asyncio.to_thread(farm.finish, 2)
        return await asked

    assert farm.leader.run(waiting).outcome == "done"


def test_pausing_is_an_entry(farm: Farm, desk: CollectionDesk) -> None:
    told = farm.leader.run(lambda: desk.control(a.ControlGcRequest(pause=True)))
    assert (told.state, told.paused) == ("paused", True)
    assert farm.cycle().outcome == "paused"
    assert not farm.leader.run(lambda: desk.control(a.ControlGcRequest(resume=True))).paused
    with pytest.raises(InvalidArgumentError):
        farm.leader.run(lambda: desk.control(a.ControlGcRequest()))


def test_who_does_not_lead_tells_only_what_the_tables_say(farm: Farm, desk: CollectionDesk) -> None:
    farm.leader.consensus.depose("c2")
    told = farm.leader.run(desk.status)
    assert (told.authoritative, told.leader.node_id) == (False, "c2")
    for ask in (
        lambda: desk.explain(STRAY),
        lambda: desk.candidates(a.ListCandidatesRequest()),
        lambda: desk.run(a.RunGcRequest()),
        lambda: desk.restore([STRAY]),
    ):
        with pytest.raises(NotLeaderError):
            farm.leader.run(cast(Any, ask))


def test_who_does_not_lead_tells_of_chunks_what_its_tables_say_when_that_will_do(
    farm: Farm, desk: CollectionDesk
) -> None:
    chunk = farm.store(b"/x")
    farm.remove(b"/x")
    led = explain(farm, desk, chunk)
    assert led.authoritative
    farm.leader.consensus.depose(None)
    told = farm.leader.run(lambda: desk.explain(chunk, stale=True))
    assert (told.authoritative, told.state, told.deleted_by) == (False, "orphan", led.deleted_by)
    assert {one.state for one in told.sightings} == {
        "recorded"
    }  # nobody was asked, and no inventory is its own
    listed = farm.leader.run(lambda: desk.candidates(a.ListCandidatesRequest(stale=True)))
    assert (listed.authoritative, [one.chunk for one in listed.chunks]) == (False, [chunk])
    with pytest.raises(NotLeaderError):
        farm.leader.run(lambda: desk.candidates(a.ListCandidatesRequest(stale=True, quarantined=True)))


def test_a_leader_without_its_duties_yet_is_busy(farm: Farm, desk: CollectionDesk) -> None:
    desk._collect = lambda: None
    with pytest.raises(BusyError):
        farm.leader.run(lambda: desk.run(a.RunGcRequest()))


def test_the_last_cycles_are_told_with_their_ages_newest_first_and_only_so_many(
    farm: Farm, desk: CollectionDesk
) -> None:
    farm.store(b"/x")
    farm.remove(b"/x")
    farm.pass_time(2 * GRACE_SECONDS)
    assert len(farm.cycle(dry_run=True).would_condemn) == 1
    farm.leader.clock.advance(10.0)
    farm.cycle()
    assert not farm.leader.run(desk.status).cycles
    told = farm.leader.run(desk.cycles).cycles
    assert [(one.outcome, one.dry_run, one.condemned) for one in told] == [
        ("done", False, 1),
        ("done", True, 0),
    ]
    assert not told[1].would_condemn  # told to who asked for the run
    assert 10.0 < told[1].age_seconds < 60.0
    assert told[0].age_seconds < 10.0
    for _ in range(RUNS_KEPT):
        farm.cycle(dry_run=True)
    assert len(farm.leader.run(desk.cycles).cycles) == RUNS_KEPT
    assert farm.ended == ["done"]


def test_no_cycle_is_begun_while_the_collection_is_paused(farm: Farm, desk: CollectionDesk) -> None:
    farm.leader.run(lambda: desk.control(a.ControlGcRequest(pause=True)))
    for dry_run in (False, True):
        with pytest.raises(PreconditionFailedError, match="paused") as refused:
            farm.leader.run(lambda dry_run=dry_run: desk.run(a.RunGcRequest(dry_run=dry_run)))
        assert "dfsctl gc resume" in refused.value.next
    farm.leader.run(lambda: desk.control(a.ControlGcRequest(resume=True)))
    assert farm.leader.run(lambda: desk.run(a.RunGcRequest())).ticket == 1
