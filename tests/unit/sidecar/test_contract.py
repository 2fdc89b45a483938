"""`/openapi.json` is the truth: every route and method is in it, and every answer has its status and its fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, settings

from common.access import hash_of, mint_token
from quorumfs.clock import ManualClock
from quorumfs.errors import (
    NoLeaderError,
    NotFoundError,
    NotLeaderError,
    PreconditionFailedError,
    SafetyGuardError,
    UnavailableError,
)
from quorumfs.rpc.status import to_detail
from quorumfs.v1 import admin_pb2, namespace_pb2, types_pb2
from sidecar.app import create_app
from sidecar.auth import Role
from sidecar.contract import contract_of, role_of
from tests.unit.sidecar import fakes
from tests.unit.sidecar.fakes import C1, FakeAgents, FakeNode, agent, leaderless, well

CHUNK = "ab" * 16
REFUSED = to_detail(SafetyGuardError("no", cause="a reason"))
_, TOKEN = mint_token(lambda n: b"\x07" * n)


def tokens() -> list[types_pb2.TokenInfo]:
    return [types_pb2.TokenInfo(token_id=TOKEN.split("_")[1], name="x", role="viewer", hash=hash_of(TOKEN))]


def gc_report(asked: Any) -> admin_pb2.GcReport:
    return admin_pb2.GcReport(
        cycle=3, outcome="done" if asked.ticket else "running", ticket=7, would_condemn=[b"\1" * 16]
    )


def cluster() -> admin_pb2.ClusterStatus:
    told = fakes.cluster_status()
    told.alarms.add(code="x", message="y", since_wall_ms=5)
    told.view.nodes[1].info.disks.add(disk_id="k", path="/d", state="ok", total_bytes=5)
    told.gc.last_cycle.cycle = 2
    return told


def raft() -> admin_pb2.RaftStatus:
    told = admin_pb2.RaftStatus(node_id="c1", state="leader", term=7)
    told.members.add().member.node_id = "c1"
    told.state_hash.index, told.state_hash.hash = 5, b"\1" * 32
    return told


def balance() -> admin_pb2.BalanceStatus:
    return admin_pb2.BalanceStatus(
        state="running", nodes=[admin_pb2.BalanceStatus.Node(node_id="d1", used_bytes=1, room_bytes=4)]
    )


def read(asked: namespace_pb2.ReadBatch) -> namespace_pb2.ReadBatchResult:
    """A directory with one of each kind, and a file of two extents."""
    result = namespace_pb2.ReadResult()
    if asked.ops[0].WhichOneof("op") == "list":
        result.listing.directory.path, result.listing.next = b"/data", b"z"
        for kind in (
            types_pb2.INODE_TYPE_FILE,
            types_pb2.INODE_TYPE_DIRECTORY,
            types_pb2.INODE_TYPE_SYMLINK,
        ):
            result.listing.entries.add(name=b"n%d" % kind, type=kind, replication=3, mode=0o644)
    else:
        result.layout.info.path = b"/data/x"
        result.layout.extents.add(length=5, chunk=b"\1" * 16)
        result.layout.extents.add(offset=5, length=5, chunk=b"\2" * 16)
        found = result.layout.chunks.add(chunk=b"\1" * 16)
        found.replicas.add(node_id="d1", state=types_pb2.REPLICA_STATE_LIVE)
    return namespace_pb2.ReadBatchResult(results=[result], age_ms=0)


def full(**answers: Any) -> FakeNode:
    """A coordinator that answers everything, with something in every field."""
    status = fakes.status(node_id="c1")
    status.raft.CopyFrom(raft())
    status.highest_epoch.term = 3
    status.alarms.add(code="x", message="y", since_wall_ms=5)
    return well(
        **{
            "GetStatus": status,
            "GetClusterStatus": cluster(),
            "GetRaft": raft(),
            "GetDurability": admin_pb2.Durability(
                copies=[admin_pb2.KeptChunks(want=3)],
                zones=[admin_pb2.KeptChunks(want=3)],
                lacking=[admin_pb2.LackingChunk(chunk=b"\1" * 16, live=["d1"], paths=["/x"])],
            ),
            "GetGc": admin_pb2.GcStatus(
                state="idle",
                last_cycle=gc_report(admin_pb2.RunGcRequest()),
                cycles=[gc_report(admin_pb2.RunGcRequest())],
                accounting=[admin_pb2.DiskClasses(node_id="d1", total_bytes=5)],
            ),
            "ControlGc": admin_pb2.GcStatus(paused=True),
            "RunGc": gc_report,
            "GetRepair": admin_pb2.RepairStatus(pending=2),
            "RunRepair": admin_pb2.RepairStatus(pending=2),
            "GetBalance": balance(),
            "ControlBalance": balance(),
            "ListCandidates": admin_pb2.Candidates(
                chunks=[admin_pb2.ChunkStory(chunk=b"\1" * 16, state="orphan")], next=b"\2" * 16
            ),
            "Read": read,
            "ExplainChunk": lambda asked: admin_pb2.ChunkStory(
                chunk=asked.chunk, state="orphan", since_wall_ms=1
            ),
            "SetLabels": admin_pb2.Labels(labels={"a": "b"}),
            "GetLabels": admin_pb2.Labels(labels={"a": "b"}),
            "SetLogLevel": lambda asked: asked,
            "Shutdown": admin_pb2.ShutdownResponse(state="draining"),
            "ListDuties": admin_pb2.Duties(duties=[admin_pb2.Duty(name="gc")]),
            "ControlDuty": admin_pb2.Duty(name="gc"),
            **answers,
        }
    )


def refusing() -> FakeNode:
    action = admin_pb2.ActionResponse(code=REFUSED.code, error=REFUSED)
    return full(
        SetNode=action,
        ForgetNode=action,
        ReserveAbsence=action,
        RunGc=admin_pb2.GcReport(error=REFUSED),
        GetRepair=admin_pb2.RepairStatus(error=to_detail(NoLeaderError("none"))),
        RunRepair=admin_pb2.RepairStatus(error=to_detail(NoLeaderError("none"))),
        GetBalance=admin_pb2.BalanceStatus(error=to_detail(NoLeaderError("none"))),
        ControlBalance=admin_pb2.BalanceStatus(error=to_detail(PreconditionFailedError("off"))),
        ListCandidates=admin_pb2.Candidates(error=to_detail(NoLeaderError("none"))),
        Read=namespace_pb2.ReadBatchResult(
            results=[namespace_pb2.ReadResult(error=to_detail(NotFoundError("no /data")))]
        ),
        ControlGc=admin_pb2.GcStatus(error=to_detail(NoLeaderError("none"))),
        ExplainChunk=admin_pb2.ChunkStory(error=to_detail(NoLeaderError("none"))),
        SetLabels=admin_pb2.Labels(error=to_detail(NoLeaderError("none"))),
        Shutdown=admin_pb2.ShutdownResponse(error=REFUSED),
    )


def without_leader() -> FakeNode:
    refused = NotLeaderError("not the leader")
    orders = (
        "SetNode",
        "ForgetNode",
        "ReserveAbsence",
        "RunGc",
        "ControlGc",
        "ExplainChunk",
        "ListCandidates",
        "GetRepair",
        "RunRepair",
        "GetBalance",
        "ControlBalance",
        "Read",
    )
    node = full(**dict.fromkeys(orders, refused))
    node.answers["GetStatus"], node.answers["GetHealth"] = (
        leaderless().answers["GetStatus"],
        fakes.health(False),
    )
    return node


def losing() -> FakeNode:
    node = full()
    node.loses_answers = True
    return node


WORLDS: dict[str, Callable[[], FakeNode]] = {
    "well": full,
    "hung": lambda: FakeNode(state="hung"),
    "down": lambda: FakeNode(state="down"),
    "leaderless": without_leader,
    "refusing": refusing,
    "losing": losing,
}
BODIES: dict[tuple[str, str], list[Any]] = {
    ("POST", "/shutdown"): [{}, {"mode": "fast", "reason": "x"}],
    ("DELETE", "/shutdown"): [{}],
    ("PUT", "/logs/level"): [{"level": "info", "ttl_seconds": 5}],
    ("PATCH", "/v1/labels"): [{"labels": {"a": "b", "c": None}}],
    ("POST", "/v1/duties/<name>"): [{"action": "run"}],
    ("POST", "/v1/gc"): [{"paused": True}],
    ("POST", "/v1/repair"): [{}],
    ("POST", "/v1/balance"): [
        {"action": "start", "bytes_per_second": 5, "threshold_percent": 3},
        {"action": "pause"},
    ],
    ("POST", "/v1/gc/cycles"): [{}, {"dry_run": True}, {"ticket": 7}],
    ("POST", "/v1/cluster/exec"): [
        {"action": "status", "all": True},
        {"action": "status", "nodes": ["d1", "d2"]},
        {"action": "status", "nodes": ["d2"]},
        {"action": "drain", "selector": "zone=a"},
        {"action": "shutdown", "nodes": ["d1"], "max_unavailable": 1},
        {"action": "status", "nodes": ["nobody"]},
    ],
    ("POST", "/v1/cluster/restart"): [{"nodes": ["d1"], "wait_seconds": 1}, {"nodes": ["nobody"]}],
    ("DELETE", "/v1/cluster/restart"): [{}],
    ("POST", "/v1/cluster/nodes/<node_id>/<action>"): [{}],
}
PATHS = {
    "/ui/<name>": "/ui/app.js",
    "/v1/duties/<name>": "/v1/duties/gc",
    "/v1/gc/explain/<chunk>": f"/v1/gc/explain/{CHUNK}",
    "/v1/cluster/nodes/<node_id>/<action>": "/v1/cluster/nodes/d1/drain",
}


def application(node: FakeNode, **more: Any) -> Flask:
    agents = FakeAgents({"127.0.0.1:d2": UnavailableError("not there")})
    return create_app(agent({C1: node}, "coordinator", agents=agents, clock=ManualClock(), **more))


@pytest.fixture(scope="module")
def documented() -> dict[str, Any]:
    found = application(full()).test_client().get("/openapi.json").json
    assert isinstance(found, dict)
    return found


def routes(app: Flask) -> Iterator[tuple[str, str, Any]]:
    for rule in app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield method, rule.rule, app.view_functions[rule.endpoint]


def openapi_path(rule: str) -> str:
    return rule.replace("<", "{").replace(">", "}")


def test_every_route_and_method_is_documented_and_no_other(documented: dict[str, Any]) -> None:
    app = application(full())
    served = {(openapi_path(rule), method.lower()) for method, rule, _ in routes(app)}
    assert served == {(path, method) for path, found in documented["paths"].items() for method in found}
    for method, rule, view in routes(app):
        operation = documented["paths"][openapi_path(rule)][method.lower()]
        assert operation["x-role"] == role_of(view).name.lower()
        assert operation["summary"]
        contract = contract_of(view)
        assert contract is not None
        assert (method in ("GET", "DELETE")) or contract.body is not None, f"{method} {rule} takes a body"


def test_the_document_is_openapi(documented: dict[str, Any]) -> None:
    assert documented["openapi"].startswith("3.1")
    for schema in documented["components"]["schemas"].values():
        jsonschema_rs.validator_for(schema)


def check(documented: dict[str, Any], rule: str, method: str, answer: Any) -> None:
    """The answer's status is documented, and its body is what is documented for it."""
    responses = documented["paths"][openapi_path(rule)][method.lower()]["responses"]
    assert str(answer.status_code) in responses, (
        f"{method} {rule} answered {answer.status_code}: {answer.text}"
    )
    content = responses[str(answer.status_code)]["content"]
    assert answer.mimetype in content, f"{method} {rule} is {answer.mimetype}"
    if answer.mimetype == "application/json":
        schema = {**content["application/json"]["schema"], "components": documented["components"]}
        jsonschema_rs.validator_for(schema, validate_formats=True).validate(answer.json)


