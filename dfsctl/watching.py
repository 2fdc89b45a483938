"""`--watch`: the same answer again and again, until somebody interrupts it.

A look that finds nobody to ask is told, and the next one tried: an election is what one watches for.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import click

from dfsctl.errors import in_words
from dfsctl.output import show
from dfsctl.shell import Settings
from quorumfs.errors import UnavailableError

SECONDS = 1.0
CLEAR = "\x1b[H\x1b[2J"

watch_option = click.option(
    "--watch",
    is_flag=False,
    flag_value=SECONDS,
    default=None,
    type=click.FloatRange(min=0.1),
    metavar="[SECONDS]",
    help="Go on until interrupted, a look a second unless SECONDS say more; with -o json a line of JSON each.",
)


def show_or_watch(
    given: Settings, seconds: float | None, ask: Callable[[], Any], lines: Callable[[Any], Iterable[str]]
) -> None:
    """Show what `ask` gives, once or every so many seconds; Ctrl-C ends that, and all is well."""
    if seconds is None:
        data = ask()
        show(given, data, lambda: lines(data))
        return
    try:
        while True:
            click.echo(_look(given, ask, lines))
            time.sleep(seconds)
    except KeyboardInterrupt:
        return


def _look(given: Settings, ask: Callable[[], Any], lines: Callable[[Any], Iterable[str]]) -> str:
    clear = CLEAR if sys.stdout.isatty() else ""
    try:
        data = ask()
    except UnavailableError as error:
        return json.dumps({"error": error.to_json()}) if given.as_json else clear + in_words(error).rstrip()
    return json.dumps(data) if given.as_json else clear + "\n".join(lines(data))
