"""What the node does in the background, and telling one of these duties to go on, rest, or begin now."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request

from quorumfs.v1 import admin_pb2
from sidecar import bodies, schemas, shapes
from sidecar.actions import DUTY_ACTIONS
from sidecar.agent import agent
from sidecar.auth import Role, require, token_of
from sidecar.contract import Contract, describes
from sidecar.methods import CONTROL_DUTY, LIST_DUTIES

views = Blueprint("duties", __name__)

DUTY_BODY = schemas.obj(action=schemas.one_of(*DUTY_ACTIONS))


@views.get("/v1/duties")
@describes(Contract({200: schemas.DUTIES}))
@require(Role.VIEWER)
def duties() -> Response:
    bodies.query(())
    served = agent()
    answer = served.link.ask(LIST_DUTIES, admin_pb2.ListDutiesRequest())
    return jsonify(
        {"node_id": served.settings.node_id, "duties": [shapes.duty(one) for one in answer.duties]}
    )


@views.post("/v1/duties/<name>")
@describes(Contract({200: schemas.DUTY}, errors=(404,), body=DUTY_BODY))
@require(Role.OPERATOR)
def control_duty(name: str) -> Response:
    """Body: `{"action": "run" | "pause" | "resume"}`."""
    bodies.query(())
    body = bodies.json_object(("action",))
    action = bodies.choice_field(body, "action", None, DUTY_ACTIONS)
    bodies.text_field({"name": name}, "name", "", 63)
    asked = admin_pb2.ControlDutyRequest(name=name, action=action)
    return jsonify(shapes.duty(agent().link.change(CONTROL_DUTY, asked, token_of(request))))
