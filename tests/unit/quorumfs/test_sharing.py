"""One job in two threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from quorumfs.sharing import SecondThread

PATIENCE_SECONDS = 20.0


@pytest.fixture
def second() -> Iterator[SecondThread]:
    made = SecondThread()
    yield made
    made.close()


def test_every_part_is_done_once(second: SecondThread) -> None:
    for count in (0, 1, 2, 50):
        done: list[int] = []
        second.share(done.append, range(count))
        assert sorted(done) == list(range(count))


def test_two_threads_work_at_the_same_time(second: SecondThread) -> None:
    meeting = threading.Barrier(2)
    second.share(lambda part: meeting.wait(PATIENCE_SECONDS), range(2))


def test_a_busy_second_thread_is_not_waited_for(second: SecondThread) -> None:
    begun, over = threading.Event(), threading.Event()

    def hold(part: int) -> None:
        begun.set()
        assert over.wait(PATIENCE_SECONDS)

    holder = threading.Thread(target=second.share, args=(hold, range(2)))
    holder.start()
    assert begun.wait(PATIENCE_SECONDS)
    done: list[int] = []
    second.share(done.append, range(10))  # returns though both threads of the other job are held
    assert sorted(done) == list(range(10))
    over.set()
    holder.join()


@pytest.mark.parametrize("bad", range(6))
def test_an_error_of_either_thread_reaches_the_caller_when_all_has_ended(
    second: SecondThread, bad: int
) -> None:
    under_way: set[int] = set()

    def work(part: int) -> None:
        under_way.add(part)
        try:
            if part == bad:
                raise OSError("the disk")
        finally:
            under_way.discard(part)

    with pytest.raises(OSError, match="the disk"):
        second.share(work, range(6))
    assert not under_way


def test_after_its_end_the_caller_does_it_alone(second: SecondThread) -> None:
    second.close()
    done: list[int] = []
    second.share(done.append, range(4))
    assert sorted(done) == list(range(4))


def test_an_idle_thread_ends_and_comes_again() -> None:
    second = SecondThread(linger_seconds=0.01)
    done: list[int] = []
    second.share(done.append, range(4))
    thread = second._thread
    if thread is not None:
        thread.join(PATIENCE_SECONDS)
    assert second._thread is None
    second.share(done.append, range(4))
    second.close()
    assert len(done) == 8