@pytest.mark.parametrize("world", WORLDS)
def test_every_answer_is_what_is_documented(documented: dict[str, Any], world: str) -> None:
    app = application(WORLDS[world]())
    seen = set()
    for method, rule, _ in routes(app):
        path = PATHS.get(rule, rule)
        for body in BODIES.get((method, rule), [None]):
            tested: FlaskClient = app.test_client()
            answer = tested.open(path, method=method, json=body) if body is not None else tested.get(path)
            check(documented, rule, method, answer)
            if answer.status_code < 300:
                seen.add((method, rule, answer.status_code))
    if world == "well":
        expected = {
            (method, rule, status)
            for method, rule, view in routes(app)
            if (contract := contract_of(view)) is not None
            for status in contract.answers
            if status < 300
        }
        assert seen == expected, "every answer that is documented as good was seen"


def test_refusals_are_what_is_documented(documented: dict[str, Any]) -> None:
    app = application(full(), tokens=tokens)
    for method, rule, view in routes(app):
        path = PATHS.get(rule, rule)
        for headers in ({}, {"Authorization": f"Bearer {TOKEN}"}, {"Host": "evil.example"}):
            answer = app.test_client().open(
                path, method=method, json=None if method == "GET" else {}, headers=headers
            )
            check(documented, rule, method, answer)
            if role_of(view) >= Role.OPERATOR:
                assert answer.status_code in (401, 403)
        for raw, kind in (
            (b"{", "application/json"),
            (b"{}", "text/plain"),
            (b"x" * 70_000, "application/json"),
        ):
            if method != "GET":
                answer = (
                    application(full())
                    .test_client()
                    .open(path, method=method, data=raw, headers={"Content-Type": kind})
                )
                assert answer.status_code in (400, 413, 415)
                check(documented, rule, method, answer)


FUZZED = application(full(), tokens=list)
schema = schemathesis.openapi.from_wsgi("/openapi.json", FUZZED)


@schema.exclude(path="/logs/stream").parametrize()
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_sent_the_answer_is_one_that_is_documented(case: Any) -> None:
    headers = {"Content-Type": "application/json"} if case.method != "GET" else {}
    answer = case.call(headers=headers)
    assert answer.status_code < 600
    assert answer.status_code != 500, answer.text
    case.validate_response(
        answer,
        checks=[
            schemathesis.checks.CHECKS.get_one("status_code_conformance"),
            schemathesis.checks.CHECKS.get_one("content_type_conformance"),
            schemathesis.checks.CHECKS.get_one("response_schema_conformance"),
        ],
    )
