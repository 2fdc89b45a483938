"""All about this one node, with what it said last while it does not answer."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from sidecar import schemas, shapes
from sidecar.agent import agent
from sidecar.auth import Role, require
from sidecar.contract import Contract, describes

views = Blueprint("status", __name__)


@views.get("/status")
@describes(Contract({200: schemas.STATUS}))
@require(Role.VIEWER)
def status() -> Response:
    served = agent()
    seen = served.link.observe()
    found = served.tracker.find()
    return jsonify(shapes.status(seen, found, served.settings, served.clock.monotonic()))
