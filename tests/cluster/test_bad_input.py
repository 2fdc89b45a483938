"""What people get wrong: every mistake has an exit code and says what, why and what next; nothing is lost by it.

One file is stored before the first mistake, and is read after each of them.
"""

from __future__ import annotations

import io
import os
import random
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from quorumfs import Client
from quorumfs.limits import NOBODY_SECONDS
from quorumfs.local.layout import HOST, NodeSpec
from quorumfs.local.processes import console_script
from quorumfs.testing import LocalCluster, cluster_fixture, wait_for
from quorumfs.v1 import namespace_pb2, namespace_pb2_grpc, types_pb2
from tests.support.commands import Dfsctl, Said
from tests.support.surprises import surprises

pytestmark = pytest.mark.cluster

STORED = "/stored/before"
CONTENT = random.Random(1).randbytes(300_000)
ENDED_SECONDS = 6.0

cluster = cluster_fixture()


@pytest.fixture(scope="module", autouse=True)
def stored(cluster: LocalCluster) -> None:
    with cluster.client() as fs:
        fs.makedirs("/stored")
        fs.write_bytes(STORED, CONTENT)


@pytest.fixture(autouse=True)
def unharmed(fs: Client) -> Iterator[None]:
    yield
    assert fs.read_bytes(STORED) == CONTENT
    assert [entry.name for entry in fs.list("/stored")] == ["before"]


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "local"
    path.write_bytes(b"of no importance")
    return path


def refused(said: Said, code: int, *words: str) -> None:
    """It ended with this code, and said these words on stderr and nothing on stdout."""
    assert said.code == code, said.err
    assert said.out == b""
    for word in words:
        assert word in said.err, said.err


# --- paths and names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ("cat", "/none"),
        ("get", "/none", "out"),
        ("stat", "/stored/none"),
        ("ls", "/none"),
        ("rm", "/none"),
        ("mv", "/none", "/stored/other"),
        ("locate", "/none"),
        ("put", "/no/such/local/file", "/stored/other"),
    ],
)
def test_what_is_not_there_is_not_found(dfsctl: Dfsctl, argv: tuple[str, ...]) -> None:
    refused(dfsctl(*argv), 3, "none" if "/none" in " ".join(argv) else "/no/such/local/file")


def test_a_missing_directory_above_a_new_file_is_named(dfsctl: Dfsctl, local: Path) -> None:
    refused(dfsctl("put", local, "/stored/deep/er/file"), 3, "deep")


def test_what_exists_is_not_replaced_unasked(dfsctl: Dfsctl, local: Path) -> None:
    dfsctl.well("put", local, "/beside")
    refused(dfsctl("put", "--no-clobber", local, STORED), 4, STORED)
    refused(dfsctl("mv", "/beside", STORED), 4, STORED)
    refused(dfsctl("mkdir", "/stored"), 4, "/stored")
    assert dfsctl.well("cat", "/beside").out == b"of no importance"


@pytest.mark.parametrize(
    "path",
    [
        b"relative",
        b"stored/before",
        b"/stored/../stored/before",
        b"/stored/./before",
        b"/" + b"n" * 256,
        b"/caf\xe9",
        b"",
        b"/" + b"/".join([b"n" * 200] * 30),
    ],
)
def test_a_bad_path_is_a_mistake_of_usage(dfsctl: Dfsctl, local: Path, path: bytes) -> None:
    refused(dfsctl("put", local, path), 2, "next:", "absolute path")


@pytest.mark.parametrize("verb", ["get", "cat", "ls", "stat", "mkdir", "rm", "mv", "locate"])
def test_every_verb_refuses_a_bad_path(dfsctl: Dfsctl, verb: str) -> None:
    refused(
        dfsctl(verb, *(["/stored"] if verb == "mv" else []), "/stored/../elsewhere"), 2, "'..' is no name"
    )


def test_a_name_of_255_bytes_is_none_too_many(dfsctl: Dfsctl, local: Path) -> None:
    dfsctl.well("put", local, "/" + "n" * 255)
    dfsctl.well("rm", "/" + "n" * 255)


def test_a_tree_with_one_bad_name_is_refused_before_anything_is_sent(
    dfsctl: Dfsctl, fs: Client, tmp_path: Path
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "good").write_bytes(b"good")
    Path(os.fsdecode(os.fsencode(tmp_path / "tree") + b"/caf\xe9")).write_bytes(b"bad")
    refused(dfsctl("put", "-r", tmp_path / "tree", "/tree"), 2, "caf", "UTF-8")
    assert not fs.exists("/tree")


