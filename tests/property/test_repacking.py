"""No schedule gives a file other bytes when its pack is rewritten, and every safeguard is missed when it is gone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

from tests.property.repack_machine import Repacking
from tests.property.repack_mutations import MUTATIONS, PLAYS, Mutation, hunt, perform

TestRepacking = Repacking.TestCase
TestRepacking.settings = settings(
    max_examples=20,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_the_machine_notices_that_a_safeguard_is_gone(mutation: Mutation) -> None:
    assert hunt(mutation), f"nothing noticed: {mutation.name}"


@pytest.mark.parametrize("play", PLAYS, ids=lambda one: one.__name__)
def test_with_all_safeguards_nothing_is_wrong(play: Callable[[Repacking], None]) -> None:
    perform(play)
