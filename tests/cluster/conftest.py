"""What the modules with a `cluster` of their own share: its command line and its client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quorumfs import Client
from quorumfs.testing import LocalCluster
from tests.support.commands import Dfsctl
from tests.support.networked import NetworkedCluster


@pytest.fixture(scope="module")
def dfsctl(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Dfsctl:
    """The command line of a user who knows the module's cluster."""
    made = Dfsctl(tmp_path_factory.mktemp("home"), cluster.coordinators)
    if isinstance(cluster, NetworkedCluster):
        made.prove(cluster.layout.secret_file)
    return made


@pytest.fixture
def fs(cluster: LocalCluster) -> Iterator[Client]:
    with cluster.client() as client:
        yield client