def test_files_and_directories_are_not_taken_for_each_other(
    dfsctl: Dfsctl, local: Path, tmp_path: Path
) -> None:
    refused(dfsctl("cat", "/stored"), 4, "/stored is")
    refused(dfsctl("put", local, "/stored"), 4, "/stored is a directory")
    refused(dfsctl("put", local, STORED + "/below"), 4, "no directory")
    refused(dfsctl("ls", STORED + "/below"), 4, "before is a file")
    refused(dfsctl("mv", "/stored", "/stored/inside"), 4, "/stored")
    refused(dfsctl("get", "/stored", tmp_path / "out"), 2, "add -r")
    refused(dfsctl("put", tmp_path, "/tree"), 2, "add -r")
    assert not (tmp_path / "out").exists()


def test_a_directory_with_something_in_it_is_not_removed_unasked(dfsctl: Dfsctl) -> None:
    refused(dfsctl("rm", "/stored"), 4, "not empty", "add -r")
    refused(dfsctl("rm", "-r", "/"), 10)


def test_a_mistake_is_told_in_json_too(dfsctl: Dfsctl) -> None:
    said = dfsctl("stat", "/none", "-o", "json")
    assert said.code == 3
    assert said.json["error"].keys() == {"code", "message", "cause", "next"}
    assert said.json["error"]["code"] == "not_found"
    assert "/none" in said.err


@pytest.mark.parametrize(
    "argv", [("frob",), ("ls", "--frob"), ("put",), ("ls", "--coordinators", "nonsense", "/")]
)
def test_wrong_usage_is_exit_code_two(dfsctl: Dfsctl, argv: tuple[str, ...]) -> None:
    refused(dfsctl(*argv), 2)


def test_a_target_that_cannot_be_written_leaves_nothing_behind(dfsctl: Dfsctl, tmp_path: Path) -> None:
    refused(dfsctl("get", STORED, tmp_path / "no" / "such" / "directory"), 3)
    assert list(tmp_path.iterdir()) == []


# --- nodes and their files --------------------------------------------------------------------------------


def daemon(cluster: LocalCluster, node_id: str) -> tuple[NodeSpec, str, str]:
    """A node, its program, and the text of its file."""
    spec = cluster.layout.process(cluster.layout.node(node_id), "node")
    return spec.node, console_script(spec.script), spec.config.read_text()


