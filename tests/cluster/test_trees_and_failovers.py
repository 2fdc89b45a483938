"""Real input: this Python's own library, a tree of odd things, a file of more than a gibibyte; and the same
while nodes die.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from quorumfs import Client
from quorumfs.testing import LocalCluster, cluster_fixture, wait_for
from tests.support.commands import Dfsctl, finish
from tests.support.processes import bytes_read, bytes_written, peak_bytes, peak_until_the_end
from tests.support.trees import (
    build_odd_tree,
    copy_standard_library,
    differences,
    read_tree,
    sha256,
    write_noise,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

GIB = 1 << 30
MIB = 1 << 20
LARGE_BYTES = GIB + 54_321
PEAK_BYTES_MAX = 200 * MIB
FILES_IN_THE_MIDDLE = 300
PATIENCE_SECONDS = 240.0

cluster = cluster_fixture()


@dataclass(frozen=True)
class Sample:
    path: Path
    digest: str


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("library") / "tree"
    assert copy_standard_library(tree) > 1000
    return tree


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    path = tmp_path_factory.mktemp("large") / "file"
    yield Sample(path, write_noise(path, LARGE_BYTES))
    path.unlink()


def pids(cluster: LocalCluster, role: str) -> list[int]:
    return [
        one["pid"]
        for one in cluster.local.status()["processes"]
        if (one["role"], one["kind"]) == (role, "node")
    ]


def interrupted(
    process: subprocess.Popen[bytes], is_time: Callable[[], bool], harm: Callable[[], object]
) -> None:
    """Do `harm` once `is_time`, while the command runs; it must succeed silently all the same."""
    try:
        wait_for(is_time, 60.0, "the middle of the command")
        assert process.poll() is None, "the command was over before anything could happen to it"
        harm()
    except BaseException:
        process.kill()
        process.communicate()
        raise
    assert finish(process, PATIENCE_SECONDS) == (0, "")


def test_an_odd_tree_comes_back_as_it_went_in(dfsctl: Dfsctl, tmp_path: Path) -> None:
    build_odd_tree(tmp_path / "odd")
    dfsctl.well("put", "-r", tmp_path / "odd", "/odd")
    dfsctl.well("get", "-r", "/odd", tmp_path / "copy")
    assert differences(read_tree(tmp_path / "odd"), read_tree(tmp_path / "copy")) == []


def test_a_tree_put_a_second_time_into_its_place_is_the_same_tree(dfsctl: Dfsctl, tmp_path: Path) -> None:
    build_odd_tree(tmp_path / "odd")
    dfsctl.well("put", "-r", tmp_path / "odd", "/twice")
    dfsctl.well("put", "-r", tmp_path / "odd", "/twice")
    dfsctl.well("get", "-r", "/twice", tmp_path / "copy")
    assert differences(read_tree(tmp_path / "odd"), read_tree(tmp_path / "copy")) == []


def test_the_standard_library_goes_in_while_the_leader_and_a_datanode_die(
    cluster: LocalCluster, dfsctl: Dfsctl, fs: Client, library: Path
) -> None:
    before = fs.statfs().files

    def harm() -> None:
        cluster.kill_leader()
        cluster.kill("d2")

    interrupted(
        dfsctl.start("put", "-r", library, "/library"),
        lambda: fs.statfs().files > before + FILES_IN_THE_MIDDLE,
        harm,
    )
    cluster.start_all()


def test_the_standard_library_comes_out_while_a_datanode_and_the_leader_die(
    cluster: LocalCluster, dfsctl: Dfsctl, library: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"

    def harm() -> None:
        cluster.kill("d1")
        cluster.kill_leader()

    interrupted(
        dfsctl.start("get", "-r", "/library", copy),
        lambda: copy.exists() and len(read_names(copy)) > FILES_IN_THE_MIDDLE,
        harm,
    )
    cluster.start_all()
    assert differences(read_tree(library), read_tree(copy)) == []


def read_names(root: Path) -> list[Path]:
    return [path for path in root.rglob("*.py") if not path.is_dir()]


def test_a_gibibyte_goes_in_and_out_within_two_hundred_mebibytes_of_memory(
    cluster: LocalCluster, dfsctl: Dfsctl, large: Sample, tmp_path: Path
) -> None:
    peaks = {}
    for name, argv in (
        ("put", ("put", large.path, "/large")),
        ("get", ("get", "/large", tmp_path / "copy")),
    ):
        process = dfsctl.start(*argv)
        peaks[name] = peak_until_the_end(process, PATIENCE_SECONDS)
        assert finish(process) == (0, "")
    datanodes = [peak_bytes(pid) for pid in pids(cluster, "datanode")]
    print(f"peaks in MiB: {[p >> 20 for p in (*peaks.values(), *datanodes)]} (put, get, datanodes)")
    assert digest_of_last(tmp_path / "copy") == large.digest
    assert all(0 < peak < PEAK_BYTES_MAX for peak in (*peaks.values(), *datanodes))


def test_a_gibibyte_survives_the_leader_on_its_way_in_and_a_datanode_on_its_way_out(
    cluster: LocalCluster, dfsctl: Dfsctl, large: Sample, tmp_path: Path
) -> None:
    process = dfsctl.start("put", large.path, "/large-too")
    interrupted(process, lambda: bytes_read(process.pid) > 300 * MIB, cluster.kill_leader)
    cluster.start_all()
    process = dfsctl.start("get", "/large-too", tmp_path / "copy")
    interrupted(process, lambda: bytes_written(process.pid) > 300 * MIB, lambda: cluster.kill("d3"))
    cluster.start_all()
    assert digest_of_last(tmp_path / "copy") == large.digest


def digest_of_last(path: Path) -> str:
    """SHA-256 of a large file that nobody needs afterwards."""
    found = sha256(path)
    path.unlink()
    return found


def test_at_the_end_nothing_is_missing_and_the_coordinators_agree(
    cluster: LocalCluster, dfsctl: Dfsctl
) -> None:
    def healed() -> bool:
        chunks = dfsctl.well("status", "-o", "json").json["chunks"]
        return bool(chunks["total"]) and (chunks["missing"], chunks["corrupt"]) == (0, 0)

    wait_for(healed, 60.0, "no chunk missing")
    assert len({one["hash"] for one in dfsctl.well("raft", "hash", "-o", "json").json}) == 1
