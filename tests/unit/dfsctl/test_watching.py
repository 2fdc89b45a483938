"""`--watch`: looks until somebody interrupts, through an election, and ends well."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from quorumfs.errors import NoLeaderError, NotFoundError
from quorumfs.v1 import admin_pb2

Dfsctl = Callable[..., Any]

ASKED: dict[tuple[str, ...], tuple[str, Any]] = {
    ("status",): ("Control.GetClusterStatus", admin_pb2.ClusterStatus()),
    ("repair", "status"): ("Control.GetRepair", admin_pb2.RepairStatus(pending=3)),
    ("gc", "status"): ("Control.GetGc", admin_pb2.GcStatus(state="idle")),
    ("balance", "status"): ("Control.GetBalance", admin_pb2.BalanceStatus(state="idle")),
    ("node", "decommission", "--status"): ("Control.GetDecommission", admin_pb2.Decommissions()),
}


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made; Ctrl-C comes in the third."""
    made: list[float] = []

    def sleep(seconds: float) -> None:
        made.append(seconds)
        if len(made) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("dfsctl.watching.time.sleep", sleep)
    return made


@pytest.mark.parametrize("argv", ASKED)
def test_a_watcher_looks_until_interrupted_and_that_is_no_failure(
    dfsctl: Dfsctl, coordinator: Any, pauses: list[float], argv: tuple[str, ...]
) -> None:
    method, answer = ASKED[argv]
    coordinator.answers[method] = answer
    once = dfsctl(*argv, "-o", "json").json
    said = dfsctl(*argv, "--watch", "-o", "json")
    assert (said.code, said.err, pauses) == (0, "", [1.0] * 3)
    assert [json.loads(line) for line in said.text.splitlines()] == [once] * 3
    pauses.clear()
    said = dfsctl(*argv, "--watch", "5")
    assert (said.code, pauses) == (0, [5.0] * 3)
    assert "\x1b" not in said.text


def test_an_election_is_told_and_watched_on(dfsctl: Dfsctl, coordinator: Any, pauses: list[float]) -> None:
    well = admin_pb2.RepairStatus(pending=3)
    coordinator.answers["Control.GetRepair"] = iter([well, NoLeaderError("nobody leads"), well])
    said = dfsctl("repair", "status", "--watch", "-o", "json")
    looks = [json.loads(line) for line in said.text.splitlines()]
    assert (said.code, len(pauses)) == (0, 3)
    assert looks[1]["error"]["code"] == "no_leader"
    assert [one["pending"] for one in (looks[0], looks[2])] == [3, 3]


def test_what_another_look_would_not_change_ends_it(
    dfsctl: Dfsctl, coordinator: Any, pauses: list[float]
) -> None:
    coordinator.answers["Control.GetRepair"] = NotFoundError("there is no such thing")
    assert dfsctl("repair", "status", "--watch").code == 3
    assert pauses == []
    assert dfsctl("node", "decommission", "d1", "--watch").code == 2