def start(program: str, file: Path, text: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a daemon that shall refuse to start."""
    file.write_text(text)
    done = subprocess.run(
        [program, "--config", str(file), *more], capture_output=True, text=True, timeout=30, check=False
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


@pytest.mark.parametrize("node_id", ["c1", "d1"])
@pytest.mark.parametrize(
    ("more", "key", "reason"),
    [
        ("[grpcx]\nport = 1\n", "grpcx", "unknown section"),
        ("[storage]\ncolour = 'red'\n", "storage.colour", "unknown key"),
        ("[membership]\nheartbeat_seconds = 'often'\n", "membership.heartbeat_seconds", "number"),
    ],
)
def test_a_setting_nobody_knows_is_named_with_file_key_and_reason(
    cluster: LocalCluster, dfsctl: Dfsctl, tmp_path: Path, node_id: str, more: str, key: str, reason: str
) -> None:
    _, program, text = daemon(cluster, node_id)
    file = tmp_path / "node.toml"
    done = start(program, file, f"{text}\n{more}")
    assert done.returncode == 2
    for word in (str(file), key, reason):
        assert word in done.stderr
    refused(dfsctl("config", "check", file), 2, str(file), key, reason)


def test_an_override_nobody_knows_makes_no_cluster(dfsctl: Dfsctl, tmp_path: Path) -> None:
    said = dfsctl("dev", "up", "--dir", tmp_path / "new", "--base-port", "31000", "--set", "nonsense.key=1")
    refused(said, 2, "nonsense", "unknown section")
    assert not (tmp_path / "new" / "cluster.json").exists()


@pytest.mark.parametrize("node_id", ["c1", "d1"])
@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_a_port_in_use_is_named(cluster: LocalCluster, tmp_path: Path, node_id: str, kind: str) -> None:
    node, program, text = daemon(cluster, node_id)
    text = text.replace('"data"', f'"{tmp_path / "data"}"').replace("../", f"{cluster.directory}/")
    if kind == "http":
        program = console_script("quorumfs-sidecar")
    done = start(program, tmp_path / "node.toml", text)
    assert done.returncode not in (0, 2)
    port = str(node.ports[kind])
    assert port in done.stderr
    assert "another process" in done.stderr
    assert f"{kind}.port" in done.stderr


def test_a_second_process_on_a_node_s_disks_is_refused(cluster: LocalCluster, tmp_path: Path) -> None:
    _, program, text = daemon(cluster, "d1")
    with socket.create_server((HOST, 0)) as probe:
        free = probe.getsockname()[1]
    data = cluster.layout.data_directory(cluster.layout.node("d1"))
    text = text.replace('"data"', f'"{data}"').replace("../", f"{cluster.directory}/")
    text = text.replace(f"port = {cluster.layout.node('d1').ports['grpc']}", f"port = {free}")
    done = start(program, tmp_path / "node.toml", text)
    assert done.returncode == 1
    assert "another process holds its lock" in done.stderr


def test_ports_of_a_running_cluster_make_no_second_one(
    cluster: LocalCluster, dfsctl: Dfsctl, tmp_path: Path
) -> None:
    base = str(cluster.layout.base_port)
    said = dfsctl("dev", "up", "--dir", tmp_path / "second", "--base-port", base)
    refused(said, 4, "ports are in use", f"{base} (c1: grpc)", "--base-port")


def test_a_datanode_of_another_cluster_is_refused_and_both_sides_say_so(
    cluster: LocalCluster, dfsctl: Dfsctl, tmp_path: Path
) -> None:
    with LocalCluster(coordinators=1, datanodes=1, directory=tmp_path / "other", keep=True) as other:
        with other.client() as there:
            there.put(io.BytesIO(CONTENT), "/theirs", replication=1)
        other_id = cluster_id(Dfsctl(tmp_path / "home", other.coordinators))
        astray = other.layout.process(other.layout.node("d1"), "node")
        theirs, ours = other.coordinators, cluster.coordinators.replace(",", '", "')
    text = (
        astray.config.read_text()
        .replace(theirs, ours)
        .replace("../cluster.secret", str(cluster.layout.secret_file))
    )
    astray.config.write_text(text)
    chunks = chunk_files(tmp_path / "other" / "d1")
    assert chunks
    log = tmp_path / "astray.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [console_script(astray.script), "--config", str(astray.config)], stdout=output, stderr=output
        )
        try:
            wait_for(lambda: "belongs to another cluster" in log.read_text(), 30, "the datanode says so")
            wait_for(
                lambda: any(f"its cluster is {other_id}" in cluster.log(c) for c in ("c1", "c2", "c3")),
                30,
                "a coordinator says so",
            )
            assert cluster_id(dfsctl) in log.read_text()
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    assert "Traceback" not in log.read_text()
    assert chunk_files(tmp_path / "other" / "d1") == chunks
    names = [one["node_id"] for one in dfsctl.well("status", "-o", "json").json["datanodes"]]
    assert names == ["d1", "d2", "d3"]


def cluster_id(dfsctl: Dfsctl) -> str:
    return str(dfsctl.well("status", "-o", "json").json["cluster_id"])


def chunk_files(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("chunks/*/*")}


# --- who is asked -----------------------------------------------------------------------------------------


def test_with_no_coordinator_that_runs_it_soon_ends(dfsctl: Dfsctl, local: Path) -> None:
    nobody = f"{HOST}:1,{HOST}:2"
    commands = (("ls", "/"), ("put", local, "/x"), ("leader",), ("status",))
    with ThreadPoolExecutor(2) as pool:  # each needs a core to begin with
        answers = list(pool.map(lambda argv: dfsctl(*argv, "--coordinators", nobody), commands))
    for said in answers:
        assert said.code == 5, said.err
        assert f"{HOST}:1" in said.err
        assert NOBODY_SECONDS < said.seconds < ENDED_SECONDS


def followers(cluster: LocalCluster) -> list[NodeSpec]:
    leader = cluster.leader()
    return [node for node in cluster.layout.coordinator_nodes if node.node_id != leader]


def test_a_follower_asked_directly_says_who_leads_and_does_nothing(cluster: LocalCluster, fs: Client) -> None:
    leader = cluster.layout.node(cluster.leader())
    for node in followers(cluster):
        with grpc.insecure_channel(node.address("grpc")) as channel:
            stub = namespace_pb2_grpc.NamespaceStub(channel)
            mkdir = namespace_pb2.MkdirRequest(ref=namespace_pb2.Ref(path=b"/by-a-follower"))
            change = stub.Do(namespace_pb2.Batch(ops=[namespace_pb2.Op(mkdir=mkdir)]), timeout=5)
            question = namespace_pb2.ReadBatch(
                ops=[namespace_pb2.ReadOp(stat=namespace_pb2.StatRequest(ref=mkdir.ref))]
            )
            for answer in (change, stub.Read(question, timeout=5)):
                assert answer.code == types_pb2.ERROR_CODE_NOT_LEADER
                assert answer.error.leader.node_id == leader.node_id
                assert answer.error.leader.grpc == leader.address("grpc")
                assert leader.node_id in answer.error.message + answer.error.cause
                assert not answer.results
    assert not fs.exists("/by-a-follower")


def test_a_client_that_knows_a_follower_only_finds_the_leader(
    cluster: LocalCluster, dfsctl: Dfsctl, local: Path
) -> None:
    for node in followers(cluster):
        dfsctl.well("put", local, f"/by-{node.node_id}", "--coordinators", node.address("grpc"))


def test_no_node_has_thrown_up_its_hands(cluster: LocalCluster) -> None:
    assert surprises(cluster) == []
