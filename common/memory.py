"""What memory this process holds, and how often it is looked through for garbage."""

from __future__ import annotations

import gc
import os

COLLECT_AFTER = 10_000, 20, 20
"""New containers until the young are looked through, and how often until the older are."""


def resident_bytes() -> int:
    """Of the whole process, now; 0 where there is no /proc."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def spare_the_loaded() -> None:
    """Never look for garbage in what is loaded by now, and less often in what comes: hundreds of small objects for each
    batch of operations had the whole program looked through again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
