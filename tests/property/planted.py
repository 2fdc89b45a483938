"""What tests of tests share: a play on a machine, what it has against it, and a line for each planted bug."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar


class Played(Protocol):
    """A machine of Hypothesis that can also be led by hand."""

    def begin(self) -> Any: ...

    def check(self) -> Any: ...

    def teardown(self) -> Any: ...


class Planted(Protocol):
    @property
    def name(self) -> str: ...


M = TypeVar("M", bound=Played)
P = TypeVar("P", bound=Planted)


def perform_on(machine: M, play: Callable[[M], None]) -> None:
    """One play from its beginning to the end of what it leaves behind. Raises what the machine has against it."""
    machine.begin()
    try:
        play(machine)
        machine.check()
    finally:
        machine.teardown()


def noticed(plant: AbstractContextManager[object], act: Callable[[], None]) -> str:
    """What `act` stumbled over with the bug planted; empty: over nothing."""
    with plant:
        try:
            act()
        except Exception as error:  # noqa: BLE001  whatever it stumbles over is a find
            return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def tell(mutations: Iterable[P], hunt: Callable[[P], str]) -> None:
    """A line for each: what found it, and how soon."""
    for mutation in mutations:
        began = time.monotonic()
        found = hunt(mutation)
        print(f"{mutation.name}: {found or 'NOT FOUND'} ({time.monotonic() - began:.1f} s)", flush=True)
