"""`dfsctl fsck` on real disks: a replica that somebody removed is found, named, and made anew."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from quorumfs import Client
from quorumfs.testing import LocalCluster, cluster_fixture, wait_for
from tests.support.commands import Dfsctl

pytestmark = pytest.mark.cluster

CHUNK_BYTES = 256 << 10
PATIENCE_SECONDS = 60.0

cluster = cluster_fixture(
    settings={"data.chunk_size_bytes": CHUNK_BYTES, "data.inline_bytes_max": 0, "scrub.period_seconds": 2},
    labels={"zone": ("a", "b", "c")},
)


@pytest.fixture
def control(cluster: LocalCluster, tmp_path: Path) -> Dfsctl:
    return Dfsctl(tmp_path / "home", cluster.coordinators)


def files_of(cluster: LocalCluster, node_id: str, chunk: str) -> list[Path]:
    """Where a chunk lies on a node; what is in quarantine does not count."""
    node = next(one for one in cluster.layout.datanodes if one.node_id == node_id)
    found = cluster.layout.data_directory(node).rglob(chunk)
    return [one for one in found if "quarantine" not in one.parts]


def scrubbing(control: Dfsctl) -> set[str]:
    """What the datanodes' scrubbers do."""
    return {one["state"] for one in control("scrub", "status", "-o", "json").json}


def test_what_somebody_removed_is_found_and_made_anew(
    cluster: LocalCluster, fs: Client, control: Dfsctl
) -> None:
    for k in range(6):
        fs.write_bytes(f"/{k}", os.urandom(2 * CHUNK_BYTES))

    def well() -> bool:
        data = control("fsck", "-o", "json").json
        return bool(data["ok"] and not data["under_replicated"])

    wait_for(well, PATIENCE_SECONDS, "everything has its replicas")
    said = control("fsck", "-o", "json")
    assert said.code == 0
    assert said.json["copies"] == [{"want": 3, "live": 3, "chunks": 12, "size_bytes": 12 * CHUNK_BYTES}]
    assert [(one["want"], one["number"]) for one in said.json["zones"]] == [(3, 3)]
    assert all((one["listed"], one["recorded"]) == (12, 12) for one in said.json["nodes"])
    location = fs.locate("/3")[0]
    control.well(
        "scrub", "stop"
    )  # which might find it first: then the metadata knows, and fsck has nothing to tell
    wait_for(lambda: scrubbing(control) == {"stopped"}, PATIENCE_SECONDS, "nobody scrubs")
    files_of(cluster, "d2", location.chunk)[0].unlink()
    said = control("fsck", "-o", "json")
    assert said.code == 9
    missing = {one["node_id"]: one["missing"] for one in said.json["nodes"]}
    assert missing == {"d1": [], "d2": [location.chunk], "d3": []}
    wait_for(lambda: bool(files_of(cluster, "d2", location.chunk)), PATIENCE_SECONDS, "it was made anew")
    wait_for(well, PATIENCE_SECONDS, "and counts again")
    control.well("scrub", "start")
    wait_for(lambda: scrubbing(control) == {"running"}, PATIENCE_SECONDS, "they scrub again")


def test_datanodes_scrub_as_fast_as_they_are_told_and_find_what_is_damaged(
    cluster: LocalCluster, fs: Client, control: Dfsctl
) -> None:
    def scrubs() -> dict[str, dict[str, Any]]:
        return {one["node_id"]: one for one in control("scrub", "status", "-o", "json").json}

    fs.write_bytes("/scrubbed", os.urandom(CHUNK_BYTES))
    (location,) = fs.locate("/scrubbed")
    holder = location.replicas[0].node_id
    assert {one["state"] for one in scrubs().values()} == {"running"}
    control.well("scrub", "stop")
    wait_for(
        lambda: {one["state"] for one in scrubs().values()} == {"stopped"},
        PATIENCE_SECONDS,
        "all have stopped",
    )
    (file,) = files_of(cluster, holder, location.chunk)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    before = scrubs()[holder]
    control.well("scrub", "start", holder, "--rate", str(1 << 30))
    wait_for(
        lambda: scrubs()[holder]["round"] > before["round"] + 1 or scrubs()[holder]["corrupt"] > 0,
        PATIENCE_SECONDS,
        "it has read everything",
    )
    assert scrubs()[holder]["bytes_per_second"] == float(1 << 30)
    wait_for(
        lambda: control("verify", "/scrubbed").code == 0 and len(fs.locate("/scrubbed")[0].replicas) >= 3,
        PATIENCE_SECONDS,
        "what was damaged is made anew",
    )
    control.well("repair", "now")
    control.well("scrub", "start")


def test_every_agent_has_the_durability_report(cluster: LocalCluster, control: Dfsctl) -> None:
    for node in cluster.nodes:
        url = f"http://127.0.0.1:{node.ports['http']}/v1/cluster/durability"

        def ask(url: str = url) -> bool:
            with urllib.request.urlopen(url, timeout=10) as answer:
                found = json.load(answer)
            return bool(found["copies"] and found["copies"][-1]["live"] == 3)

        wait_for(ask, PATIENCE_SECONDS, f"{node.node_id}'s agent tells")
