"""`Client` over a cluster in memory: whole files, file objects, the namespace, and what goes wrong on the way."""

from __future__ import annotations

import io
import os
import random
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quorumfs import Client, limits
from quorumfs.errors import (
    AlreadyExistsError,
    IntegrityError,
    InvalidPathError,
    NotFoundError,
    PartialError,
    UnavailableError,
)
from quorumfs.limits import KIB, MIB
from quorumfs.v1 import types_pb2
from tests.unit.quorumfs.fakes import Cluster

DATA = random.Random(7).randbytes(5 * MIB + 99)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def fs(cluster: Cluster) -> Iterator[Client]:
    with Client("c1:1,c2:1,c3:1", channels=cluster.net) as client:
        yield client


# ---- whole files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 10, 16 * KIB + 1, len(DATA)])
def test_a_local_file_goes_in_and_comes_out_with_mode_and_time(fs: Client, tmp_path: Path, size: int) -> None:
    source, copy = tmp_path / "a", tmp_path / "b"
    source.write_bytes(DATA[:size])
    source.chmod(0o640)
    os.utime(source, ns=(5, 1_234_567_890_123_456_789))
    put = fs.put(source, "/a")
    assert (put.size_bytes, put.mode, put.modified_ns) == (size, 0o640, 1_234_567_890_123_456_789)
    fs.get("/a", copy)
    assert copy.read_bytes() == DATA[:size]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o640
    assert copy.stat().st_mtime_ns == 1_234_567_890_123_456_789


