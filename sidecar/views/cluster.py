"""The fleet, seen from any node, with or without a leader; old answers say how old they are."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from quorumfs.errors import QuorumFSError
from quorumfs.selectors import parse, selectable
from quorumfs.v1 import admin_pb2
from sidecar import bodies, schemas, shapes
from sidecar.agent import agent
from sidecar.auth import Role, require
from sidecar.contract import Contract, describes
from sidecar.node_link import Told
from sidecar.views.freshness import as_of

views = Blueprint("cluster", __name__)


@views.get("/v1/cluster")
@describes(Contract({200: schemas.CLUSTER}))
@require(Role.VIEWER)
def cluster() -> Response:
    bodies.query(())
    told, error = _ask()
    return jsonify({**shapes.cluster(told.value), **as_of(told, error)})


@views.get("/v1/cluster/nodes")
@describes(Contract({200: schemas.NODES}, query={"selector": schemas.TEXT}))
@require(Role.VIEWER)
def nodes() -> Response:
    """`?selector=zone=a,!canary`; without one, or with an empty one, all nodes."""
    text = bodies.query(("selector",)).get("selector", "")
    selector = parse(text) if text.strip() else None
    told, error = _ask()
    entries = [shapes.node_entry(view) for view in told.value.view.nodes]
    matched = [
        entry
        for entry in entries
        if selector is None or selector.matches(selectable(entry["labels"], entry["role"]))
    ]
    return jsonify({"nodes": matched, "selector": text, **as_of(told, error)})


@views.get("/v1/cluster/durability")
@describes(Contract({200: schemas.DURABILITY}))
@require(Role.VIEWER)
def durability() -> Response:
    """How well all chunks are kept."""
    bodies.query(())
    told, error = agent().fleet.durability.answer()
    return jsonify({**shapes.durability(told.value), **as_of(told, error)})


def _ask() -> tuple[Told[admin_pb2.ClusterStatus], QuorumFSError | None]:
    return agent().fleet.cluster.answer()
