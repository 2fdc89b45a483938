"""Small files on real processes: packed by clients and by the leader, while nodes die."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quorumfs import Client
from quorumfs.testing import LocalCluster, cluster_fixture, wait_for
from tests.support.commands import Dfsctl
from tests.support.trees import differences, read_tree

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

KIB = 1 << 10
FILES = 2000

# The leader moves every body out of the metadata as soon as it sees it.
cluster = cluster_fixture(settings={"packing.threshold_bytes": 0})


def some(directory: str, count: int, size: int) -> dict[str, bytes]:
    source = random.Random(directory)
    return {f"{directory}/{number:05}": source.randbytes(size) for number in range(count)}


def harmed_after(
    count: int, files: dict[str, bytes], harm: Callable[[], object]
) -> Iterator[tuple[str, bytes]]:
    """The files, with the harm done in another thread once so many were taken."""
    harming = threading.Thread(target=harm)
    for number, one in enumerate(files.items()):
        if number == count:
            harming.start()
        yield one
    harming.join()


def test_a_datanode_dies_while_many_files_are_stored(cluster: LocalCluster, fs: Client) -> None:
    fs.mkdir("/put")
    files = some("/put", FILES, 4 * KIB)
    try:
        stored = fs.put_many(harmed_after(600, files, lambda: cluster.kill("d1")))
    finally:
        cluster.start_node("d1")
    assert set(stored) == set(files)
    assert fs.get_many(files) == files
    cluster.wait_ready()


def test_a_datanode_dies_while_many_files_are_read(cluster: LocalCluster, fs: Client) -> None:
    fs.mkdir("/get")
    files = some("/get", FILES, 4 * KIB)
    fs.put_many(files)
    failed: dict[str, Exception] = {}
    found: dict[str, bytes] = {}
    try:
        for path, status, content in fs.iterate_many(files, failed=failed):  # type: ignore[arg-type]
            if not found:
                cluster.kill("d2")
            assert status.size_bytes == len(content)
            found[path] = content
    finally:
        cluster.start_node("d2")
    assert failed == {}
    assert found == files
    cluster.wait_ready()


def test_the_leader_dies_while_it_moves_bodies_to_datanodes(cluster: LocalCluster, fs: Client) -> None:
    fs.mkdir("/inline")
    files = some("/inline", 1400, 8 * KIB)
    names = list(files)
    stored = {}
    for at in range(0, len(names), 7):  # too little for a pack of the client's
        stored.update(fs.put_many({name: files[name] for name in names[at : at + 7]}))
    wait_for(lambda: "packing.done" in cluster.log(cluster.leader()), 60.0, "the leader packs")
    old = cluster.kill_leader()
    assert fs.get_many(files) == files
    wait_for(lambda: fs.statfs().inline_bytes == 0, 60.0, "the next leader has moved the rest")
    cluster.start_node(old)
    assert fs.get_many(files) == files
    assert {name: fs.stat(name) for name in names[::100]} == {name: stored[name] for name in names[::100]}
    places = [fs.locate(name) for name in names[::100]]
    assert all(len(one) == 1 and not one[0].inline and len(one[0].replicas) >= 2 for one in places)
    cluster.wait_ready()


def test_a_tree_of_small_files_goes_in_comes_out_and_is_verified(
    cluster: LocalCluster, dfsctl: Dfsctl, fs: Client, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    for path, content in some("", 300, 5 * KIB).items():
        target = source / path[1:3] / path[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(0o640)
    (source / "empty").touch()
    assert dfsctl("put", "-r", str(source), "/tree").code == 0
    assert dfsctl("get", "-r", "/tree", str(tmp_path / "copy")).code == 0
    assert differences(read_tree(source), read_tree(tmp_path / "copy")) == []
    assert dfsctl("verify", "-r", "/tree").code == 0
    chunks = {extent.chunk for one in fs.list("/tree/00") for extent in fs.locate(one.path)}
    assert len(chunks) < 10
    fs.copy("/tree/00/00001", "/copied")
    fs.delete("/tree", recursive=True, purge=True)
    assert fs.get_many(["/copied"]) == {"/copied": (source / "00" / "00001").read_bytes()}
