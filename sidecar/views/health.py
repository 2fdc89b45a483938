"""Is it alive, may it take traffic: 200 or 503, always with the reasons.

live: the node's loops turn. ready: it may take traffic. `/health` is both, for people.
"""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from quorumfs.v1 import admin_pb2
from sidecar import schemas, shapes
from sidecar.agent import agent
from sidecar.contract import Contract, describes
from sidecar.node_link import Observation

views = Blueprint("health", __name__)


@views.get("/health")
@describes(Contract({200: schemas.HEALTH, 503: schemas.HEALTH}))
def health() -> Response:
    seen = agent().link.observe()
    return _answer(seen, is_live(seen) and is_ready(seen))


@views.get("/health/live")
@describes(Contract({200: schemas.HEALTH, 503: schemas.HEALTH}))
def live() -> Response:
    seen = agent().link.observe()
    return _answer(seen, is_live(seen))


@views.get("/health/ready")
@describes(Contract({200: schemas.HEALTH, 503: schemas.HEALTH}))
def ready() -> Response:
    seen = agent().link.observe()
    return _answer(seen, is_ready(seen))


def is_live(seen: Observation) -> bool:
    return seen.answers and seen.health is not None and seen.health.live


def is_ready(seen: Observation) -> bool:
    return seen.answers and seen.health is not None and seen.health.ready


def reasons(seen: Observation) -> list[str]:
    """Why it is not well, one sentence each; empty when nothing is wrong."""
    if seen.state == "hung":
        return [f"the node hangs: it takes connections and does not answer ({seen.detail})"]
    if seen.state == "down":
        return [f"the node is down: {seen.detail}"]
    if seen.health is None:
        return [f"the node answers but does not say how it is ({seen.detail})"]
    return [_sentence(check) for check in seen.health.checks if not check.ok]


def _sentence(check: admin_pb2.Check) -> str:
    return f"{check.name}: {check.detail}" if check.detail else f"{check.name} fails"


def _answer(seen: Observation, is_well: bool) -> Response:
    served = agent()
    report = seen.health or admin_pb2.HealthReport()
    warnings = list(report.warnings)
    if served.settings.insecure and not any("insecure" in text for text in warnings):
        warnings.append(
            "security.mode is insecure: anybody who reaches this machine's ports commands this node"
        )
    response = jsonify(
        {
            "status": "ok" if is_well else "failing",
            "live": is_live(seen),
            "ready": is_ready(seen),
            "reasons": reasons(seen),
            "warnings": warnings,
            "node": shapes.node_finding(seen, served.settings, served.clock.monotonic()),
            "checks": [_check(check) for check in report.checks],
            "observed_at": shapes.rfc3339(seen.wall_ms),
        }
    )
    response.status_code = 200 if is_well else 503
    return response


def _check(check: admin_pb2.Check) -> shapes.Json:
    return {
        "name": check.name,
        "ok": check.ok,
        "detail": check.detail,
        "liveness": check.liveness,
        "age_seconds": shapes.seconds(check.age_seconds),
    }
