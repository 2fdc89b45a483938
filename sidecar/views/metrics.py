"""The node's metrics and the agent's own, as Prometheus text; 200 also when the node is down."""

from __future__ import annotations

from flask import Blueprint, Response

from quorumfs.errors import QuorumFSError
from quorumfs.v1 import admin_pb2
from sidecar.agent import agent
from sidecar.auth import Role, require
from sidecar.contract import Contract, describes
from sidecar.methods import GET_METRICS
from sidecar.metrics import CONTENT_TYPE

views = Blueprint("metrics", __name__)

OPENMETRICS_END = b"# EOF"


@views.get("/metrics")
@describes(Contract({200: None}, media=("text/plain",)))
@require(Role.METRICS)
def metrics() -> Response:
    served = agent()
    return Response(_of_node() + served.metrics.text(), content_type=CONTENT_TYPE)


def _of_node() -> bytes:
    """The node's text, to be gone on with; empty when it does not answer (`quorumfs_node_up` says so)."""
    try:
        text = agent().link.ask(GET_METRICS, admin_pb2.GetMetricsRequest()).text
    except QuorumFSError:
        return b""
    text = text.rstrip().removesuffix(OPENMETRICS_END).rstrip()
    return text + b"\n" if text else b""
