"""Who leads, found out by asking all coordinators at once: those whose machines are gone hold up nobody."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from quorumfs.clock import ManualClock
from sidecar import limits
from sidecar.agent import build
from sidecar.leader_tracking import LeaderTracker
from sidecar.transport import silent
from tests.unit.sidecar import fakes
from tests.unit.sidecar.fakes import C1, C2, OWN, FakeAgents, FakeNode, FakePending, FakeTransport

GONE = [f"10.0.0.{number}:7400" for number in range(1, 11)]


class HalfGone(FakeTransport):
    """No packet comes back from some: whether they refuse is not found out before their probe has timed out."""

    def __init__(self, nodes: dict[str, FakeNode]) -> None:
        super().__init__(nodes)
        self.probed = threading.Event()
        self.waiting = threading.Semaphore(0)

    def start(self, address: str, *about: Any, **more: Any) -> FakePending:
        if address not in GONE:
            return super().start(address, *about, **more)

        def probe() -> Any:
            self.waiting.release()
            assert self.probed.wait(30.0)
            raise silent(address, "no answer", was_sent=False)

        return FakePending(probe)


@pytest.fixture
def transport(monkeypatch: pytest.MonkeyPatch) -> HalfGone:
    monkeypatch.setattr(limits, "PEER_BUDGET_SECONDS", 0.1)
    return HalfGone(
        {
            OWN: fakes.leaderless(),
            C1: fakes.view("c1", "c2", C2),
            C2: fakes.view("c2", "c2", C2, is_leader=True),
        }
    )


def tracker_of(transport: HalfGone) -> LeaderTracker:
    settings = fakes.settings(coordinators=(*GONE, C1, C2))
    return build(settings, transport, FakeTransport({}), FakeAgents(), ManualClock()).tracker


def test_machines_that_are_gone_cost_one_budget_together_and_the_leader_is_found(transport: HalfGone) -> None:
    tracker = tracker_of(transport)
    try:
        found = tracker.find()
        for _ in GONE:
            assert transport.waiting.acquire(timeout=10.0), "all are probed at once"
    finally:
        transport.probed.set()
    assert found.current is not None
    assert found.current.node_id == "c2"
    assert tracker.silent() == set(GONE)


def test_who_was_not_heard_in_time_is_said(transport: HalfGone) -> None:
    transport.nodes[C1].state = transport.nodes[C2].state = "down"
    try:
        found = tracker_of(transport).find()
    finally:
        transport.probed.set()
    assert found.current is None
    told = "; ".join(found.reasons)
    assert all(f"{address} did not answer" in told for address in (*GONE, C1, C2))
    assert told.count("connection refused") == 2


def test_who_asks_while_the_first_question_to_all_is_late_is_told_what_is_known_and_no_error(
    transport: HalfGone, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = tracker_of(transport)
    monkeypatch.setattr(limits, "PEER_BUDGET_SECONDS", 30.0)
    first = threading.Thread(target=tracker.find)
    first.start()
    try:
        assert transport.waiting.acquire(timeout=10.0), "the first question is under way"
        monkeypatch.setattr(limits, "PEER_BUDGET_SECONDS", 0.05)
        found = tracker.find()
        assert (found.current, found.last) == (None, None)
    finally:
        transport.probed.set()
        first.join(30.0)