def test_a_pipe_has_no_mode_and_time_worth_keeping(fs: Client, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    threading.Thread(target=lambda: pipe.write_bytes(b"through a pipe"), daemon=True).start()
    assert fs.put(pipe, "/a").mode == 0o644
    assert fs.read_bytes("/a") == b"through a pipe"


def test_a_buffer_may_change_its_size_again_after_it_was_stored(fs: Client) -> None:
    buffer = io.BytesIO(DATA)
    buffer.seek(MIB)
    fs.put(buffer, "/a")
    buffer.truncate(0)
    assert fs.read_bytes("/a") == DATA[MIB:]


def test_text_given_as_bytes_is_refused_and_not_taken_for_a_local_path(fs: Client, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("local")
    with pytest.raises(TypeError):
        fs.write_bytes("/a", str(tmp_path / "secret"))  # type: ignore[arg-type]  that is the mistake
    assert not fs.exists("/a")


def test_if_absent_refuses_what_is_there(fs: Client) -> None:
    fs.write_bytes("/a", b"1", if_absent=True)
    with pytest.raises(AlreadyExistsError):
        fs.write_bytes("/a", b"2", if_absent=True)
    assert fs.read_text("/a") == "1"


def test_a_failed_get_leaves_what_was_there_and_nothing_beside_it(fs: Client, tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_text("mine")
    with pytest.raises(NotFoundError):
        fs.get("/missing", target)
    assert os.listdir(tmp_path) == ["x"]
    assert target.read_text() == "mine"


def test_get_replaces_a_link_and_does_not_write_through_it(fs: Client, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "victim")
    fs.write_bytes("/a", b"theirs")
    fs.get("/a", link)
    assert (tmp_path / "victim").read_text() == "mine"
    assert (link.is_symlink(), link.read_bytes()) == (False, b"theirs")


def test_get_goes_on_elsewhere_when_a_replica_turns_out_to_be_another_chunk(
    fs: Client, cluster: Cluster, tmp_path: Path
) -> None:
    fs.put(DATA, "/a")
    for node in cluster.nodes.values():  # the first one asked, whoever it is
        for chunk in node.chunks:
            node.lies_once[chunk] = bytes(len(node.chunks[chunk]))
        break
    fs.get("/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA


def purges_what_is_read(fs: Client, cluster: Cluster, times: int) -> None:
    """So many times: once the first page of a layout was given, the version is replaced and purged."""
    left = times

    def replace(where: str, path: str, raw: bytes) -> None:
        nonlocal left
        if not path.endswith("/Read") or not left or len(cluster.names[b"/a"].extents) <= 2:
            return
        left, old = left - 1, cluster.names[b"/a"].info
        cluster.net.after = lambda *_: None
        fs.write_bytes("/a", b"new" if not left else DATA)
        cluster.net.after = replace
        del cluster.versions[old.id, old.version]

    fs.put(DATA, "/a")
    cluster.net.after = replace


@pytest.mark.parametrize("times", [1, 3])
def test_get_begins_again_when_the_version_it_read_was_purged(
    fs: Client, cluster: Cluster, tmp_path: Path, times: int
) -> None:
    purges_what_is_read(fs, cluster, times)
    fs.get("/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize("times", [1, 3])
def test_a_file_that_is_overwritten_and_purged_while_it_is_read_is_not_said_to_be_missing(
    fs: Client, cluster: Cluster, times: int
) -> None:
    purges_what_is_read(fs, cluster, times)
    assert fs.read_bytes("/a") == b"new"
    purges_what_is_read(fs, cluster, times)
    assert fs.get_many(["/a"]) == {"/a": b"new"}


def test_a_file_that_is_never_the_same_for_long_enough_is_unavailable_and_not_missing(
    fs: Client, cluster: Cluster
) -> None:
    purges_what_is_read(fs, cluster, 1000)
    with pytest.raises(UnavailableError, match="replaced 5 times while it was read"):
        fs.read_bytes("/a")


def test_many_files_travel_together_and_the_bad_ones_are_named(fs: Client, cluster: Cluster) -> None:
    files: dict[str, Any] = {f"/{n}": str(n).encode() for n in range(300)}
    files["/large"] = DATA
    assert len(fs.put_many(files)) == 301
    assert fs.read_bytes("/299") == b"299"
    assert fs.read_bytes("/large") == DATA
    with pytest.raises(PartialError) as caught:
        fs.put_many({"/1": b"x", "/new": b"y"}, if_absent=True)
    assert list(caught.value.ids) == ["/1"]
    assert fs.read_bytes("/new") == b"y"


def test_a_bad_path_is_refused_before_anything_is_sent(fs: Client, cluster: Cluster) -> None:
    for path in ("relative", "/a/../b", "/" + "x" * 300, b"/\xff", "/nul\0"):
        with pytest.raises(InvalidPathError):
            fs.write_bytes(path, b"")
    assert cluster.net.calls == []


# ---- file objects ----------------------------------------------------------------------------------------


def test_a_reader_seeks_tells_and_ends_like_a_file(fs: Client) -> None:
    fs.put(DATA, "/a")
    with fs.open("/a", "rb") as file:
        assert file.read(4) == DATA[:4]
        assert file.seek(-7, io.SEEK_END) == len(DATA) - 7
        assert file.read() == DATA[-7:]
        assert file.read(1) == b""
        file.seek(3 * MIB)
        assert file.read(100) == DATA[3 * MIB : 3 * MIB + 100]
        assert file.tell() == 3 * MIB + 100
        with pytest.raises(ValueError, match="nothing at"):
            file.seek(-1)
    with pytest.raises(ValueError, match="closed"):
        file.read()


def test_a_reader_can_go_on_after_an_error(fs: Client, cluster: Cluster, monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "READ_CHUNK_SECONDS", -1.0)
    fs.put(DATA, "/a")
    with fs.open("/a", "rb", buffering=0) as file:
        got = bytearray(file.read(256 * KIB) + file.read(MIB))
        cluster.net.down.update(node.address for node in cluster.nodes.values())

        def read_on() -> None:
            while piece := file.read(MIB):
                got.extend(piece)

        with pytest.raises(UnavailableError):
            read_on()
        cluster.net.down.clear()
        read_on()
        assert bytes(got) == DATA


def test_a_writer_publishes_at_its_close_and_not_before(fs: Client) -> None:
    with fs.open("/a", "wb") as file:
        for start in range(0, len(DATA), 300_000):
            file.write(DATA[start : start + 300_000])
        assert file.tell() == len(DATA)
        assert not fs.exists("/a")
    assert file.status is not None
    assert file.status.size_bytes == len(DATA)
    assert fs.read_bytes("/a") == DATA


@pytest.mark.parametrize("size", [10, 3 * MIB])
def test_an_exception_in_the_block_leaves_what_was_there(fs: Client, cluster: Cluster, size: int) -> None:
    fs.write_bytes("/a", b"old")

    def write() -> None:
        with fs.open("/a", "wb") as file:
            file.write(DATA[:size])
            raise RuntimeError("the writer changed its mind")

    with pytest.raises(RuntimeError):
        write()
    assert fs.read_bytes("/a") == b"old"
    assert not cluster.uploads


def test_a_writer_that_is_forgotten_publishes_nothing(fs: Client) -> None:
    file = fs.open("/a", "wb")
    file.write(b"half")
    del file
    assert not fs.exists("/a")


def test_what_the_upload_refuses_reaches_who_writes(fs: Client) -> None:
    fs.write_bytes("/a", b"old")
    with pytest.raises(AlreadyExistsError):
        fs.open("/a", "xb")
    with pytest.raises(ValueError, match="mode"):
        fs.open("/a", "a")


def test_text_goes_in_and_out(fs: Client) -> None:
    with fs.open("/a", "w") as file:
        file.write("Zürich\n" * 3)
    with fs.open("/a", "r") as file:
        assert file.readlines() == ["Zürich\n"] * 3


# ---- the namespace ---------------------------------------------------------------------------------------


def test_the_namespace_s_verbs_say_what_became_of_it(fs: Client) -> None:
    assert fs.mkdir("/d").is_directory
    fs.write_bytes("/d/x", b"1")
    assert [one.path for one in fs.list("/d")] == ["/d/x"]
    assert fs.rename("/d/x", "/d/y").path == "/d/x" or fs.exists("/d/y")
    assert fs.delete("/d/y") > 0
    assert not fs.exists("/d/y")


def test_a_link_s_target_keeps_its_bytes(fs: Client, cluster: Cluster) -> None:
    made = fs.symlink(b"caf\xe9", "/link")
    assert cluster.names[b"/link"].info.target == b"caf\xe9"
    assert os.fsencode(made.target) == b"caf\xe9"
    fs.symlink(made.target, "/again")
    assert cluster.names[b"/again"].info.target == b"caf\xe9"


def test_locate_tells_every_extent(fs: Client) -> None:
    fs.put(DATA, "/a")
    places = fs.locate("/a")
    assert [one.offset for one in places] == [0, 2 * MIB, 4 * MIB]
    assert {len(one.replicas) for one in places} == {3}


def test_a_reader_s_finding_is_reported(fs: Client, cluster: Cluster) -> None:
    fs.put(DATA[:MIB], "/a")
    for node in list(cluster.nodes.values())[:2]:
        for chunk in node.chunks:
            node.chunks[chunk] = bytes(len(node.chunks[chunk]))
    assert fs.read_bytes("/a") == DATA[:MIB]
    assert all(report.state == types_pb2.REPLICA_STATE_CORRUPT for report in cluster.reports)


def test_with_every_replica_bad_it_is_an_integrity_error(fs: Client, cluster: Cluster) -> None:
    fs.put(DATA[:MIB], "/a")
    for node in cluster.nodes.values():
        for chunk in node.chunks:
            node.chunks[chunk] = bytes(len(node.chunks[chunk]))
    with pytest.raises(IntegrityError, match="no good replica"):
        fs.read_bytes("/a")


def test_a_closed_client_refuses_and_leaves_no_thread(cluster: Cluster) -> None:
    before = set(threading.enumerate())
    client = Client("c1:1", channels=cluster.net)
    client.put(DATA, "/a")
    client.read_bytes("/a")
    client.close()
    client.close()
    assert {one.name for one in set(threading.enumerate()) - before} <= {"quorumfs-read-ahead"}
    with pytest.raises(UnavailableError):
        client.stat("/a")


def test_a_fork_that_closes_a_client_leaves_it_to_its_parent(
    cluster: Cluster, fs: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        fs.close()
    fs.write_bytes("/x", b"still open")
    assert fs.read_bytes("/x") == b"still open"
