"""Every safeguard of the garbage collection is missed when it is gone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.property.gc_machine import Collection
from tests.property.gc_mutations import MUTATIONS, PLAYS, Mutation, hunt, perform


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_the_machine_notices_that_a_safeguard_is_gone(mutation: Mutation) -> None:
    assert hunt(mutation), f"nothing noticed: {mutation.name}"


@pytest.mark.parametrize("play", PLAYS, ids=lambda one: one.__name__)
def test_with_all_safeguards_nothing_is_wrong(play: Callable[[Collection], None]) -> None:
    perform(play)
