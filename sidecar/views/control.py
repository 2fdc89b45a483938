"""Steering the whole cluster from one place: an action on many nodes, and the life cycle of one.

Served by coordinators' agents; which coordinator leads is found out here.
"""

from __future__ import annotations

import json
import time
from typing import Any

from flask import Blueprint, Request, Response, g, jsonify, request

from quorumfs.errors import InvalidArgumentError
from quorumfs.v1 import admin_pb2
from sidecar import bodies, limits, schemas, shapes
from sidecar.actions import ACTIONS, ToLeader, set_node
from sidecar.agent import agent
from sidecar.auth import Role, require, token_of
from sidecar.contract import Contract, describes
from sidecar.control_plane import Caller, Outcome
from sidecar.methods import FORGET_NODE, SET_NODE
from sidecar.views import steering

views = Blueprint("control", __name__)

EXEC_BODY: schemas.Schema = {
    **schemas.some(
        **steering.WHOM,
        action=schemas.one_of(*ACTIONS),
        params={"type": "object"},
        max_unavailable={"type": "integer", "minimum": 1, "maximum": limits.TARGETS_MAX},
    ),
    "required": ["action"],
}
NODE_BODY = schemas.some(
    seconds={"type": "number", "minimum": 0, "maximum": limits.MAINTENANCE_SECONDS_MAX}, force=schemas.TRUTH
)

NODE_ACTIONS = (
    "drain",
    "undrain",
    "maintenance",
    "end_maintenance",
    "decommission",
    "recommission",
    "forget",
)


def viewer_for_a_question(asked: Request) -> Role | None:
    """The role that is enough for an action that only asks; None for any other body, also for nonsense."""
    try:
        body = json.loads(asked.get_data(cache=True))
    except (ValueError, RecursionError):
        return None
    name = body.get("action") if isinstance(body, dict) else None
    action = ACTIONS.get(name) if isinstance(name, str) else None
    return Role.VIEWER if action is not None and not action.changes else None


@views.post("/v1/cluster/exec")
@describes(
    Contract({200: schemas.EXEC, 207: schemas.EXEC, 502: schemas.EXEC}, errors=(404, 409), body=EXEC_BODY)
)
@require(Role.OPERATOR, unless=viewer_for_a_question)
def execute() -> Response:
    """Body: `{"selector" | "nodes" | "all", "action", "params", "max_unavailable"}`. 207: only some did it.

    `status`, `health` and `logs` change nothing: for them the role viewer is enough."""
    bodies.query(())
    body = bodies.json_object(("selector", "nodes", "all", "action", "params", "max_unavailable"))
    name = bodies.choice_field(body, "action", None, tuple(ACTIONS))
    action = ACTIONS[name]
    step = action.make(_params(body, action.fields))
    limit = bodies.count_field(body, "max_unavailable", 1, limits.TARGETS_MAX, least=1)
    meant = steering.meant(body)
    served = steering.coordinator()
    # Whatever came before (who calls, who is meant) is of the same budget: what is answered later is cut off.
    begun = served.clock.monotonic() - (time.monotonic() - g.began)
    nodes = served.control.match(meant)
    outcomes = served.control.run(action, step, nodes, limit, _caller(), begun + limits.EXEC_BUDGET_SECONDS)
    return _told(name, outcomes)


@views.post("/v1/cluster/nodes/<node_id>/<action>")
@describes(Contract({200: schemas.NODE_ACTION}, errors=(404, 409), body=NODE_BODY))
@require(Role.OPERATOR)
def act_on_node(node_id: str, action: str) -> Response:
    """drain, undrain, [end_]maintenance (`{"seconds"}`), decommission, recommission, forget (`{"force"}`).

    At the leader. A maintenance lasts an hour when nothing is said; recommission calls a decommission off."""
    bodies.query(())
    if action not in NODE_ACTIONS:
        raise InvalidArgumentError(
            f"a node cannot be told to {action[:64]!a}", next=f"use one of {', '.join(NODE_ACTIONS)}"
        )
    fields = {"maintenance": ("seconds",), "forget": ("force",)}.get(action, ())
    body = bodies.json_object(fields)
    bodies.text_field({"node_id": node_id}, "node_id", "", 63)
    fleet, token = agent().fleet, token_of(request)
    if action == "forget":
        forget = admin_pb2.ForgetNodeRequest(node_id=node_id, force=bodies.truth_field(body, "force"))
        answer = fleet.order(FORGET_NODE, forget, lambda found: found.error, token)
    else:
        seconds = bodies.seconds_field(body, "seconds", 3600.0, limits.MAINTENANCE_SECONDS_MAX)
        order = ToLeader(action, seconds if action == "maintenance" else 0.0)
        answer = fleet.order(SET_NODE, set_node(order, node_id), lambda found: found.error, token)
    return jsonify({"node_id": node_id, "action": action, "detail": answer.detail})


def _params(body: dict[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    params = body.get("params", {})
    if not isinstance(params, dict):
        bodies.refuse("params", params, "an object")
    unknown = sorted(set(params) - set(fields))
    if unknown:
        bodies.refuse("params", unknown[0], f"only these parameters: {', '.join(fields) or 'none'}")
    return params


def _caller() -> Caller:
    return Caller(token_of(request), g.request_id)


def _told(name: str, outcomes: list[Outcome]) -> Response:
    answer: shapes.Json = {
        "action": name,
        "matched": [one.node_id for one in outcomes],
        "results": [
            {
                "node_id": one.node_id,
                "ok": one.ok,
                "status": one.status,
                "result": one.result,
                "error": one.error,
            }
            for one in outcomes
        ],
    }
    failed = [one for one in outcomes if not one.ok]
    response = jsonify(answer)
    response.status_code = 200 if not failed else 502 if len(failed) == len(outcomes) else 207
    return response
