"""What the modules with a `cluster` of their own share: its command line and its client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quorumfs import Client
from quorumfs.testing import LocalCluster
from tests.support.commands import Dfsctl


@pytest.fixture(scope="module")
def dfsctl(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Dfsctl:
    """The command line of a user who knows the module's cluster."""
    return Dfsctl(tmp_path_factory.mktemp("home"), cluster.coordinators)


@pytest.fixture
def fs(cluster: LocalCluster) -> Iterator[Client]:
    with cluster.client() as client:
        yield client
