"""The moving of replicas from fuller datanodes to emptier ones: where it stands; start, pause, resume."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request

from quorumfs.v1 import admin_pb2
from sidecar import bodies, schemas, shapes
from sidecar.agent import agent
from sidecar.auth import Role, require, token_of
from sidecar.contract import Contract, describes
from sidecar.methods import CONTROL_BALANCE
from sidecar.views.freshness import as_of

views = Blueprint("balance", __name__)

ACTIONS = ("start", "pause", "resume")
THRESHOLD_PERCENT_MAX = 50
BODY: schemas.Schema = {
    **schemas.some(
        action=schemas.one_of(*ACTIONS),
        bytes_per_second={"type": "integer", "minimum": 1, "maximum": bodies.NUMBER_MAX},
        threshold_percent={"type": "integer", "minimum": 1, "maximum": THRESHOLD_PERCENT_MAX},
    ),
    "required": ["action"],
}


@views.get("/v1/balance")
@describes(Contract({200: schemas.BALANCE_AS_OF}))
@require(Role.VIEWER)
def balance() -> Response:
    """Whether replicas are moved, what was moved since this leader began, and how full each datanode is."""
    bodies.query(())
    told, error = agent().fleet.balance.answer()
    return jsonify({**shapes.balance(told.value), **as_of(told, error)})


@views.post("/v1/balance")
@describes(Contract({200: schemas.BALANCE}, errors=(409,), body=BODY))
@require(Role.OPERATOR)
def control_balance() -> Response:
    """Body: `{"action": "start" | "pause" | "resume", "bytes_per_second", "threshold_percent"}`, whoever leads."""
    bodies.query(())
    body = bodies.json_object(("action", "bytes_per_second", "threshold_percent"))
    asked = admin_pb2.ControlBalanceRequest(action=bodies.choice_field(body, "action", None, ACTIONS))
    if "bytes_per_second" in body:
        asked.bytes_per_second = bodies.count_field(body, "bytes_per_second", 1, bodies.NUMBER_MAX, least=1)
    if "threshold_percent" in body:
        asked.threshold_percent = bodies.count_field(
            body, "threshold_percent", 1, THRESHOLD_PERCENT_MAX, least=1
        )
    answer = agent().fleet.order(CONTROL_BALANCE, asked, lambda found: found.error, token_of(request))
    return jsonify(shapes.balance(answer))
