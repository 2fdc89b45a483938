"""`dfsctl events`, `top`, `bench` and `sync` on a real cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quorumfs import Client
from quorumfs.testing import LocalCluster, cluster_fixture, wait_for
from tests.support.agents import ask
from tests.support.commands import Dfsctl

pytestmark = pytest.mark.cluster

cluster = cluster_fixture(settings={"dev.faults": True})


def test_what_happened_is_told_by_the_coordinators_that_saw_it(cluster: LocalCluster, dfsctl: Dfsctl) -> None:
    dfsctl.well("node", "drain", "d3")
    dfsctl.well("node", "undrain", "d3")
    cluster.kill("d3")

    def told() -> bool:
        kinds = {(one["kind"], one["fields"].get("node")) for one in dfsctl("events", "-o", "json").json}
        return ("node.suspect", "d3") in kinds

    wait_for(told, what="the death of d3 as an event")
    cluster.start_all()
    said = dfsctl("events", "-o", "json")
    assert said.code == 0
    assert {"node.registered", "tenure.begun", "control.done"} <= {one["kind"] for one in said.json}
    times = [one["time"] for one in said.json]
    assert times == sorted(times)
    orders = dfsctl("events", "--kind", "control", "-o", "json").json
    assert {one["message"] for one in orders} >= {
        "by an operator: d3: drain is set",
        "by an operator: d3: undrain is set",
    }
    assert {one["node_id"] for one in dfsctl("events", "--from", "c1", "-o", "json").json} == {"c1"}
    assert "d3: drain is set" in dfsctl("events", "--since", "10m").text
    assert dfsctl("events", "--from", "c9").code == 2


def test_events_are_told_while_a_coordinator_is_dead_and_while_nobody_leads(
    cluster: LocalCluster, dfsctl: Dfsctl
) -> None:
    dead = next(one for one in ("c1", "c2", "c3") if one != cluster.leader())
    cluster.kill(dead)
    said = dfsctl("events", "-o", "json")
    assert said.code == 8
    assert dead not in {one["node_id"] for one in said.json}
    other = next(one for one in ("c1", "c2", "c3") if one != dead)
    cluster.kill(other)
    alive = ({"c1", "c2", "c3"} - {dead, other}).pop()
    found = dfsctl("events", "--from", alive, "-o", "json")
    assert found.code == 0
    assert {one["node_id"] for one in found.json} == {alive}
    cluster.start_all()


def test_a_leader_that_is_cut_off_is_deposed_and_follows_when_the_cut_is_healed(
    cluster: LocalCluster, dfsctl: Dfsctl, fs: Client
) -> None:
    old = cluster.leader()
    cut = dfsctl.well("dev", "partition", old, "d1", "--dir", cluster.directory, "-o", "json").json
    assert sorted([old, "d1"]) == sorted(cut["sides"][0])
    wait_for(lambda: cluster.leader() != old, what="the larger side has a leader")
    fs.write_bytes("/across", b"x" * 100_000)
    assert "d1" not in {one.node_id for one in fs.locate("/across")[0].replicas}
    for node_id in (old, "d1"):
        alone = cluster.layout.node(node_id)
        wait_for(
            lambda alone=alone: ask(alone, "/health/ready").status == 503, what=f"{node_id} is not ready"
        )  # type: ignore[misc]
    dfsctl.well("dev", "heal", "--dir", cluster.directory)
    for node in cluster.nodes:
        wait_for(lambda node=node: ask(node, "/health/ready").status == 200, what=f"{node.node_id} is ready")  # type: ignore[misc]
    assert fs.read_bytes("/across") == b"x" * 100_000
    assert dfsctl("dev", "partition", "d9", "--dir", cluster.directory).code == 3
    everybody = [one.node_id for one in cluster.nodes]
    assert dfsctl("dev", "partition", *everybody, "--dir", cluster.directory).code == 2


def test_top_tells_what_the_nodes_are_doing(cluster: LocalCluster, dfsctl: Dfsctl) -> None:
    said = dfsctl("top", "--interval", "1", "-o", "json")
    assert said.code == 0
    by_id = {one["node_id"]: one for one in said.json}
    assert sorted(by_id) == ["c1", "c2", "c3", "d1", "d2", "d3"]
    assert [node_id for node_id, one in by_id.items() if one["leads"]] == [cluster.leader()]
    for one in said.json:
        assert one["error"] is None
        assert one["cpu_fraction"] >= 0, "in ticks of 10 ms: nobody has to do something in a second"
        assert one["rss_bytes"] > 10_000_000
    cluster.pause("d2")
    hung = {one["node_id"]: one for one in dfsctl("top", "--interval", "0.5", "-o", "json").json}["d2"]
    cluster.resume("d2")
    assert hung["cpu_fraction"] is None
    assert hung["error"] == "the node does not answer its agent"
    assert "MEMORY" in dfsctl("top", "--interval", "0.2").text


def test_bench_measures_and_leaves_nothing_behind(cluster: LocalCluster, dfsctl: Dfsctl, fs: Client) -> None:
    before = [one.name for one in fs.list("/")]
    said = dfsctl("bench", "--seconds", "0.5", "--size", "64K", "--parallel", "4", "-o", "json")
    assert said.code == 0, said.err
    names = [one["name"] for one in said.json["results"]]
    assert names == ["write", "read", "create", "stat", "rename", "delete"]
    for one in said.json["results"]:
        assert one["operations"] > 0, one
        assert one["failed"] == 0
        assert 0 < one["p50_ms"] <= one["p99_ms"]
    assert said.json["results"][0]["bytes_per_second"] > 0
    assert [one.name for one in fs.list("/")] == before
    assert dfsctl("bench", "--size", "0").code == 2


def tree(root: Path) -> dict[str, bytes]:
    return {str(one.relative_to(root)): one.read_bytes() for one in root.rglob("*") if one.is_file()}


def test_sync_sends_what_differs_and_only_that(
    cluster: LocalCluster, dfsctl: Dfsctl, fs: Client, tmp_path: Path
) -> None:
    here, back = tmp_path / "here", tmp_path / "back"
    (here / "deep").mkdir(parents=True)
    for k in range(5):
        (here / "deep" / f"f{k}").write_bytes(b"%d" % k * 1000)
    (here / "link").symlink_to("deep/f0")
    first = dfsctl("sync", str(here), "/s", "-o", "json")
    assert (first.code, first.json["sent"], first.json["unchanged"]) == (0, 6, 0), first.err
    again = dfsctl("sync", str(here), "/s", "-o", "json").json
    assert (again["sent"], again["unchanged"], again["size_bytes"]) == (0, 6, 0)

    (here / "deep" / "f1").write_bytes(b"other")
    (here / "deep" / "f2").unlink()
    (here / "new").write_bytes(b"new")
    planned = dfsctl("sync", str(here), "/s", "--delete", "--dry-run", "-o", "json").json
    assert sorted((one["action"], one["path"]) for one in planned["changes"]) == [
        ("remove", "deep/f2"),
        ("send", "deep/f1"),
        ("send", "new"),
    ]
    assert fs.read_bytes("/s/deep/f1") == b"1" * 1000, "a dry run changes nothing"
    done = dfsctl("sync", str(here), "/s", "-o", "json").json
    assert (done["sent"], done["removed"]) == (2, 0)
    assert fs.stat("/s/deep/f2").size_bytes == 1000, "without --delete it stays"
    assert dfsctl("sync", str(here), "/s", "--delete", "-o", "json").json["removed"] == 1
    assert dfsctl("undelete", "/s/deep/f2").code == 0, "it is in the trash"
    fs.delete("/s/deep/f2")

    down = dfsctl("sync", "--down", "/s", str(back), "-o", "json").json
    assert down["sent"] == 6
    assert tree(back) == tree(here)
    assert dfsctl("sync", "--down", "/s", str(back), "-o", "json").json["sent"] == 0
    (back / "stray").write_bytes(b"x")
    (back / "more").mkdir()
    (back / "more" / "of-it").write_bytes(b"x")
    assert dfsctl("sync", "--down", "/s", str(back), "--delete", "-o", "json").json["removed"] == 2
    assert tree(back) == tree(here)


def test_sync_by_content_is_not_fooled_by_times(
    cluster: LocalCluster, dfsctl: Dfsctl, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "a").write_bytes(b"one")
    (here / "b").write_bytes(b"one")
    dfsctl("sync", str(here), "/c")
    status = (here / "a").stat()
    (here / "a").write_bytes(b"two")
    os.utime(here / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    os.utime(here / "b", ns=(0, 5))
    assert dfsctl("sync", str(here), "/c", "--dry-run", "--checksum", "-o", "json").json["changes"] == [
        {"action": "send", "path": "a"}
    ]
    assert dfsctl("sync", str(here), "/c", "--dry-run", "-o", "json").json["changes"] == [
        {"action": "send", "path": "b"}
    ]


def test_what_is_in_the_way_is_removed_only_when_it_is_said(
    cluster: LocalCluster, dfsctl: Dfsctl, fs: Client, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "x").write_bytes(b"a file")
    fs.makedirs("/w/x/below")
    said = dfsctl("sync", str(here), "/w")
    assert said.code == 4
    assert dfsctl("sync", str(here), "/w", "--delete").code == 0
    assert fs.read_bytes("/w/x") == b"a file"
    assert dfsctl("sync", str(here / "x"), "/w").code == 2
