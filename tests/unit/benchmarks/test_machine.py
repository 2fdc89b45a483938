from __future__ import annotations

import mmap
import os
from pathlib import Path

from benchmarks import machine


def test_the_machine_is_named_with_what_its_numbers_depend_on(tmp_path: Path) -> None:
    found = machine.describe(tmp_path)
    assert found["cores"] == os.cpu_count()
    assert found["memory_bytes"] > 0
    assert found["fsync_ms_median"] >= 0
    assert list(tmp_path.iterdir()) == []


def test_cpu_is_counted_of_processes_that_run_and_of_no_others() -> None:
    assert list(machine.cpu_seconds([os.getpid(), 2**22 + 1])) == [os.getpid()]


def test_a_meter_gives_each_group_its_own_cpu() -> None:
    meter = machine.Meter({"own": [os.getpid()], "nobody": [2**22 + 1]})
    before = os.times()
    while os.times().user - before.user < 0.05:
        sum(range(10_000))
    account = meter.read()
    assert account.cpu_seconds["own"] > 0
    assert account.cpu_seconds["nobody"] == 0
    assert account.other_cores >= 0


def test_the_peak_of_a_process_counts_from_when_it_was_forgotten() -> None:
    machine.forget_peak(os.getpid())
    before = machine.peak_bytes(os.getpid())
    held = mmap.mmap(-1, 32 << 20)  # not of an allocator's, which may keep what was freed
    for page in range(0, len(held), mmap.PAGESIZE):
        held[page] = 1
    assert machine.peak_bytes(os.getpid()) - before > 16 << 20
    held.close()
    machine.forget_peak(os.getpid())
    assert machine.peak_bytes(os.getpid()) - before < 16 << 20


def test_memory_of_a_process_is_what_it_holds() -> None:
    assert machine.resident_bytes(os.getpid()) > 1 << 20
