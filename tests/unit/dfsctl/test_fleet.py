"""`dfsctl node exec|shutdown|loglevel|logs`: what is asked of agents, what is printed, and the exit codes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from dfsctl.agents import Answer, answering, error_of
from quorumfs.errors import (
    Code,
    NoLeaderError,
    NotFoundError,
    QuorumFSError,
    SafetyGuardError,
    TimedOutError,
)
from tests.unit.dfsctl.test_cluster_commands import VIEW

Dfsctl = Callable[..., Any]


def result(node_id: str, ok: bool = True, **more: Any) -> dict[str, Any]:
    error = None if ok else {"code": "timed_out", "message": f"{node_id} hangs", "cause": "", "next": ""}
    return {"node_id": node_id, "ok": ok, "status": 200 if ok else None, "result": {}, "error": error, **more}


class FakeAgents:
    def __init__(self) -> None:
        self.asked: list[tuple[list[str], str, str, Any]] = []
        self.answer: Any = Answer(200, {"results": [result("d1")]})
        self.lines: dict[str, Any] = {}

    def ask(
        self, addresses: Sequence[str], method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> Answer:
        self.asked.append((list(addresses), method, path, body))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]

    def follow(self, address: str, path: str) -> Iterator[dict[str, Any]]:
        self.asked.append(([address], "GET", path, None))
        found = self.lines.get(address, [])
        if isinstance(found, Exception):
            raise found
        yield from (dict(line) for line in found)


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch, coordinator: Any) -> FakeAgents:
    made = FakeAgents()
    monkeypatch.setattr("dfsctl.shell._agents", lambda _: made)
    coordinator.answers["Membership.GetCluster"] = VIEW
    return made


def body_of(agents: FakeAgents) -> Any:
    return agents.asked[-1][3]


def test_an_action_goes_to_a_coordinators_agent_the_leaders_first(dfsctl: Dfsctl, agents: FakeAgents) -> None:
    said = dfsctl("node", "exec", "labels", "zone=b", "canary-", "-l", "zone=a", "-o", "json")
    assert said.code == 0
    assert said.json == {"results": [result("d1")]}
    addresses, method, path, body = agents.asked[0]
    assert (addresses[0], method, path) == ("127.0.0.1:7402", "POST", "/v1/cluster/exec")
    assert {"c1:2", "c2:2"} <= set(addresses)
    assert "d1:2" not in addresses
    assert body == {
        "selector": "zone=a",
        "action": "labels",
        "params": {"labels": {"zone": "b", "canary": None}},
        "max_unavailable": 1,
    }
    dfsctl("node", "exec", "maintenance", "seconds=60", "-n", "d1", "-n", "d2")
    assert (body_of(agents)["nodes"], body_of(agents)["params"]) == (["d1", "d2"], {"seconds": 60})


@pytest.mark.parametrize(
    "words",
    [
        ("node", "exec", "status"),
        ("node", "exec", "status", "--all", "-l", "zone=a"),
        ("node", "exec", "status", "-l", "  "),
        ("node", "exec", "status", "--all", "nonsense"),
        ("node", "shutdown"),
        ("node", "shutdown", "d1", "--drain", "soon"),
        ("node", "shutdown", "d1", "--max-unavailable", "0"),
        ("node", "loglevel", "d1", "--ttl", "5m"),
        ("node", "loglevel"),
        ("node", "logs"),
        ("node", "logs", "--all", "-f"),
    ],
)
def test_whom_and_what_is_said_in_one_way_or_it_is_a_mistake(
    dfsctl: Dfsctl, agents: FakeAgents, words: tuple[str, ...]
) -> None:
    assert dfsctl(*words).code == 2
    assert agents.asked == []


def test_how_nodes_are_named_is_said_as_the_command_takes_it(dfsctl: Dfsctl, agents: FakeAgents) -> None:
    for words, option in ((("exec", "status", "d1"), "give -n NODE,"), (("loglevel",), "give NODE...,")):
        assert option in dfsctl("node", *words).err
    assert agents.asked == []


def test_partial_is_eight_and_nobody_is_the_first_errors(dfsctl: Dfsctl, agents: FakeAgents) -> None:
    agents.answer = Answer(207, {"results": [result("d1"), result("d2", ok=False)]})
    said = dfsctl("node", "exec", "status", "--all", "-o", "json")
    assert said.code == 8
    assert [one["ok"] for one in said.json["results"]] == [True, False]
    assert "1 of 2 nodes did not do it: d2" in said.err
    agents.answer = Answer(502, {"results": [result("d1", ok=False)]})
    said = dfsctl("node", "exec", "status", "--all")
    assert said.code == 7
    assert "d1 hangs" in said.text


def test_a_shutdown_is_guarded_and_its_refusal_is_ten(dfsctl: Dfsctl, agents: FakeAgents) -> None:
    dfsctl("node", "shutdown", "d1", "--drain", "30s", "--reason", "new disk")
    assert body_of(agents) == {
        "nodes": ["d1"],
        "action": "shutdown",
        "params": {"mode": "graceful", "drain_seconds": 30.0, "reason": "new disk"},
        "max_unavailable": 1,
    }
    agents.answer = SafetyGuardError("c1 may not be stopped now", cause="quorum")
    said = dfsctl("node", "shutdown", "c1", "-o", "json")
    assert (said.code, said.json["error"]["code"]) == (10, "safety_guard")


def test_force_asks_the_nodes_themselves(dfsctl: Dfsctl, agents: FakeAgents) -> None:
    agents.answer = Answer(202, {"state": "stopping"})
    said = dfsctl("node", "shutdown", "--all", "--force", "--fast", "-o", "json")
    assert said.code == 0
    assert [(addresses, path) for addresses, _, path, _ in agents.asked] == [
        (["c1:2"], "/shutdown"),
        (["c2:2"], "/shutdown"),
        (["d1:2"], "/shutdown"),
    ]
    assert body_of(agents) == {"mode": "fast"}
    assert dfsctl("node", "shutdown", "nobody", "--force").code == 3


def test_a_level_is_read_and_set(dfsctl: Dfsctl, agents: FakeAgents) -> None:
    agents.answer = Answer(200, {"results": [result("d1", result={"level": "info", "ttl_seconds": 0.0})]})
    said = dfsctl("node", "loglevel", "d1")
    assert "LEVEL" in said.text
    assert "info" in said.text
    assert body_of(agents)["params"] == {}
    dfsctl("node", "loglevel", "-l", "zone=a", "debug", "--ttl", "10m")
    assert body_of(agents)["params"] == {"level": "debug", "logger": "", "ttl_seconds": 600.0}


def test_logs_of_several_are_in_the_order_of_time(dfsctl: Dfsctl, agents: FakeAgents) -> None:
    agents.lines = {
        "c1:2": [{"id": 1, "ts": "2026-01-01T00:00:02Z", "level": "info", "event": "b", "n": 1}],
        "c2:2": TimedOutError("it hangs"),
        "d1:2": [
            {"id": 1, "ts": "2026-01-01T00:00:01Z", "level": "info", "event": "a\x1b[2J"},
            {"remark": "dropped", "dropped": 5},
        ],
    }
    said = dfsctl("node", "logs", "--all", "--grep", "x&y", "-o", "json")
    assert said.code == 8
    assert [(one["node_id"], one["event"]) for one in said.json] == [("d1", "a\x1b[2J"), ("c1", "b")]
    assert agents.asked[0][2] == "/logs/stream?level=debug&grep=x%26y&follow=0"
    text = dfsctl("node", "logs", "c1", "d1").text
    assert "\x1b" not in text
    assert text.splitlines()[1].endswith("c1  info  b  n=1")


def test_a_log_is_followed_line_by_line(dfsctl: Dfsctl, agents: FakeAgents) -> None:
    agents.lines = {"d1:2": [{"remark": "node", "state": "ok"}, {"ts": "t", "level": "info", "event": "a"}]}
    said = dfsctl("node", "logs", "d1", "-f")
    assert said.text == "t  info  a\n"
    assert "remark" in said.err
    raw = dfsctl("node", "logs", "d1", "--follow", "-o", "json").text
    assert [json.loads(line) for line in raw.splitlines()][1]["event"] == "a"


def test_what_agents_tell_keeps_its_code() -> None:
    told = {"code": "safety_guard", "message": "no", "cause": "c", "next": "n"}
    error = error_of(told)
    assert isinstance(error, SafetyGuardError)
    assert error.to_json() == told
    assert error_of({"code": "of_tomorrow", "message": "x"}).code is Code.INTERNAL
    assert error_of("text").code is Code.INTERNAL


def test_without_any_coordinator_nobody_is_asked(
    dfsctl: Dfsctl, agents: FakeAgents, coordinator: Any
) -> None:
    coordinator.answers["Membership.GetCluster"] = NoLeaderError("no coordinator answers")
    assert dfsctl("node", "exec", "status", "--all").code == 5
    assert agents.asked == []


def test_an_agent_that_hangs_is_passed_over_while_it_is_late_and_one_that_is_gone_at_once() -> None:
    asked: list[str] = []
    given_up = threading.Event()

    def require_alive(address: str) -> None:
        asked.append(address)
        if address == "hangs":
            given_up.wait(30.0)
            raise TimedOutError("hangs does not answer")
        if address == "gone":
            raise NoLeaderError("nobody is there")

    failures: list[QuorumFSError] = []
    found = answering(["gone", "hangs", "well", "last"], require_alive, failures, alone_seconds=0.01)
    assert next(found) == "well", "while the other one hangs"
    assert asked == ["gone", "hangs", "well"], "nobody is asked in vain"
    assert [str(one) for one in failures] == ["nobody is there"]
    given_up.set()
    assert list(found) == ["last"]
    assert sorted(str(one) for one in failures) == ["hangs does not answer", "nobody is there"]


def test_an_agent_that_is_only_late_is_taken_when_it_answers() -> None:
    shown = threading.Event()

    def require_alive(address: str) -> None:
        if address == "late":
            assert shown.wait(30.0)
        else:
            shown.set()
            raise NoLeaderError("nobody is there")

    failures: list[QuorumFSError] = []
    assert list(answering(["late", "gone"], require_alive, failures, alone_seconds=0.01)) == ["late"]


def test_a_shutdown_is_called_off_at_the_nodes_themselves(dfsctl: Dfsctl, agents: FakeAgents) -> None:
    agents.answer = Answer(200, {"state": "running"})
    said = dfsctl("node", "shutdown", "--cancel", "d1", "-o", "json")
    assert (said.code, agents.asked) == (0, [(["d1:2"], "DELETE", "/shutdown", {})])
    assert dfsctl("node", "shutdown", "--cancel", "d1", "--fast").code == 2


def test_a_word_that_is_neither_a_level_nor_a_node_is_called_so(dfsctl: Dfsctl, agents: FakeAgents) -> None:
    agents.answer = NotFoundError("there is no node 'nonsense'", cause="there are c1, d1")
    said = dfsctl("node", "loglevel", "d1", "nonsense")
    assert said.code == 2
    assert "neither a level nor a node" in said.err
    assert "debug, info, warning, error" in said.err
    agents.answer = NotFoundError("there is no node 'd9'")
    assert dfsctl("node", "loglevel", "d9", "info").code == 3
