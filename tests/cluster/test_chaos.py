"""Randomized chaos, as `make chaos` has it: harm of every kind to every role under load, then all is as it should be.

A failing run prints its seed and leaves its logs in the directory that it names.
"""

from __future__ import annotations

import os

import pytest

from tests.support.runs import run_chaos

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

SEED = int(os.environ.get("SEED", "1"))


def test_nothing_is_lost_in_a_minute_of_chaos() -> None:
    run_chaos(SEED, 1)


@pytest.mark.long
def test_nothing_is_lost_in_ten_minutes_of_chaos() -> None:
    run_chaos(SEED + 1, 10)
