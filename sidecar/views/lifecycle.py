"""Ending the node: it drains, hands over leadership, exits 0. The agent stays and says that it is down."""

from __future__ import annotations

from flask import Blueprint, Response, g, jsonify, request

from quorumfs.errors import make
from quorumfs.v1 import admin_pb2
from sidecar import bodies, limits, schemas
from sidecar.actions import SHUTDOWN_MODES
from sidecar.agent import agent
from sidecar.auth import Role, require, token_of
from sidecar.contract import Contract, describes
from sidecar.methods import SHUTDOWN

views = Blueprint("lifecycle", __name__)

SHUTDOWN_BODY = schemas.some(
    mode=schemas.one_of(*SHUTDOWN_MODES),
    drain_seconds={"type": "number", "minimum": 0, "maximum": limits.DRAIN_SECONDS_MAX},
    reason={"type": "string", "maxLength": limits.REASON_CHARACTERS_MAX},
)


@views.post("/shutdown")
@describes(Contract({202: schemas.SHUTDOWN}, errors=(409,), body=SHUTDOWN_BODY))
@require(Role.OPERATOR)
def shutdown() -> Response:
    """202: it has begun. Body: `{"mode": "graceful" | "fast" | "restart", "drain_seconds", "reason"}`, all optional."""
    bodies.query(())
    body = bodies.json_object(("mode", "drain_seconds", "reason"))
    return _told(
        admin_pb2.ShutdownRequest(
            mode=bodies.choice_field(body, "mode", "graceful", SHUTDOWN_MODES),
            drain_seconds=bodies.seconds_field(body, "drain_seconds", 0.0, limits.DRAIN_SECONDS_MAX),
            reason=bodies.text_field(
                body, "reason", f"asked over HTTP by {g.principal.name}", limits.REASON_CHARACTERS_MAX
            ),
        ),
        202,
    )


@views.delete("/shutdown")
@describes(Contract({200: schemas.SHUTDOWN}, errors=(409,), body=schemas.some()))
@require(Role.OPERATOR)
def cancel_shutdown() -> Response:
    """Calls a drain off. The node refuses when it is too late."""
    bodies.query(())
    bodies.json_object(())
    return _told(admin_pb2.ShutdownRequest(cancel=True), 200)


def _told(asked: admin_pb2.ShutdownRequest, status: int) -> Response:
    served = agent()
    answer = served.link.change(SHUTDOWN, asked, token_of(request))
    if answer.error.code:
        raise make(answer.error.code, answer.error.message, cause=answer.error.cause, next=answer.error.next)
    response = jsonify({"node_id": served.settings.node_id, "state": answer.state, "detail": answer.detail})
    response.status_code = status
    return response
