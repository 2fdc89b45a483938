"""`dfsctl events`: each is told once, whichever life of its coordinator it is of, and who is refused hears it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from dfsctl.events import News
from quorumfs.errors import NoLeaderError, QuorumFSError, UnauthenticatedError
from quorumfs.v1 import admin_pb2
from tests.unit.dfsctl.test_cluster_commands import VIEW

Dfsctl = Callable[..., Any]
REFUSED = UnauthenticatedError("the access token is not good")
SILENT = NoLeaderError("nobody is there")


def event(number: int, wall_ms: int) -> admin_pb2.Event:
    return admin_pb2.Event(id=number, wall_ms=wall_ms, kind="node.dead", node_id="c1", message="d1 is dead")


def told(news: News, *events: admin_pb2.Event) -> list[int]:
    return [one.wall_ms for one in events if news.take(one)]


def test_an_event_is_told_once_and_those_of_a_new_life_are_told_though_their_ids_were_had_before() -> None:
    news = News()
    before = [event(3, 1000), event(7, 1001), event(9, 1001)]
    assert told(news, *before) == [1000, 1001, 1001]
    assert told(news, *before, event(12, 1500)) == [1500], "the connection was lost, and no event"
    assert told(news, event(2, 2000), event(7, 2001), event(12, 2002)) == [2000, 2001, 2002], "it began anew"
    assert told(news, event(2, 2000), event(7, 2001), event(12, 2002), event(13, 2003)) == [2003]


def test_what_is_remembered_of_events_has_an_end() -> None:
    news = News(remembered_max=2)
    assert told(news, event(1, 1), event(2, 2), event(3, 3)) == [1, 2, 3]
    assert told(news, event(2, 2), event(3, 3)) == []
    assert told(news, event(1, 1)) == [1]


@pytest.mark.parametrize(
    ("answers", "code", "word"),
    [
        ([REFUSED, REFUSED], 6, "the access token is not good"),
        ([SILENT, REFUSED], 6, "the access token is not good"),
        ([SILENT, SILENT], 5, "did not tell"),
        ([[event(1, 1)], REFUSED], 8, "did not tell"),
        ([[event(1, 1)], [event(1, 2)]], 0, ""),
    ],
)
def test_that_nobody_tells_is_five_and_that_the_token_is_refused_is_six(
    dfsctl: Dfsctl, coordinator: Any, answers: Sequence[Any], code: int, word: str
) -> None:
    coordinator.answers["Membership.GetCluster"] = VIEW
    coordinator.answers["Control.ListEvents"] = iter(answers)
    said = dfsctl("events")
    assert (said.code, word in said.err) == (code, True), said.err


def test_who_follows_with_a_token_that_is_refused_hears_so(dfsctl: Dfsctl, coordinator: Any) -> None:
    coordinator.answers["Membership.GetCluster"] = VIEW
    coordinator.answers["Control.ListEvents"] = REFUSED
    said = dfsctl("events", "-f", "-o", "json")
    assert (said.code, said.json["error"]["code"]) == (6, "unauthenticated")


def test_who_follows_is_told_who_is_silent_and_goes_on_until_all_refuse(
    dfsctl: Dfsctl, coordinator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfsctl.events.AGAIN_SECONDS", 0.0)
    coordinator.answers["Membership.GetCluster"] = VIEW
    asked: dict[str, list[Any]] = {
        "c1:1": [[event(1, 1)], [event(1, 1), event(2, 2)], REFUSED],
        "c2:1": [SILENT, SILENT, REFUSED],
    }

    def stream(method: str, request: Any, deadline: float, *, address: str) -> Any:
        left = asked[address]
        found = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(found, QuorumFSError):
            raise found
        yield from found

    coordinator.stream = stream
    said = dfsctl("events", "-f")
    assert said.code == 6
    assert said.text.count("d1 is dead") == 2
    assert said.err.count("c2 does not tell, and is asked again: nobody is there") == 1
