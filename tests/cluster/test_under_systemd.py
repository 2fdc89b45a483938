"""A real start, watchdog and stop under systemd, with the unit that is shipped.

It runs under the machine's systemd where that is the first process and takes this user's orders, else under one of the
test's own. The unit lies in the test's own directory and is linked for the running system only, under a name of its
own; it is unlinked whatever happens.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.lone_coordinator import lone_coordinator
from tests.support.own_systemd import OwnSystemd
from tests.support.own_systemd import why_not as why_not_an_own_one

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "deploy" / "systemd" / "quorumfs-coordinator.service"
WATCHDOG_SECONDS = 2
OF_ANOTHER_MACHINE = (  # users and directories that an installation has, and this test has not
    "User",
    "Group",
    "StateDirectory",
    "StateDirectoryMode",
    "ProtectHome",
    "PrivateTmp",
    "OOMScoreAdjust",
)


def why_not_the_machines() -> str:
    """Why the machine's systemd cannot be asked here; "" when it can."""
    first = Path("/proc/1/comm")
    name = first.read_text().strip() if first.exists() else "unknown"
    if name != "systemd" or not Path("/run/systemd/system").is_dir():
        return f"systemd does not run here: process 1 is {name}"
    if shutil.which("systemctl") is None:
        return "systemctl is not installed"
    if os.geteuid() != 0 and not Path(os.environ.get("XDG_RUNTIME_DIR", "/nowhere"), "systemd").is_dir():
        return "systemd runs, but takes no orders from this user: no root, and no manager of its own"
    return ""


pytestmark = pytest.mark.cluster

Systemctl = Callable[..., str]


@pytest.fixture
def systemctl() -> Iterator[Systemctl]:
    """Of the machine's systemd, or of one of the test's own."""
    first = why_not_the_machines()
    if not first:
        yield partial(_said, _of_the_machine)
        return
    second = why_not_an_own_one()
    if second:
        pytest.skip(f"{first}; {second}")
    with OwnSystemd() as own:
        yield partial(_said, own.run)


def _of_the_machine(*argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


def _said(run: Callable[..., subprocess.CompletedProcess[str]], *words: str, check: bool = True) -> str:
    whose = [] if os.geteuid() == 0 else ["--user"]
    return run("systemctl", *whose, "--no-pager", *words, check=check).stdout


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.1)


def unit_text(directory: Path, file: Path) -> str:
    """The shipped unit, with this checkout's coordinator in a directory of the test's."""
    program = f"{sys.executable} -m tests.support.stuck_coordinator --config {file}"
    changed = {"ExecStart": program, "WorkingDirectory": str(directory), "WatchdogSec": str(WATCHDOG_SECONDS)}
    lines = []
    for line in UNIT.read_text().splitlines():
        key = line.partition("=")[0]
        if key not in OF_ANOTHER_MACHINE:
            lines.append(f"{key}={changed[key]}" if key in changed else line)
    own = f"ReadWritePaths={directory}\nEnvironment=PYTHONPATH={ROOT}\nEnvironment=STUCK={directory}/stuck\n"
    return "\n".join(lines).replace("[Install]", f"{own}\n[Install]") + "\n"


class Unit:
    def __init__(self, systemctl: Systemctl, directory: Path) -> None:
        self._systemctl = systemctl
        self.name = f"quorumfs-test-{os.getpid()}.service"
        self.stuck = directory / "stuck"
        self.file = directory / self.name
        self.file.write_text(unit_text(directory, lone_coordinator(directory)))

    def told(self, name: str) -> str:
        return self._systemctl("show", f"--property={name}", "--value", self.name).strip()


@pytest.fixture
def unit(systemctl: Systemctl, tmp_path: Path) -> Iterator[Unit]:
    made = Unit(systemctl, tmp_path)
    systemctl("link", "--runtime", str(made.file))
    try:
        yield made
    finally:
        made.stuck.unlink(missing_ok=True)
        systemctl("stop", made.name, check=False)
        systemctl("disable", "--runtime", made.name, check=False)
        systemctl("reset-failed", made.name, check=False)
        systemctl("daemon-reload", check=False)


def test_systemd_starts_a_coordinator_ends_one_whose_loop_is_stuck_starts_it_again_and_stops_it(
    systemctl: Systemctl, unit: Unit
) -> None:
    systemctl("start", unit.name)  # returns when it has said READY
    assert (unit.told("ActiveState"), unit.told("SubState")) == ("active", "running")
    until(lambda: re.search("running|ready", unit.told("StatusText")) is not None)
    time.sleep(3 * WATCHDOG_SECONDS)
    assert unit.told("NRestarts") == "0"
    first = unit.told("MainPID")
    unit.stuck.touch()
    until(lambda: unit.told("NRestarts") != "0")
    unit.stuck.unlink()
    until(lambda: unit.told("ActiveState") == "active" and unit.told("MainPID") not in ("0", first))
    systemctl("stop", unit.name)
    assert unit.told("ActiveState") == "inactive"
    assert (unit.told("Result"), unit.told("ExecMainStatus")) == ("success", "0")
