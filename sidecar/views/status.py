"""All about this one node, with what it said last while it does not answer."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from sidecar import shapes
from sidecar.agent import agent
from sidecar.auth import Role, require

views = Blueprint("status", __name__)


@views.get("/status")
@require(Role.VIEWER)
def status() -> Response:
    served = agent()
    seen = served.link.observe()
    found = served.tracker.find()
    return jsonify(shapes.status(seen, found, served.settings, served.clock.monotonic()))
