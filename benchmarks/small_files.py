"""Thousands of small files in and out, every one durable: in packs and one by one, beside plain fsynced files."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.children import Child
from benchmarks.machine import Meter
from benchmarks.plan import Plan
from benchmarks.results import Results
from benchmarks.systems import server_pids
from quorumfs.testing import LocalCluster

FILE_BYTES = 4096
_SECONDS_MAX = 600.0
_CALLERS = (1, 8)
_STEPS = (
    ("put_many", "quorumfs"),
    ("get_many", "quorumfs"),
    ("put", "quorumfs"),
    ("get", "quorumfs"),
    ("put", "local files"),
    ("get", "local files"),
)


def small_files(plan: Plan, results: Results) -> None:
    """`put_many`, `get_many`: as many files per caller at once; `put`, `get`: one file per call. Warm caches."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=plan.directory)))
        plan.say("starting the cluster")
        cluster = stack.enter_context(LocalCluster(directory=directory / "cluster"))
        config = {"coordinators": cluster.coordinators, "directory": str(directory), "size": FILE_BYTES}
        child = stack.enter_context(
            Child("small_file_callers", config, directory / "callers.log")
        ).wait_ready()
        for number in range(plan.rounds):
            plan.say(f"small files: round {number + 1} of {plan.rounds}")
            for callers in _CALLERS:
                for verb, system in _STEPS:
                    _sample(child, verb, system, callers, plan, cluster, results)


def _sample(
    child: Child,
    verb: str,
    system: str,
    callers: int,
    plan: Plan,
    cluster: LocalCluster,
    results: Results,
) -> None:
    meter = Meter({"servers": server_pids(cluster)})
    done = child.call(_SECONDS_MAX, verb=verb, system=system, callers=callers, files=plan.small_files)
    account = meter.read()
    others = max(0.0, account.other_cores - done["cpu_seconds"] / account.wall_seconds)
    where = f"{verb}, {callers} caller{'s' if callers > 1 else ''}"
    results.add(
        f"small files/speed/{where}",
        system,
        plan.small_files / done["wall_seconds"],
        "files/s",
        "higher",
        others,
    )
    if system == "quorumfs":
        per_file = 1e6 / plan.small_files
        results.add(
            f"small files/cpu client/{where}",
            system,
            done["cpu_seconds"] * per_file,
            "us/file",
            "lower",
            others,
        )
        servers = account.cpu_seconds["servers"] * per_file
        results.add(f"small files/cpu servers/{where}", system, servers, "us/file", "lower", others)
