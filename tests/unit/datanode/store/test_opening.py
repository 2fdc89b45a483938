from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from datanode.store.identity import DiskIdentity, decode, encode
from datanode.store.opening import open_disks
from quorumfs.errors import IntegrityError, PreconditionFailedError, UnavailableError, WrongClusterError
from quorumfs.ids import ChunkId
from tests.unit.datanode.store.fakes import FlakyFiles, ReadOnly, content, flip, opened, put

CHUNK = ChunkId(b"c" * 16)


def test_a_node_keeps_its_identity_and_learns_its_cluster(tmp_path: Path) -> None:
    with opened(tmp_path / "a", tmp_path / "b") as (_, disks):
        assert disks.cluster_id == ""
        uuid = disks.node_uuid
        disks.join("cluster-1")
        disk_ids = [disk.disk_id for disk in disks.disks]
        assert len(set(disk_ids)) == 2
    with opened(tmp_path / "b", tmp_path / "a", tmp_path / "new") as (_, disks):
        assert (disks.node_uuid, disks.cluster_id) == (uuid, "cluster-1")
        assert {disk.identity.cluster_id for disk in disks.disks if disk.identity} == {"cluster-1"}
        with pytest.raises(WrongClusterError):
            disks.join("cluster-2")


def test_a_strangers_disk_is_refused_with_the_reason_and_left_alone(tmp_path: Path) -> None:
    with opened(tmp_path / "theirs") as (store, disks):
        put(store, CHUNK, b"theirs")
        disks.join("other")
    with opened(tmp_path / "mine") as (_, disks):
        disks.join("mine")
    with opened(tmp_path / "mine", tmp_path / "theirs") as (store, disks):
        states = [(disk.state, disk.error) for disk in store.usage()]
        assert states[0] == ("ok", "")
        assert states[1][0] == "failed"
        assert "belongs to another node" in states[1][1]
        assert CHUNK not in store
    with opened(tmp_path / "theirs") as (store, _):
        assert content(store, CHUNK) == b"theirs"


def test_a_disk_that_cannot_be_read_degrades_the_node(tmp_path: Path) -> None:
    with opened(tmp_path / "a", tmp_path / "b") as (_, disks):
        uuid = disks.node_uuid
    flip(tmp_path / "a" / "disk.json", 40)
    with opened(tmp_path / "a", tmp_path / "b") as (store, disks):
        assert disks.node_uuid == uuid
        assert [disk.state for disk in store.usage()] == ["failed", "ok"]
        put(store, CHUNK, b"x")


def test_the_place_of_a_disk_that_is_not_mounted_is_not_a_new_disk(tmp_path: Path) -> None:
    with opened(tmp_path / "a", tmp_path / "b") as (store, disks):
        kept = disks.disks[1].disk_id
        put(store, CHUNK, b"x")
    (tmp_path / "b").rename(tmp_path / "unplugged")
    (tmp_path / "b").mkdir()
    for _ in range(2):  # it stays so
        with opened(tmp_path / "a", tmp_path / "b") as (store, disks):
            assert [disk.state for disk in store.usage()] == ["ok", "failed"]
            assert f"disk {kept} was in {tmp_path / 'b'}" in store.usage()[1].error
            assert "new-disk" in store.usage()[1].error
            assert not (tmp_path / "b" / "disk.json").exists()
    (tmp_path / "b" / "lock").unlink()
    (tmp_path / "b").rmdir()
    (tmp_path / "unplugged").rename(tmp_path / "b")
    with opened(tmp_path / "a", tmp_path / "b") as (store, disks):
        assert [disk.state for disk in store.usage()] == ["ok", "ok"]
        assert disks.disks[1].disk_id == kept


def test_a_disk_that_is_gone_for_good_is_replaced_when_somebody_says_so(tmp_path: Path) -> None:
    with opened(tmp_path / "a", tmp_path / "b") as (_, disks):
        gone = disks.disks[1].disk_id
    shutil.rmtree(tmp_path / "b")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "new-disk").touch()
    for _ in range(2):
        with opened(tmp_path / "a", tmp_path / "b") as (store, disks):
            assert [disk.state for disk in store.usage()] == ["ok", "ok"]
            assert disks.disks[1].disk_id != gone
    assert not (tmp_path / "b" / "new-disk").exists()


