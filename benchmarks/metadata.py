"""Creates and linearizable stats: closed loops of 1, 16, 256 callers and of 4 processes with 16 each.

Beside the product: plain unary calls to the same cluster, our own core without gRPC, and etcd (a put, a get).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks.machine import Account, Meter
from benchmarks.peers import etcd
from benchmarks.plan import Plan
from benchmarks.results import Better, Results
from benchmarks.systems import SHAPES, Core, CoreGroup, QuorumFS, SameCluster, Shape, System
from benchmarks.tally import Load, NothingAnsweredError
from quorumfs.testing import LocalCluster

_WARM_UP_SECONDS = 0.5
_TRIES = 3


def create(plan: Plan, results: Results) -> None:
    """PutFile of empty files: each is a transaction of the namespace, fsynced on a majority."""
    _measure("create", plan, results)


def stat(plan: Plan, results: Results) -> None:
    """What is at a path, as of no earlier than the call."""
    _measure("stat", plan, results)


def _measure(verb: str, plan: Plan, results: Results) -> None:
    with _systems(plan, results) as systems:
        for system in systems:
            system.load(verb, Shape(16), _WARM_UP_SECONDS, lambda: None)
        for shape in SHAPES:
            for number in range(plan.rounds):
                plan.say(f"{verb}: {shape.label} callers, round {number + 1} of {plan.rounds}")
                for system in systems:
                    _sample(verb, system, shape, plan, results)


def _start(meters: list[Meter], processes: Mapping[str, Sequence[int]]) -> None:
    meters.append(Meter(processes))


@contextmanager
def _systems(plan: Plan, results: Results) -> Iterator[Sequence[System]]:
    """All of them, running."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=plan.directory)))
        plan.say("starting the clusters")
        cluster = stack.enter_context(LocalCluster(datanodes=0, directory=directory / "cluster"))
        product = stack.enter_context(QuorumFS(cluster, directory))
        group = stack.enter_context(CoreGroup(directory / "core"))
        systems: list[System] = [
            product,
            SameCluster(product, "asyncio", "quorumfs, asyncio"),
            SameCluster(product, "unary", "unary"),
            Core(group, False),
            Core(group, True),
        ]
        if reason := etcd.missing():
            results.skip("etcd", reason)
        else:
            systems.append(stack.enter_context(etcd.Etcd(directory / "etcd")))
        yield systems


def _sample(verb: str, system: System, shape: Shape, plan: Plan, results: Results) -> None:
    """One sample of every figure, unless there is none that was not disturbed."""
    for _ in range(_TRIES):
        before = system.processes()
        meters: list[Meter] = []
        try:
            load = system.load(verb, shape, plan.seconds, partial(_start, meters, before))
            account = meters[0].read()
            disturbed = load.first_error
        except NothingAnsweredError as error:
            disturbed = str(error)
        if not disturbed and system.processes() != before:
            disturbed = "another member began to lead"
        if not disturbed:
            _add(verb, system, shape, load, account, results)
            return
        results.note(f"{verb}, {shape.label} callers, {system.name}: sampled again, because: {disturbed}")


def _add(verb: str, system: System, shape: Shape, load: Load, account: Account, results: Results) -> None:
    others = max(0.0, account.other_cores - load.client_cpu_seconds / account.wall_seconds)
    figures: list[tuple[str, float, str, Better]] = [
        ("throughput", load.per_second, "ops/s", "higher"),
        ("p50", load.p50_ms, "ms", "lower"),
        ("p99", load.p99_ms, "ms", "lower"),
        ("cpu leader", account.cpu_seconds["leader"] / load.operations * 1e6, "us/op", "lower"),
        ("cpu follower", account.cpu_seconds["followers"] / load.operations * 1e6 / 2, "us/op", "lower"),
    ]
    whole = sum(account.cpu_seconds.values()) + load.client_cpu_seconds
    figures.append(("cpu all", whole / load.operations * 1e6, "us/op", "lower"))
    if load.client_cpu_seconds:
        figures.append(("cpu client", load.client_cpu_seconds / load.operations * 1e6, "us/op", "lower"))
    for figure, value, unit, better in figures:
        results.add(f"{verb}/{figure}/{shape.label}", system.name, value, unit, better, others)
