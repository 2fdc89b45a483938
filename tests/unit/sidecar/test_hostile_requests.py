"""What strangers, web pages and fuzzers send: refused with a reason, never a 500, never a traceback."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from common.access import GIVEN_ROLES, hash_of, mint_token
from quorumfs.clock import ManualClock
from quorumfs.errors import NoLeaderError
from quorumfs.v1 import types_pb2
from sidecar import limits
from sidecar.actions import ACTIONS
from sidecar.app import create_app
from sidecar.auth import Role
from tests.unit.sidecar import fakes
from tests.unit.sidecar.fakes import C1, C2, C3, OWN, FakeNode, agent, leaderless, well

JSON = {"Content-Type": "application/json"}
CHANGES = [
    ("POST", "/shutdown"),
    ("DELETE", "/shutdown"),
    ("PUT", "/logs/level"),
    ("PATCH", "/v1/labels"),
    ("POST", "/v1/duties/scrub"),
    ("POST", "/v1/cluster/exec"),
    ("POST", "/v1/cluster/nodes/d1/drain"),
    ("POST", "/v1/gc"),
    ("POST", "/v1/gc/cycles"),
    ("POST", "/v1/cluster/restart"),
    ("DELETE", "/v1/cluster/restart"),
    ("POST", "/v1/repair"),
    ("POST", "/v1/balance"),
]


def application(**kwargs: Any) -> Flask:
    return create_app(agent({OWN: well(SetLogLevel=lambda request: request), C1: FakeNode()}, **kwargs))


@pytest.fixture(scope="module")
def tested() -> FlaskClient:
    return application().test_client()


def test_every_route_that_changes_something_requires_a_role() -> None:
    app = application()
    changing = [
        (method, rule.rule, app.view_functions[rule.endpoint])
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"GET", "HEAD", "OPTIONS"}
    ]
    assert {(method, sample(rule)) for method, rule, _ in changing} == set(CHANGES)
    for method, rule, view in changing:
        role = getattr(view, "required_role", None)
        assert role is not None, f"{method} {rule} has no @require"
        assert role >= Role.OPERATOR


OPEN = {"/", "/health", "/health/live", "/health/ready", "/leader", "/openapi.json", "/ui/", "/ui/<name>"}


def test_every_other_question_wants_a_role_from_elsewhere() -> None:
    app = application()
    for rule in app.url_map.iter_rules():
        if "GET" in (rule.methods or set()) and rule.rule not in OPEN:
            assert getattr(app.view_functions[rule.endpoint], "required_role", Role.ANON) >= Role.METRICS, (
                rule
            )


TOKENS = {role: mint_token(lambda n, k=k: bytes([k]) * n)[1] for k, role in enumerate(GIVEN_ROLES)}  # type: ignore[misc]


def held() -> list[types_pb2.TokenInfo]:
    return [
        types_pb2.TokenInfo(token_id=text.split("_")[1], name=role, role=role, hash=hash_of(text))
        for role, text in TOKENS.items()
    ]


def sample(rule: str) -> str:
    """A path of this rule."""
    values = {
        "node_id": "d1",
        "action": "drain",
        "name": "app.js" if rule.startswith("/ui/") else "scrub",
        "chunk": "0" * 32,
    }
    return re.sub(r"<(\w+)>", lambda found: values[found[1]], rule)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3"])
def test_no_route_is_changed_without_a_sufficient_token(address: str) -> None:
    node = well(SetLogLevel=lambda request: request)
    app = create_app(agent({OWN: node}, tokens=held))
    tested = app.test_client()
    for rule in app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"GET", "HEAD", "OPTIONS"}:
            role = app.view_functions[rule.endpoint].required_role  # type: ignore[attr-defined]
            tries = {"": 401, "Bearer nonsense": 401, f"Basic {TOKENS['admin']}": 401}
            tries |= {f"Bearer {text}": 403 for name, text in TOKENS.items() if Role[name.upper()] < role}
            for header, status in tries.items():
                answer = tested.open(
                    sample(rule.rule),
                    method=method,
                    data="{}",
                    headers={**JSON, **({"Authorization": header} if header else {})},
                    environ_base={"REMOTE_ADDR": address},
                )
                assert answer.status_code == status, (method, rule.rule, header)
                assert answer.json is not None
                assert answer.json["error"]["next"]
    assert {name for name, _ in node.asked} <= {"Admin.GetHealth", "Admin.GetStatus"}


@pytest.mark.parametrize(
    ("action", "enough"),
    [(action, "viewer" if action in ("status", "health", "logs") else "operator") for action in ACTIONS],
)
def test_an_action_that_only_asks_wants_a_viewer_and_any_other_an_operator(action: str, enough: str) -> None:
    node = well(GetStatus=fakes.status(node_id="c1"), GetClusterStatus=fakes.cluster_status())
    tested = create_app(agent({C1: node}, "coordinator", tokens=held)).test_client()
    # Two ways to say who is meant: whoever is let in is told that this is nonsense, and nothing is done.
    body = {"action": action, "all": True, "selector": "a", "params": PARAMS.get(action, {})}

    def status(token: str, **headers: str) -> int:
        given = {"Authorization": f"Bearer {TOKENS[token]}"} if token else {}
        return tested.post("/v1/cluster/exec", json=body, headers={**given, **headers}).status_code

    below = GIVEN_ROLES[GIVEN_ROLES.index(enough) - 1]
    assert status(enough) == 400
    assert status(below) == 403
    assert status("admin", Origin="http://evil.example") == 403
    assert status("") == (401 if enough == "operator" else 400)  # as any question from this machine


PARAMS: dict[str, dict[str, Any]] = {"labels": {"labels": {"a": "b"}}}


def test_a_change_with_a_token_comes_from_anywhere_and_goes_on_with_it() -> None:
    served = agent({OWN: well(SetLogLevel=lambda request: request)}, tokens=held)
    headers = {**JSON, "Authorization": f"Bearer {TOKENS['operator']}", "X-Forwarded-For": "1.2.3.4"}
    answer = (
        create_app(served)
        .test_client()
        .put(
            "/logs/level", data='{"level": "info"}', headers=headers, environ_base={"REMOTE_ADDR": "10.1.2.3"}
        )
    )
    assert answer.status_code == 200
    transport: Any = served.transport
    assert TOKENS["operator"] in transport.tokens
    origin = {**headers, "Origin": "http://evil.example"}
    refused = create_app(served).test_client().put("/logs/level", data='{"level": "info"}', headers=origin)
    assert refused.status_code == 403, "a browser is refused with a token too"


@pytest.mark.parametrize(
    ("path", "role"), [("/metrics", "metrics"), ("/status", "viewer"), ("/logs/stream", "viewer")]
)
def test_questions_are_open_here_and_want_a_token_from_elsewhere(path: str, role: str) -> None:
    tested = create_app(agent({OWN: well()}, tokens=held)).test_client()
    there = {"REMOTE_ADDR": "10.1.2.3"}
    assert tested.get(path).status_code == 200
    assert tested.get(path, headers={"X-Forwarded-For": "10.1.2.3"}).status_code == 401
    assert tested.get(path, environ_base=there).status_code == 401
    allowed = tested.get(path, environ_base=there, headers={"Authorization": f"Bearer {TOKENS[role]}"})
    assert allowed.status_code == 200
    if role != "metrics":
        low = {"Authorization": f"Bearer {TOKENS['metrics']}"}
        assert tested.get(path, environ_base=there, headers=low).status_code == 403
    for open_path in map(sample, OPEN):
        assert tested.get(open_path, environ_base=there, follow_redirects=True).status_code == 200


def test_while_every_coordinator_hangs_callers_are_judged_at_once_by_what_was_told_last() -> None:
    clock = ManualClock()
    nodes = {OWN: well(), C1: FakeNode(), C2: FakeNode(), C3: FakeNode()}
    served = agent(nodes, tokens=held, clock=clock)
    tested = create_app(served).test_client()
    there = {"REMOTE_ADDR": "10.1.2.3"}
    viewer = {"Authorization": f"Bearer {TOKENS['viewer']}"}
    assert tested.get("/status", environ_base=there, headers=viewer).status_code == 200
    nodes[OWN].answers["GetStatus"] = leaderless().answers["GetStatus"]
    for address in (C1, C2, C3):
        nodes[address].state = "hung"
    clock.advance(10.0)
    assert served.tracker.find().current is None
    trusted: Any = served.trusted
    before = sum(len(one.asked) for one in trusted.nodes.values())
    assert tested.get("/status", environ_base=there, headers=viewer).status_code == 200
    assert tested.get("/status", environ_base=there).status_code == 401
    assert sum(len(one.asked) for one in trusted.nodes.values()) == before, "each would cost a deadline"
    nodes[C2].state = "ok"
    clock.advance(10.0)
    assert served.tracker.find().current is None
    assert tested.get("/status", environ_base=there, headers=viewer).status_code == 200
    assert [len(trusted.nodes[one].asked) for one in (C2, C3)] == [1, 0]


def test_a_node_that_no_cluster_has_told_of_tokens_is_its_own_machines(tmp_path: Path) -> None:
    def nobody() -> list[types_pb2.TokenInfo]:
        raise NoLeaderError("nobody answers")

    file = tmp_path / "tokens.json"
    tested = create_app(agent({OWN: well()}, tokens=nobody, tokens_file=file)).test_client()
    answer = tested.post("/shutdown", headers=JSON, environ_base={"REMOTE_ADDR": "10.9.9.9"})
    assert answer.status_code == 503
    assert answer.json is not None
    assert "cannot be checked" in answer.json["error"]["message"]
    assert tested.post("/shutdown", headers={**JSON, "X-Forwarded-For": "127.0.0.1"}).status_code == 403
    assert tested.get("/status").status_code == 200
    assert tested.post("/shutdown", headers=JSON).status_code == 202
    file.write_text("damaged")
    assert tested.post("/shutdown", headers=JSON).status_code == 503


@pytest.mark.parametrize(("method", "path"), CHANGES)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"X-Forwarded-For": "127.0.0.1"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "multipart/form-data"}, 415),
        ({"Content-Type": ""}, 415),
    ],
)
def test_a_web_page_or_a_proxy_changes_nothing(
    tested: FlaskClient, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = tested.open(path, method=method, data="{}", headers={**JSON, **headers})
    assert answer.status_code == status
    assert answer.json is not None
    assert set(answer.json["error"]) == {"code", "message", "cause", "next"}


@pytest.mark.parametrize(("method", "path"), CHANGES)
@pytest.mark.parametrize("insecure", [True, False])
def test_another_machine_changes_nothing(method: str, path: str, insecure: bool) -> None:
    other = application(insecure=insecure).test_client()
    answer = other.open(
        path, method=method, data="{}", headers=JSON, environ_base={"REMOTE_ADDR": "10.1.2.3"}
    )
    assert answer.status_code == 403
    assert answer.json is not None
    assert "10.1.2.3" in answer.json["error"]["cause"]


def test_a_name_that_is_not_this_machines_reads_nothing(tested: FlaskClient) -> None:
    assert tested.get("/status", headers={"Host": "rebound.example:7502"}).status_code == 403
    for host in ("localhost", "127.0.0.1:7502", "[::1]:7502", "10.0.0.1"):
        assert tested.get("/status", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/health/../../etc/passwd", 404),
        ("GET", "/v1/cluster/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 404),
        ("GET", "/\x00", 404),
        ("POST", "/health", 405),
        ("GET", "/shutdown", 405),
        ("BREW", "/health", 405),
        ("GET", "/v1/raft?surprise=1", 400),
        ("GET", "/v1/cluster/nodes?selector=a&selector=b", 400),
        ("GET", "/v1/cluster/nodes?selector=%00%ff((", 400),
        ("GET", "/logs/stream?level=loud", 400),
        ("GET", "/logs/stream?since=yesterday", 400),
        ("GET", "/logs/stream?since=2026-01-01T00:00:00", 400),
        ("GET", "/logs/stream?since=99999999999999999999d", 400),
        ("GET", "/logs/stream?follow=perhaps", 400),
        ("GET", "/logs/stream?grep=" + "x" * 300, 400),
    ],
)
def test_what_http_refuses_is_json_too(tested: FlaskClient, method: str, path: str, status: int) -> None:
    answer = tested.open(path, method=method)
    assert answer.status_code == status
    assert answer.json is not None
    assert answer.json["error"]["code"]
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'"text"',
        b'{"unknown": 1}',
        b"[" * 50_000,
        b'{"level": NaN}',
        b'{"level": 1, "ttl_seconds": 1, "mode": 1, "labels": 1, "drain_seconds": "1"}',
        b'{"level": null}',
        b'{"level": "debug", "ttl_seconds": true}',
        b'{"level": "debug", "ttl_seconds": -1}',
        b'{"level": "debug", "ttl_seconds": 1e999}',
        b'{"level": "debug", "logger": "\\ud800"}',
        b'{"labels": {"a/../b\\u0000": "x"}}',
        b'{"labels": {"a": {"b": 1}}}',
        b'{"labels": {}}',
        b'{"mode": "now", "reason": 5}',
    ],
)
def test_a_bad_body_is_refused_and_nothing_reaches_the_node(body: bytes) -> None:
    node = well()
    tested = create_app(agent({OWN: node})).test_client()
    for method, path in CHANGES:
        answer = tested.open(path, method=method, data=body, headers=JSON)
        assert answer.status_code == 400, (method, path)
        assert answer.json is not None
        assert answer.json["error"]["code"] == "invalid_argument"
    assert {name for name, _ in node.asked} <= {"Admin.GetHealth", "Admin.GetStatus"}


def test_a_body_beyond_the_limit_is_refused_unread(tested: FlaskClient) -> None:
    answer = tested.put("/logs/level", data=b"x" * (limits.BODY_BYTES_MAX + 1), headers=JSON)
    assert answer.status_code == 413


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "level",
        "ttl_seconds",
        "logger",
        "labels",
        "mode",
        "drain_seconds",
        "reason",
        "action",
        "selector",
        "nodes",
        "all",
        "params",
        "max_unavailable",
        "paused",
        "dry_run",
        "ticket",
        "seconds",
        "force",
    ]
)


@given(change=st.sampled_from(CHANGES), body=st.dictionaries(FIELDS, JSONISH, max_size=3))
def test_no_json_makes_it_fail(tested: FlaskClient, change: tuple[str, str], body: dict[str, Any]) -> None:
    method, path = change
    assert tested.open(path, method=method, json=body).status_code < 500


@given(
    path=st.sampled_from(["/logs/stream", "/v1/cluster/nodes", "/v1/labels", "/health", "/v1/raft"]),
    names=st.dictionaries(
        st.sampled_from(["selector", "level", "since", "follow", "grep", "x"]),
        st.text(max_size=30),
        max_size=3,
    ),
)
def test_no_query_makes_it_fail(tested: FlaskClient, path: str, names: dict[str, str]) -> None:
    follow = {"follow": "0"} if path == "/logs/stream" and "follow" not in names else {}
    if names.get("follow", "").lower() in ("", "1", "true", "yes") and "follow" in names:
        names = {**names, "follow": "0"}
    answer = tested.get(path, query_string={**names, **follow})
    assert answer.status_code in (200, 400, 503)


def test_a_request_id_is_kept_if_it_is_harmless_and_made_if_not(tested: FlaskClient) -> None:
    assert tested.get("/health", headers={"X-Request-Id": "abc-1"}).headers["X-Request-Id"] == "abc-1"
    made = tested.get("/health", headers={"X-Request-Id": "a b<script>"}).headers["X-Request-Id"]
    assert len(made) == 32
    assert tested.get("/health").headers["X-Content-Type-Options"] == "nosniff"


def test_a_bug_is_told_without_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    served = agent({OWN: well()})
    app = create_app(served)
    monkeypatch.setattr("sidecar.views.status.shapes.status", lambda *_: 1 / 0)
    answer = app.test_client().get("/status")
    assert answer.status_code == 500
    assert answer.json is not None
    assert answer.json["error"]["code"] == "internal"
    assert "line" not in answer.text


def test_the_parent_process_loads_no_grpc_before_it_forks() -> None:
    code = "import sys, sidecar.__main__, sidecar.server, sidecar.worker; print('grpc' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "False"
