"""Garbage collection: what it is doing, and what the last cycle found."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from sidecar import bodies, shapes
from sidecar.agent import agent
from sidecar.auth import Role, require
from sidecar.views.freshness import as_of

views = Blueprint("gc", __name__)


@views.get("/v1/gc")
@require(Role.VIEWER)
def gc() -> Response:
    bodies.query(())
    told, error = agent().fleet.gc.answer()
    return jsonify({**shapes.gc(told.value), **as_of(told, error)})
