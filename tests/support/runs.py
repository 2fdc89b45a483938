"""A run of chaos as a process of its own, for tests: it may move into another network, which is for good."""

from __future__ import annotations

import signal
import subprocess
import sys

from tests.house.generate import ROOT

AFTERWARDS_SECONDS = 900


def run_chaos(seed: int, minutes: float, harms: str = "") -> None:
    """AssertionError with all that it said when something is wrong; among it the seed and the directory of the logs."""
    command = [sys.executable, "-m", "tests.support.chaos", "--seed", str(seed), "--minutes", str(minutes)]
    if harms:
        command += ["--harms", harms]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            out, _ = process.communicate(timeout=minutes * 60 + AFTERWARDS_SECONDS)
        except BaseException:
            process.send_signal(signal.SIGTERM)  # it cleans up
            process.wait(60)
            raise
    assert process.returncode == 0, out.decode()
    print(out.decode())