def test_disks_may_change_places_and_new_places_may_be_added(tmp_path: Path) -> None:
    with opened(tmp_path / "a", tmp_path / "b") as (_, disks):
        first, second = (disk.disk_id for disk in disks.disks)
    (tmp_path / "b").rename(tmp_path / "c")
    with opened(tmp_path / "a", tmp_path / "b", tmp_path / "c") as (store, disks):
        assert [disk.state for disk in store.usage()] == ["ok", "ok", "ok"]
        assert (disks.disks[0].disk_id, disks.disks[2].disk_id) == (first, second)


@pytest.mark.parametrize("record", [b"", b"[]", b"{", b'{"format": 1, "disks": {"x": "y"}, "crc32c": "0"}'])
def test_a_damaged_note_about_the_other_disks_stops_nothing(tmp_path: Path, record: bytes) -> None:
    with opened(tmp_path / "a"):
        pass
    (tmp_path / "a" / "disks.json").write_bytes(record)
    with opened(tmp_path / "a", tmp_path / "b") as (store, _):
        assert [disk.state for disk in store.usage()] == ["ok", "ok"]


def test_nobody_guesses_who_the_node_is(tmp_path: Path) -> None:
    with opened(tmp_path / "a"):
        pass
    flip(tmp_path / "a" / "disk.json", 40)
    with pytest.raises(UnavailableError, match="who this node is"):
        open_disks([tmp_path / "a", tmp_path / "fresh"])
    open_disks([tmp_path / "fresh"]).close()  # the refusal has let go of its lock


def test_chunks_without_an_identity_are_not_taken_for_a_new_disk(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as (store, _):
        put(store, CHUNK, b"x")
    (tmp_path / "a" / "disk.json").unlink()
    with pytest.raises(UnavailableError, match=r"disk\.json is missing"):
        open_disks([tmp_path / "a"])


def test_two_processes_never_share_a_directory(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(PreconditionFailedError, match="in use"):
        open_disks([tmp_path])
    open_disks([tmp_path]).close()


def test_a_read_only_disk_is_served_and_not_written(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as (store, _):
        put(store, CHUNK, b"good")
    (tmp_path / "a" / "chunks" / "63" / "x.1.tmp").write_bytes(b"left by a crash")
    with opened(tmp_path / "a", files=ReadOnly()) as (store, _):
        assert content(store, CHUNK) == b"good"
        assert store.usage()[0].state == "read_only"
        with pytest.raises(UnavailableError):
            put(store, ChunkId(b"d" * 16), b"x")


def test_a_disk_that_becomes_read_only_says_so(tmp_path: Path) -> None:
    files = FlakyFiles()
    with opened(tmp_path, files=files) as (store, _):
        files.fail["create"] = errno.EROFS
        with pytest.raises(UnavailableError):
            put(store, CHUNK, b"x")
        assert store.usage()[0].state == "read_only"


def test_chunks_go_to_the_disk_with_most_room_and_away_from_a_failed_one(tmp_path: Path) -> None:
    with opened(tmp_path / "a", tmp_path / "b") as (store, disks):
        disks.disks[0].fail("pulled out")
        for _ in range(5):
            assert put(store, ChunkId(os.urandom(16)), b"x").disk_id == disks.disks[1].disk_id


def test_an_identity_comes_back_or_is_refused() -> None:
    identity = DiskIdentity("cluster", "node", "disk")
    raw = encode(identity)
    assert decode(raw, Path("disk.json")) == identity
    for hostile in (b"", b"[]", b"{", raw.replace(b'node"', b'nodf"'), b"\xff" * 50, b"[" * 100_000):
        with pytest.raises(IntegrityError):
            decode(hostile, Path("disk.json"))
