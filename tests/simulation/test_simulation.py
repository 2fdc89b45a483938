"""The simulation's share in every change: seeds and plays whose every promise holds, and every rare branch taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import lru_cache

import pytest

from tests.simulation import leases
from tests.simulation.digests import digests_of
from tests.simulation.marks import ALL
from tests.simulation.scenarios import SCENARIOS
from tests.simulation.seeds import SEEDS as FOUND
from tests.simulation.simulation import Report, run_seed
from tests.simulation.stage import HITS

pytestmark = pytest.mark.timeout(900)

PLAYS = (*SCENARIOS, *leases.PLAYS)

SEEDS = (*FOUND, 3, 11, 32, 145)
FURTHER_SEEDS = range(200, 260)  # as many of them as it takes: what a seed does changes with the code

run = lru_cache(maxsize=None)(run_seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_promise_holds_under_the_faults_of_a_seed(seed: int) -> None:
    report: Report = run(seed)
    assert not report.violation, "\n".join([*report.story[-60:], report.violation])


def test_seeds_and_plays_together_take_every_rare_branch() -> None:
    for play in PLAYS:
        play(1)
    hits = Counter(HITS)
    for seed in (*SEEDS, *FURTHER_SEEDS):
        hits.update(run(seed).marks)
        if all(hits[name] for name in ALL):
            break
    assert [name for name in ALL if not hits[name]] == []


@pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.__name__)
def test_a_play_keeps_its_promise(play: Callable[[int], None]) -> None:
    for seed in (1, 2, 3):
        play(seed)


def test_the_same_seed_gives_the_same_run_whatever_the_hashes_of_strings_are() -> None:
    program = "from tests.simulation.simulation import run_seed; print(run_seed(7, 3.0).digest)"
    assert len(digests_of(program)) == 1


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_promise_holds_over_many_seeds() -> None:
    violations = {
        seed: report.violation for seed in range(10_000, 10_150) if (report := run_seed(seed)).violation
    }
    assert violations == {}
