"""The account of a closed loop: callers that send the next request when the last is answered, until time is up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.results import percentile


class NothingAnsweredError(Exception):
    """A load of which nothing was done."""


@dataclass(slots=True)
class Tally:
    """What happened. Each caller keeps its own, `merge` puts them together. Latencies in seconds."""

    latencies: list[float] = field(default_factory=list)
    errors: int = 0
    first_error: str = ""

    def fail(self, error: object) -> None:
        """Count a request that was not carried out."""
        self.errors += 1
        self.first_error = self.first_error or f"{type(error).__name__}: {error}"

    def report(self, wall_seconds: float, cpu_seconds: float) -> dict[str, Any]:
        """As it goes over the pipe."""
        return {
            "latencies_us": [round(one * 1e6) for one in self.latencies],
            "wall_seconds": wall_seconds,
            "cpu_seconds": cpu_seconds,
            "errors": self.errors,
            "first_error": self.first_error,
        }


def merge(tallies: Sequence[Tally]) -> Tally:
    """One tally of all callers."""
    whole = Tally()
    for one in tallies:
        whole.latencies += one.latencies
        whole.errors += one.errors
        whole.first_error = whole.first_error or one.first_error
    return whole


@dataclass(frozen=True, slots=True)
class Load:
    """What all processes of a load did together."""

    operations: int
    wall_seconds: float
    client_cpu_seconds: float
    p50_ms: float
    p99_ms: float
    errors: int
    first_error: str

    @property
    def per_second(self) -> float:
        return self.operations / self.wall_seconds


def combine(reports: Sequence[dict[str, Any]]) -> Load:
    """The load of several processes that began at the same instant."""
    latencies = sorted(one for report in reports for one in report["latencies_us"])
    if not latencies:
        first = next((report["first_error"] for report in reports if report["first_error"]), "no error")
        raise NothingAnsweredError(f"not one request of the load was answered: {first}")
    return Load(
        operations=len(latencies),
        wall_seconds=max(report["wall_seconds"] for report in reports),
        client_cpu_seconds=sum(report["cpu_seconds"] for report in reports),
        p50_ms=percentile(latencies, 0.5) / 1e3,
        p99_ms=percentile(latencies, 0.99) / 1e3,
        errors=sum(report["errors"] for report in reports),
        first_error=next((report["first_error"] for report in reports if report["first_error"]), ""),
    )


class Stopwatch:
    """Wall and CPU time of this process since its making."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu
