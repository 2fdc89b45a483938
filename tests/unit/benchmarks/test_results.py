from __future__ import annotations

import pytest

from benchmarks.results import Floor, Results, judge, percentile, ratio


def measured() -> Results:
    results = Results()
    for ours, theirs in ((100.0, 10.0), (50.0, 10.0), (900.0, 100.0)):
        results.add("create/throughput/16", "quorumfs", ours, "ops/s", "higher", 0.5)
        results.add("create/throughput/16", "unary", theirs, "ops/s", "higher", 0.5)
    return results


def test_a_ratio_is_the_median_of_the_rounds_ratios_not_of_two_medians() -> None:
    assert measured().ratio("create/throughput/16", "quorumfs", "unary") == 9.0


def test_without_rounds_that_match_the_medians_are_compared() -> None:
    assert ratio([10.0, 20.0, 30.0], [5.0]) == 4.0


def test_nothing_is_divided_by_zero() -> None:
    assert ratio([1.0], [0.0]) is None
    assert ratio([1.0, 6.0], [0.0, 2.0]) == 3.0


def test_a_row_has_what_the_product_promises_of_its_json() -> None:
    row = measured().rows()[0]
    assert row["name"] == "create/throughput/16"
    assert row["system"] == "quorumfs"
    assert row["value"] == 100.0
    assert row["unit"] == "ops/s"
    assert row["better"] == "higher"
    assert row["samples"] == [100.0, 50.0, 900.0]
    assert row["ratio_to"] == {"unary": 9.0}
    assert row["other_cores"] == [0.5, 0.5, 0.5]


def test_a_floor_holds_when_the_ratio_reaches_it() -> None:
    floors = [
        Floor("create/throughput/16", "quorumfs", "unary", 9.0),
        Floor("create/throughput/16", "quorumfs", "unary", 9.5, aim=True),
    ]
    assert [one["holds"] for one in judge(floors, measured())] == [True, False]


def test_of_what_is_better_low_a_floor_is_the_most_it_may_be() -> None:
    results = Results()
    results.add("failover/worst/next write", "quorumfs", 0.8, "s", "lower")
    floors = [Floor("failover/worst/next write", "quorumfs", "", most) for most in (1.5, 0.5)]
    assert [one["holds"] for one in judge(floors, results)] == [True, False]


def test_a_floor_is_not_judged_when_its_figure_or_the_other_system_was_not_measured() -> None:
    floors = [
        Floor("create/throughput/16", "quorumfs", "etcd", 1.0),
        Floor("stat/throughput/16", "quorumfs", "", 1.0),
    ]
    assert judge(floors, measured()) == []


@pytest.mark.parametrize(("share", "found"), [(0.0, 1), (0.5, 3), (0.99, 4), (1.0, 4)])
def test_a_percentile_is_one_of_the_values(share: float, found: int) -> None:
    assert percentile([1, 2, 3, 4], share) == found
