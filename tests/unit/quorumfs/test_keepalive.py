"""Signs of life: while uploads are open, and not longer."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from quorumfs.errors import NoLeaderError
from quorumfs.keepalive import KeepAlive
from tests.support.shortage import no_more_threads


class Leader:
    def __init__(self) -> None:
        self.heard: list[list[bytes]] = []
        self.signs = threading.Semaphore(0)
        self.failure: Exception | None = None

    def keep_alive(self, uploads: Sequence[bytes]) -> None:
        self.heard.append(list(uploads))
        self.signs.release()
        if self.failure is not None:
            raise self.failure

    def wait(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.signs.acquire(timeout=20)


def threads() -> int:
    return sum(thread.name == "quorumfs-keep-alive" for thread in threading.enumerate())


def test_open_uploads_are_named_together_again_and_again() -> None:
    leader = Leader()
    keeper = KeepAlive(leader.keep_alive, 0.01)
    with keeper.holding(b"b"), keeper.holding(b"a"):
        assert threads() == 1
        leader.wait(3)
    assert [b"a", b"b"] in leader.heard
    keeper.close()
    assert threads() == 0


@pytest.mark.parametrize(
    "failure", [NoLeaderError("an election is under way"), RuntimeError("can't start new thread")]
)
def test_a_sign_that_does_not_get_through_is_no_error_and_not_the_last(failure: Exception) -> None:
    leader = Leader()
    leader.failure = failure
    keeper = KeepAlive(leader.keep_alive, 0.01)
    with keeper.holding(b"a"):
        leader.wait(3)
    keeper.close()


def test_the_thread_ends_when_nothing_is_open_and_the_next_upload_starts_another() -> None:
    leader = Leader()
    keeper = KeepAlive(leader.keep_alive, 0.01)
    with keeper.holding(b"a"):
        leader.wait()
    pause = threading.Event()
    for _ in range(1000):
        if not threads():
            break
        pause.wait(0.01)
    assert threads() == 0
    leader.signs = threading.Semaphore(0)
    with keeper.holding(b"c"):
        leader.wait()
    assert leader.heard[-1] == [b"c"]
    keeper.close()
    keeper.close()


def test_uploads_are_kept_alive_again_once_a_thread_can_be_started() -> None:
    leader = Leader()
    keeper = KeepAlive(leader.keep_alive, 0.01)
    with no_more_threads(), pytest.raises(RuntimeError), keeper.holding(b"a"):
        pass
    with keeper.holding(b"b"):
        leader.wait(2)
    assert leader.heard[0] == [b"b"]
    keeper.close()
