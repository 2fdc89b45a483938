"""Which chunks repair looks at: the worst always, the others in turn, and large surveys seldom."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

import pytest

from coordinator.duties import backlog
from coordinator.duties.backlog import SURVEY_SECONDS_MIN, SURVEY_SHARE, Backlog
from coordinator.metadata import queries
from quorumfs.v1 import types_pb2 as t
from tests.support.coordinator import Coordinator


@pytest.fixture
def small(leader: Coordinator, monkeypatch: pytest.MonkeyPatch) -> Backlog:
    monkeypatch.setattr(backlog, "WORST", 2)
    monkeypatch.setattr(backlog, "IN_TURN", 1)
    leader.lead("d1", "d2", "d3", "d4")
    return Backlog(leader.clock)


def page(leader: Coordinator, work: Backlog, *gone: str) -> list[bytes]:
    return [one.chunk for one in work.page(leader.db, gone)]


def test_the_worst_are_on_every_page_and_the_others_come_in_turn(leader: Coordinator, small: Backlog) -> None:
    chunks = sorted(leader.store(b"/%d" % k, "d1", "d2") for k in range(6))
    pages = [page(leader, small) for _ in range(12)]
    for found in pages:
        assert set(chunks[:2]) <= set(found)
        assert len(found) <= 3
    assert {chunk for found in pages for chunk in found} == set(chunks)


def test_what_died_with_a_node_comes_in_turn_too(leader: Coordinator, small: Backlog) -> None:
    chunks = sorted(leader.store(b"/%d" % k, "d1", "d2", "d3") for k in range(6))
    assert page(leader, small) == []
    pages = [page(leader, small, "d1") for _ in range(12)]
    for found in pages:
        assert set(chunks[:2]) <= set(found)
    assert {chunk for found in pages for chunk in found} == set(chunks)
    assert small.survey.under_replicated == 6


def test_what_was_healed_makes_room_for_the_rest(leader: Coordinator, small: Backlog) -> None:
    chunks = sorted(leader.store(b"/%d" % k, "d1", "d2", "d3") for k in range(9))
    seen: list[bytes] = []
    for _ in range(9):
        for chunk in page(leader, small, "d1"):
            seen.append(chunk)
            leader.become(chunk, "d4", t.REPLICA_STATE_LIVE)
    assert sorted(seen) == chunks
    assert page(leader, small, "d1") == []


def test_those_with_the_fewest_copies_come_first(leader: Coordinator, small: Backlog) -> None:
    for k in range(5):
        leader.store(b"/three%d" % k, "d1", "d2", "d3")
    two = {leader.store(b"/two%d" % k, "d1", "d2") for k in range(2)}
    assert two <= set(page(leader, small, "d1"))


def test_a_survey_is_made_anew_when_another_node_goes(leader: Coordinator, small: Backlog) -> None:
    first = leader.store(b"/a", "d1", "d2", "d3")
    second = leader.store(b"/b", "d2", "d3", "d4")
    assert page(leader, small, "d1") == [first]
    assert sorted(page(leader, small, "d1", "d4")) == sorted([first, second])
    assert page(leader, small) == []


def test_a_survey_takes_a_small_part_of_the_time(
    leader: Coordinator, small: Backlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[float] = []

    def slow(tx: sqlite3.Connection, gone: Collection[str], limit: int) -> list[bytes]:
        made.append(leader.clock.monotonic())
        leader.clock.advance(2.0)
        return queries.endangered_chunks(tx, gone, limit)

    monkeypatch.setattr(backlog, "queries", _Queries(slow))
    leader.store(b"/a", "d1", "d2", "d3")
    for _ in range(300):
        page(leader, small, "d1")
        leader.clock.advance(SURVEY_SECONDS_MIN)
    assert 2 <= len(made) <= 300 / (2.0 * SURVEY_SHARE) + 2


class _Queries:
    """The queries, one of them replaced."""

    def __init__(self, endangered_chunks: object) -> None:
        self.endangered_chunks = endangered_chunks

    def __getattr__(self, name: str) -> object:
        return getattr(queries, name)
