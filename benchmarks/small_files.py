"""Thousands of small files in and out, every one durable: in packs and one by one, beside plain files and peers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine
from benchmarks.children import Child
from benchmarks.machine import Meter
from benchmarks.peers import file_systems, object_stores
from benchmarks.plan import Plan
from benchmarks.results import Results
from benchmarks.systems import server_pids
from quorumfs.testing import LocalCluster

FILE_BYTES = 4096
_SECONDS_MAX = 600.0
_CALLERS = (1, 8)
_OURS = ("put_many", "get_many", "put", "get", "get cold")
_PLAIN = ("put", "get", "get cold")


@dataclass(frozen=True, slots=True)
class _System:
    name: str
    verbs: Sequence[str]
    servers: Sequence[int]


def small_files(plan: Plan, results: Results) -> None:
    """`put_many`, `get_many`: as many files per caller at once; `put`, `get`: one file per call. Caches are warm, but
    for `get cold`. What a peer's mount has in its own cache it reads from there, when they are warm.

    `one against many` has our `put_many` and `get_many` beside what a peer's single caller does.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=plan.directory)))
        plan.say("starting the cluster, and peers")
        cluster = stack.enter_context(LocalCluster(directory=directory / "cluster"))
        peers = stack.enter_context(file_systems(directory / "peers", results))
        stores = stack.enter_context(object_stores(directory / "peers", results))
        (directory / "local").mkdir()
        directories = {"local files": str(directory / "local")}
        directories |= {peer.name: str(peer.directory) for peer in peers}
        config = {
            "coordinators": cluster.coordinators,
            "directories": directories,
            "stores": {store.name: store.place for store in stores},
            "size": FILE_BYTES,
        }
        child = stack.enter_context(
            Child("small_file_callers", config, directory / "callers.log")
        ).wait_ready()
        systems = [_System("quorumfs", _OURS, server_pids(cluster)), _System("local files", _PLAIN, ())]
        systems += [_System(peer.name, _PLAIN, peer.server_pids()) for peer in (*peers, *stores)]
        if not machine.can_drop_caches():
            results.skip("cold reads", "dropping the page cache needs root")
        for number in range(plan.rounds):
            plan.say(f"small files: round {number + 1} of {plan.rounds}")
            for callers in _CALLERS:
                for verb in _OURS:
                    for system in systems:
                        if verb in system.verbs and (verb != "get cold" or machine.can_drop_caches()):
                            _sample(child, verb, system, callers, plan, results)


def _sample(child: Child, verb: str, system: _System, callers: int, plan: Plan, results: Results) -> None:
    if verb == "get cold":
        machine.drop_caches()
    meter = Meter({"servers": system.servers})
    done = child.call(_SECONDS_MAX, verb=verb, system=system.name, callers=callers, files=plan.small_files)
    account = meter.read()
    others = max(0.0, account.other_cores - done["cpu_seconds"] / account.wall_seconds)
    where = f"{verb}, {callers} caller{'s' if callers > 1 else ''}"
    speed = plan.small_files / done["wall_seconds"]
    results.add(f"small files/speed/{where}", system.name, speed, "files/s", "higher", others)
    if callers == 1 and (system.name not in ("quorumfs", "local files") or verb.endswith("many")):
        many = {"put_many": "put", "get_many": "get"}.get(verb, verb)
        results.add(f"small files/one against many/{many}", system.name, speed, "files/s", "higher", others)
        if verb == "get_many":
            results.add(
                "small files/one against many/get cold", system.name, speed, "files/s", "higher", others
            )
    if not system.servers:
        return
    per_file = 1e6 / plan.small_files
    client = done["cpu_seconds"] * per_file
    results.add(f"small files/cpu client/{where}", system.name, client, "us/file", "lower", others)
    servers = account.cpu_seconds["servers"] * per_file
    results.add(f"small files/cpu servers/{where}", system.name, servers, "us/file", "lower", others)
