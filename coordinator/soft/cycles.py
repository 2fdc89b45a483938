"""What a cycle of the garbage collection did, as its leader remembers it."""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.decisions.collection import Classes

SHRINK_GUARD = "gc_shrink_guard"
"""The alarm that stands as long as cycles are stopped by it."""


@dataclass(slots=True)
class Report:
    """`outcome`: running, done, stopped (by a guard), paused, failed; `reason`: why it ended early.

    `void`: node id -> why nothing of it counted. `accounting`: node id -> what its disks are full of, at the end.
    """

    dry_run: bool
    cycle: int = 0
    phase: str = "gather"
    outcome: str = "running"
    reason: str = ""
    mark_index: int = 0
    marked: int = 0
    gathered: int = 0
    strays: int = 0
    adopted: int = 0
    recalled: int = 0
    candidates: int = 0
    condemned: int = 0
    deleted: int = 0
    void: dict[str, str] = field(default_factory=dict)
    would_condemn: list[bytes] = field(default_factory=list)
    seconds: float = 0.0
    accounting: dict[str, Classes] = field(default_factory=dict)
