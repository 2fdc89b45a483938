from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import report
from benchmarks.plots import Bar, Group, bar_chart, number
from benchmarks.results import Results

SVG = "{http://www.w3.org/2000/svg}"
MACHINE = {
    "cpu": "a <processor>",
    "cores": 2,
    "memory_bytes": 8 << 30,
    "kernel": "Linux",
    "python": "3.11",
    "filesystem": "ext4",
    "fsync_ms_median": 0.3,
}
RUN = report.Run(MACHINE, "abc", {"quick": True})


def measured() -> Results:
    results = Results()
    for case, value in (("1", 100.0), ("256", 700.0)):
        results.add(f"create/throughput/{case}", "quorumfs", value, "ops/s", "higher", 0.1)
        results.add(f"create/throughput/{case}", "unary", 70.0, "ops/s", "higher", 0.1)
    results.skip("etcd", "it is not installed")
    return results


def widths(svg: str) -> list[float]:
    """Of the bars, without the background and the legend."""
    root = ElementTree.fromstring(svg)
    return [
        float(one.attrib["width"]) for one in root.iter(f"{SVG}rect") if one.find(f"{SVG}title") is not None
    ]


def test_the_files_of_a_run_replace_those_of_the_last(tmp_path: Path) -> None:
    (tmp_path / "latest.old-figure.svg").write_text("")
    (tmp_path / "kept.json").write_text("")
    report.write(measured(), RUN, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "kept.json",
        "latest.create-throughput.svg",
        "latest.json",
        "latest.md",
    ]


def test_the_json_names_machine_commit_results_floors_and_what_was_left_out(tmp_path: Path) -> None:
    report.write(measured(), RUN, tmp_path)
    found = json.loads((tmp_path / "latest.json").read_text())
    assert found["machine"] == MACHINE
    assert found["commit"] == "abc"
    assert len(found["results"]) == 4
    assert found["floors"][0]["measured"] == 10.0
    assert found["skipped"] == [{"system": "etcd", "reason": "it is not installed"}]


def test_the_table_has_a_row_per_case_and_the_ratio_to_every_other_system() -> None:
    page = report.as_markdown(measured(), RUN)
    assert "| 256 | 700 | 70 ×10.00 | 0.1..0.1 |" in page
    assert "| create/throughput/256 | unary | 7.0 (floor) | 10 | holds |" in page
    assert "- etcd: it is not installed" in page


def test_a_bar_is_as_long_as_its_value() -> None:
    bars = [Bar("quorumfs", 50.0, 40.0, 60.0), Bar("etcd", 100.0, 100.0, 100.0)]
    short, long = widths(bar_chart("create", "ops/s", [Group("1", bars)]))
    assert long == 2 * short


def test_values_that_lie_far_apart_are_drawn_on_a_logarithmic_scale() -> None:
    bars = [Bar("a", value, value, value) for value in (1.0, 10.0, 1000.0)]
    chart = bar_chart("create", "ops/s", [Group("1", bars)])
    first, second, third = widths(chart)
    assert "logarithmic" in chart
    assert second == pytest.approx(2 * first)
    assert third == pytest.approx(4 * first)


def test_names_cannot_break_the_picture() -> None:
    chart = bar_chart("<script>", "a&b", [Group("<g>", [Bar("<s>", 1.0, 1.0, 1.0)])])
    assert ElementTree.fromstring(chart).tag == f"{SVG}svg"


def test_a_chart_of_zeros_is_still_a_picture() -> None:
    assert widths(bar_chart("x", "s", [Group("g", [Bar("a", 0.0, 0.0, 0.0)])])) == [0.0]


def test_numbers_are_short() -> None:
    assert [number(value) for value in (12345.6, 12.345, 0.01234)] == ["12,346", "12.3", "0.0123"]
