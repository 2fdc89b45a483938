"""A share of the simulation for every change: some seeds, whose every promise holds, and the same seed twice."""

from __future__ import annotations

import pytest

from tests.simulation.simulation import run_seed

SEEDS = range(1, 13)
SECONDS = 20.0


@pytest.mark.parametrize("seed", SEEDS)
def test_every_promise_holds_under_the_faults_of_a_seed(seed: int) -> None:
    report = run_seed(seed, SECONDS)
    assert not report.violation, "\n".join([*report.story[-60:], report.violation])


def test_the_same_seed_gives_the_same_run() -> None:
    assert run_seed(7, SECONDS).digest == run_seed(7, SECONDS).digest
