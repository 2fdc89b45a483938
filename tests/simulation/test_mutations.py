"""Whether the simulation would notice: each planted bug is found."""

from __future__ import annotations

import pytest

from tests.simulation.mutations import MUTATIONS, Mutation, hunt

PLAYED = [mutation for mutation in MUTATIONS if mutation.play is not None]
SOUGHT = [mutation for mutation in MUTATIONS if mutation.play is None]


@pytest.mark.parametrize("mutation", PLAYED, ids=lambda mutation: mutation.name)
def test_a_play_shows_a_planted_bug(mutation: Mutation) -> None:
    assert hunt(mutation)[1]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutation", SOUGHT, ids=lambda mutation: mutation.name)
def test_some_seed_shows_a_planted_bug(mutation: Mutation) -> None:
    assert hunt(mutation)[1]
