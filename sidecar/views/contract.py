"""The contract of all endpoints, as OpenAPI."""

from __future__ import annotations

from flask import Blueprint, Response, current_app, jsonify

from sidecar import bodies
from sidecar.contract import Contract, describes, document

views = Blueprint("contract", __name__)


@views.get("/openapi.json")
@describes(Contract({200: {"type": "object"}}))
def openapi() -> Response:
    """What every endpoint takes and gives."""
    bodies.query(())
    return jsonify(document(current_app))
