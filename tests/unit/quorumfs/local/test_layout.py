from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from quorumfs.errors import InvalidArgumentError, NotFoundError
from quorumfs.local.config_text import config_text, parse_labels, parse_overrides
from quorumfs.local.layout import Layout, read_layout, write_layout


def test_node_k_listens_on_base_plus_ten_k_coordinators_first(tmp_path: Path) -> None:
    layout = Layout(tmp_path, base_port=9000)
    assert [(node.node_id, node.ports) for node in layout.nodes][:2] == [
        ("c1", {"grpc": 9000, "raft": 9001, "http": 9002}),
        ("c2", {"grpc": 9010, "raft": 9011, "http": 9012}),
    ]
    assert layout.node("d3").ports == {"grpc": 9050, "http": 9052}
    assert layout.coordinators == "127.0.0.1:9000,127.0.0.1:9010,127.0.0.1:9020"


def test_a_node_listens_on_grpc_and_raft_and_its_sidecar_on_http(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    node = layout.node("c1")
    assert layout.process(node, "node").ports == {"grpc": 7400, "raft": 7401}
    assert layout.process(node, "sidecar").ports == {"http": 7402}


def test_the_layout_reads_back_as_it_was_written(tmp_path: Path) -> None:
    layout = Layout(
        tmp_path,
        coordinator_count=1,
        datanode_count=2,
        base_port=8000,
        overrides={"gc.grace_seconds": "5"},
        labels={"zone": ("a", "b")},
        genesis="00ff",
        genesis_done=True,
    )
    write_layout(layout)
    assert read_layout(tmp_path) == layout
    assert json.loads(layout.file.read_text())["coordinators"] == "127.0.0.1:8000"


def test_nodes_with_addresses_of_their_own_listen_there_and_say_that_they_are_open_to_others(
    tmp_path: Path,
) -> None:
    layout = Layout(
        tmp_path, coordinator_count=1, datanode_count=1, hosts={"c1": "10.9.8.1", "d1": "10.9.8.2"}
    )
    assert layout.coordinators == "10.9.8.1:7400"
    text = tomllib.loads(config_text(layout, layout.node("d1")))
    assert (text["grpc"]["host"], text["http"]["host"]) == ("10.9.8.2", "10.9.8.2")
    assert text["cluster"]["coordinators"] == ["10.9.8.1:7400"]
    assert text["security"]["mode"] == "insecure"
    write_layout(layout)
    assert read_layout(tmp_path) == layout


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"format": 99}', '{"format": 1}'])
def test_a_damaged_cluster_file_is_named(tmp_path: Path, damage: str) -> None:
    (tmp_path / "cluster.json").write_text(damage)
    with pytest.raises(InvalidArgumentError, match=r"cluster\.json cannot be read"):
        read_layout(tmp_path)


def test_a_directory_without_a_cluster_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_layout(tmp_path)


@pytest.mark.parametrize(
    ("coordinators", "datanodes", "base"),
    [(2, 3, 7400), (0, 3, 7400), (3, -1, 7400), (3, 3, 80), (3, 3, 65500)],
)
def test_what_makes_no_cluster_is_refused(
    tmp_path: Path, coordinators: int, datanodes: int, base: int
) -> None:
    with pytest.raises(InvalidArgumentError):
        Layout(tmp_path, coordinator_count=coordinators, datanode_count=datanodes, base_port=base)


def test_an_unknown_node_is_answered_with_the_names_there_are(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        Layout(tmp_path, datanode_count=1).node("d9")
    assert "c1, c2, c3, d1" in caught.value.cause


def test_a_node_file_is_toml_with_relative_paths_and_overrides(tmp_path: Path) -> None:
    layout = Layout(
        tmp_path,
        overrides={
            "gc.grace_seconds": "5",
            "log.level": "debug",
            "node.labels.disk": "ssd",
            "dev.faults": "true",
        },
        labels={"zone": ("a", "b", 'c"\\\x7f')},
    )
    config = tomllib.loads(config_text(layout, layout.node("d3")))
    assert config["node"] == {
        "id": "d3",
        "role": "datanode",
        "data_dir": "data",
        "labels": {"zone": 'c"\\\x7f', "disk": "ssd"},
    }
    assert config["cluster"]["secret_file"] == "../cluster.secret"
    assert (config["gc"], config["log"], config["dev"]) == (
        {"grace_seconds": 5},
        {"level": "debug"},
        {"faults": True},
    )
    assert "raft" not in config
    assert tomllib.loads(config_text(layout, layout.node("c2")))["raft"]["port"] == 7411


def test_two_datanodes_are_not_asked_for_three_replicas(tmp_path: Path) -> None:
    layout = Layout(tmp_path, datanode_count=2)
    assert tomllib.loads(config_text(layout, layout.node("c1")))["data"] == {
        "replication": 2,
        "min_replicas": 2,
    }


def test_labels_go_round_the_datanodes(tmp_path: Path) -> None:
    layout = Layout(tmp_path, datanode_count=4, labels=parse_labels(["zone=a,b,c"]))
    assert [node.labels["zone"] for node in layout.datanodes] == ["a", "b", "c", "a"]
    assert all(not node.labels for node in layout.coordinator_nodes)


@pytest.mark.parametrize("text", ["gc", "gc=5", ".x=1", "gc.=1", "gc grace.x=1"])
def test_an_override_that_names_no_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_overrides([text])


@pytest.mark.parametrize("text", ["zone", "zone=", "=a"])
def test_a_label_without_values_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_labels([text])
