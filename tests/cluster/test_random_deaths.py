"""Random members, or all of them, die under load again and again, by SIGKILL or by a power cut that drops what was
not synced. What clients were told to be stored is there, and the coordinators' states are equal.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from quorumfs.testing import LocalCluster, cluster_fixture, wait_for
from tests.support.commands import Dfsctl
from tests.support.ledger import Ledger, Writers
from tests.support.power import Disk, require_power_cuts

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

DEATHS = 15
DEATHS_LONG = 200
VERIFY_EVERY = 10
WRITES_BETWEEN = 12
PATIENCE_SECONDS = 60.0
SEED = int(os.environ.get("SEED", "1"))

cluster = cluster_fixture()
_directories = itertools.count(1)


class Undertaker:
    """Chooses who dies, kills them, and brings them back. `disks`: who has one loses power instead."""

    def __init__(self, cluster: LocalCluster, seed: int, disks: dict[str, Disk] | None = None) -> None:
        self._cluster = cluster
        self._random = random.Random(seed)
        self._disks = disks or {}
        self.deaths = 0

    def strike(self) -> list[str]:
        """The nodes that died; they are off."""
        coordinators = [node.node_id for node in self._cluster.layout.coordinator_nodes]
        everybody = [node.node_id for node in self._cluster.nodes]
        datanodes = [one for one in everybody if one not in coordinators]
        choice = self._random.random()
        if choice < 0.25:
            who = [self._cluster.leader()]
        elif choice < 0.5:
            who = self._random.sample(coordinators, self._random.choice((1, 2)))
        elif choice < 0.7:
            who = self._random.sample(datanodes, self._random.choice((1, 2)))
        elif choice < 0.85:
            who = coordinators
        else:
            who = everybody
        for node_id in who:
            if node_id in self._disks:
                self._disks[node_id].lose_power()
        wanted = [self._cluster.layout.process(self._cluster.layout.node(one), "node") for one in who]
        self._cluster.local.processes.kill(wanted)
        for node_id in who:
            if node_id in self._disks:
                self._disks[node_id].return_power()
        self.deaths += len(who)
        return who


def acknowledged(ledger: Ledger, more: int) -> None:
    wanted = ledger.acknowledged + more
    wait_for(lambda: ledger.acknowledged >= wanted, PATIENCE_SECONDS, f"{more} acknowledged changes")


def strike_again_and_again(cluster: LocalCluster, undertaker: Undertaker, strikes: int) -> None:
    """`strikes` rounds under writers; the ledger is held to the cluster now and then, and at the end."""
    done = total = unknown = 0
    while done < strikes:
        with cluster.client(
            short_circuit=False
        ) as fs:  # an open chunk would keep a disk from being unmounted
            directory = f"/deaths-{next(_directories)}"
            fs.mkdir(directory)
            ledger = Ledger()
            with Writers(fs, ledger, directory, seed=done + SEED):
                for _ in range(min(VERIFY_EVERY, strikes - done)):
                    acknowledged(ledger, WRITES_BETWEEN)
                    undertaker.strike()
                    cluster.start_all()
                    done += 1
                acknowledged(ledger, WRITES_BETWEEN)
            assert ledger.verify(fs) == [], f"SEED={SEED}, strike {done}"
        total, unknown = total + ledger.acknowledged, unknown + ledger.unknown
    print(f"{done} strikes, {undertaker.deaths} deaths, {total} acknowledged, {unknown} unknown, 0 lost")


@contextmanager
def disks_of(cluster: LocalCluster) -> Iterator[dict[str, Disk]]:
    """Every node's data lies on a disk of its own."""
    layout = cluster.layout
    cluster.local.down()
    with ExitStack() as stack:
        disks = {}
        for node in cluster.nodes:
            disks[node.node_id] = Disk(layout.data_directory(node))
            stack.callback(disks[node.node_id].close)
        stack.callback(cluster.kill_all)
        cluster.start_all()
        yield disks


def test_what_was_acknowledged_survives_random_kills(cluster: LocalCluster) -> None:
    strike_again_and_again(cluster, Undertaker(cluster, SEED), DEATHS)


@pytest.mark.long
def test_what_was_acknowledged_survives_two_hundred_random_kills(cluster: LocalCluster) -> None:
    strike_again_and_again(cluster, Undertaker(cluster, SEED + 1), DEATHS_LONG)


def test_the_coordinators_agree_on_all_of_it(cluster: LocalCluster, dfsctl: Dfsctl) -> None:
    agree(dfsctl)


def agree(dfsctl: Dfsctl) -> None:
    hashes = dfsctl.well("raft", "hash", "-o", "json").json
    assert len(hashes) == 3
    assert len({one["hash"] for one in hashes}) == 1


@pytest.mark.parametrize(
    "strikes", [pytest.param(DEATHS // 3, id="few"), pytest.param(60, id="many", marks=pytest.mark.long)]
)
def test_what_was_acknowledged_survives_power_cuts_that_drop_what_was_not_synced(
    tmp_path: Path, strikes: int
) -> None:
    require_power_cuts(tmp_path)
    with LocalCluster() as powered, disks_of(powered) as disks:
        strike_again_and_again(powered, Undertaker(powered, SEED + 2, disks), strikes)
        agree(Dfsctl(tmp_path, powered.coordinators))
