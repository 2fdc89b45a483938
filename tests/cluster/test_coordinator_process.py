"""A real coordinator, a group of one, and what its supervisor hears of it on a socket of the test's own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lone_coordinator import lone_coordinator

ROOT = Path(__file__).resolve().parents[2]
PERIOD_SECONDS = 0.3  # half of what systemd is said to allow
NOTHING_SECONDS = 1.5  # five periods in which nothing is heard

pytestmark = pytest.mark.cluster


class Supervisor:
    """What systemd would hear of the process."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))

    def hear(self, seconds: float = 30.0) -> str:
        """The next message; "" when none comes."""
        self._socket.settimeout(seconds)
        try:
            return self._socket.recv(1000).decode()
        except TimeoutError:
            return ""

    def hear_until(self, words: str, seconds: float = 30.0) -> list[str]:
        """All messages up to one that begins with `words`."""
        heard = [self.hear(seconds)]
        while heard[-1] and not heard[-1].startswith(words):
            heard.append(self.hear(seconds))
        return heard

    def hear_nothing(self) -> bool:
        """Whether the messages end, and none comes for some periods; what was on its way counts for nothing."""
        return any(self.hear(NOTHING_SECONDS) == "" for _ in range(20))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    made = Supervisor(tmp_path)
    yield made
    made.close()


@pytest.fixture
def stuck(tmp_path: Path) -> Path:
    return tmp_path / "stuck"


@pytest.fixture
def coordinator(tmp_path: Path, supervisor: Supervisor, stuck: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A member of a group of one; it leads soon."""
    file = lone_coordinator(tmp_path)
    with (tmp_path / "log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.stuck_coordinator", "--config", str(file)],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "STUCK": str(stuck),
                "NOTIFY_SOCKET": str(supervisor.path),
                "WATCHDOG_USEC": str(int(2e6 * PERIOD_SECONDS)),
            },
            cwd=tmp_path,
            stdout=output,
            stderr=output,
        )
    yield process
    if process.poll() is None:
        process.kill()
    process.wait(10)


def test_the_supervisor_hears_of_a_coordinator_while_raft_turns_and_nothing_while_its_loop_is_stuck(
    coordinator: subprocess.Popen[bytes], supervisor: Supervisor, stuck: Path
) -> None:
    assert supervisor.hear().startswith("READY=1\nSTATUS=")
    assert supervisor.hear_until("STATUS=running, ready")[-1]
    assert supervisor.hear_until("WATCHDOG=1")[-1]
    assert [supervisor.hear() for _ in range(3)] == ["WATCHDOG=1"] * 3
    stuck.touch()
    assert supervisor.hear_nothing()
    assert coordinator.poll() is None
    stuck.unlink()
    assert supervisor.hear_until("WATCHDOG=1")[-1] == "WATCHDOG=1"
    coordinator.send_signal(signal.SIGTERM)
    assert supervisor.hear_until("STOPPING=1")[-1] == "STOPPING=1\nSTATUS=SIGTERM"
    assert coordinator.wait(15) == 0
    assert supervisor.hear(0.1) == ""
