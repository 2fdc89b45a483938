"""Work that is shared with a second thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from quorumfs.companion import Companion

PATIENCE_SECONDS = 20.0


@pytest.fixture
def companion() -> Iterator[Companion]:
    made = Companion()
    yield made
    made.close()


def _fail() -> None:
    raise OSError("no")


def _gone() -> bool:
    thread = next((one for one in threading.enumerate() if one.name == "quorumfs-companion"), None)
    if thread is not None:
        thread.join(PATIENCE_SECONDS)
    return thread is None or not thread.is_alive()


def test_both_halves_are_done_at_the_same_time_and_before_it_returns(companion: Companion) -> None:
    for _ in range(100):
        both, done = threading.Barrier(2), []

        def half(name: str, both: threading.Barrier = both, done: list[str] = done) -> None:
            both.wait(PATIENCE_SECONDS)
            done.append(name)

        assert companion.share(lambda: half("mine"), lambda: half("other"))
        assert sorted(done) == ["mine", "other"]


def test_what_one_half_raises_is_raised_when_both_have_ended(companion: Companion) -> None:
    done: list[str] = []
    with pytest.raises(OSError, match="no"):
        companion.share(lambda: done.append("mine"), _fail)
    with pytest.raises(OSError, match="no"):
        companion.share(_fail, lambda: done.append("other"))
    assert done == ["mine", "other"]


def test_an_interrupt_leaves_nothing_under_way(companion: Companion) -> None:
    begun, go_on, done = threading.Event(), threading.Event(), []

    def other() -> None:
        begun.set()
        assert go_on.wait(PATIENCE_SECONDS)
        done.append("other")

    def mine() -> None:
        assert begun.wait(PATIENCE_SECONDS)
        threading.Timer(0.01, go_on.set).start()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        companion.share(mine, other)
    assert done == ["other"]
    assert companion.share(lambda: None, lambda: None)


def test_who_finds_it_busy_is_told_and_nothing_is_done(companion: Companion) -> None:
    told: list[bool] = []
    assert companion.share(lambda: told.append(companion.share(_fail, _fail)), lambda: None)
    assert told == [False]


def test_a_closed_one_shares_nothing_and_its_thread_ends(companion: Companion) -> None:
    assert companion.share(lambda: None, lambda: None)
    companion.close()
    companion.close()
    assert not companion.share(_fail, _fail)
    assert _gone()


def test_an_idle_one_ends_its_thread_and_starts_another_when_it_is_wanted() -> None:
    companion = Companion(linger_seconds=0.01)
    for _ in range(5):
        assert companion.share(lambda: None, lambda: None)
        assert _gone()
    companion.close()
