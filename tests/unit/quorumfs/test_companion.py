"""Work that is shared with a second thread, and how much of it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from quorumfs import companion as companion_module
from quorumfs.companion import Companion, Portion

PATIENCE_SECONDS = 20.0
SIZE, GRAIN = 64, 4

Fails = Callable[[int], object]


@pytest.fixture
def companion() -> Iterator[Companion]:
    made = Companion()
    yield made
    made.close()


class Together:
    """Work of which no part ends before another has begun: `done` in the order in which they ended."""

    def __init__(self) -> None:
        self.done: list[tuple[int, int]] = []
        self._both = threading.Barrier(2)

    def __call__(self, start: int, stop: int) -> None:
        self._both.wait(PATIENCE_SECONDS)
        self.done.append((start, stop))


class Asleep(Companion):
    """Its thread is not woken before `awake`."""

    awake = False

    def _wake(self) -> None:
        if self.awake:
            super()._wake()


@pytest.fixture
def asleep() -> Iterator[Asleep]:
    made = Asleep()
    yield made
    made.awake = True
    made.close()


def _fail(start: int, stop: int) -> None:
    raise OSError(f"no {start}")


def _gone(companion: Companion) -> bool:
    """The thread of one that is closed or idle has ended."""
    thread = companion._thread
    if thread is not None:
        thread.join(PATIENCE_SECONDS)
    return thread is None or not thread.is_alive()


def test_both_parts_are_done_at_the_same_time_and_before_it_returns(companion: Companion) -> None:
    for _ in range(100):
        work = Together()
        while not companion.share(work, SIZE, GRAIN):  # it rests after it was waited for
            pass
        (first, cut), (begun, last) = sorted(work.done)
        assert (first, last) == (0, SIZE)
        assert cut == begun
        assert cut % GRAIN == 0


def test_what_a_part_raises_is_raised_when_both_have_ended_the_first_before_the_other(
    companion: Companion,
) -> None:
    for fails, told in ((lambda start: not start, "no 0"), (bool, "no [1-9]"), (lambda _: True, "no 0")):
        together = Together()

        def work(start: int, stop: int, together: Together = together, fails: Fails = fails) -> None:
            together(start, stop)
            if fails(start):
                _fail(start, stop)

        with pytest.raises(OSError, match=told):
            companion.share(work, SIZE, GRAIN)
        assert len(together.done) == 2


def test_an_interrupt_leaves_nothing_under_way(companion: Companion) -> None:
    begun, go_on, done = threading.Event(), threading.Event(), []

    def work(start: int, stop: int) -> None:
        if start:
            begun.set()
            assert go_on.wait(PATIENCE_SECONDS)
            done.append(start)
            return
        assert begun.wait(PATIENCE_SECONDS)
        threading.Timer(0.01, go_on.set).start()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        companion.share(work, SIZE, GRAIN)
    assert len(done) == 1


def _interrupted_at(number: int, when: Callable[[], bool]) -> Callable[[FrameType, str, object], None]:
    """For sys.setprofile: raises in the module, while `when`, at the call, or return of a built-in one, of that number.

    There an interpreter looks whether a signal has come."""
    left = number

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal left
        here = frame.f_code.co_filename == companion_module.__file__
        if here and event in ("call", "c_return") and when():
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

    return profile


@pytest.mark.parametrize("has_begun", [True, False])
def test_wherever_an_interrupt_comes_nothing_is_left_under_way(asleep: Asleep, has_begun: bool) -> None:
    asleep.awake = has_begun
    interrupts = 0
    for number in range(1, 100):
        begun, go_on = threading.Event(), threading.Event()
        parts: list[str] = []

        def work(
            start: int,
            stop: int,
            begun: threading.Event = begun,
            go_on: threading.Event = go_on,
            parts: list[str] = parts,
        ) -> None:
            parts.append("begun")
            if start and has_begun:
                begun.set()
                assert go_on.wait(PATIENCE_SECONDS)
            elif has_begun:
                assert begun.wait(PATIENCE_SECONDS)
                threading.Timer(0.01, go_on.set).start()
            parts.append("ended")

        def ended(parts: list[str] = parts) -> bool:
            return "ended" in parts

        asleep._portion = Portion()
        sys.setprofile(_interrupted_at(number, ended))
        try:
            asleep.share(work, SIZE, GRAIN)
        except KeyboardInterrupt:
            interrupts += 1
        else:
            break
        finally:
            sys.setprofile(None)
            left = parts.count("begun") - parts.count("ended")
        assert left == 0
        assert asleep._busy.acquire(blocking=False)
        asleep._busy.release()
    assert interrupts > 3


def test_nothing_of_the_work_is_kept(companion: Companion, asleep: Asleep) -> None:
    for shares in [companion] * 200 + [asleep]:
        buffer = bytearray(SIZE)
        view = memoryview(buffer)
        shares.share(lambda start, stop, view=view: view[start], SIZE, GRAIN)  # type: ignore[misc]
        del view
        buffer.clear()  # refused, BufferError, as long as somebody has a view of it


def test_what_the_thread_has_not_begun_is_taken_back_and_it_is_left_to_rest(asleep: Asleep) -> None:
    done: list[tuple[int, int]] = []
    assert asleep.share(lambda start, stop: done.append((start, stop)), SIZE, GRAIN)
    (first, cut), (begun, last) = done
    assert (first, cut, last) == (0, begun, SIZE)
    assert not asleep.share(_fail, SIZE, GRAIN)
    with pytest.raises(OSError, match="no 0"):
        asleep.share(_fail, SIZE, GRAIN)


def test_what_was_taken_back_from_a_thread_is_not_done_by_it_later(asleep: Asleep) -> None:
    done: list[int] = []
    assert asleep.share(lambda start, stop: done.append(start), SIZE, GRAIN)
    assert len(done) == 2
    asleep.awake = True
    asleep.close()
    assert _gone(asleep)
    assert len(done) == 2


class Ahead(Companion):
    """Has done its part before its caller begins."""

    def _wake(self) -> None:
        job, self._job = self._job, None
        if job is not None and job.take(job):
            job.run()
        super()._wake()


def test_a_thread_that_is_ready_first_is_given_more_the_next_time() -> None:
    portion = Portion()
    portion.was_ready()
    ahead = Ahead()
    assert ahead.share(lambda start, stop: None, SIZE, GRAIN)
    ahead.close()
    assert ahead._portion == portion


def test_a_thread_that_is_waited_for_is_given_less_the_next_time(companion: Companion) -> None:
    portion = Portion()
    portion.was_waited_for()
    together, go_on = Together(), threading.Event()

    def work(start: int, stop: int) -> None:
        together(start, stop)
        if start:
            assert go_on.wait(PATIENCE_SECONDS)
        else:
            threading.Timer(0.05, go_on.set).start()

    assert companion.share(work, SIZE, GRAIN)
    assert companion._portion == portion


def test_who_finds_it_busy_is_told_and_nothing_is_done(companion: Companion) -> None:
    told: list[bool] = []

    def work(start: int, stop: int) -> None:
        if not start:
            told.append(companion.share(_fail, SIZE, GRAIN))

    assert companion.share(work, SIZE, GRAIN)
    assert told == [False]


def test_a_closed_one_shares_nothing_and_its_thread_ends_at_once() -> None:
    companion = Companion(linger_seconds=3600.0)
    assert companion.share(Together(), SIZE, GRAIN)
    companion.close()
    companion.close()
    assert not companion.share(_fail, SIZE, GRAIN)
    assert _gone(companion)


def test_an_idle_one_ends_its_thread_and_starts_another_when_it_is_wanted() -> None:
    companion = Companion(linger_seconds=0.01)
    for _ in range(5):
        while not companion.share(Together(), SIZE, GRAIN):
            pass
        assert _gone(companion)
    companion.close()


# ---- how much --------------------------------------------------------------------------------------------


def _given(portion: Portion) -> int:
    return SIZE - portion.cut(SIZE, GRAIN)


def test_who_is_always_ready_first_is_given_a_half_in_the_end_and_no_more() -> None:
    portion = Portion()
    given = [_given(portion)]
    for _ in range(100):
        portion.was_ready()
        given.append(_given(portion))
    assert given == sorted(given)
    assert given[0] < given[-1] == SIZE // 2


def test_who_is_waited_for_is_given_less_and_rests_when_it_is_given_the_least() -> None:
    portion = Portion()
    given = []
    while part := _given(portion):
        given.append(part)
        portion.was_waited_for()
    assert given == sorted(given, reverse=True)
    assert _given(portion) == SIZE // 8


def test_one_that_never_begins_is_asked_ever_more_rarely_and_often_again_once_it_does() -> None:
    portion = Portion()

    def rests() -> int:
        portion.had_not_begun()
        number = 0
        while not _given(portion):
            number += 1
        return number

    assert [rests() for _ in range(12)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 512, 512]
    for _ in range(9):
        portion.was_ready()
    assert rests() == 1


@pytest.mark.parametrize("size", [16, 17, 19, 1000, 1003])
def test_a_cut_is_between_two_grains(size: int) -> None:
    cut = Portion().cut(size, GRAIN)
    assert 0 < cut < size
    assert cut % GRAIN == 0
