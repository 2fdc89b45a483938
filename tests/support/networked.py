"""Tests whose cluster's nodes are machines of their own: what can be cut off while its processes run on.

A process has one network, and pytest's is this machine's. So what needs another runs in a pytest of its own
(`run_in_network`), which lives in the hub of a network that was made for it; there `cluster_fixture` gives a cluster
whose nodes are the network's machines.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from quorumfs.local.processes import Processes, spawn_detached
from quorumfs.testing import LocalCluster
from tests.house.generate import ROOT
from tests.support.namespaces import HUB, Network, Pair, why_not

TAG = "QUORUMFS_TEST_NETWORK"
NODES = ("c1", "c2", "c3", "d1", "d2", "d3", "d4", "d5")

in_network = pytest.mark.skipif(TAG not in os.environ, reason="another test runs it in a network of its own")


class NetworkedCluster(LocalCluster):
    """Every node, and its sidecar, on a machine of its own; we are in the hub, and reach them all."""

    def __init__(self, coordinators: int = 3, datanodes: int = 5, **options: Any) -> None:
        self.network = Network(NODES, os.environ[TAG])
        hosts = {name: self.network.address(name) for name in NODES}
        super().__init__(
            coordinators, datanodes, hosts=hosts, processes=processes_in(self.network), **options
        )

    def cut_off(self, node_id: str) -> None:
        """Nothing that it sends reaches another node, and nothing that they send reaches it. We still do."""
        self.network.cut(self._around(node_id))

    def mend(self, node_id: str) -> None:
        self.network.mend(self._around(node_id))

    @staticmethod
    def _around(node_id: str) -> list[Pair]:
        others = [one for one in NODES if one != node_id]
        return [*((node_id, one) for one in others), *((one, node_id) for one in others)]


def processes_in(network: Network | None) -> Processes:
    """Each node, and its sidecar, on its own machine; its directory has its name."""
    if network is None:
        return Processes()

    def spawn(argv: list[str], log: Path, directory: Path, environment: Mapping[str, str]) -> int:
        return spawn_detached([*network.inside(directory.name), *argv], log, directory, environment)

    return Processes(spawn)


def cluster_fixture(**options: Any) -> Any:
    """As quorumfs.testing has it; in a network of its own with machines for nodes."""

    def cluster() -> Iterator[LocalCluster]:
        kind = NetworkedCluster if TAG in os.environ else LocalCluster
        with kind(**options) as made:
            yield made

    made: Any = pytest.fixture(scope="module", name="cluster")(cluster)
    return made


def require_namespaces() -> None:
    if reason := why_not():
        pytest.skip(reason)


def run_in_network(file: str, chosen: str, seconds: float) -> None:
    """Those tests of `file` whose names have `chosen` in them. AssertionError with all that pytest said."""
    require_namespaces()
    with Network(NODES) as network:
        command = [
            sys.executable,
            "-m",
            "pytest",
            file,
            "-k",
            chosen,
            "-m",
            "",
            "-q",
            "-rA",
            "-p",
            "no:cacheprovider",
        ]
        with subprocess.Popen(
            [*network.inside(HUB), *command],
            cwd=ROOT,
            env={**os.environ, TAG: network.tag},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            try:
                out, _ = process.communicate(timeout=seconds)
            except BaseException:
                process.send_signal(signal.SIGINT)  # it ends its cluster
                process.wait(60)
                raise
    said = out.decode(errors="replace")
    assert process.returncode == 0, said
    assert " passed" in said, said
    assert " skipped" not in said, said
    print(said)
