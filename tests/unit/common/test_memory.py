"""What a process does for its memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from common import memory


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


class Ring:
    def __init__(self) -> None:
        self.own = self


def test_what_is_loaded_is_not_looked_through_for_garbage_again() -> None:
    loaded = Ring()
    memory.spare_the_loaded()
    assert gc.get_freeze_count() > 1000
    assert not any(one is loaded for one in gc.get_objects())


def test_what_comes_later_is_collected_all_the_same() -> None:
    memory.spare_the_loaded()
    for _ in range(2 * memory.COLLECT_AFTER[0]):
        Ring()
    assert sum(isinstance(one, Ring) for one in gc.get_objects()) < 1.5 * memory.COLLECT_AFTER[0]
