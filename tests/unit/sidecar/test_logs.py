"""Readers of a node's log that come back: they go on behind what they had, and are told what they lost."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from quorumfs.v1 import admin_pb2
from sidecar.app import create_app
from sidecar.logs import Filter, Follower
from tests.unit.sidecar.fakes import OWN, FakeNode, agent, well

LIFE = "3-4711"  # of `fakes.status`


def node(ids: Sequence[int], dropped: int = 0) -> FakeNode:
    made = well()
    made.records = [
        admin_pb2.LogRecord(id=one, wall_ms=one, level="info", event="x", json="{}") for one in ids
    ]
    made.records[0].dropped = dropped
    return made


def followed(of: FakeNode, after: str) -> tuple[list[int], int]:
    """What a new agent tells a reader that comes with `after`, up to the node's newest: (ids, how many were lost)."""
    hub = agent({OWN: of}).logs
    told: list[int] = []
    lost = 0
    follower = Follower(hub, Filter(), after)  # before anything is in the ring
    keeper = hub.follow(Filter(), "")
    tail = hub._thread
    try:
        for _ in range(100):
            batch = follower.next(1.0)
            told += [one.record.id for one in batch.entries]
            lost += batch.dropped
            if told and told[-1] == of.records[-1].id:
                break
    finally:
        keeper.close()
        hub.stop()
        if tail is not None:
            tail.join(5.0)
    return told, lost


@pytest.mark.parametrize(
    ("after", "ids", "told", "lost"),
    [
        ("", range(1, 8), [1, 2, 3, 4, 5, 6, 7], 0),
        (f"{LIFE}:5", range(1, 8), [6, 7], 0),
        (f"{LIFE}:5", range(8, 11), [8, 9, 10], 2),
        (f"{LIFE}:5", range(6, 8), [6, 7], 0),
        ("2-99:5", range(1, 8), [1, 2, 3, 4, 5, 6, 7], 0),
        ("nonsense:x", range(1, 3), [1, 2], 0),
    ],
)
def test_who_comes_back_to_an_agent_that_is_new_goes_on_where_it_was(
    after: str, ids: range, told: list[int], lost: int
) -> None:
    assert followed(node(ids), after) == (told, lost)


def test_what_was_lost_before_the_first_record_is_told_too() -> None:
    tested = create_app(agent({OWN: node([9, 10], dropped=3)})).test_client()
    lines = tested.get("/logs/stream", headers={"Last-Event-ID": f"{LIFE}:5"}).text.splitlines()
    assert [json.loads(line).get("dropped") for line in lines] == [3, None, None]
