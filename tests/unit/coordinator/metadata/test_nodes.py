"""Nodes: registration, labels, intents, and being forgotten."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coordinator.metadata import queries
from coordinator.metadata.commands import nodes
from quorumfs.errors import Code
from quorumfs.limits import LABELS_MAX
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t
from tests.support.machines import Cluster


def described(node_id: str = "d9", **labels: str) -> m.NodeInfo:
    return m.NodeInfo(
        node_id=node_id,
        node_uuid=f"uuid-{node_id}",
        role=t.NODE_ROLE_DATANODE,
        grpc=f"{node_id}:1",
        labels=labels,
        disks=[t.DiskInfo(disk_id="k", path="/k", total_bytes=100, used_bytes=5, state="ok")],
    )


def register(cluster: Cluster, node: m.NodeInfo, empty: bool = False) -> e.SystemResult.One:
    return cluster.system(e.SystemCommand(register_node=e.RegisterNode(node=node, empty=empty)))


def set_node(cluster: Cluster, node_id: str, **fields: object) -> e.SystemResult.One:
    return cluster.system(e.SystemCommand(set_node=e.SetNode(node_id=node_id, **fields)))  # type: ignore[arg-type]


def row(cluster: Cluster, node_id: str = "d9") -> queries.NodeRow:
    (found,) = [one for one in queries.node_rows(cluster.replica.db) if one.info.node_id == node_id]
    return found


def live(cluster: Cluster) -> list[int]:
    return [found[0] for found in cluster.replica.db.execute("SELECT live FROM chunk")]


def chunks_of(cluster: Cluster) -> list[bytes]:
    return [row[0] for row in cluster.replica.db.execute("SELECT id FROM chunk ORDER BY id")]


def test_a_node_is_known_with_its_disks_but_not_their_sizes(cluster: Cluster) -> None:
    assert register(cluster, described(zone="a")).code == Code.OK
    info = row(cluster).info
    assert dict(info.labels) == {"zone": "a"}
    assert list(info.disks) == [t.DiskInfo(disk_id="k", path="/k")]


def test_a_node_keeps_its_key_when_it_registers_again(cluster: Cluster) -> None:
    first = register(cluster, described()).number
    told = described()
    told.grpc, told.version = "elsewhere:2", "2.0"
    told.disks.add(disk_id="second", path="/second")
    told.disks[0].path = "/moved"
    assert register(cluster, told).number == first
    assert row(cluster).info.grpc == "elsewhere:2"
    disks = cluster.replica.db.execute("SELECT disk_id, path FROM disk WHERE node = ? ORDER BY key", (first,))
    assert disks.fetchall() == [("k", "/moved"), ("second", "/second")]


def test_labels_of_the_cluster_stay_and_new_ones_of_the_node_are_added(cluster: Cluster) -> None:
    register(cluster, described(zone="a"))
    set_node(cluster, "d9", labels={"zone": "b", "rack": "r1"})
    register(cluster, described(zone="a", disk="ssd"))
    assert dict(row(cluster).info.labels) == {"zone": "b", "rack": "r1", "disk": "ssd"}


def test_a_label_that_an_operator_took_away_stays_away_though_the_node_tells_it_again(
    cluster: Cluster,
) -> None:
    register(cluster, described(zone="a", disk="ssd"))
    set_node(cluster, "d9", remove_labels=["disk"])
    register(cluster, described(zone="a", disk="ssd"))
    set_node(cluster, "d9", labels={"rack": "r1"})
    register(cluster, described(zone="a", disk="ssd", canary="yes"))
    assert dict(row(cluster).info.labels) == {"zone": "a", "rack": "r1", "canary": "yes"}


def test_an_operator_who_sets_a_label_again_is_obeyed(cluster: Cluster) -> None:
    register(cluster, described(disk="ssd"))
    set_node(cluster, "d9", remove_labels=["disk"])
    set_node(cluster, "d9", labels={"disk": "nvme"})
    assert list(row(cluster).info.dropped_labels) == []
    register(cluster, described(disk="ssd"))
    assert dict(row(cluster).info.labels) == {"disk": "nvme"}


def test_another_empty_machine_under_a_nodes_name_has_the_labels_of_its_own_file(cluster: Cluster) -> None:
    register(cluster, described(disk="ssd"))
    set_node(cluster, "d9", remove_labels=["disk"])
    other = described(disk="hdd")
    other.node_uuid = "another"
    assert register(cluster, other, empty=True).code == Code.OK
    assert dict(row(cluster).info.labels) == {"disk": "hdd"}
    assert list(row(cluster).info.dropped_labels) == []


def test_so_many_labels_are_remembered_as_taken_away_and_no_more(cluster: Cluster) -> None:
    register(cluster, described())
    for number in range(LABELS_MAX + 1):
        set_node(cluster, "d9", labels={f"l{number}": "x"})
        set_node(cluster, "d9", remove_labels=[f"l{number}", "never-there"])
    assert list(row(cluster).info.dropped_labels) == [f"l{number}" for number in range(1, LABELS_MAX + 1)]


def test_labels_are_set_and_removed(cluster: Cluster) -> None:
    register(cluster, described(zone="a", rack="r1"))
    assert set_node(cluster, "d9", labels={"disk": "ssd"}, remove_labels=["rack", "none"]).code == Code.OK
    assert dict(row(cluster).info.labels) == {"zone": "a", "disk": "ssd"}


@pytest.mark.parametrize(
    "labels",
    [{"": "x"}, {"k" * 64: "x"}, {"k": "v" * 64}, {"a b": "x"}, {"k": "-"}, {f"k{k}": "" for k in range(65)}],
)
def test_labels_that_no_selector_could_name_are_refused(cluster: Cluster, labels: dict[str, str]) -> None:
    assert register(cluster, described(**labels)).code == Code.INVALID_ARGUMENT
    register(cluster, described())
    assert set_node(cluster, "d9", labels=labels).code == Code.INVALID_ARGUMENT
    assert dict(row(cluster).info.labels) == {}


def test_an_intent_is_kept_and_maintenance_has_an_end(cluster: Cluster) -> None:
    register(cluster, described())
    maintenance = t.NODE_INTENT_MAINTENANCE
    set_node(cluster, "d9", set_intent=True, intent=maintenance, maintenance_until_cluster_ms=9000)
    assert row(cluster).intent == maintenance
    assert queries.pending_deadline(cluster.replica.db) == 9000
    set_node(cluster, "d9", labels={"zone": "a"})
    assert row(cluster).intent == maintenance
    set_node(cluster, "d9", set_intent=True, intent=t.NODE_INTENT_NORMAL, maintenance_until_cluster_ms=9000)
    assert row(cluster).intent == t.NODE_INTENT_NORMAL
    assert queries.pending_deadline(cluster.replica.db) is None


def test_an_intent_of_newer_software_is_refused(cluster: Cluster) -> None:
    register(cluster, described())
    assert set_node(cluster, "d9", set_intent=True, intent=99).code == Code.INVALID_ARGUMENT
    end = 2**64 - 1
    answer = set_node(cluster, "d9", set_intent=True, intent=4, maintenance_until_cluster_ms=end)
    assert answer.code == Code.INVALID_ARGUMENT


def test_a_change_may_say_from_which_intents_it_may_be_made(cluster: Cluster) -> None:
    register(cluster, described())
    normal, draining = t.NODE_INTENT_NORMAL, t.NODE_INTENT_DRAINING
    assert set_node(cluster, "d9", set_intent=True, intent=draining, only_from=[normal]).code == Code.OK
    refused = set_node(
        cluster, "d9", set_intent=True, intent=normal, only_from=[normal], labels={"zone": "a"}
    )
    assert refused.code == Code.PRECONDITION_FAILED
    assert "d9 is draining" in refused.error.message
    assert (row(cluster).intent, dict(row(cluster).info.labels)) == (draining, {})


def test_only_a_maintenance_that_is_over_is_ended(cluster: Cluster) -> None:
    register(cluster, described())
    end = e.SystemCommand(end_maintenance=e.EndMaintenance(node_ids=["d9", "nobody"]))
    assert cluster.system(end).number == 0
    until = cluster.now_ms + 100
    set_node(
        cluster,
        "d9",
        set_intent=True,
        intent=t.NODE_INTENT_MAINTENANCE,
        maintenance_until_cluster_ms=until,
    )
    cluster.now_ms = until - 1
    assert cluster.system(end).number == 0  # as when it was made longer meanwhile
    cluster.now_ms = until
    assert cluster.system(end).number == 1
    assert row(cluster).intent == t.NODE_INTENT_NORMAL
    assert queries.pending_deadline(cluster.replica.db) is None
    set_node(cluster, "d9", set_intent=True, intent=t.NODE_INTENT_DECOMMISSIONING)
    assert cluster.system(end).number == 0
    assert row(cluster).intent == t.NODE_INTENT_DECOMMISSIONING


def test_nobody_is_set_or_forgotten_who_is_not_registered(cluster: Cluster) -> None:
    assert set_node(cluster, "d9").code == Code.NOT_FOUND
    forget = e.SystemCommand(forget_node=e.ForgetNode(node_id="d9"))
    assert cluster.system(forget).code == Code.NOT_FOUND


def test_one_identity_has_one_name(cluster: Cluster) -> None:
    told = described()
    told.node_uuid = "uuid-d1"
    assert register(cluster, told).code == Code.DUPLICATE_NODE


def test_another_machine_takes_a_name_over_only_empty(cluster: Cluster) -> None:
    cluster.upload(b"/x", 5)
    assert cluster.register("d1", uuid="new").code == Code.DUPLICATE_NODE
    assert live(cluster) == [3]
    assert cluster.register("d1", uuid="new", empty=True).code == Code.OK
    assert live(cluster) == [2]
    assert row(cluster, "d1").info.node_uuid == "new"


def test_a_coordinator_does_not_become_a_datanode(cluster: Cluster) -> None:
    told = described("c1")
    told.role = t.NODE_ROLE_COORDINATOR
    assert register(cluster, told).code == Code.OK
    other = described("c1")
    other.node_uuid = "new"
    for empty in (False, True):
        assert register(cluster, other, empty).code == Code.DUPLICATE_NODE
    assert row(cluster, "c1").info.node_uuid == told.node_uuid


def test_many_replicas_go_a_few_at_a_time_and_the_node_with_the_last(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "REPLICAS_PER_ENTRY", 2)
    cluster.upload(b"/x", 1, 2, 3, 4, 5)
    corrupt = e.ReplicaUpdate(chunk=chunks_of(cluster)[0], node_id="d1", state=t.REPLICA_STATE_CORRUPT)
    cluster.system(e.SystemCommand(update_replicas=e.UpdateReplicas(updates=[corrupt])))
    keys = [cluster.register("d1", uuid="new", empty=True).number for _ in range(3)]
    assert keys == [0, 0, 1]
    assert live(cluster) == [2] * 5
    forget = e.SystemCommand(forget_node=e.ForgetNode(node_id="d2"))
    assert [cluster.system(forget).number for _ in range(3)] == [3, 1, 0]
    assert live(cluster) == [1] * 5
    assert cluster.system(forget).code == Code.NOT_FOUND


def test_an_empty_disk_under_a_known_name_has_no_replicas(cluster: Cluster) -> None:
    cluster.upload(b"/x", 5)
    cluster.register("d1", empty=True)
    assert live(cluster) == [2]
    assert queries.chunks_on(cluster.replica.db, "d1", b"", 10) == []


def test_a_forgotten_node_takes_its_replicas_along(cluster: Cluster) -> None:
    cluster.upload(b"/x", 5)
    assert cluster.system(e.SystemCommand(forget_node=e.ForgetNode(node_id="d1"))).code == Code.OK
    assert live(cluster) == [2]
    assert [one.info.node_id for one in queries.node_rows(cluster.replica.db)] == ["d2", "d3"]
    again = cluster.register("d1")
    assert again.number > 3  # a key is not used twice: old rows could name it


Change = Callable[[m.NodeInfo], object]


@pytest.mark.parametrize(
    "change",
    [
        lambda node: setattr(node, "node_id", ""),
        lambda node: setattr(node, "node_id", "a/b"),
        lambda node: setattr(node, "node_id", "n" * 64),
        lambda node: setattr(node, "node_uuid", ""),
        lambda node: setattr(node, "role", 0),
        lambda node: setattr(node, "grpc", "x" * 2000),
        lambda node: setattr(node.disks[0], "disk_id", ""),
        lambda node: setattr(node.disks[0], "disk_id", "x" * 2000),
        lambda node: node.disks.extend([t.DiskInfo(disk_id=f"{k}") for k in range(64)]),
    ],
)
def test_a_node_that_makes_no_sense_is_refused(cluster: Cluster, change: Change) -> None:
    told = described()
    change(told)
    assert register(cluster, told).code == Code.INVALID_ARGUMENT
