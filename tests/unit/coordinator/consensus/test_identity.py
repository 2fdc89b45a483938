"""Who a member is, and what a directory without an identity may hold."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from random import Random

import pytest

from coordinator.consensus.files import StorageFailure, StorageFull
from coordinator.consensus.identity import FILE, Identity, decode, digest, encode
from coordinator.consensus.journal import Journal
from quorumfs.clock import ManualClock
from quorumfs.errors import (
    AlreadyExistsError,
    FormatTooNewError,
    IntegrityError,
    PreconditionFailedError,
    QuorumFSError,
    SafetyGuardError,
)
from quorumfs.v1 import membership_pb2 as m
from tests.support.fake_files import FakeFiles, PowerCut

DIRECTORY = Path("/disk")
GENESIS = m.GenesisRequest(
    cluster_id="5b5c0b6e-0000-4000-8000-000000000001",
    history=1,
    members=[m.Member(node_id=f"c{k}", member_uuid=f"uuid-{k}", raft=f"127.0.0.1:740{k}") for k in (1, 2, 3)],
    wall_ms=1_700_000_000_000,
)


def test_an_accepted_genesis_is_who_the_member_is_from_then_on(tmp_path: Path) -> None:
    accepted = Identity.accept(tmp_path / "c2", GENESIS, "c2")
    assert (accepted.cluster_id, accepted.history, accepted.node_id) == (GENESIS.cluster_id, 1, "c2")
    assert (accepted.member_uuid, accepted.boot_counter) == ("uuid-2", 1)
    assert accepted.members == tuple(GENESIS.members)
    loaded = Identity.load(tmp_path / "c2", "c2")
    assert loaded is not None
    assert loaded.genesis == GENESIS
    assert (loaded.members, loaded.member_uuid) == (accepted.members, "uuid-2")
    assert (tmp_path / "c2" / FILE).stat().st_mode & 0o777 == 0o600


def test_the_request_may_change_afterwards_without_changing_the_identity(tmp_path: Path) -> None:
    request = m.GenesisRequest()
    request.CopyFrom(GENESIS)
    accepted = Identity.accept(tmp_path, request, "c1")
    request.members[0].member_uuid = "another"
    assert accepted.genesis == GENESIS


def test_every_start_is_counted(tmp_path: Path) -> None:
    Identity.accept(tmp_path, GENESIS, "c1")
    counted = [Identity.load(tmp_path) for _ in range(3)]
    assert [one.boot_counter for one in counted if one is not None] == [2, 3, 4]


def test_an_empty_directory_and_none_at_all_have_no_identity(tmp_path: Path) -> None:
    assert Identity.load(tmp_path) is None
    assert Identity.load(tmp_path / "nowhere") is None
    (tmp_path / "raft").mkdir()
    (tmp_path / "raft" / "lock").touch()
    assert Identity.load(tmp_path) is None


@pytest.mark.parametrize("state", ["raft/segment-0000000000000001.log", "state-1.db", "CURRENT"])
def test_state_without_an_identity_is_never_started_over(tmp_path: Path, state: str) -> None:
    (tmp_path / "raft").mkdir()
    (tmp_path / state).touch()
    with pytest.raises(SafetyGuardError, match=r"identity.json is missing: found ") as raised:
        Identity.load(tmp_path)
    assert "rejoin" in raised.value.next
    with pytest.raises(SafetyGuardError):
        Identity.accept(tmp_path, GENESIS, "c1")


def test_a_journals_directory_is_known_as_one() -> None:
    files = FakeFiles(Random(1))
    Journal.open(DIRECTORY / "raft", files, ManualClock(), segment_bytes=16384).close()
    with pytest.raises(SafetyGuardError):
        Identity.load(DIRECTORY, "c1", files)


def test_a_member_belongs_to_one_cluster_only(tmp_path: Path) -> None:
    Identity.accept(tmp_path, GENESIS, "c1")
    with pytest.raises(AlreadyExistsError):
        Identity.accept(tmp_path, GENESIS, "c1")


def test_a_directory_of_another_member_is_refused(tmp_path: Path) -> None:
    Identity.accept(tmp_path, GENESIS, "c1")
    with pytest.raises(SafetyGuardError, match="it is c1's, and this node is c2"):
        Identity.load(tmp_path, "c2")


@pytest.mark.parametrize("node_id", ["c9", ""])
def test_a_genesis_that_does_not_name_the_node_is_refused(tmp_path: Path, node_id: str) -> None:
    with pytest.raises(PreconditionFailedError):
        Identity.accept(tmp_path, GENESIS, node_id)
    assert Identity.load(tmp_path) is None


def test_any_damage_is_noticed(tmp_path: Path) -> None:
    Identity.accept(tmp_path, GENESIS, "c1")
    good = (tmp_path / FILE).read_bytes()
    for at in range(0, len(good) - 1, 3):
        damaged = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        if json_of(damaged) == json_of(good):
            continue
        with pytest.raises(QuorumFSError, match="is damaged"):
            decode(damaged, tmp_path / FILE)
    for damaged in (b"", b"{}", b"[]", b"null", good[:-20], b"\xff" * 100):
        (tmp_path / FILE).write_bytes(damaged)
        with pytest.raises(IntegrityError, match="is damaged"):
            Identity.load(tmp_path)


def json_of(raw: bytes) -> object:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def test_a_record_of_a_later_version_or_with_wrong_fields_is_refused(tmp_path: Path) -> None:
    accepted = Identity.accept(tmp_path, GENESIS, "c1")
    for changes, error in (
        ({"format": 2}, FormatTooNewError),
        ({"history": "one"}, IntegrityError),
        ({"genesis": "!"}, IntegrityError),
        ({"genesis": "AAAA"}, IntegrityError),
        ({"node_id": None}, IntegrityError),
    ):
        fields = json.loads(encode(accepted)) | changes
        fields.pop("sha256")
        with pytest.raises(error):
            decode(signed(fields), tmp_path / FILE)
    fields = json.loads(encode(accepted))
    del fields["sha256"], fields["cluster_id"]
    with pytest.raises(IntegrityError, match="missing"):
        decode(signed(fields), tmp_path / FILE)


def signed(fields: dict[str, object]) -> bytes:
    return json.dumps({**fields, "sha256": digest(fields)}).encode()


def test_an_identity_is_whole_or_absent_wherever_power_is_cut() -> None:
    for step in range(1, 12):
        files = FakeFiles(Random(step))
        files.make_directory(DIRECTORY)
        files.die_before = files.changes + step
        done = False
        try:
            Identity.accept(DIRECTORY, GENESIS, "c1", files)
            done = True
        except PowerCut:
            pass
        files.crash()
        found = Identity.load(DIRECTORY, "c1", files)
        assert found is not None or not done
        if found is None:
            Identity.accept(DIRECTORY, GENESIS, "c1", files)
    assert done


def test_a_count_is_never_given_twice_wherever_power_is_cut() -> None:
    for step in range(1, 9):
        files = FakeFiles(Random(step))
        given = [Identity.accept(DIRECTORY, GENESIS, "c1", files).boot_counter]
        for _ in range(4):
            files.die_before = files.changes + step
            try:
                found = Identity.load(DIRECTORY, "c1", files)
                assert found is not None
                given.append(found.boot_counter)
            except PowerCut:
                pass
            files.crash()
        assert len(set(given)) == len(given)
    assert len(given) == 5


def test_what_the_disk_refuses_is_told_as_full_or_failed() -> None:
    files = FakeFiles(Random(1))
    files.fail_next("write", errno.ENOSPC)
    with pytest.raises(StorageFull):
        Identity.accept(DIRECTORY, GENESIS, "c1", files)
    Identity.accept(DIRECTORY, GENESIS, "c1", files)
    files.fail_next("sync_data", errno.EIO)
    with pytest.raises(StorageFailure, match="cannot be read or counted up"):
        Identity.load(DIRECTORY, "c1", files)
    assert Identity.load(DIRECTORY, "c1", files) is not None
