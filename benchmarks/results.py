"""Samples as they come, and what becomes of them: rows with medians, ranges and ratios. Pure.

Systems that are compared are sampled in turns, round by round, so that whatever else the machine does hits all of
them alike. A ratio is therefore the median of the rounds' ratios, not the ratio of two medians.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Better = Literal["higher", "lower"]


@dataclass(slots=True)
class Series:
    """The samples of one figure of one system, in the order of the rounds."""

    name: str
    system: str
    unit: str
    better: Better
    samples: list[float] = field(default_factory=list)
    other_cores: list[float] = field(default_factory=list)

    @property
    def value(self) -> float:
        return statistics.median(self.samples)


class Results:
    """All figures of one run. One thread."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str], Series] = {}
        self.skipped: dict[str, str] = {}
        self.notes: list[str] = []

    def add(
        self,
        name: str,
        system: str,
        value: float,
        unit: str,
        better: Better,
        other_cores: float | None = None,
    ) -> None:
        """One more sample of a figure. `other_cores`: how many the rest of the machine kept busy meanwhile."""
        series = self._series.setdefault((name, system), Series(name, system, unit, better))
        series.samples.append(value)
        if other_cores is not None:
            series.other_cores.append(round(other_cores, 2))

    def skip(self, system: str, reason: str) -> None:
        """A system that is not measured in this run, and why."""
        self.skipped[system] = reason

    def note(self, text: str) -> None:
        """Something that a reader of the figures must know."""
        self.notes.append(text)

    def names(self) -> list[str]:
        """The figures in the order in which they were first measured."""
        return list(dict.fromkeys(name for name, _ in self._series))

    def of(self, name: str) -> list[Series]:
        """All systems that have this figure."""
        return [series for series in self._series.values() if series.name == name]

    def ratio(self, name: str, system: str, to: str) -> float | None:
        """How many times the one's figure is the other's; None when one of them has none."""
        one, other = self._series.get((name, system)), self._series.get((name, to))
        return None if one is None or other is None else ratio(one.samples, other.samples)

    def rows(self) -> list[dict[str, Any]]:
        """The `results` of the JSON."""
        return [self._row(series) for series in self._series.values()]

    def _row(self, series: Series) -> dict[str, Any]:
        ratios = {
            other.system: ratio(series.samples, other.samples)
            for other in self.of(series.name)
            if other.system != series.system
        }
        return {
            "name": series.name,
            "system": series.system,
            "value": rounded(series.value),
            "unit": series.unit,
            "better": series.better,
            "samples": [rounded(sample) for sample in series.samples],
            "ratio_to": {system: rounded(value) for system, value in ratios.items() if value is not None},
            "other_cores": series.other_cores,
        }


def ratio(one: Sequence[float], other: Sequence[float]) -> float | None:
    """The median of the rounds' ratios; of the medians when the rounds do not match; None for a division by 0."""
    if len(one) != len(other):
        return _divide(statistics.median(one), statistics.median(other))
    found = [value for a, b in zip(one, other, strict=True) if (value := _divide(a, b)) is not None]
    return statistics.median(found) if found else None


def _divide(one: float, other: float) -> float | None:
    return one / other if other else None


def rounded(value: float) -> float:
    """Four significant digits: more would be a claim."""
    return float(f"{value:.4g}")


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0..1) of all values do not exceed. `values` sorted, not empty."""
    return values[min(len(values) - 1, int(len(values) * share))]


@dataclass(frozen=True, slots=True)
class Floor:
    """A figure that must be at least (or, where lower is better, at most) so many times another system's.

    `to` "" compares the figure itself with `bound`.
    """

    name: str
    system: str
    to: str
    bound: float
    aim: bool = False


def judge(floors: Sequence[Floor], results: Results) -> list[dict[str, Any]]:
    """The floors whose figures were measured in this run, and whether they hold."""
    better: Mapping[str, Better] = {
        name: series.better for name in results.names() for series in results.of(name)
    }
    judged = []
    for floor in floors:
        measured = _measured(floor, results)
        if measured is None:
            continue
        holds = measured >= floor.bound if better[floor.name] == "higher" else measured <= floor.bound
        judged.append(
            {
                "name": floor.name,
                "system": floor.system,
                "to": floor.to,
                "bound": floor.bound,
                "aim": floor.aim,
                "measured": rounded(measured),
                "holds": holds,
            }
        )
    return judged


def _measured(floor: Floor, results: Results) -> float | None:
    if floor.to:
        return results.ratio(floor.name, floor.system, floor.to)
    return next((one.value for one in results.of(floor.name) if one.system == floor.system), None)
