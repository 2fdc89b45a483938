"""A coordinator like any other, whose Raft loop stands still while the file $STUCK is there.

The process lives on meanwhile: its other threads answer, so only what the loop itself tells can show it.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from coordinator.__main__ import main
from coordinator.consensus.core import Core


def begin() -> None:
    turn, stuck = Core.turn, Path(os.environ["STUCK"])

    def turn_or_hang(core: Core, wait_seconds: float) -> None:
        while stuck.exists():
            time.sleep(0.02)
        turn(core, wait_seconds)

    Core.turn = turn_or_hang  # type: ignore[method-assign]


if __name__ == "__main__":
    begin()
    sys.exit(main())
