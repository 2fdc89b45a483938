"""Configuration: layers, refusals, origins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from common.config import check_main, from_command_line, inspect, load, origins
from common.config_schema import NodeConfig
from quorumfs import limits
from quorumfs.errors import InvalidArgumentError

DATANODE = """
[node]
id = "d1"
role = "datanode"
data_dir = "state"
labels = { zone = "a" }
[cluster]
coordinators = ["127.0.0.1:7400", "127.0.0.1:7410"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(DATANODE)
    return path


def fields_of(section: FieldInfo) -> dict[str, FieldInfo]:
    model: Any = section.annotation
    found: dict[str, FieldInfo] = model.model_fields
    return found


def refusal(path: Path, *overrides: str, **environ: str) -> str:
    with pytest.raises(InvalidArgumentError) as refused:
        load(path, overrides, environ)
    assert str(path) in refused.value.message
    return refused.value.cause


def test_a_short_file_is_completed_by_the_defaults_of_its_role(file: Path) -> None:
    config = load(file, environ={})
    assert (config.grpc.port, config.http.port) == (7500, 7502)
    assert config.grpc.advertise == "127.0.0.1:7500"
    assert config.data.chunk_size_bytes == limits.CHUNK_SIZE_BYTES
    assert config.membership.heartbeat_seconds == limits.HEARTBEAT_SECONDS


def test_a_coordinator_has_the_ports_of_a_coordinator(file: Path) -> None:
    config = load(file, ["node.role=coordinator"], {})
    assert (config.grpc.port, config.raft.port, config.http.port) == (7400, 7401, 7402)
    assert config.storage.data_dirs == ()


def test_paths_are_relative_to_the_file(file: Path) -> None:
    config = load(file, environ={})
    assert config.node.data_dir == file.parent / "state"
    assert config.cluster.secret_file == file.parent / "state" / "cluster.secret"
    assert config.storage.data_dirs == (file.parent / "state" / "disk0",)


def test_a_flag_wins_over_the_environment_and_that_over_the_file(file: Path) -> None:
    file.write_text(DATANODE + "[grpc]\nport = 1001\n[log]\nlevel = 'error'\n[http]\nport = 1002\n")
    environ = {"QUORUMFS_GRPC__PORT": "2001", "QUORUMFS_LOG__LEVEL": "debug"}
    config = load(file, ["grpc.port=3001"], environ)
    assert (config.grpc.port, config.log.level, config.http.port) == (3001, "debug", 1002)


def test_lists_and_tables_can_be_written_in_a_flag(file: Path) -> None:
    flags = ["cluster.coordinators=a:1, b:2", "node.labels.rack=r7", "storage.data_dirs=/x,rel"]
    config = load(file, flags, {"QUORUMFS_NODE__LABELS": "zone=b,disk=ssd"})
    assert config.cluster.coordinators == ("a:1", "b:2")
    assert config.node.labels == {"zone": "b", "disk": "ssd", "rack": "r7"}
    assert config.storage.data_dirs == (Path("/x"), file.parent / "rel")


def test_all_problems_are_told_at_once_with_key_reason_and_origin(file: Path) -> None:
    file.write_text(DATANODE + '[grpc]\nport = "7500"\nprot = 1\n[cache]\nsize = 1\n')
    cause = refusal(
        file, "gc.grace_seconds=soon", "gc.grase=1", QUORUMFS_LOG__LEVEL="loud", QUORUMFS_X__Y="1"
    )
    for part in (
        "grpc.port: Input should be a valid integer",
        f"grpc.prot: unknown key (file {file})",
        "cache: unknown section",
        "gc.grace_seconds: Input should be a valid number",
        "gc.grase: unknown key (flag --set)",
        "environment QUORUMFS_LOG__LEVEL",
        "x.y: unknown section (environment QUORUMFS_X__Y)",
    ):
        assert part in cause


def test_the_variables_of_clients_are_let_alone(file: Path) -> None:
    load(
        file, (), {"QUORUMFS_COORDINATORS": "x", "QUORUMFS_TOKEN": "t", "QUORUMFS_DEV_DIR": "/d", "PATH": "/"}
    )


def test_a_setting_written_with_one_underscore_is_not_silently_ignored(file: Path) -> None:
    assert "QUORUMFS_GRPC__PORT" in refusal(file, QUORUMFS_GRPC_PORT="1")


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["data.replication=1"], "data.min_replicas"),
        (["membership.suspect_seconds=40"], "membership.suspect_seconds"),
        (["membership.heartbeat_seconds=3"], "membership.heartbeat_seconds"),
        (["raft.heartbeat_seconds=0.1"], "raft.heartbeat_seconds"),
        (["raft.election_seconds_min=0.6"], "raft.election_seconds_min"),
        (["grpc.host=10.0.0.1"], "grpc.host"),
        (["http.host=0.0.0.0", "http.advertise=x:1"], "http.host"),
        (["dev.faults=true", "security.mode=insecure"], "dev.faults"),
        (["data.chunk_size_bytes=100000"], "data.chunk_size_bytes"),
        (["grpc.port=7502"], "http.port"),
        (["storage.data_dirs=a,a"], "storage.data_dirs"),
        (["grpc.host=0.0.0.0", "security.mode=insecure"], "grpc.advertise"),
        (["grpc.port=70000"], "grpc.port"),
        (["node.id=../x"], "node.id"),
        (["node.labels=a b=c"], "node.labels"),
        (["cluster.coordinators=localhost"], "cluster.coordinators"),
        (["node.role=king"], "node.role"),
        (["nonsense"], "nonsense"),
        (["grpc.port.x=1"], "grpc.port.x"),
    ],
)
def test_what_cannot_work_is_refused(file: Path, overrides: list[str], key: str) -> None:
    assert f"{key}" in refusal(file, *overrides)


