"""This node's labels. They are replicated: a change goes through the leader."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request

from quorumfs.errors import QuorumFSError, make
from quorumfs.v1 import admin_pb2
from sidecar import bodies, schemas, shapes
from sidecar.agent import agent
from sidecar.auth import Role, require, token_of
from sidecar.contract import Contract, describes
from sidecar.methods import GET_LABELS, SET_LABELS

views = Blueprint("labels", __name__)

LABELS_BODY: schemas.Schema = {
    **schemas.some(
        labels={"type": "object", "minProperties": 1, "additionalProperties": schemas.maybe(schemas.TEXT)}
    ),
    "required": ["labels"],
}


@views.get("/v1/labels")
@describes(Contract({200: schemas.NODE_LABELS}))
@require(Role.VIEWER)
def read_labels() -> Response:
    """The node's labels; the last ones it told, with their age, while it does not answer."""
    bodies.query(())
    served = agent()
    try:
        answer = served.link.ask(GET_LABELS, admin_pb2.GetLabelsRequest())
        _raise_told(answer)
        return _labels(dict(answer.labels), served.clock.wall_ms(), 0.0)
    except QuorumFSError:
        told = served.link.observe().status
        if told is None:
            raise
        return _labels(dict(told.value.node.labels), told.wall_ms, told.age_seconds(served.clock.monotonic()))


@views.patch("/v1/labels")
@describes(Contract({200: schemas.NODE_LABELS}, errors=(404, 409), body=LABELS_BODY))
@require(Role.OPERATOR)
def change_labels() -> Response:
    """Body: `{"labels": {"zone": "a", "canary": null}}`; null removes. Labels not named stay."""
    bodies.query(())
    wanted, removed = bodies.labels_field(bodies.json_object(("labels",)))
    served = agent()
    answer = served.link.change(
        SET_LABELS, admin_pb2.SetLabelsRequest(set=wanted, remove=removed), token_of(request)
    )
    _raise_told(answer)
    return _labels(dict(answer.labels), served.clock.wall_ms(), 0.0)


def _labels(labels: dict[str, str], wall_ms: int, age_seconds: float) -> Response:
    return jsonify(
        {
            "node_id": agent().settings.node_id,
            "labels": labels,
            "observed_at": shapes.rfc3339(wall_ms),
            "age_seconds": shapes.seconds(age_seconds),
        }
    )


def _raise_told(answer: admin_pb2.Labels) -> None:
    if answer.error.code:
        raise make(answer.error.code, answer.error.message, cause=answer.error.cause, next=answer.error.next)
