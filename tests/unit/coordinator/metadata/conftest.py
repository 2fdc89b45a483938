"""A cluster's state machine for each test; when the test is through, the state must be whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coordinator.metadata import invariants
from tests.support.machines import Cluster


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    assert invariants.violations(made.replica.db) == []
