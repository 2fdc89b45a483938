"""A rolling restart of many nodes: begin one, see how it goes, stop it."""

from __future__ import annotations

from flask import Blueprint, Response, g, jsonify, request

from quorumfs.errors import NotFoundError
from sidecar import bodies, limits, schemas, shapes
from sidecar.agent import agent
from sidecar.auth import Role, require, token_of
from sidecar.contract import Contract, describes
from sidecar.control_plane import Caller
from sidecar.restarting import Course, Wish
from sidecar.views import steering

views = Blueprint("restart", __name__)

BODY: schemas.Schema = schemas.some(
    **steering.WHOM,
    max_unavailable={"type": "integer", "minimum": 1, "maximum": limits.TARGETS_MAX},
    drain_seconds={"type": "number", "minimum": 0, "maximum": limits.DRAIN_SECONDS_MAX},
    wait_seconds={"type": "number", "minimum": 1, "maximum": limits.RESTART_WAIT_SECONDS_MAX},
    reason={"type": "string", "maxLength": limits.REASON_CHARACTERS_MAX},
)


@views.post("/v1/cluster/restart")
@describes(Contract({202: schemas.RESTART}, errors=(404, 409), body=BODY))
@require(Role.OPERATOR)
def begin() -> Response:
    """Restart nodes in waves. Body: `{"selector" | "nodes" | "all", "max_unavailable", "drain_seconds",
    "wait_seconds", "reason"}`. Followers first, then datanodes by failure domain, the leader last; each is waited for,
    and the first that does not come back ends it."""
    bodies.query(())
    body = bodies.json_object(BODY["properties"])
    wish = Wish(
        bodies.count_field(body, "max_unavailable", 1, limits.TARGETS_MAX, least=1),
        bodies.seconds_field(body, "drain_seconds", 0.0, limits.DRAIN_SECONDS_MAX),
        max(1.0, bodies.seconds_field(body, "wait_seconds", 120.0, limits.RESTART_WAIT_SECONDS_MAX)),
        bodies.text_field(
            body, "reason", f"a rolling restart by {g.principal.name}", limits.REASON_CHARACTERS_MAX
        ),
    )
    meant = steering.meant(body)
    served = steering.coordinator()
    course = served.restarts.start(served.control.match(meant), wish, Caller(token_of(request), g.request_id))
    response = jsonify(_told(course))
    response.status_code = 202
    return response


@views.get("/v1/cluster/restart")
@describes(Contract({200: schemas.RESTART}, errors=(404,)))
@require(Role.VIEWER)
def show() -> Response:
    """The rolling restart that this agent runs, or ran last."""
    bodies.query(())
    return jsonify(_told(_known()))


@views.delete("/v1/cluster/restart")
@describes(Contract({200: schemas.RESTART}, errors=(404,), body=schemas.some()))
@require(Role.OPERATOR)
def stop() -> Response:
    """No further wave; nodes that were told already come back by themselves."""
    bodies.query(())
    bodies.json_object(())
    course = _known()
    agent().restarts.stop()
    return jsonify(_told(course))


def _known() -> Course:
    course = agent().restarts.current()
    if course is None:
        raise NotFoundError(
            "this agent has run no rolling restart", next="ask the agent that was told to, or begin one"
        )
    return course


def _told(course: Course) -> shapes.Json:
    return {
        "number": course.number,
        "state": course.state,
        "phase": course.phase,
        "error": None if course.error is None else course.error.to_json(),
        "max_unavailable": course.wish.max_unavailable,
        "started_at": shapes.rfc3339(course.started_wall_ms),
        "ended_at": shapes.rfc3339(course.ended_wall_ms) if course.ended_wall_ms else None,
        "nodes": [
            {"node_id": node_id, "state": state, "seconds": course.seconds.get(node_id)}
            for node_id, state in course.nodes.items()
        ],
    }
