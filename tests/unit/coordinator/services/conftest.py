from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.coordinator import Coordinator


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[Coordinator]:
    """A coordinator that leads nobody yet."""
    made = Coordinator(tmp_path)
    yield made
    made.consensus.close()
