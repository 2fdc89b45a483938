"""Running console scripts as a person would: a process of its own, a home of its own, everything it said."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quorumfs.local.processes import console_script

PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Said:
    """What a command said, and how it ended."""

    code: int
    out: bytes
    err: str
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def text(self) -> str:
        return self.out.decode("utf-8", "surrogateescape")


class Dfsctl:
    """`dfsctl(...)` runs that command line to its end; `well` wants it to succeed without a word on stderr.

    `home`: where the user's files lie; nothing of the real user is read or written. `program`: instead of the
    console script.
    """

    def __init__(self, home: Path, coordinators: str = "", program: Sequence[str] = ()) -> None:
        self.home = home
        self._coordinators = coordinators
        self._program = tuple(program) or (console_script("dfsctl"),)
        self._token = ""
        home.mkdir(parents=True, exist_ok=True)

    def __call__(
        self, *argv: str | bytes | Path, stdin: bytes = b"", timeout: float = PATIENCE_SECONDS
    ) -> Said:
        begun = time.monotonic()
        done = subprocess.run(
            [*self._program, *argv],
            input=stdin,
            capture_output=True,
            env=self.environment(),
            timeout=timeout,
            check=False,
        )
        said = Said(done.returncode, done.stdout, done.stderr.decode(), time.monotonic() - begun)
        assert "Traceback" not in said.err + said.text, said.err
        return said

    def well(self, *argv: str | bytes | Path, stdin: bytes = b"", timeout: float = PATIENCE_SECONDS) -> Said:
        said = self(*argv, stdin=stdin, timeout=timeout)
        assert (said.code, said.err) == (0, ""), f"dfsctl {argv} ended with {said.code}: {said.err}"
        return said

    def prove(self, secret_file: Path) -> None:
        """From now on with an admin's token, made by proving the cluster's secret: from another machine nothing is
        changed without one."""
        made = self.well(
            *("auth", "token", "create", "--role", "admin", "--secret-file", secret_file, "-o", "json")
        )
        self._token = str(made.json["token"])

    def start(self, *argv: str | bytes | Path) -> subprocess.Popen[bytes]:
        """The running command; `finish` waits for it."""
        return subprocess.Popen(
            [*self._program, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment(),
        )

    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("QUORUMFS_", "XDG_"))}
        found = {"HOME": str(self.home), "XDG_CACHE_HOME": str(self.home / "cache")}
        if self._coordinators:
            found["QUORUMFS_COORDINATORS"] = self._coordinators
        if self._token:
            found["QUORUMFS_TOKEN"] = self._token
        return {**kept, **found}


def finish(process: subprocess.Popen[bytes], timeout: float = PATIENCE_SECONDS) -> tuple[int, str]:
    """(exit code, stderr) of a command that was started; it is killed when it does not end."""
    try:
        _, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, err.decode()
