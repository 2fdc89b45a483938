"""What every request that steers many nodes has in common: whom it means, and by whose agent it is served."""

from __future__ import annotations

from typing import Any

from quorumfs.errors import PreconditionFailedError
from sidecar import bodies, limits, schemas
from sidecar.agent import Agent, agent
from sidecar.control_plane import Meant

WHOM: dict[str, schemas.Schema] = {
    "selector": {"type": "string", "maxLength": limits.SELECTOR_CHARACTERS_MAX},
    "nodes": {
        **schemas.many({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"}),
        "maxItems": 1000,
    },
    "all": schemas.TRUTH,
}


def meant(body: dict[str, Any]) -> Meant:
    """By `selector`, `nodes` or `all`. Raises InvalidArgumentError."""
    return Meant(
        bodies.text_field(body, "selector", "", limits.SELECTOR_CHARACTERS_MAX),
        bodies.names_field(body, "nodes", limits.TARGETS_MAX),
        bodies.truth_field(body, "all"),
    )


def coordinator() -> Agent:
    """This agent, which has to be a coordinator's. Raises PreconditionFailedError."""
    served = agent()
    if not served.settings.is_coordinator:
        raise PreconditionFailedError(
            f"{served.settings.node_id} does not steer the cluster",
            cause="it is a datanode",
            next="ask a coordinator's agent; GET /v1/cluster names them",
        )
    return served