def test_other_addresses_are_allowed_when_the_operator_writes_insecure(file: Path) -> None:
    flags = ["security.mode=insecure", "grpc.host=0.0.0.0", "grpc.advertise=node7:7500"]
    assert load(file, flags, {}).grpc.advertise == "node7:7500"


@pytest.mark.parametrize(
    ("content", "reason"), [(b"[node", "not TOML"), (b"\xff", "not TOML"), (b"a" * (2 << 20), "larger than")]
)
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    assert reason in refusal(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refusal(tmp_path / "none.toml")


def test_an_empty_file_is_told_only_what_it_must_have(tmp_path: Path) -> None:
    path = tmp_path / "empty.toml"
    path.write_text("[node]\n[cluster]\n")
    cause = refusal(path)
    assert "node.id: is missing" in cause
    assert "node.data_dir: is missing" in cause
    assert "secret_file" not in cause


def test_each_value_says_where_it_came_from(file: Path) -> None:
    rows = {key: (value, origin) for key, value, origin in origins(file, ["trash.retention_seconds=5"], {})}
    assert rows["node.id"] == ("d1", f"file {file}")
    assert rows["trash.retention_seconds"] == (5.0, "flag --set")
    assert rows["grpc.port"] == (7500, "default")
    assert rows.keys() == {
        f"{section}.{key}" for section, info in NodeConfig.model_fields.items() for key in fields_of(info)
    }


def test_every_key_has_its_sentence() -> None:
    for section, info in NodeConfig.model_fields.items():
        for key, field in fields_of(info).items():
            assert field.description, f"{section}.{key}"
            assert field.description.endswith("."), f"{section}.{key}"


def test_check_config_answers_in_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_main(["--config", str(file), "--check-config", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(file), "ok": True, "problems": []}
    assert check_main(["--config", str(file), "--check-config", "-o", "json", "--set", "a.b=1"]) == 2
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert problems == [{"key": "a.b", "reason": "unknown section", "origin": "flag --set"}]


def test_config_origin_answers_in_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_main(["--config", str(file), "--config-origin", "-o", "json"]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert {"key": "grpc.port", "value": 7500, "origin": "default"} in settings


def test_a_daemon_refuses_the_file_of_another_role(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        from_command_line("quorumfs-coordinator", "coordinator", ["--config", str(file)])
    assert ended.value.code == 2
    assert "node.role" in capsys.readouterr().err
    assert from_command_line("quorumfs-datanode", "datanode", ["--config", str(file)]).node.id == "d1"


def test_a_configuration_does_not_change(file: Path) -> None:
    found = inspect(file, (), {})
    assert found.config is not None
    with pytest.raises(ValueError, match="frozen"):
        setattr(found.config.grpc, "port", 1)  # noqa: B010  the point of the test
