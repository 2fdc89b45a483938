"""Results as files: `latest.json` for programs, `latest.md` for people, `latest.<figure>.svg` to look at.

A figure's name is `family/figure/case`, as in `create/throughput/256`; a table and a plot hold one figure of a
family, with a row per case.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.floors import FLOORS
from benchmarks.plots import Bar, Group, bar_chart, number
from benchmarks.results import Results, Series, judge

OURS = "quorumfs"


@dataclass(frozen=True, slots=True)
class Run:
    """What belongs to the figures: where and of what they were taken. `rounds` etc. are in `settings`."""

    machine: dict[str, Any]
    commit: str
    settings: dict[str, Any]


def write(results: Results, run: Run, directory: Path) -> None:
    """Replace the files of the last run in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("latest.*"):
        old.unlink()
    (directory / "latest.json").write_text(
        json.dumps(as_json(results, run), indent=2) + "\n", encoding="utf-8"
    )
    (directory / "latest.md").write_text(as_markdown(results, run), encoding="utf-8")
    for figure in figures(results):
        name = re.sub(r"[^a-z0-9]+", "-", figure)
        (directory / f"latest.{name}.svg").write_text(as_chart(results, figure), encoding="utf-8")


def as_json(results: Results, run: Run) -> dict[str, Any]:
    """The whole run."""
    return {
        "machine": run.machine,
        "commit": run.commit,
        "settings": run.settings,
        "results": results.rows(),
        "floors": judge(FLOORS, results),
        "skipped": [{"system": system, "reason": reason} for system, reason in results.skipped.items()],
        "notes": results.notes,
    }


def as_markdown(results: Results, run: Run) -> str:
    """The whole run as a page: ratios first, because absolute times mean little on a shared machine."""
    parts = [f"# Benchmarks of {run.commit}\n", _conditions(run), _floors(results)]
    parts += [_table(results, figure) for figure in figures(results)]
    if results.skipped:
        parts.append("## Not measured\n")
        parts += [f"- {system}: {reason}" for system, reason in results.skipped.items()]
    if results.notes:
        parts.append("\n## Notes\n")
        parts += [f"- {note}" for note in results.notes]
    return "\n".join(parts) + "\n"


def figures(results: Results) -> list[str]:
    """`family/figure`, in the order in which they were measured."""
    return list(dict.fromkeys(name.rpartition("/")[0] for name in results.names()))


def as_chart(results: Results, figure: str) -> str:
    """The plot of one figure: a group of bars per case."""
    groups = []
    unit = ""
    for name in _names(results, figure):
        found = results.of(name)
        unit = found[0].unit
        bars = [Bar(one.system, one.value, min(one.samples), max(one.samples)) for one in found]
        groups.append(Group(name.rpartition("/")[2], bars))
    return bar_chart(figure.replace("/", ": "), unit, groups)


def _names(results: Results, figure: str) -> list[str]:
    return [name for name in results.names() if name.rpartition("/")[0] == figure]


def _conditions(run: Run) -> str:
    machine = run.machine
    return (
        f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"{machine['kernel']}, Python {machine['python']}, {machine['filesystem']}, fdatasync of 4 KiB "
        f"{machine['fsync_ms_median']} ms. Everything on one host and loopback; servers and load share its cores. "
        "Medians [least..greatest sample]; ×: quorumfs divided by that system, median of the rounds.\n"
    )


def _floors(results: Results) -> str:
    judged = judge(FLOORS, results)
    if not judged:
        return ""
    lines = ["## Floors\n", "| figure | beside | wanted | measured | |", "| --- | --- | --- | --- | --- |"]
    for one in judged:
        kind = "aim" if one["aim"] else "floor"
        verdict = "holds" if one["holds"] else "MISSED"
        what = one["name"] if one["system"] == OURS else f"{one['name']} ({one['system']})"
        lines.append(
            f"| {what} | {one['to'] or '-'} | {one['bound']} ({kind}) | {number(one['measured'])} | {verdict} |"
        )
    return "\n".join(lines) + "\n"


def _table(results: Results, figure: str) -> str:
    names = _names(results, figure)
    systems = list(dict.fromkeys(series.system for name in names for series in results.of(name)))
    first = results.of(names[0])[0]
    lines = [
        f"## {figure.replace('/', ': ')} ({first.unit}, {first.better} is better)\n",
        "| | " + " | ".join(systems) + " | others' cores |",
        "| --- " * (len(systems) + 2) + "|",
    ]
    for name in names:
        found = {series.system: series for series in results.of(name)}
        cells = [_cell(results, found.get(system)) for system in systems]
        busy = [cores for series in found.values() for cores in series.other_cores]
        lines.append(f"| {name.rpartition('/')[2]} | " + " | ".join(cells) + f" | {_range(busy)} |")
    return "\n".join(lines) + "\n"


def _cell(results: Results, series: Series | None) -> str:
    if series is None:
        return ""
    text = number(series.value)
    if len(series.samples) > 1:
        text += f" [{_range(series.samples)}]"
    ratio = None if series.system == OURS else results.ratio(series.name, OURS, series.system)
    return text if ratio is None else f"{text} ×{ratio:.2f}"


def _range(values: Sequence[float]) -> str:
    return f"{number(min(values))}..{number(max(values))}" if values else ""
