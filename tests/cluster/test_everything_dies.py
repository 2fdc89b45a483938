"""Power cuts, as far as a process can have one: everything, all coordinators, or the leader is killed (SIGKILL)
under load, again and again. Whatever a client was told to be stored is there afterwards, byte for byte.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator

import pytest

from quorumfs import Client
from quorumfs.testing import LocalCluster, cluster_fixture, wait_for
from tests.support.commands import Dfsctl
from tests.support.ledger import Ledger, Writers

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

ROUNDS = 3
ROUNDS_LONG = 20
LEADERS = 4
LEADERS_LONG = 15
WRITES_BEFORE_A_CUT = 25
PATIENCE_SECONDS = 60.0
FAILOVER_SECONDS_MAX = 20.0

cluster = cluster_fixture()
_directories = itertools.count(1)


@pytest.fixture
def load(fs: Client) -> Iterator[Callable[[], tuple[Ledger, Writers]]]:
    """Makes a ledger and its writers in a directory of their own; all ledgers are verified at the end."""
    ledgers: list[Ledger] = []

    def begin() -> tuple[Ledger, Writers]:
        number = next(_directories)
        fs.mkdir(f"/load-{number}")
        ledgers.append(Ledger())
        return ledgers[-1], Writers(fs, ledgers[-1], f"/load-{number}", seed=number)

    yield begin
    for ledger in ledgers:
        assert ledger.verify(fs) == []


def acknowledged(ledger: Ledger, more: int) -> None:
    """Wait until so many more changes were acknowledged."""
    wanted = ledger.acknowledged + more
    wait_for(lambda: ledger.acknowledged >= wanted, PATIENCE_SECONDS, f"{more} acknowledged changes")


def all_processes(cluster: LocalCluster) -> None:
    cluster.kill_all()


def all_coordinators(cluster: LocalCluster) -> None:
    specs = cluster.layout.processes()
    cluster.local.processes.kill(
        [spec for spec in specs if (spec.kind, spec.node.role) == ("node", "coordinator")]
    )


def all_datanodes(cluster: LocalCluster) -> None:
    specs = cluster.layout.processes()
    cluster.local.processes.kill(
        [spec for spec in specs if (spec.kind, spec.node.role) == ("node", "datanode")]
    )


def cut_and_check(
    cluster: LocalCluster,
    fs: Client,
    load: Callable[[], tuple[Ledger, Writers]],
    cut: Callable[[LocalCluster], None],
    rounds: int,
) -> None:
    for number in range(rounds):
        ledger, writers = load()
        with writers:
            acknowledged(ledger, WRITES_BEFORE_A_CUT)
            cut(cluster)
            cluster.start_all()
            acknowledged(ledger, WRITES_BEFORE_A_CUT)
        print(
            f"round {number}: {ledger.acknowledged} acknowledged, {ledger.unknown} unknown, {ledger.refused} refused"
        )
        assert ledger.verify(fs) == []


@pytest.mark.parametrize("cut", [all_processes, all_coordinators, all_datanodes])
def test_what_was_acknowledged_survives_the_death_of(
    cluster: LocalCluster,
    fs: Client,
    load: Callable[[], tuple[Ledger, Writers]],
    cut: Callable[[LocalCluster], None],
) -> None:
    cut_and_check(cluster, fs, load, cut, ROUNDS if cut is all_processes else 1)


@pytest.mark.long
@pytest.mark.parametrize("cut", [all_processes, all_coordinators, all_datanodes])
def test_what_was_acknowledged_survives_many_deaths_of(
    cluster: LocalCluster,
    fs: Client,
    load: Callable[[], tuple[Ledger, Writers]],
    cut: Callable[[LocalCluster], None],
) -> None:
    cut_and_check(cluster, fs, load, cut, ROUNDS_LONG)


def test_another_leads_soon_after_the_leader_s_death(
    cluster: LocalCluster, fs: Client, load: Callable[[], tuple[Ledger, Writers]]
) -> None:
    kill_leaders(cluster, fs, load, LEADERS)


@pytest.mark.long
def test_another_leads_soon_after_each_of_many_deaths(
    cluster: LocalCluster, fs: Client, load: Callable[[], tuple[Ledger, Writers]]
) -> None:
    kill_leaders(cluster, fs, load, LEADERS_LONG)


def kill_leaders(
    cluster: LocalCluster, fs: Client, load: Callable[[], tuple[Ledger, Writers]], rounds: int
) -> None:
    """Under load; the time from the death to the next acknowledged write of a client that was there before."""
    ledger, writers = load()
    took: list[float] = []
    with writers:
        for number in range(rounds):
            acknowledged(ledger, WRITES_BEFORE_A_CUT)
            leader = cluster.leader()
            begun = time.monotonic()
            cluster.kill(leader)
            fs.write_bytes("/after-the-death", str(number).encode())
            took.append(time.monotonic() - begun)
            cluster.start_all()
    median, worst = statistics.median(took), max(took)
    print(f"first write after the leader's death: median {median:.2f} s, worst {worst:.2f} s of {rounds}")
    assert worst < FAILOVER_SECONDS_MAX


def test_the_coordinators_agree_on_all_of_it(dfsctl: Dfsctl) -> None:
    hashes = dfsctl.well("raft", "hash", "-o", "json").json
    assert len(hashes) == 3
    assert len({one["hash"] for one in hashes}) == 1
