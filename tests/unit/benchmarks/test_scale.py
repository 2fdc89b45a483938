from __future__ import annotations

from math import inf

import pytest

from benchmarks.scale import bucket_quantile


@pytest.mark.parametrize(
    ("counted", "median"),
    [
        ([(0.5, 0), (1.0, 50), (2.5, 100), (inf, 100)], 1.0),
        ([(0.5, 100), (1.0, 100), (inf, 100)], 0.25),
        ([(1.0, 0), (inf, 4)], 1.0),
    ],
)
def test_a_median_lies_where_half_of_the_calls_were_as_fast(
    counted: list[tuple[float, float]], median: float
) -> None:
    assert bucket_quantile(counted, 0.5) == median
