"""Processes that carry out a workload: they read commands from stdin and answer on stdout, a JSON object a line.

A workload runs in processes of its own, so that its CPU is told from the servers' and its GIL is not theirs. They
live through a whole benchmark: what is measured is the work, not the start of an interpreter. Processes that work
together begin at the same instant of the machine's monotonic clock (`start_at`), which all of them share.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
START_IN_SECONDS = 0.7
_GRACE_SECONDS = 60.0


class WorkloadError(Exception):
    """A workload did not do what it was asked to."""


class Child:
    """One process running `python -m benchmarks.<module>`; its stderr goes to `log`. In a with-block."""

    def __init__(
        self, module: str, config: Mapping[str, Any], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._log = log
        with open(log, "ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"benchmarks.{module}", json.dumps(dict(config))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill it; a workload has nothing to lose."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()

    def wait_ready(self) -> Child:
        """Until it takes commands; to be called once, first."""
        self.answer()
        return self

    def ask(self, **command: Any) -> None:
        """Have a command carried out; `answer` waits for the outcome."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise WorkloadError(f"the workload ended: {self._last_words()}") from error

    def answer(self, seconds: float = 0.0) -> dict[str, Any]:
        """The outcome of the oldest command without one; `seconds`: how long it is meant to take."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(seconds + _GRACE_SECONDS):
                raise WorkloadError(f"no answer of the workload: {self._last_words()}")
        line = self._process.stdout.readline()
        if not line:
            raise WorkloadError(f"the workload ended: {self._last_words()}")
        outcome: dict[str, Any] = json.loads(line)
        return outcome

    def call(self, seconds: float = 0.0, **command: Any) -> dict[str, Any]:
        """`ask`, then `answer`."""
        self.ask(**command)
        return self.answer(seconds)

    def _last_words(self) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace").strip()
        return text[-2000:] or "it said nothing"


def run_together(
    children: Sequence[Child], seconds: float, started: Callable[[], None], **command: Any
) -> list[dict[str, Any]]:
    """One command to all of them, begun at the same instant; `started` is called then."""
    start_at = time.monotonic() + START_IN_SECONDS
    for child in children:
        child.ask(seconds=seconds, start_at=start_at, **command)
    wait_until(start_at)
    started()
    return [child.answer(seconds + START_IN_SECONDS) for child in children]


def serve(handle: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The child's side: say that it is there, then answer commands until stdin ends."""
    sys.stdout.write("{}\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(handle(json.loads(line))) + "\n")
        sys.stdout.flush()


def wait_until(start_at: float) -> None:
    """Until that instant of the monotonic clock."""
    left = start_at - time.monotonic()
    if left > 0:
        time.sleep(left)
