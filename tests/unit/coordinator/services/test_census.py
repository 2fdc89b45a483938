"""Counting takes a small part of the time, however large the cluster."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Collection

import pytest

from coordinator.metadata import queries
from coordinator.services.census import SHARE, Census
from tests.support.coordinator import Coordinator

NOBODY: frozenset[str] = frozenset()


def ask(leader: Coordinator, census: Census, gone: frozenset[str] = NOBODY) -> queries.ChunkCounts:
    return leader.run(lambda: census.counts(gone))


@pytest.fixture
def counted(leader: Coordinator, monkeypatch: pytest.MonkeyPatch) -> list[frozenset[str]]:
    """What was counted, each time in two seconds."""
    real = queries.chunk_counts
    calls: list[frozenset[str]] = []

    def count(tx: sqlite3.Connection, gone: Collection[str]) -> queries.ChunkCounts:
        calls.append(frozenset(gone))
        leader.clock.advance(2.0)
        return real(tx, gone)

    monkeypatch.setattr(queries, "chunk_counts", count)
    return calls


def test_a_quick_count_is_always_fresh(leader: Coordinator) -> None:
    leader.lead("d1", "d2", "d3")
    census = Census(leader.gateway, leader.clock)
    assert ask(leader, census).chunks == 0
    leader.store(b"/x", "d1", "d2")
    assert (ask(leader, census).chunks, ask(leader, census).under_replicated) == (1, 1)


def test_a_slow_count_holds_for_a_while(leader: Coordinator, counted: list[frozenset[str]]) -> None:
    census = Census(leader.gateway, leader.clock)
    for _ in range(5):
        ask(leader, census)
    assert len(counted) == 1
    ask(leader, census, frozenset({"d1"}))  # another question
    assert len(counted) == 2
    leader.clock.advance(2.0 * SHARE)
    ask(leader, census, frozenset({"d1"}))
    assert len(counted) == 3


def test_many_who_ask_at_once_are_one_count(leader: Coordinator, counted: list[frozenset[str]]) -> None:
    census = Census(leader.gateway, leader.clock)

    async def crowd() -> None:
        await asyncio.gather(*(census.counts(NOBODY) for _ in range(20)))

    leader.run(crowd)
    assert len(counted) == 1
