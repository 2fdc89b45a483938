"""Progress of transfers: a bar on stderr when it is a terminal, else nothing at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dfsctl.shell import Settings


class Meter:
    """Counts bytes of several transfers at once. Any thread may call."""

    def __init__(self, show: Callable[[int], None] = lambda done: None) -> None:
        self._show = show
        self._done = 0
        self._lock = threading.Lock()

    def file(self) -> Callable[[int], None]:
        """What one transfer calls with the bytes that it has done so far; a repeated chunk may lower them."""
        seen = 0

        def done(so_far: int) -> None:
            nonlocal seen
            with self._lock:
                self._done += so_far - seen
                seen = so_far
                self._show(self._done)

        return done


@contextmanager
def meter(settings: Settings, what: str, total_bytes: int | None) -> Iterator[Meter]:
    """A Meter for transfers of `total_bytes` in all (None: unknown)."""
    if not settings.talkative:
        yield Meter()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=total_bytes)
        yield Meter(lambda done: bars.update(task, completed=done))
