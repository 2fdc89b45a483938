"""One large file in and out through the library, three replicas fsynced, beside peers and what the machine can do."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine
from benchmarks.children import Child
from benchmarks.loopback import serving
from benchmarks.machine import Meter
from benchmarks.peers import file_systems, object_stores
from benchmarks.plan import Plan
from benchmarks.raw_chain import ChainNode, chain_of
from benchmarks.results import Results
from benchmarks.systems import server_pids
from benchmarks.transfers import make_source, read_local
from quorumfs.testing import LocalCluster

_SECONDS_MAX = 600.0
_REMOTE = "/large"
_LONG = "read, pieces of 4 MiB"  # all others are of 1 MiB
_PLAIN = "read, into a bytearray"  # all others into memory that begins at a page
_CLIENTS = 8
_MEMORY_PER_BYTE = 5  # what a write to three replicas fills: source, replicas, buffers


@dataclass(frozen=True, slots=True)
class Step:
    """One measured transfer. `servers`: whose CPU is told besides the client's; `cold`: nothing is cached before."""

    figure: str
    system: str
    verb: str
    source: str
    target: str
    servers: tuple[int, ...] = ()
    clients: tuple[int, ...] = ()
    cold: bool = False


def sequential(plan: Plan, results: Results) -> None:
    """`write`: the file is durable; `get`: into a local file; `read`: into memory, from warm caches; `cold`: from none.

    Beside a read of the file from the page cache, sendfile over loopback TCP with the same checksums, a chain of bare
    sockets that writes three replicas, and the peers that are installed.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=plan.directory)))
        plan.say("starting the cluster, and peers")
        source = directory / "source"
        make_source(source, plan.file_bytes)
        port = stack.enter_context(serving(source))
        chain = stack.enter_context(chain_of([directory / f"chain-{k}" for k in range(3)]))
        cluster = stack.enter_context(LocalCluster(directory=directory / "cluster"))
        peers = stack.enter_context(file_systems(directory / "peers", results))
        stores = stack.enter_context(object_stores(directory / "peers", results))
        client = stack.enter_context(cluster.client())
        config = {"coordinators": cluster.coordinators}
        child = stack.enter_context(Child("transfers", config, directory / "transfers.log")).wait_ready()
        steps = [
            *_limits(directory, source, port, plan.file_bytes, chain),
            *_ours(directory, source, cluster),
        ]
        for peer in peers:
            name, large = peer.name, str(peer.directory / "large")
            pids = tuple(peer.server_pids()), tuple(peer.client_pids())
            steps.append(Step("write", name, "local write", str(source), large, *pids))
            steps.append(Step("read", name, "mounted read", large, "", *pids))
            steps.append(Step("cold", name, "local read", large, "", *pids, cold=True))
        for store in stores:
            name, place, servers = store.name, store.place, tuple(store.server_pids())
            steps.append(Step("write", name, "object put", str(source), place, servers))
            steps.append(Step("read", name, "object read", place, "", servers))
            steps.append(Step("cold", name, "object read", place, "", servers, cold=True))
        if not machine.can_drop_caches():
            results.skip("cold reads", "dropping the page cache needs root")
            steps = [step for step in steps if not step.cold]
        # Warm reads first: what is dropped for one system is dropped for all.
        steps.sort(key=lambda step: ("write", "get", "read", _LONG, _PLAIN, "cold").index(step.figure))
        for pid in (child.pid, *server_pids(cluster)):
            machine.forget_peak(pid)
        for number in range(plan.rounds):
            plan.say(f"sequential: round {number + 1} of {plan.rounds}")
            for step in steps:
                _sample(child, step, plan, results)
            client.delete(_REMOTE, purge=True)
        for kind, pids in (("node", server_pids(cluster)), ("client", [child.pid])):
            peak = max(map(machine.peak_bytes, pids)) / 2**20
            results.add(f"sequential/resident/{kind}, 1 client", "quorumfs", peak, "MiB", "lower")
        _parallel(directory, cluster, plan, results)


def _limits(
    directory: Path, source: Path, port: str, size_bytes: int, chain: Sequence[ChainNode]
) -> list[Step]:
    """What the machine can do."""
    given, copy = str(source), str(directory / "local")
    ports, pids = ",".join(str(node.port) for node in chain), tuple(node.pid for node in chain)
    return [
        Step("write", "local file", "local write", given, copy),
        Step("write", "raw chain", "raw chain", given, ports, pids),
        Step("read", "local file", "local read", given, ""),
        Step(_LONG, "local file", "long local read", given, ""),
        Step(_PLAIN, "local file", "plain local read", given, ""),
        Step("read", "loopback TCP", "loopback read", port, str(size_bytes)),
        Step("cold", "local file", "local read", given, "", cold=True),
    ]


def _ours(directory: Path, source: Path, cluster: LocalCluster) -> list[Step]:
    pids = tuple(server_pids(cluster))
    return [
        Step("write", "quorumfs", "put", str(source), _REMOTE, pids),
        Step("get", "quorumfs", "get", _REMOTE, str(directory / "local"), pids),
        Step("read", "quorumfs", "read", _REMOTE, "", pids),
        Step(_LONG, "quorumfs", "long read", _REMOTE, "", pids),
        Step(_PLAIN, "quorumfs", "plain read", _REMOTE, "", pids),
        Step("read", "quorumfs, gRPC", "read over gRPC", _REMOTE, "", pids),
        Step("cold", "quorumfs", "read", _REMOTE, "", pids, cold=True),
        Step("cold", "quorumfs, gRPC", "read over gRPC", _REMOTE, "", pids, cold=True),
    ]


def _parallel(directory: Path, cluster: LocalCluster, plan: Plan, results: Results) -> None:
    """So many clients, each a process with a share of the bytes: in, then out again. What the greatest process of each
    kind held at its most, over all rounds, is told as well."""
    plan.say(f"sequential: {_CLIENTS} clients")
    source = directory / "share"
    make_source(source, plan.file_bytes // _CLIENTS)
    config = {"coordinators": cluster.coordinators}
    pids = server_pids(cluster)
    with ExitStack() as stack:
        log = directory / "clients.log"
        clients = [stack.enter_context(Child("transfers", config, log)).wait_ready() for _ in range(_CLIENTS)]
        for pid in (*pids, *(client.pid for client in clients)):
            machine.forget_peak(pid)
        for _ in range(plan.rounds):
            machine.warm_memory(_MEMORY_PER_BYTE * plan.file_bytes)
            for figure, verb, system in (
                ("write", "put", "quorumfs"),
                ("read", "read", "quorumfs"),
                ("read", "read over gRPC", "quorumfs, gRPC"),
            ):
                meter = Meter({"servers": pids})
                for number, client in enumerate(clients):
                    remote = f"/share-{number}"
                    source_, target = (str(source), remote) if verb == "put" else (remote, "")
                    client.ask(verb=verb, source=source_, target=target)
                done = [client.answer(_SECONDS_MAX) for client in clients]
                account = meter.read()
                others = max(
                    0.0, account.other_cores - sum(one["cpu_seconds"] for one in done) / account.wall_seconds
                )
                gigabytes = plan.file_bytes / 1e9
                speed = gigabytes * 1e3 / account.wall_seconds
                where = f"{figure}, {_CLIENTS} clients"
                results.add(f"sequential/speed/{where}", system, speed, "MB/s", "higher", others)
                servers = account.cpu_seconds["servers"] / gigabytes
                results.add(f"sequential/cpu servers/{where}", system, servers, "s/GB", "lower", others)
        for kind, of in (("node", pids), ("client", [client.pid for client in clients])):
            peak = max(map(machine.peak_bytes, of)) / 2**20
            results.add(f"sequential/resident/{kind}, {_CLIENTS} clients", "quorumfs", peak, "MiB", "lower")
    with cluster.client() as client:
        for number in range(_CLIENTS):
            client.delete(f"/share-{number}", purge=True)


def _sample(child: Child, step: Step, plan: Plan, results: Results) -> None:
    if step.figure == "write":
        read_local(step.source, "")
        machine.warm_memory(_MEMORY_PER_BYTE * plan.file_bytes)
    if step.cold:
        machine.drop_caches()
    meter = Meter({"servers": step.servers, "clients": step.clients})
    done = child.call(_SECONDS_MAX, verb=step.verb, source=step.source, target=step.target)
    account = meter.read()
    others = max(0.0, account.other_cores - done["cpu_seconds"] / account.wall_seconds)
    gigabytes = plan.file_bytes / 1e9
    speed = gigabytes * 1e3 / done["wall_seconds"]
    results.add(f"sequential/speed/{step.figure}", step.system, speed, "MB/s", "higher", others)
    client = (done["cpu_seconds"] + account.cpu_seconds["clients"]) / gigabytes
    results.add(f"sequential/cpu client/{step.figure}", step.system, client, "s/GB", "lower", others)
    if step.servers:
        servers = account.cpu_seconds["servers"] / gigabytes
        results.add(f"sequential/cpu servers/{step.figure}", step.system, servers, "s/GB", "lower", others)
