"""Bar charts as SVG, written by hand: a value per system and group, a line from the least to the greatest sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#2f6db3", "#e08a2e", "#5a9e5a", "#b0508a", "#7a7a7a", "#c2b02e", "#4aa5a5", "#8a5a3a")
_LABEL_WIDTH = 190
_PLOT_WIDTH = 460
_VALUE_WIDTH = 150
_BAR_HEIGHT = 16
_GROUP_GAP = 14
_TOP = 64


@dataclass(frozen=True, slots=True)
class Bar:
    """One system's value, with its least and greatest sample."""

    system: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Group:
    """Bars that are to be compared."""

    label: str
    bars: Sequence[Bar]


def bar_chart(title: str, unit: str, groups: Sequence[Group]) -> str:
    """The chart as an SVG document. The scale is logarithmic when the values span more than two decades."""
    systems = list(dict.fromkeys(bar.system for group in groups for bar in group.bars))
    colour = {system: COLOURS[number % len(COLOURS)] for number, system in enumerate(systems)}
    scale = _Scale(
        [value for group in groups for bar in group.bars for value in (bar.value, bar.low, bar.high)]
    )
    parts: list[str] = []
    y = _TOP
    for group in groups:
        middle = y + len(group.bars) * _BAR_HEIGHT / 2 + 4
        parts.append(_text(_LABEL_WIDTH - 8, middle, group.label, anchor="end"))
        for bar in group.bars:
            parts.append(_bar(bar, y, scale, colour[bar.system]))
            y += _BAR_HEIGHT
        y += _GROUP_GAP
    axis = f"{unit}, logarithmic" if scale.logarithmic else unit
    head = [
        _text(12, 22, f"{title} ({axis})", size=15, weight="bold"),
        *_legend(systems, colour),
        f'<line x1="{_LABEL_WIDTH}" y1="{_TOP - 6}" x2="{_LABEL_WIDTH}" y2="{y - _GROUP_GAP + 4}" stroke="#333"/>',
    ]
    width = _LABEL_WIDTH + _PLOT_WIDTH + _VALUE_WIDTH
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" viewBox="0 0 {width} {y}" '
        'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join([*head, *parts])
        + "\n</svg>\n"
    )


class _Scale:
    """From a value to pixels."""

    def __init__(self, values: Sequence[float]) -> None:
        above = [value for value in values if value > 0]
        self._most = max(above, default=1.0)
        least = min(above, default=1.0)
        self.logarithmic = self._most / least > 100
        self._decade = 10.0 ** math.floor(math.log10(least / 2))  # the least one is seen, too

    def pixels(self, value: float) -> float:
        if value <= 0:
            return 0.0
        if not self.logarithmic:
            return _PLOT_WIDTH * value / self._most
        span = math.log10(self._most / self._decade)
        return _PLOT_WIDTH * max(0.0, math.log10(value / self._decade)) / span


def _bar(bar: Bar, y: float, scale: _Scale, colour: str) -> str:
    width, low, high = scale.pixels(bar.value), scale.pixels(bar.low), scale.pixels(bar.high)
    middle = y + _BAR_HEIGHT / 2
    return (
        f'<rect x="{_LABEL_WIDTH}" y="{y + 1}" width="{width:.1f}" height="{_BAR_HEIGHT - 2}" fill="{colour}">'
        f"<title>{escape(bar.system)}: {number(bar.value)} [{number(bar.low)}..{number(bar.high)}]</title></rect>"
        f'<line x1="{_LABEL_WIDTH + low:.1f}" y1="{middle}" x2="{_LABEL_WIDTH + high:.1f}" y2="{middle}" '
        'stroke="#222" stroke-width="2"/>'
        + _text(_LABEL_WIDTH + max(width, high) + 6, middle + 4, number(bar.value))
    )


def _legend(systems: Sequence[str], colour: dict[str, str]) -> list[str]:
    parts, x = [], 12.0
    for system in systems:
        parts.append(f'<rect x="{x:.0f}" y="34" width="12" height="12" fill="{colour[system]}"/>')
        parts.append(_text(x + 16, 44, system))
        x += 34 + 6.6 * len(system)
    return parts


def _text(
    x: float, y: float, text: str, anchor: str = "start", size: int = 12, weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )


def number(value: float) -> str:
    """A value for people: three significant digits, thousands apart, no exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
