"""From how nodes are to how the metadata is asked about their replicas."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.decisions.placement import IN_MAINTENANCE, LEAVING, Candidate
from coordinator.metadata.replicas import Apart


def apart(candidates: Mapping[str, Candidate]) -> Apart:
    """The nodes whose replicas do not count like those of others."""
    return Apart(
        leaving=frozenset(node_id for node_id, one in candidates.items() if one.intent in LEAVING),
        resting=frozenset(node_id for node_id, one in candidates.items() if one.intent == IN_MAINTENANCE),
    )
