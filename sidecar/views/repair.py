"""The making of replicas that are lacking: where it stands, and not to wait for the pauses after failures."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request

from quorumfs.errors import NoLeaderError
from quorumfs.v1 import admin_pb2
from sidecar import bodies, schemas, shapes
from sidecar.agent import agent
from sidecar.auth import Role, require, token_of
from sidecar.contract import Contract, describes
from sidecar.methods import RUN_REPAIR
from sidecar.views.freshness import as_of

views = Blueprint("repair", __name__)


@views.get("/v1/repair")
@describes(Contract({200: schemas.REPAIR_AS_OF}))
@require(Role.VIEWER)
def repair() -> Response:
    """How many chunks wait for replicas, and what was copied since this leader began.

    While nobody leads, how many any coordinator's tables say that wait."""
    bodies.query(())
    told, error = agent().fleet.repair.answer()
    if error is None and not told.value.authoritative:
        error = NoLeaderError("only a leader knows what is copied; a follower knows what waits")
    return jsonify(
        {
            **shapes.repair(told.value),
            "authoritative": told.value.authoritative and error is None,
            **as_of(told, error),
        }
    )


@views.post("/v1/repair")
@describes(Contract({200: schemas.REPAIR}, body=schemas.some()))
@require(Role.OPERATOR)
def repair_now() -> Response:
    """Look anew, and try again what failed, at once."""
    bodies.query(())
    bodies.json_object(())
    asked = admin_pb2.RunRepairRequest()
    return jsonify(
        shapes.repair(agent().fleet.order(RUN_REPAIR, asked, lambda found: found.error, token_of(request)))
    )
