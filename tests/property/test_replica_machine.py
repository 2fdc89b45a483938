"""No schedule of faults, leaders and duties deletes a replica that is needed, or keeps chunks from what they want."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests.property.replica_machine import Replicas

TestReplicas = Replicas.TestCase
TestReplicas.settings = settings(
    max_examples=25,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
