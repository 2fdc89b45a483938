"""`make chaos SEED=n MINUTES=n`: harm of every kind to real processes of every role, under the load of real clients;
then everything is healed, and has to be as if nothing had happened.

1. `chaos_plan` says what happens when; `Chaos` does it, and counts what was seen to be done.
2. Clients (`load`) create, put, get, overwrite, rename and delete, and write down what they are told (`recorder`).
3. At the end `aftermath` waits until the cluster is whole, and all that was ever stored is read. `judgement` holds
   what was told against some order in which it can be true.

A run that fails prints its seed, and leaves the nodes' logs and data, the clients' journals and `chaos.log` in the
directory that it names.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from quorumfs import Client
from quorumfs.errors import QuorumFSError
from quorumfs.local.cluster import Asked, DevCluster
from quorumfs.local.layout import Layout, NodeSpec
from quorumfs.local.ports import free_base_port
from quorumfs.testing import wait_for
from tests.support.aftermath import Aftermath, read_everything, rivals, unread
from tests.support.chaos_plan import ROLES, make_plan
from tests.support.commands import Dfsctl
from tests.support.crew import Crew
from tests.support.harm import CLIENTS, MACHINES, SHARED, Chaos
from tests.support.judgement import judge
from tests.support.namespaces import HUB, Network, why_not
from tests.support.networked import processes_in
from tests.support.recorder import read_journal, read_journals
from tests.support.small_disk import mount, unmount

COORDINATORS, DATANODES = 3, 5
NODES = [f"c{k + 1}" for k in range(COORDINATORS)] + [f"d{k + 1}" for k in range(DATANODES)]
SMALL_COORDINATOR = "c3"
DISK_BYTES = 512 << 20
MIB = 1 << 20
READY_SECONDS = 120.0
RECOVERY_SECONDS = 60.0

SETTINGS = {
    "data.chunk_size_bytes": 256 << 10,
    "storage.reserve_bytes": 16 * MIB,
    "membership.suspect_seconds": 2.0,
    "membership.dead_seconds": 6.0,
    "gc.grace_seconds": 3.0,
    "gc.interval_seconds": 1.0,
    "gc.quarantine_seconds": 5.0,
    "trash.retention_seconds": 2.0,
    "upload.ttl_seconds": 15.0,
    "scrub.period_seconds": 2.0,
}


def run(seed: int, seconds: float, directory: Path, harms: frozenset[str]) -> list[str]:
    """One run in `directory`. Returns what is wrong, one line each; processes, mounts, network are gone on return.

    With partitions this process moves into the network that it makes, for good.
    """
    steps = make_plan(seed, seconds, harms)
    wrong = ["it did not come to its end"]
    with ExitStack() as stack:
        story = stack.enter_context(open(directory / "chaos.log", "w", encoding="utf-8"))
        network = stack.enter_context(Network([*NODES, *MACHINES])) if "partition" in harms else None
        if network is not None:
            network.enter(HUB)
        cluster = DevCluster(directory / "cluster", processes_in(network))
        small = stack.enter_context(small_disks(cluster, lambda: bool(wrong))) if "fill" in harms else {}
        stack.callback(kill_all, cluster)
        layout = cluster.up(asked(network), deadline_seconds=READY_SECONDS, point=False)
        crew = Crew(directory / "clients", layout.coordinators, seed, prefix_in(network))
        stack.callback(crew.close)
        for name in CLIENTS:
            crew.start(name)
        chaos = Chaos(cluster, crew, small, network, story)
        chaos.play(steps, seconds)
        wrong = after(chaos, cluster, crew, directory)
        wrong = [*chaos.problems, *missing_harm(chaos.done, harms), *wrong]
        return wrong


def prefix_in(network: Network | None) -> Callable[[str], Sequence[str]]:
    return lambda name: network.inside(SHARED.get(name, name)) if network is not None else ()


def after(chaos: Chaos, cluster: DevCluster, crew: Crew, directory: Path) -> list[str]:
    """Everything is whole again, and what was told was true."""
    layout = cluster.layout()
    wrong = []
    try:
        cluster.up(deadline_seconds=READY_SECONDS, point=False)
        chaos.tell("all is ready again")
    except QuorumFSError as error:
        wrong.append(f"the cluster does not become ready again: {error}")
    wrong += [f"client {name} makes no call any more" for name in CLIENTS if not goes_on(crew, name)]
    wrong += crew.go_home()
    calls = read_journals(crew.journals())
    chaos.tell(f"the clients are home: {len(calls)} calls")
    control = Dfsctl(directory / "home", layout.coordinators)
    control.prove(layout.secret_file)
    homes = {node.node_id: layout.data_directory(node) for node in layout.nodes}
    wrong += Aftermath(control, chaos.disks, homes, COORDINATORS, chaos.tell).problems()
    wrong += rivals({node.node_id: log_of(layout, node) for node in layout.coordinator_nodes})
    chaos.tell("the cluster was looked at")
    last = directory / "clients" / "last.jsonl"
    with Client(layout.coordinators) as client:
        read_everything(client, calls, last)
    wrong += unread(read_journal(last))
    verdict = judge([*calls, *read_journal(last)])
    for name, history in verdict.guilty.items():
        path = directory / f"guilty-{name.strip('/').replace('/', '-')}.txt"
        path.write_text("".join(f"{call}\n" for call in sorted(history, key=lambda one: one.began)))
    wrong += [*verdict.wrong, *verdict.open]
    told = Counter(f"{call.kind} {call.outcome}" for call in calls)
    if not all(told[f"{kind} done"] for kind in ("put", "create", "get", "delete", "rename", "list")):
        wrong.append(f"hardly anything was done: {dict(told)}")
    report = {
        "harm": dict(sorted(chaos.done.items())),
        "calls": dict(sorted(told.items())),
        "directories": verdict.directories,
        "unknown": verdict.unknown,
        "wrong": wrong,
    }
    (directory / "report.json").write_text(json.dumps(report, indent=2))
    print(json.dumps(report, indent=2))
    return wrong


def log_of(layout: Layout, node: NodeSpec) -> str:
    return layout.process(node, "node").log.read_text(encoding="utf-8", errors="replace")


def goes_on(crew: Crew, name: str) -> bool:
    before = crew.written(name)
    try:
        return wait_for(lambda: crew.written(name) > before + 1000, RECOVERY_SECONDS, "more calls")
    except QuorumFSError:
        return False


def kill_all(cluster: DevCluster) -> None:
    if cluster.exists:
        cluster.kill_everything()


def asked(network: Network | None) -> Asked:
    overrides = {key: str(value) for key, value in SETTINGS.items()}
    hosts = {name: network.address(name) for name in NODES} if network is not None else {}
    return Asked(COORDINATORS, DATANODES, free_base_port(len(NODES)), overrides, hosts=hosts)


def missing_harm(done: Counter[str], harms: frozenset[str]) -> list[str]:
    """Every kind of harm to every role must have been seen to be done."""
    wanted = [f"{harm} {role}" for harm in harms for role in ROLES[harm]]
    return [f"there was no {one}" for one in sorted(wanted) if not done[one]]


def possible(harms: Iterable[str]) -> frozenset[str]:
    """Those of the harms that can be done on this machine; says which cannot, and why."""
    reasons = {}
    if "fill" in harms and os.geteuid() != 0:
        reasons["fill"] = "mounting small file systems wants root"
    if "partition" in harms and (reason := why_not()):
        reasons["partition"] = reason
    for harm, reason in reasons.items():
        print(f"there will be no {harm}: {reason}", file=sys.stderr)
    return frozenset(harms) - reasons.keys()


@contextmanager
def small_disks(cluster: DevCluster, keep: Callable[[], bool]) -> Iterator[dict[str, Path]]:
    """The datanodes' and one coordinator's data on file systems that can be filled. `keep`: what lies there stays."""
    mounted: dict[str, Path] = {}
    try:
        for name in (SMALL_COORDINATOR, *(one for one in NODES if one.startswith("d"))):
            data = cluster.directory / name / "data"
            data.mkdir(parents=True)
            mount(data, DISK_BYTES)
            mounted[name] = data
        yield mounted
    finally:
        for data in mounted.values():
            if keep():
                shutil.copytree(data, data.with_name("kept"))
            unmount(data)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument(
        "--directory", type=Path, help="kept, whatever happens; without it one that goes when all is well"
    )
    parser.add_argument("--harms", default=",".join(ROLES), help="some of " + ", ".join(ROLES))
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = given.directory or Path(tempfile.mkdtemp(prefix="quorumfs-chaos-"))
    directory.mkdir(parents=True, exist_ok=True)
    print(f"chaos SEED={given.seed} MINUTES={given.minutes:g} in {directory}", file=sys.stderr)
    wrong = ["it did not come to its end"]
    harms = possible(given.harms.split(","))
    if not harms:
        parser.error("none of these harms can be done here")
    try:
        wrong = run(given.seed, given.minutes * 60, directory, harms)
    finally:
        for line in wrong:
            print(f"WRONG: {line}", file=sys.stderr)
        if wrong:
            print(
                f"again: make chaos SEED={given.seed} MINUTES={given.minutes:g}; all logs: {directory}",
                file=sys.stderr,
            )
        elif given.directory is None:
            shutil.rmtree(directory)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
