"""The Raft group: on a coordinator as this member sees it, on a datanode as a coordinator tells it."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from sidecar import bodies, schemas, shapes
from sidecar.agent import agent
from sidecar.auth import Role, require
from sidecar.contract import Contract, describes
from sidecar.views.freshness import as_of

views = Blueprint("raft", __name__)


@views.get("/v1/raft")
@describes(Contract({200: schemas.RAFT_AS_OF}))
@require(Role.VIEWER)
def raft() -> Response:
    bodies.query(())
    told, error = agent().fleet.raft.answer()
    return jsonify({**shapes.raft(told.value), **as_of(told, error)})
