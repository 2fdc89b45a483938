"""Who leads, by status code, so that a load balancer can use it: 200 with the leader, 503 without."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from quorumfs.errors import NoLeaderError
from sidecar import schemas, shapes
from sidecar.agent import agent
from sidecar.contract import Contract, describes
from sidecar.errors import error_response

views = Blueprint("leader", __name__)


@views.get("/leader")
@describes(Contract({200: schemas.LEADER, 503: schemas.NO_LEADER}))
def leader() -> Response:
    served = agent()
    found = served.tracker.find()
    now = served.clock.monotonic()
    if found.current is not None:
        return jsonify(shapes.leader_view(found.current, now))
    last = None if found.last is None else shapes.leader_view(found.last, now)
    error = NoLeaderError(
        "no coordinator leads, as far as can be told from here", cause="; ".join(found.reasons)
    )
    return error_response(
        error,
        extra={
            "leader": None,
            "term": 0 if found.last is None else found.last.term,
            "observed_by": served.settings.node_id,
            "observed_at": shapes.rfc3339(served.clock.wall_ms()),
            "last_known": last,
        },
    )
