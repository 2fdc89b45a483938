from __future__ import annotations

import pytest

from benchmarks.tally import NothingAnsweredError, Tally, combine, merge


def test_the_callers_of_a_process_make_one_account() -> None:
    slow = Tally([0.002])
    failed = Tally([0.001])
    failed.fail(ValueError("no"))
    whole = merge([slow, failed])
    assert sorted(whole.latencies) == [0.001, 0.002]
    assert (whole.errors, whole.first_error) == (1, "ValueError: no")


def test_the_load_of_several_processes_lasts_as_long_as_the_slowest() -> None:
    load = combine([Tally([0.001, 0.003]).report(2.0, 0.5), Tally([0.002, 0.004]).report(4.0, 0.7)])
    assert load.operations == 4
    assert load.per_second == 1.0
    assert load.client_cpu_seconds == pytest.approx(1.2)
    assert load.p50_ms == 3.0
    assert load.p99_ms == 4.0


def test_a_load_of_which_nothing_was_answered_says_why() -> None:
    tally = Tally()
    tally.fail(ValueError("nobody leads"))
    with pytest.raises(NothingAnsweredError, match="nobody leads"):
        combine([tally.report(1.0, 0.1)])
