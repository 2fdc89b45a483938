"""An agent's watchdog is fed by its own answers, and by nothing else."""

from __future__ import annotations

import http.client

import pytest

from common.lifecycle import Lifecycle
from sidecar import limits
from sidecar.pulse import Pulse, own_host


class Heard(Lifecycle):
    def __init__(self) -> None:
        super().__init__({})
        self.heard: list[str] = []

    def notify(self, *assignments: str) -> bool:
        self.heard += assignments
        return True


def test_an_agent_that_answers_itself_feeds_its_watchdog() -> None:
    life = Heard()
    pulse = Pulse(life, lambda: None, 15.0)
    assert pulse.work() == "this agent answers"
    assert life.heard == ["WATCHDOG=1"]
    assert pulse.wait() == limits.OWN_QUESTION_SECONDS


@pytest.mark.parametrize("trouble", [TimeoutError("timed out"), http.client.RemoteDisconnected("cut")])
def test_an_agent_that_does_not_answer_itself_feeds_nothing(trouble: Exception) -> None:
    life = Heard()

    def ask() -> None:
        raise trouble

    pulse = Pulse(life, ask, 0.3)
    assert "does not answer itself" in pulse.work()
    assert life.heard == []
    assert pulse.wait() == 0.3


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("10.0.0.7", "10.0.0.7"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "::1"),
        ("[::]", "::1"),
        ("[::1]", "::1"),
        ("localhost", "localhost"),
    ],
)
def test_who_listens_everywhere_asks_itself_over_loopback(host: str, expected: str) -> None:
    assert own_host(host) == expected
