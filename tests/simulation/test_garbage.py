"""The simulation with datanodes, in its short form: no referenced chunk goes, every orphan does."""

from __future__ import annotations

import pytest

from tests.simulation.digests import digests_of
from tests.simulation.garbage.mutations import MUTATIONS, Mutation, hunt
from tests.simulation.garbage.run import run_storage_seed
from tests.simulation.garbage.seeds import SEEDS as FOUND

pytestmark = pytest.mark.timeout(900)

SEEDS = (*FOUND, 1, 9)
QUICK = [
    mutation
    for mutation in MUTATIONS
    if mutation.name
    in (
        "apply condemns what it is told to",
        "chunks of another log are garbage",
        "forgotten before every holder has confirmed",
        "replicas are deleted before the log says so",
        "names are not synced",
    )
]
"""Those that the first seed finds."""


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_that_is_needed_goes_and_nothing_else_stays(seed: int) -> None:
    report = run_storage_seed(seed)
    assert not report.violation, "\n".join([*report.story[-60:], report.violation])
    assert report.totals["quarantined"]
    assert report.totals["files stored slowly"]


def test_the_same_seed_gives_the_same_run_whatever_the_hashes_of_strings_are() -> None:
    program = (
        "from tests.simulation.garbage.run import run_storage_seed; print(run_storage_seed(7, 5.0).digest)"
    )
    assert len(digests_of(program)) == 1


@pytest.mark.parametrize("mutation", QUICK, ids=lambda mutation: mutation.name)
def test_a_planted_bug_is_found(mutation: Mutation) -> None:
    assert hunt(mutation)[1]


@pytest.mark.long
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_every_planted_bug_is_found(mutation: Mutation) -> None:
    assert hunt(mutation)[1]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_promise_holds_over_many_seeds() -> None:
    violations = {
        seed: report.violation
        for seed in range(10_000, 10_100)
        if (report := run_storage_seed(seed)).violation
    }
    assert violations == {}
