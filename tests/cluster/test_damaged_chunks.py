"""Replicas that rot, shrink or vanish: a read gives the right bytes or an error, and what is damaged is healed.

Which node serves a read is seen from its own counts of chunks handed over and bytes sent; so the replica that
is damaged is the one that will be read. Files have several chunks, of which only the last is damaged, so that a
read finds out late.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from quorumfs import Client
from quorumfs.errors import IntegrityError
from quorumfs.testing import LocalCluster, cluster_fixture, wait_for
from quorumfs.v1 import admin_pb2, chunks_pb2
from tests.support.commands import Dfsctl
from tests.support.surprises import surprises

pytestmark = pytest.mark.cluster

CHUNK_BYTES = 1 << 20
LENGTH = 2 * CHUNK_BYTES + 300_000
HEAL_SECONDS = 120.0

cluster = cluster_fixture(settings={"data.chunk_size_bytes": CHUNK_BYTES})


def replica_files(fs: Client, path: str, extent: int = -1) -> dict[str, Path]:
    """Node id -> file of every live replica of one chunk (the last). Raises what a node says against it."""
    location = fs.locate(path)[extent]
    found = {}
    for place in location.replicas:
        if place.state == "live":
            request = chunks_pb2.StatChunkRequest(chunk=bytes.fromhex(location.chunk))
            found[place.node_id] = Path(fs.coordinator.call("Chunks.Stat", request, address=place.grpc).file)
    return found


def given(cluster: LocalCluster, fs: Client, node_id: str) -> tuple[float, float]:
    """What a node gave to readers so far: open chunks, bytes."""
    address = cluster.layout.node(node_id).address("grpc")
    answer = fs.coordinator.call("Admin.GetMetrics", admin_pb2.GetMetricsRequest(), address=address)
    text = answer.text.decode()
    passed = re.search(r"^quorumfs_chunks_passed_total (\S+)", text, re.MULTILINE)
    sent = re.search(r"^quorumfs_sent_bytes_total (\S+)", text, re.MULTILINE)
    assert passed
    assert sent
    return float(passed[1]), float(sent[1])


def source_of(cluster: LocalCluster, fs: Client, path: str) -> str:
    """The node from which this machine reads the last bytes of a file."""
    nodes = [node.node_id for node in cluster.layout.datanodes]
    before = {node_id: given(cluster, fs, node_id) for node_id in nodes}
    with fs.open(path, "rb") as file:
        file.seek(-1000, os.SEEK_END)
        file.read()
    changed = [node_id for node_id in nodes if given(cluster, fs, node_id) != before[node_id]]
    assert len(changed) == 1, "one node serves the last chunk"
    return changed[0]


# --- harm -------------------------------------------------------------------------------------------------


def flip_in(file: Path, at: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
        (byte,) = opened.read(1)
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte ^ 0x10]))


def flip_a_byte(file: Path) -> None:
    flip_in(file, file.stat().st_size // 2)


def flip_the_header(file: Path) -> None:
    flip_in(file, 20)


def flip_the_end(file: Path) -> None:
    flip_in(file, -1)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def lengthen(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"more")


def delete(file: Path) -> None:
    file.unlink()


def exchange(file: Path) -> None:
    """The whole and valid content of another chunk, under this name."""
    other = next(path for path in file.parent.parent.rglob("?" * 32) if path != file)
    file.write_bytes(other.read_bytes())


HARM = [flip_a_byte, flip_the_header, flip_the_end, truncate, empty, delete, exchange]
Harm = Callable[[Path], None]


# --- healing ----------------------------------------------------------------------------------------------


def healed(fs: Client, path: str, original: bytes) -> None:
    """Wait until the last chunk has three live replicas, each of them the `original` file to the byte.

    Nothing but the disk is looked at: asking the node to verify would make it find the damage by that.
    """

    def is_well() -> bool:
        try:
            found = [file.read_bytes() for file in replica_files(fs, path).values()]
        except FileNotFoundError:  # it was put aside between the question and the look
            return False
        return found == [original] * 3

    wait_for(is_well, HEAL_SECONDS, f"{path} is whole again")
    wait_for(lambda: harmed(fs) == (0, 0), HEAL_SECONDS, "no chunk counts as missing or corrupt")


def harmed(fs: Client) -> tuple[int, int]:
    """How many chunks are missing, and how many corrupt, as the leader counts."""
    status = fs.coordinator.call("Control.GetClusterStatus", admin_pb2.GetClusterStatusRequest())
    return status.missing, status.corrupt


@pytest.fixture
def stored(request: pytest.FixtureRequest, fs: Client) -> tuple[str, bytes]:
    """A file of this test, with its content."""
    path, content = f"/{request.node.name}", os.urandom(LENGTH)
    fs.write_bytes(path, content)
    return path, content


def original_of(files: dict[str, Path]) -> bytes:
    """What is in the files of all replicas, header and checksums included: they are the same file."""
    (content,) = {file.read_bytes() for file in files.values()}
    return content


@pytest.mark.parametrize("harm", HARM)
def test_a_read_gives_the_right_bytes_and_the_damaged_replica_is_healed(
    cluster: LocalCluster, dfsctl: Dfsctl, fs: Client, stored: tuple[str, bytes], harm: Harm
) -> None:
    path, content = stored
    files = replica_files(fs, path)
    original = original_of(files)
    harm(files[source_of(cluster, fs, path)])
    assert dfsctl.well("cat", path).out == content
    healed(fs, path, original)
    assert fs.read_bytes(path) == content


def test_two_damaged_replicas_of_three_are_no_more_trouble(
    cluster: LocalCluster, dfsctl: Dfsctl, fs: Client, stored: tuple[str, bytes]
) -> None:
    path, content = stored
    files = replica_files(fs, path)
    original, source = original_of(files), source_of(cluster, fs, path)
    flip_a_byte(files.pop(source))
    flip_a_byte(files.popitem()[1])
    assert dfsctl.well("cat", path).out == content
    dfsctl("verify", path)  # one of the two may not have been read
    healed(fs, path, original)


def test_verify_finds_what_nobody_has_read(
    cluster: LocalCluster, dfsctl: Dfsctl, fs: Client, stored: tuple[str, bytes]
) -> None:
    path, content = stored
    files = replica_files(fs, path)
    original, source = original_of(files), source_of(cluster, fs, path)
    unread = next(node_id for node_id in files if node_id != source)
    flip_a_byte(files[unread])
    assert dfsctl.well("cat", path).out == content
    said = dfsctl("verify", path, "-o", "json")
    assert said.code == 9
    assert [one["node_id"] for one in said.json["problems"]] == [unread]
    healed(fs, path, original)
    dfsctl.well("verify", path)


def test_damage_done_while_a_node_was_down_is_found_and_healed(
    cluster: LocalCluster, dfsctl: Dfsctl, fs: Client, stored: tuple[str, bytes]
) -> None:
    path, content = stored
    files = replica_files(fs, path)
    original, source = original_of(files), source_of(cluster, fs, path)
    cluster.stop(source)
    lengthen(files[source])
    cluster.start_node(source)
    cluster.wait_ready()
    assert dfsctl.well("cat", path).out == content
    healed(fs, path, original)


def test_a_file_lost_while_its_node_was_down_is_noticed_without_a_read(
    cluster: LocalCluster, fs: Client, stored: tuple[str, bytes]
) -> None:
    path, content = stored
    files = replica_files(fs, path)
    original = original_of(files)
    cluster.kill("d2")
    delete(files["d2"])
    cluster.start_node("d2")
    cluster.wait_ready()
    healed(fs, path, original)
    assert fs.read_bytes(path) == content


def test_locate_names_the_file_of_every_replica(
    dfsctl: Dfsctl, fs: Client, stored: tuple[str, bytes]
) -> None:
    path, content = stored
    said = dfsctl.well("locate", path, "-o", "json").json
    assert (said["path"], said["size_bytes"]) == (path, len(content))
    assert [one["length"] for one in said["extents"]] == [CHUNK_BYTES, CHUNK_BYTES, LENGTH - 2 * CHUNK_BYTES]
    for number, extent in enumerate(said["extents"]):
        assert {"offset", "length", "chunk", "chunk_offset", "replicas"} <= extent.keys()
        assert {one["node_id"]: Path(one["file"]) for one in extent["replicas"]} == replica_files(
            fs, path, number
        )
        for one in extent["replicas"]:
            assert (one["state"], Path(one["file"]).name) == ("live", extent["chunk"])


@pytest.mark.parametrize("harm", [flip_a_byte, delete])
def test_with_no_good_replica_left_there_is_an_error_and_never_a_wrong_byte(
    dfsctl: Dfsctl, fs: Client, stored: tuple[str, bytes], harm: Harm, tmp_path: Path
) -> None:
    path, content = stored
    for replica in replica_files(fs, path).values():
        harm(replica)
    said = dfsctl("get", path, tmp_path / "copy")
    assert said.code == 9, said.err
    assert list(tmp_path.iterdir()) == []
    said = dfsctl("cat", path)
    assert said.code == 9, said.err
    assert content.startswith(said.out)
    with pytest.raises(IntegrityError):
        fs.read_bytes(path)
    said = dfsctl("verify", path, "-o", "json")
    assert said.code == 9
    assert {one["node_id"] for one in said.json["problems"]} == {"d1", "d2", "d3"}
    with fs.open(path, "rb") as file:
        assert file.read(CHUNK_BYTES) == content[:CHUNK_BYTES], "what is whole can still be read"
    wait_for(lambda: sum(harmed(fs)) > 0, HEAL_SECONDS, "the leader hears of it")
    dfsctl.well("rm", "--purge", path)
    wait_for(lambda: harmed(fs) == (0, 0), HEAL_SECONDS, "a file that is gone misses nothing")


def test_at_the_end_everything_is_whole(cluster: LocalCluster, dfsctl: Dfsctl, fs: Client) -> None:
    # Under load the leader was seen to call a replica missing again that it had healed; why is not known yet.
    wait_for(lambda: dfsctl("verify", "-r", "/").code == 0, HEAL_SECONDS, "every replica is good")
    assert harmed(fs) == (0, 0)
    assert surprises(cluster) == []
