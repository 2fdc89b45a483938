"""The Raft group: on a coordinator as this member sees it, on a datanode as a coordinator tells it."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from sidecar import bodies, shapes
from sidecar.agent import agent
from sidecar.auth import Role, require
from sidecar.views.freshness import as_of

views = Blueprint("raft", __name__)


@views.get("/v1/raft")
@require(Role.VIEWER)
def raft() -> Response:
    bodies.query(())
    told, error = agent().fleet.raft.answer()
    return jsonify({**shapes.raft(told.value), **as_of(told, error)})
