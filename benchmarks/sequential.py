"""One large file in and out through the library, three replicas fsynced, beside plain files on the same disk."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.children import Child
from benchmarks.loopback import serving
from benchmarks.machine import Meter, resident_bytes
from benchmarks.plan import Plan
from benchmarks.results import Results
from benchmarks.systems import server_pids
from benchmarks.transfers import make_source
from quorumfs.testing import LocalCluster

_SECONDS_MAX = 600.0
_STEPS = (
    ("write", "local file", "local write"),
    ("write", "quorumfs", "put"),
    ("get", "quorumfs", "get"),
    ("read", "quorumfs", "read"),
    ("read", "quorumfs, gRPC", "read over gRPC"),
    ("read", "local file", "local read"),
    ("read", "loopback TCP", "loopback read"),
)


def sequential(plan: Plan, results: Results) -> None:
    """`write`: the file is durable; `get`: into a local file; `read`: into memory. Warm caches.

    Beside a read of the file from the page cache, and sendfile over loopback TCP with the same checksums.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=plan.directory)))
        plan.say("starting the cluster")
        source = directory / "source"
        make_source(source, plan.file_bytes)
        port = stack.enter_context(serving(source))
        cluster = stack.enter_context(LocalCluster(directory=directory / "cluster"))
        client = stack.enter_context(cluster.client())
        config = {"coordinators": cluster.coordinators}
        child = stack.enter_context(Child("transfers", config, directory / "transfers.log")).wait_ready()
        for number in range(plan.rounds):
            plan.say(f"sequential: round {number + 1} of {plan.rounds}")
            for figure, system, verb in _STEPS:
                local, remote = str(directory / "local"), "/large"
                paths = {
                    "put": (str(source), remote),
                    "get": (remote, local),
                    "read": (remote, ""),
                    "read over gRPC": (remote, ""),
                    "loopback read": (port, str(plan.file_bytes)),
                    "local write": (str(source), local),
                    "local read": (str(source), ""),
                }[verb]
                _sample(child, figure, system, verb, paths, cluster, plan, results)
            client.delete("/large", purge=True)
        greatest = max(map(resident_bytes, server_pids(cluster))) / 2**20
        results.add("sequential/resident/greatest node", "quorumfs", greatest, "MiB", "lower")


def _sample(
    child: Child,
    figure: str,
    system: str,
    verb: str,
    paths: tuple[str, str],
    cluster: LocalCluster,
    plan: Plan,
    results: Results,
) -> None:
    meter = Meter({"servers": server_pids(cluster)})
    done = child.call(_SECONDS_MAX, verb=verb, source=paths[0], target=paths[1])
    account = meter.read()
    others = max(0.0, account.other_cores - done["cpu_seconds"] / account.wall_seconds)
    gigabytes = plan.file_bytes / 1e9
    results.add(
        f"sequential/speed/{figure}", system, gigabytes * 1e3 / done["wall_seconds"], "MB/s", "higher", others
    )
    results.add(
        f"sequential/cpu client/{figure}", system, done["cpu_seconds"] / gigabytes, "s/GB", "lower", others
    )
    if system.startswith("quorumfs"):
        servers = account.cpu_seconds["servers"] / gigabytes
        results.add(f"sequential/cpu servers/{figure}", system, servers, "s/GB", "lower", others)
