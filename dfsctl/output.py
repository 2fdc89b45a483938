"""How data is printed: aligned columns for people, one JSON document for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from dfsctl.errors import printable, show_json
from dfsctl.shell import Settings

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def show(settings: Settings, data: Any, lines: Callable[[], Iterable[str]]) -> None:
    """`data` as JSON, or `lines` for people, whichever was asked for."""
    if settings.as_json:
        show_json(data)
        return
    for line in lines():
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


def talk(settings: Settings, line: str) -> None:
    """A word for the person who waits: on stderr, and only when it is a terminal."""
    if settings.talkative:
        sys.stderr.write(line + "\n")


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Aligned columns with two spaces between; numbers to the right. Cells are made printable."""
    body = [list(row) for row in rows]
    cells = [list(headings), *([cell(value) for value in row] for row in body)]
    right = [bool(body) and all(_is_number(row[k]) for row in body) for k in range(len(headings))]
    widths = [max(len(row[k]) for row in cells) for k in range(len(headings))]
    return [
        "  ".join(
            one.rjust(width) if at_right else one.ljust(width)
            for one, width, at_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    ]


def pairs(rows: Iterable[tuple[str, Any]]) -> list[str]:
    """`name  value` lines."""
    body = [(name, cell(value)) for name, value in rows]
    width = max((len(name) for name, _ in body), default=0)
    return [f"{name.ljust(width)}  {value}".rstrip() for name, value in body]


def cell(value: Any) -> str:
    """One value as people read it; None is a dash."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.1f}"
        case dict():
            return ",".join(f"{key}={cell(one)}" for key, one in sorted(value.items())) or "-"
        case list() | tuple():
            return ", ".join(map(cell, value)) or "-"
        case _:
            return printable(str(value))


def size(count: int) -> str:
    """Bytes as people read them: 1536 -> 1.5 KiB."""
    amount, unit = float(count), 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{count} B" if unit == 0 else f"{amount:.1f} {_UNITS[unit]}"


def time_of_ns(wall_ns: int) -> str | None:
    """RFC 3339 in UTC with milliseconds; None for 0, which means unknown."""
    if not wall_ns:
        return None
    seconds, rest = divmod(wall_ns, 1_000_000_000)
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # a time that the calendar does not have
        return None
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest // 1_000_000:03d}Z".rjust(24, "0")


def time_of_ms(wall_ms: int) -> str | None:
    return time_of_ns(wall_ms * 1_000_000)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
