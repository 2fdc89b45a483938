"""No schedule makes a chunk that is needed disappear, or lets one stay that is not."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests.property.gc_machine import Collection

TestCollection = Collection.TestCase
TestCollection.settings = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
