"""A namespace of many files: loading it, restarting over it, looking into it.

One directory holds as many entries as a page-wise listing must cope with; the others hold a thousand each.
"""

from __future__ import annotations

import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import ops
from benchmarks.machine import Meter, cpu_seconds, resident_bytes
from benchmarks.plan import Plan
from benchmarks.results import Results, percentile
from benchmarks.systems import coordinator_pids
from quorumfs import Client
from quorumfs.errors import QuorumFSError
from quorumfs.limits import LIST_PAGE_DEFAULT
from quorumfs.rpc.channels import OPTIONS
from quorumfs.rpc.status import raise_for
from quorumfs.testing import LocalCluster, wait_for
from quorumfs.v1 import admin_pb2
from quorumfs.v1 import namespace_pb2 as pb

LARGE_ENTRIES = 100_000
_DIRECTORY_ENTRIES = 1000
_SLICE = 25_600
_PAGES = 20
_STATS = 1000
_SERVING_SECONDS = 120.0
_MS = 1e3


def scale(plan: Plan, results: Results) -> None:
    """Load `plan.files` files through the batch API, kill all coordinators at once, start them, and look."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=plan.directory)))
        plan.say("starting the cluster")
        cluster = stack.enter_context(LocalCluster(datanodes=0, directory=directory / "cluster"))
        with cluster.client() as client:
            _load(client, cluster, plan, results)
        _resident(cluster, "loaded", results)
        plan.say("scale: restarting")
        _restart(cluster, results)
        with cluster.client() as client:
            client.stat("/")
            _pages(client, results)
            _stats(client, plan, results)
        _resident(cluster, "resident", results)


def paths(files: int) -> Iterator[str]:
    """All files: the large directory first."""
    for number in range(files):
        yield path_of(number)


def path_of(number: int) -> str:
    if number < LARGE_ENTRIES:
        return f"/large/file-{number:09d}"
    return f"/part-{number // _DIRECTORY_ENTRIES:06d}/file-{number:09d}"


def _load(client: Client, cluster: LocalCluster, plan: Plan, results: Results) -> None:
    client.mkdir("/large")
    for first in range(LARGE_ENTRIES, plan.files, _DIRECTORY_ENTRIES):
        client.mkdir(f"/part-{first // _DIRECTORY_ENTRIES:06d}")
    leader = coordinator_pids(cluster)[client.leader().node_id]
    meter = Meter({"leader": [leader]})
    remaining = paths(plan.files)
    done = 0
    while some := list(islice(remaining, _SLICE)):
        client.put_many((path, b"") for path in some)
        done += len(some)
        plan.say(f"scale: {done} of {plan.files} files")
    account = meter.read()
    speed, cost = plan.files / account.wall_seconds, account.cpu_seconds["leader"] / plan.files * 1e6
    results.add(
        "scale/load/put_many, one caller", "quorumfs", speed, "files/s", "higher", account.other_cores
    )
    results.add(
        "scale/cpu leader/put_many, one caller", "quorumfs", cost, "us/file", "lower", account.other_cores
    )


def _resident(cluster: LocalCluster, figure: str, results: Results) -> None:
    with cluster.client() as client:
        leader = client.leader().node_id
    for node_id, pid in coordinator_pids(cluster).items():
        case = "leader" if node_id == leader else "follower"
        results.add(f"scale/{figure}/{case}", "quorumfs", resident_bytes(pid) / 2**20, "MiB", "lower")


def _restart(cluster: LocalCluster, results: Results) -> None:
    """From the start of the first process to an answered question and an acknowledged write."""
    nodes = sorted(coordinator_pids(cluster))
    for node_id in nodes:
        cluster.kill(node_id)
    meter = Meter({})
    began = time.monotonic()
    for node_id in nodes:
        cluster.start_node(node_id)
    with cluster.client() as client:
        wait_for(lambda: _asked(lambda: client.stat(path_of(0))), _SERVING_SECONDS, "an answer")
        read = time.monotonic() - began
        client.write_bytes("/after", b"")
        written = time.monotonic() - began
    others = meter.read().other_cores
    cpu = sum(cpu_seconds(coordinator_pids(cluster).values()).values()) / len(nodes)
    results.add("scale/cpu of a restart/one coordinator", "quorumfs", cpu, "s", "lower", others)
    results.add("scale/restart to serving/all coordinators", "quorumfs", read, "s", "lower", others)
    results.add("scale/restart to a write/all coordinators", "quorumfs", written, "s", "lower", others)


def _asked(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except QuorumFSError:
        return False
    return True


def _pages(client: Client, results: Results) -> None:
    """The first page of the large directory, cold once, then again and again; then all of it."""
    request = pb.ListRequest(ref=pb.Ref(path=b"/large"), limit=LIST_PAGE_DEFAULT, follow=True)
    for number in range(_PAGES + 1):
        began = time.perf_counter()
        page = client.coordinator.read([pb.ReadOp(list=request)])[0]
        took = (time.perf_counter() - began) * _MS
        raise_for(page.code, page.error)
        figure = "first page" if number else "first page, first time"
        results.add(f"scale/{figure}/{LARGE_ENTRIES} entries", "quorumfs", took, "ms", "lower")
    began = time.perf_counter()
    entries = sum(1 for _ in client.iterate("/large"))
    speed = entries / (time.perf_counter() - began)
    results.add(f"scale/listing/{LARGE_ENTRIES} entries", "quorumfs", speed, "entries/s", "higher")


def _stats(client: Client, plan: Plan, results: Results) -> None:
    """One caller, files at random: by the library, and by a plain unary call (`service`); of the latter also the time
    from its start to its end in the leader (`inside the service`), as the leader counts it, within a bucket."""
    dice = random.Random(plan.files)
    wanted = [path_of(dice.randrange(plan.files)) for _ in range(_STATS)]
    leader = client.leader().grpc
    with grpc.insecure_channel(leader, options=OPTIONS) as channel:
        read: Any = channel.unary_unary("/quorumfs.v1.Namespace/Read")

        def by_service(path: str) -> None:
            batch = pb.ReadBatch(ops=[ops.stat(path)])
            found = pb.ReadBatchResult.FromString(read(batch.SerializeToString(), timeout=5.0))
            raise_for(found.results[0].code, found.results[0].error)

        for case, ask in (("service", by_service), ("library", client.stat)):
            before = _reads(client, leader)
            took = sorted(_timed(ask, path) * _MS for path in wanted)
            results.add(f"scale/stat median/{case}", "quorumfs", percentile(took, 0.5), "ms", "lower")
            results.add(f"scale/stat p99/{case}", "quorumfs", percentile(took, 0.99), "ms", "lower")
            if ask is by_service:
                counted = [(le, after - before.get(le, 0.0)) for le, after in _reads(client, leader).items()]
                inside = bucket_quantile(counted, 0.5) * _MS
                results.add("scale/stat median/inside the service", "quorumfs", inside, "ms", "lower")


def _reads(client: Client, leader: str) -> dict[float, float]:
    """Upper bound in seconds -> calls of Read that took at most that, so far; empty before the first one."""
    answer = client.coordinator.call("Admin.GetMetrics", admin_pb2.GetMetricsRequest(), address=leader)
    return {
        float(sample.labels["le"]): sample.value
        for family in text_string_to_metric_families(answer.text.decode())
        for sample in family.samples
        if sample.name == "quorumfs_rpc_duration_seconds_bucket" and sample.labels["method"] == "Read"
    }


def bucket_quantile(counted: Sequence[tuple[float, float]], share: float) -> float:
    """Of a cumulative histogram, by linear interpolation within a bucket; of the last one its lower end."""
    wanted = counted[-1][1] * share
    low = below = 0.0
    for bound, count in counted:
        if count >= wanted and count > below and math.isfinite(bound):
            return low + (bound - low) * (wanted - below) / (count - below)
        low, below = (bound if math.isfinite(bound) else low), count
    return low


def _timed(ask: Callable[[str], object], path: str) -> float:
    began = time.perf_counter()
    ask(path)
    return time.perf_counter() - began
