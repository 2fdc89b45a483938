"""Client processes (load.py) as a crew: started, killed, hung, replaced, sent home. Their journals stay."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.house.generate import ROOT
from tests.support.processes import is_alive

HOME_SECONDS = 60.0


class Crew:
    """`prefix`: what stands before the command of a client of that name, such as `nsenter`."""

    def __init__(
        self,
        directory: Path,
        coordinators: str,
        seed: int,
        prefix: Callable[[str], Sequence[str]] = lambda name: (),
    ) -> None:
        self.directory = directory
        self._coordinators = coordinators
        self._seed = seed
        self._prefix = prefix
        self._origin = time.monotonic()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._lives: dict[str, int] = {}
        directory.mkdir(exist_ok=True)

    def start(self, name: str) -> None:
        """A new client in the place of `name`: nothing of the one before is known to it."""
        life = self._lives[name] = self._lives.get(name, 0) + 1
        with open(self.directory / f"{name}.log", "ab") as log:
            self._running[name] = subprocess.Popen(
                [
                    *(*self._prefix(name), sys.executable, "-m", "tests.support.load"),
                    *("--coordinators", self._coordinators, "--origin", str(self._origin)),
                    *("--journal", str(self._journal(name)), "--seed", f"{self._seed} {name} {life}"),
                ],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def hang(self, name: str) -> None:
        self._running[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self._running[name].send_signal(signal.SIGCONT)

    def runs(self, name: str) -> bool:
        process = self._running.get(name)
        return process is not None and is_alive(process.pid)

    def journals(self) -> list[Path]:
        return sorted(self.directory.glob("*.jsonl"))

    def written(self, name: str) -> int:
        """How long the journal of the client that runs now is: it grows while that client makes calls."""
        journal = self._journal(name)
        return journal.stat().st_size if journal.exists() else 0

    def go_home(self) -> Iterator[str]:
        """Have all end as soon as what they are at has ended. What is wrong with that, one line each."""
        for process in self._running.values():
            process.terminate()
        deadline = time.monotonic() + HOME_SECONDS
        for name, process in self._running.items():
            try:
                code = process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                yield f"client {name} does not end: a call takes more than {HOME_SECONDS:g} s"
                process.kill()
                process.wait()
                continue
            if code:
                yield f"client {name} ended with {code}: {self.directory / f'{name}.log'}"

    def close(self) -> None:
        for name in list(self._running):
            self.kill(name)

    def _journal(self, name: str) -> Path:
        return self.directory / f"{name}-{self._lives[name]}.jsonl"
