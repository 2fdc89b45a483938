"""Packs whose files are mostly deleted are rewritten by the leader, on real processes, and their room comes back."""

from __future__ import annotations

import random

import pytest

from quorumfs import Client
from quorumfs.testing import LocalCluster, cluster_fixture, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

KIB = 1 << 10
PATIENCE_SECONDS = 30.0

cluster = cluster_fixture(settings={"gc.grace_seconds": 2.0, "gc.interval_seconds": 1.0})


def lying(cluster: LocalCluster, chunk: str) -> int:
    """Replicas of a chunk on all disks, without quarantine."""
    return sum(
        "quarantine" not in one.parts
        for node in cluster.layout.datanodes
        for one in cluster.layout.data_directory(node).rglob(chunk)
    )


def test_a_pack_that_is_mostly_dead_is_rewritten_and_its_files_stay_what_they_are(
    cluster: LocalCluster, fs: Client
) -> None:
    source = random.Random(7)
    files = {f"/{number:03}": source.randbytes(8 * KIB) for number in range(150)}
    fs.put_many(files)
    kept = {path: body for number, (path, body) in enumerate(files.items()) if number % 10 == 0}
    before = {path: fs.stat(path) for path in kept}

    def chunks() -> set[str]:
        return {one.chunk for path in kept for one in fs.locate(path)}

    old = chunks()
    early = fs.open("/000", "rb", buffering=0)  # a reader that knows where the old chunk lies
    for path in files.keys() - kept.keys():
        fs.delete(path, purge=True)
    cluster.kill_leader()  # whoever leads next looks for sparse chunks before these are reaped, and has to look again
    wait_for(lambda: not old & chunks(), PATIENCE_SECONDS, "the live files lie in new chunks")
    assert fs.get_many(kept) == kept
    assert {path: fs.stat(path) for path in kept} == before
    wait_for(
        lambda: not any(lying(cluster, one) for one in old), PATIENCE_SECONDS, "the old chunks are collected"
    )
    wait_for(lambda: all(lying(cluster, one) == 3 for one in chunks()), PATIENCE_SECONDS, "all replicas")
    assert fs.get_many(kept) == kept
    with early:
        assert early.read() == kept["/000"]
