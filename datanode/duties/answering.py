"""Whether the disks answer: each is asked now and then, by a thread of its own, to keep a few bytes durably.

1. A device that hangs holds only the thread that asks it; the others, and whoever wants to know, go on.
2. What counts is how long the question that is under way has waited. A duty that is paused, or a process that stood
   still, makes no disk silent.
3. A disk that fails has answered. One that is silent may answer yet: it is told of, and the node goes on with the
   others. When none answers any more the node gets nothing done: it stops feeding its watchdog.
"""

from __future__ import annotations

from collections.abc import Sequence

from datanode.store.disk import Disk
from quorumfs.clock import Clock
from quorumfs.v1.admin_pb2 import Check

ASK_SECONDS = 5.0
SILENT_SECONDS = 30.0  # a device under full load takes its time


class AnswerDuty:
    """Asks one disk. `work` in one thread, the rest from any."""

    def __init__(self, number: int, disk: Disk, clock: Clock) -> None:
        self.name = f"disk-{number}"
        self.disk = disk
        self._clock = clock
        self._asked_at: float | None = None
        self._answered_at: float | None = None

    def work(self) -> str:
        if not self.disk.usable or self.disk.health()[0] == "failed":
            return f"{self.disk.path} is not asked: {self.disk.health()[1]}"
        began = self._asked_at = self._clock.monotonic()
        try:
            said = self.disk.answer()
        finally:
            self._asked_at, self._answered_at = None, self._clock.monotonic()
        return f"{self.disk.path} {said} after {1000 * (self._answered_at - began):.1f} ms"

    def wait(self) -> float:
        return ASK_SECONDS

    @property
    def waits_seconds(self) -> float:
        """How long the question that is under way has waited; 0 when none is."""
        asked_at = self._asked_at
        return 0.0 if asked_at is None else max(0.0, self._clock.monotonic() - asked_at)

    @property
    def is_silent(self) -> bool:
        return self.waits_seconds >= SILENT_SECONDS

    @property
    def answer_age_seconds(self) -> float | None:
        """Since its last answer; None before the first."""
        at = self._answered_at
        return None if at is None else max(0.0, self._clock.monotonic() - at)


class Answers:
    """All disks of a node. Any thread."""

    def __init__(self, disks: Sequence[Disk], clock: Clock) -> None:
        self.duties = [AnswerDuty(number, disk, clock) for number, disk in enumerate(disks)]

    def silent(self) -> list[str]:
        """A sentence for each disk that does not answer."""
        return [
            f"disk {one.disk.path} has not answered for {one.waits_seconds:.0f} s"
            for one in self.duties
            if one.is_silent
        ]

    def waits(self) -> dict[str, float]:
        """For how many seconds the question to each disk has waited."""
        return {str(one.disk.path): one.waits_seconds for one in self.duties}

    def check(self) -> Check:
        """Whether any disk answers, of those that are asked; one of a liveness."""
        asked = [one for one in self.duties if one.disk.usable and one.disk.health()[0] != "failed"]
        silent = self.silent()
        alive = not asked or not all(one.is_silent for one in asked)
        ages = [age for one in asked if (age := one.answer_age_seconds) is not None]
        return Check(
            name="disks_answer",
            ok=alive,
            liveness=True,
            detail="; ".join(silent) or f"{len(asked)} of {len(self.duties)} disks are asked, and answer",
            age_seconds=max(ages, default=0.0),
        )
