"""Partitions between real processes on machines (network namespaces) of their own: packets vanish both ways or one,
between a leader and its followers, datanodes, clients, and between any two groups, for seconds or flapping. Real
clients work meanwhile, on all sides. What they were told must be true, and all heals by itself (promises 1 to 7).
"""

from __future__ import annotations

import os

import pytest

from tests.support.namespaces import why_not
from tests.support.runs import run_chaos

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

SEED = int(os.environ.get("SEED", "1"))


def test_promises_hold_through_partitions_of_every_shape() -> None:
    require_namespaces()
    run_chaos(SEED, 1.5, "partition")


@pytest.mark.long
def test_promises_hold_through_ten_minutes_of_partitions() -> None:
    require_namespaces()
    run_chaos(SEED + 1, 10, "partition")


def require_namespaces() -> None:
    if reason := why_not():
        pytest.skip(reason)
