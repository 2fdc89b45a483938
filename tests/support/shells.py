"""`dfsctl` without the half second in which a process begins: a few that stay, each given one command after another.

What is measured is the command itself: everything is imported before the first. Each has its own environment, working
directory and standard streams, as the console script has.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.commands import Said

_SERVE = """
import importlib, json, os, sys, tempfile, time
from dfsctl.__main__ import run
from dfsctl.commands import dfsctl
from dfsctl.shell import Group

def load(group):
    for row in group.table.values():
        load(row) if isinstance(row, Group) else importlib.import_module(row.where.split(":")[0])

load(dfsctl)
import quorumfs.client
answers = os.fdopen(os.dup(1), "w")
kept = [tempfile.TemporaryFile() for _ in range(2)]
for number, file in enumerate(kept, 1):
    os.dup2(file.fileno(), number)  # whatever a command starts writes there as well
for line in sys.stdin:
    begun = time.monotonic()
    code = run(json.loads(line))
    seconds = time.monotonic() - begun
    said = []
    for stream, file in zip((sys.stdout, sys.stderr), kept):
        stream.flush()
        file.seek(0)
        said.append(file.read().hex())
        file.seek(0)
        file.truncate()
    print(json.dumps({"code": code, "out": said[0], "err": said[1], "seconds": seconds}), file=answers, flush=True)
"""


class Shells:
    """`count` of them; any thread may call, and waits while all are at work. Use it in a with-block."""

    def __init__(self, count: int, environment: Mapping[str, str], directory: Path) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-c", _SERVE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=dict(environment),
                cwd=directory,
                text=True,
            )
            for _ in range(count)
        ]
        self._idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
        for process in self._processes:
            self._idle.put(process)

    def __enter__(self) -> Shells:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def run(self, argv: Sequence[str | Path]) -> Said:
        """The command to its end; `seconds`: of the command alone."""
        with self._one() as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps([os.fspath(word) for word in argv]) + "\n")
            process.stdin.flush()
            told: dict[str, Any] = json.loads(process.stdout.readline())
        return Said(
            told["code"], bytes.fromhex(told["out"]), bytes.fromhex(told["err"]).decode(), told["seconds"]
        )

    @contextmanager
    def _one(self) -> Iterator[subprocess.Popen[str]]:
        process = self._idle.get()
        try:
            yield process
        finally:
            self._idle.put(process)
