"""Counts bytes and streams for the node's metrics. Thread-safe; a count costs far less than a frame."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counts:
    """Since the process started."""

    received_bytes: int = 0
    sent_bytes: int = 0
    sealed: int = 0
    write_failures: int = 0
    rows_lost: int = 0
    passed: int = 0


class Meter:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._received_bytes = 0
        self._sent_bytes = 0
        self._sealed = 0
        self._write_failures = 0
        self._rows_lost = 0
        self._passed = 0

    def received(self, size_bytes: int) -> None:
        with self._lock:
            self._received_bytes += size_bytes

    def sent(self, size_bytes: int) -> None:
        with self._lock:
            self._sent_bytes += size_bytes

    def passed(self) -> None:
        """A client was handed an open chunk."""
        with self._lock:
            self._passed += 1

    def written(self, *, sealed: bool, row_lost: bool) -> None:
        """A write has ended: whether the own replica was sealed, whether the nodes behind were lost."""
        with self._lock:
            self._sealed += sealed
            self._write_failures += not sealed
            self._rows_lost += row_lost

    def counts(self) -> Counts:
        with self._lock:
            return Counts(
                self._received_bytes,
                self._sent_bytes,
                self._sealed,
                self._write_failures,
                self._rows_lost,
                self._passed,
            )
