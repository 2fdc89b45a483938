"""How well chunks are kept, and what a node really has, as the leader tells `fsck`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.metadata import durability
from coordinator.metadata.durability import Domains
from coordinator.services.durability import DurabilityDesk
from coordinator.soft_state import node_table
from quorumfs.errors import NotFoundError, NotLeaderError, PreconditionFailedError
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.coordinator import DEAD_SECONDS, Coordinator
from tests.support.machines import Cluster
from tests.support.ops import delete, put, ref

LIVE, CORRUPT = t.REPLICA_STATE_LIVE, t.REPLICA_STATE_CORRUPT
NODES = ("d1", "d2", "d3", "d4")


class Datanodes:
    """What lies where. `before_second`: happens between the first look at a node and the second."""

    def __init__(self) -> None:
        self.chunks: dict[str, set[bytes]] = {node: set() for node in NODES}
        self.between: Any = lambda: None
        self.looks = 0

    def present(self, node_id: str, after: bytes, limit: int) -> list[bytes]:
        self.looks += 1
        found = [chunk for chunk in sorted(self.chunks[node_id]) if chunk > after][:limit]
        if self.looks % 2:
            self.between()
        return found


class Desk:
    def __init__(self, leader: Coordinator) -> None:
        self.leader = leader
        self.nodes = Datanodes()
        self.desk = DurabilityDesk(leader.gateway, leader.soft, lambda: self.nodes, leader.clock)

    def store(self, path: bytes, *nodes: str, length: int = 5) -> bytes:
        chunk = self.leader.store(path, *nodes, length=length)
        for node in nodes:
            self.nodes.chunks[node].add(chunk)
        return chunk

    def report(self, problems: int = 10) -> a.Durability:
        return self.leader.run(lambda: self.desk.report(a.GetDurabilityRequest(problems=problems)))

    def examine(self, node_id: str, **fields: Any) -> a.NodeExamination:
        request = a.ExamineNodeRequest(node_id=node_id, **fields)
        return self.leader.run(lambda: self.desk.examine(request))


@pytest.fixture
def desk(leader: Coordinator) -> Desk:
    zones = {node: {"zone": zone} for node, zone in zip(NODES, "aabc", strict=True)}
    leader.lead(*NODES, **zones)
    return Desk(leader)


def rows(kept: Any) -> list[tuple[int, int, int, int]]:
    return [(one.want, one.number, one.chunks, one.bytes) for one in kept]


# How well chunks are kept


def test_chunks_are_counted_by_readable_copies_and_by_domains(leader: Coordinator, desk: Desk) -> None:
    desk.store(b"/spread", "d1", "d3", "d4")
    desk.store(b"/crowded", "d1", "d2", "d3", length=7)
    desk.store(b"/short", "d1", "d2")
    told = desk.report()
    assert told.chunks == 3
    assert rows(told.copies) == [(3, 2, 1, 5), (3, 3, 2, 12)]
    assert rows(told.zones) == [(3, 1, 1, 5), (3, 2, 1, 7), (3, 3, 1, 5)]
    assert rows(told.hosts) == [(3, 2, 1, 5), (3, 3, 2, 12)]  # without that label each is one of its own
    assert (told.lacking_total, told.missing_total) == (1, 0)


def test_what_is_out_of_reach_is_not_readable(leader: Coordinator, desk: Desk) -> None:
    lost = desk.store(b"/lost", "d1", "d2")
    leader.become(lost, "d2", CORRUPT)
    desk.store(b"/short", "d1", "d3", "d4")
    leader.pass_time(DEAD_SECONDS + 1, "d2", "d3", "d4")
    told = desk.report()
    assert rows(told.copies) == [(3, 0, 1, 5), (3, 2, 1, 5)]
    assert (told.lacking_total, told.missing_total) == (2, 1)
    first, second = told.lacking
    assert (first.chunk, list(first.live), list(first.others)) == (lost, [], ["d2", "d1"])
    assert list(first.paths) == ["/lost"]
    assert list(second.live) == ["d3", "d4"]
    assert len(desk.report(problems=1).lacking) == 1


def test_a_body_in_the_metadata_is_told_apart_and_garbage_is_not_counted(
    leader: Coordinator, desk: Desk
) -> None:
    leader.batch(put(b"/small", b"body"))
    desk.store(b"/gone", "d1", "d2")
    leader.batch(delete(b"/gone", purge=True))
    told = desk.report()
    assert (told.inline_chunks, told.inline_bytes) == (1, 4)


def test_a_report_holds_for_a_while_and_is_made_anew_when_a_node_goes(
    leader: Coordinator, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.services.durability.CHUNKS_PER_PAGE", 2)
    for k in range(5):
        desk.store(b"/%d" % k, "d1", "d2", "d3")
    real = durability.page

    def slow(*args: Any) -> durability.Page:
        leader.clock.advance(1.0)
        return real(*args)

    monkeypatch.setattr(durability, "page", slow)
    assert desk.report().chunks == 5
    desk.store(b"/new", "d1", "d2", "d3")
    leader.clock.advance(2.0)
    for node in NODES:
        leader.beat(node)
    old = desk.report()
    assert (old.chunks, old.age_seconds) == (5, 2.0)
    leader.pass_time(DEAD_SECONDS + 1, "d2", "d3", "d4")
    assert desk.report().chunks == 6


def test_only_the_leader_tells(leader: Coordinator, desk: Desk) -> None:
    leader.consensus.depose("c2")
    with pytest.raises(NotLeaderError):
        desk.report()
    with pytest.raises(NotLeaderError):
        desk.examine("d1")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.frozensets(st.sampled_from(NODES), min_size=2), st.integers(1, 4)), max_size=6),
    st.frozensets(st.sampled_from(NODES)),
    st.lists(st.sampled_from(["", "a", "b"]), min_size=4, max_size=4),
    st.integers(1, 4),
)
def test_pages_add_up_to_what_one_would_count_by_hand(
    files: list[tuple[frozenset[str], int]], gone: frozenset[str], zones: list[str], limit: int
) -> None:
    cluster = Cluster()
    cluster.register("d4")
    for k, (live, want) in enumerate(files):
        cluster.upload(b"/%d" % k, 5, nodes=tuple(sorted(live)))
        attributes = n.SetAttributesRequest(ref=ref(b"/%d" % k), replication=want)
        cluster.one(n.Op(set_attributes=attributes))
    domains = {node: Domains(zone=zone) for node, zone in zip(NODES, zones, strict=True)}
    counted: dict[tuple[int, int, int], int] = {}
    lacking = 0
    after: bytes = b""
    while True:
        page = durability.page(cluster.replica.db, after, limit, gone, domains, 99)
        for kept, (chunks, _) in page.kept.items():
            key = kept.want, kept.live, kept.zones
            counted[key] = counted.get(key, 0) + chunks
        lacking += len(page.lacking)
        after = page.after
        if not after:
            break
    expected: dict[tuple[int, int, int], int] = {}
    for live, want in files:
        there = live - gone
        spread = {domains[node].zone or node for node in there}
        key = want, len(there), len(spread)
        expected[key] = expected.get(key, 0) + 1
    assert counted == expected
    assert lacking == sum(len(live - gone) < want for live, want in files)


# What a node really has


def test_a_node_that_has_what_it_should_has_nothing_told_of_it(desk: Desk) -> None:
    for k in range(5):
        desk.store(b"/%d" % k, "d1", "d2")
    found = desk.examine("d1")
    assert (found.listed, found.recorded, found.next) == (5, 5, b"")
    assert [*found.missing, *found.strays, *found.unrecorded] == []


def test_both_ways_are_told_and_what_is_missing_is_verified(leader: Coordinator, desk: Desk) -> None:
    lost = desk.store(b"/lost", "d1", "d2")
    desk.nodes.chunks["d1"].discard(lost)
    stray = b"s" * 16
    desk.nodes.chunks["d1"].add(stray)
    elsewhere = desk.store(b"/elsewhere", "d2", "d3")
    desk.nodes.chunks["d1"].add(elsewhere)
    found = desk.examine("d1")
    assert (list(found.missing), list(found.strays), list(found.unrecorded)) == ([lost], [stray], [elsewhere])
    asked = [one.verify.chunk for one in leader.beat("d1") if one.WhichOneof("command") == "verify"]
    assert asked == [lost]
    assert leader.replicas(lost)["d1"] == "live"  # its node alone can say otherwise


def test_what_comes_and_goes_meanwhile_is_no_finding(leader: Coordinator, desk: Desk) -> None:
    late = bytes(16)

    def between() -> None:
        desk.nodes.between = lambda: None
        desk.nodes.chunks["d1"].discard(late)  # as when the collection removes it
        desk.store(b"/new", "d1", "d2")

    desk.nodes.chunks["d1"].add(late)
    desk.nodes.between = between
    found = desk.examine("d1")
    assert [*found.missing, *found.strays, *found.unrecorded] == []


def test_what_an_open_upload_writes_is_no_stray(leader: Coordinator, desk: Desk) -> None:
    upload = leader.opened(b"/x")
    (made,) = leader.allocated(upload, 5, nodes=("d1", "d2")).chunks
    desk.nodes.chunks["d1"].add(made.chunk)
    found = desk.examine("d1")
    assert [*found.strays, *found.unrecorded] == []


def test_a_node_is_compared_page_by_page(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.services.durability.RECORDED_MAX", 3)
    chunks = sorted(desk.store(b"/%d" % k, "d1", "d2") for k in range(9))
    for chunk in chunks[2:8]:  # more in a row than a page has
        desk.nodes.chunks["d1"].discard(chunk)
    missing: list[bytes] = []
    listed = recorded = 0
    after: bytes = b""
    while True:
        page = desk.examine("d1", after=after, limit=2)
        missing += page.missing
        listed, recorded = listed + page.listed, recorded + page.recorded
        after = page.next
        if not after:
            break
    assert missing == chunks[2:8]
    assert (listed, recorded) == (3, 9)


def test_nodes_that_cannot_be_asked_are_refused(leader: Coordinator, desk: Desk) -> None:
    with pytest.raises(NotFoundError):
        desk.examine("d9")
    leader.pass_time(DEAD_SECONDS + 1, "d2", "d3", "d4")
    leader.soft.set_known(node_table(leader.db))
    with pytest.raises(PreconditionFailedError):
        desk.examine("d1")
