"""Backups: damage is seen wherever it is, and a restore is whole, or nothing starts from it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest

from common.config import NodeConfig
from coordinator import backup
from coordinator.consensus import Configuration, Identity, snapshots
from coordinator.consensus.database import Database
from coordinator.consensus.files import RealFiles
from coordinator.consensus.interfaces import LogEntry
from coordinator.consensus.journal import Journal
from coordinator.consensus.segments import SEGMENT_BYTES_MIN
from coordinator.consensus.standing import CONFIGURATION
from coordinator.metadata import migrations, queries
from coordinator.metadata.machine import Machine
from quorumfs import backups
from quorumfs.clock import SystemClock
from quorumfs.errors import (
    AlreadyExistsError,
    FormatTooNewError,
    IntegrityError,
    InvalidArgumentError,
    NotFoundError,
    PreconditionFailedError,
    SafetyGuardError,
)
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from tests.support.local_consensus import CLUSTER_ID, MEMBERS


@pytest.fixture(autouse=True)
def small_segments() -> Iterator[None]:
    with patch.object(backup, "SEGMENT_BYTES", SEGMENT_BYTES_MIN):
        yield


def applied(directory: Path, *commands: e.SystemCommand) -> Database:
    """A coordinator's state with these commands from index 2 on."""
    database = Database.open(directory, Machine(migrations.upgrade))
    for number, command in enumerate(commands, database.applied_index + 1):
        batch = e.SystemBatch(commands=[command]).SerializeToString()
        entry = e.Entry(
            format=1,
            stamp=e.Stamp(cluster_ms=number, wall_ms=number),
            seed=number.to_bytes(16, "big"),
            items=[e.Item(system=batch)],
        )
        database.apply([LogEntry(number, 3, entry.SerializeToString())])
    return database


def pieces_of(database: Database, directory: Path, **changed: object) -> list[a.BackupPiece]:
    copied = snapshots.make(database, directory)
    body = copied.path.read_bytes()
    copied.path.unlink()
    values: dict[str, object] = {
        "format": backups.FORMAT,
        "cluster_id": CLUSTER_ID,
        "history": 1,
        "index": copied.index,
        "term": copied.term,
        "schema_revision": migrations.head(),
        "node_id": "c1",
        "version": "0.1.0",
        "created_wall_ms": 1_700_000_000_123,
        "size_bytes": len(body),
        "sha256": copied.sha256,
        **changed,
    }
    manifest = a.BackupManifest()
    for name, value in values.items():
        setattr(manifest, name, value)
    half = len(body) // 2
    return [
        a.BackupPiece(manifest=manifest),
        a.BackupPiece(data=body[:half]),
        a.BackupPiece(data=body[half:]),
    ]


@pytest.fixture
def pieces(tmp_path: Path) -> list[a.BackupPiece]:
    init = e.SystemCommand(init=e.InitCluster(cluster_id=CLUSTER_ID, history=1, members=MEMBERS))
    (tmp_path / "served").mkdir()
    with closing(applied(tmp_path / "served", init, e.SystemCommand(tick=e.Tick()))) as database:
        return pieces_of(database, tmp_path)


@pytest.fixture
def made(tmp_path: Path, pieces: list[a.BackupPiece]) -> Path:
    backups.receive(pieces, tmp_path / "backup")
    return tmp_path / "backup"


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    return NodeConfig.model_validate(
        {
            "node": {"data_dir": str(tmp_path / "c1"), "id": "c1", "role": "coordinator"},
            "cluster": {"coordinators": ["127.0.0.1:7400"]},
        }
    )


def restore(
    config: NodeConfig, made: Path, *, replace: bool = False, history: int | None = None
) -> backup.Plan:
    planned = backup.plan(config, made, history)
    backup.restore(planned, made, replace=replace)
    return planned


# Making and verifying


def test_a_whole_backup_is_what_its_manifest_says(made: Path, pieces: list[a.BackupPiece]) -> None:
    manifest = backup.verify(made)
    assert manifest == pieces[0].manifest
    assert backups.as_json(manifest)["created_at"] == "2023-11-14T22:13:20.123Z"
    assert (made / backups.DATABASE).stat().st_mode & 0o077 == 0
    assert made.stat().st_mode & 0o077 == 0


def test_what_arrives_cut_off_or_changed_is_no_backup(tmp_path: Path, pieces: list[a.BackupPiece]) -> None:
    before = sorted(tmp_path.iterdir())
    for bad in (pieces[:2], pieces[1:], [*pieces, pieces[1]], []):
        with pytest.raises(IntegrityError):
            backups.receive(bad, tmp_path / "backup")
    assert sorted(tmp_path.iterdir()) == before


def test_a_backup_is_never_written_over_anything(made: Path, pieces: list[a.BackupPiece]) -> None:
    with pytest.raises(AlreadyExistsError):
        backups.receive(pieces, made)
    assert backup.verify(made).index == 3


def test_a_changed_byte_is_seen_wherever_it_is(made: Path) -> None:
    for name in (backups.DATABASE, backups.MANIFEST):
        whole = (made / name).read_bytes()
        for at in range(0, len(whole), max(1, len(whole) // 50)):
            (made / name).write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
            with pytest.raises((IntegrityError, FormatTooNewError)):
                backup.verify(made)
        (made / name).write_bytes(whole[:-1])
        if name == backups.DATABASE:
            with pytest.raises(IntegrityError):
                backup.verify(made)
        (made / name).write_bytes(whole)
    backup.verify(made)


def test_what_is_no_backup_is_named(made: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        backup.verify(tmp_path / "nothing")
    (made / backups.DATABASE).unlink()
    with pytest.raises(IntegrityError):
        backup.verify(made)


def test_one_of_a_later_version_is_left_alone(made: Path) -> None:
    fields = json.loads((made / backups.MANIFEST).read_bytes())
    del fields["digest"]
    fields["format"] = backups.FORMAT + 1
    fields["digest"] = backups._digest(fields)
    (made / backups.MANIFEST).write_text(json.dumps(fields))
    with pytest.raises(FormatTooNewError):
        backup.verify(made)


def test_a_manifest_of_another_state_is_seen(tmp_path: Path) -> None:
    init = e.SystemCommand(init=e.InitCluster(cluster_id=CLUSTER_ID, history=1, members=MEMBERS))
    (tmp_path / "served").mkdir()
    with closing(applied(tmp_path / "served", init)) as database:
        for number, changed in enumerate(
            ({"index": 9}, {"history": 2}, {"cluster_id": "other"}, {"term": 9})
        ):
            directory = tmp_path / f"backup-{number}"
            backups.receive(pieces_of(database, tmp_path, **changed), directory)
            with pytest.raises(IntegrityError, match="not whole"):
                backup.verify(directory)


def test_a_state_that_breaks_a_rule_is_seen(made: Path, tmp_path: Path) -> None:
    """Its checksum is right: it was so when it was copied."""
    with closing(sqlite3.connect(made / backups.DATABASE)) as tx:
        tx.execute("UPDATE totals SET chunks = 7")
        tx.commit()
    manifest = backups.read_manifest(made)
    manifest.sha256 = snapshots.sha256_of(made / backups.DATABASE)
    manifest.size_bytes = (made / backups.DATABASE).stat().st_size
    (made / backups.MANIFEST).write_text(json.dumps(backups._signed(manifest)))
    with pytest.raises(IntegrityError) as error:
        backup.verify(made)
    assert "totals.chunks is 7" in error.value.cause


# Restoring


def test_the_restored_member_is_alone_in_a_new_history_behind_the_backup(
    config: NodeConfig, made: Path
) -> None:
    planned = restore(config, made)
    directory = config.node.data_dir
    identity = Identity.load(directory, "c1")
    assert identity is not None
    assert (identity.cluster_id, identity.history) == (CLUSTER_ID, planned.history)
    assert planned.history > 1
    assert [one.node_id for one in identity.members] == ["c1"]
    assert identity.member_uuid not in {one.member_uuid for one in MEMBERS}
    assert planned.former == ("c2", "c3")
    with closing(Database.open(directory, Machine(migrations.upgrade))) as database:
        assert (database.applied_index, database.applied_term) == (3, 3)
        with database.reader() as tx:
            assert queries.cluster_identity(tx) == (CLUSTER_ID, 1)  # its first leader begins the new one
    journal = Journal.open(directory / "raft", RealFiles(), SystemClock(), segment_bytes=backup.SEGMENT_BYTES)
    assert (journal.first_index, journal.term_at(3), journal.last_index, journal.term) == (3, 3, 4, 4)
    command = journal[-1][0]
    journal.close()
    assert command[:1] == CONFIGURATION
    assert list(Configuration.decode(command[1:]).voters) == ["c1"]


def test_a_plan_changes_nothing(config: NodeConfig, made: Path) -> None:
    backup.plan(config, made)
    assert not config.node.data_dir.exists()


def test_two_restores_of_one_backup_get_different_histories(config: NodeConfig, made: Path) -> None:
    """The later one would take the chunks of the other for its own garbage."""
    assert len({backup.plan(config, made).history for _ in range(8)}) > 1
    assert backup.plan(config, made, random=bytes).history == 2


def test_an_operator_may_name_the_history_but_no_former_one(config: NodeConfig, made: Path) -> None:
    assert restore(config, made, history=7).history == 7
    for former in (0, 1, 7, 2**40):
        with pytest.raises(InvalidArgumentError):
            backup.plan(config, made, former)


def test_a_state_that_is_there_is_put_aside_and_only_when_told_to(config: NodeConfig, made: Path) -> None:
    first = restore(config, made)
    with pytest.raises(AlreadyExistsError):
        restore(config, made)
    second = restore(config, made, replace=True)
    assert second.history > first.history
    directory = config.node.data_dir
    former = Identity.load(directory / "replaced-1", "c1")
    assert former is not None
    assert former.history == first.history
    restore(config, made, replace=True)
    assert (directory / "replaced-2" / "raft").is_dir()


def test_a_member_that_runs_is_not_replaced(config: NodeConfig, made: Path) -> None:
    restore(config, made)
    directory = config.node.data_dir
    journal = Journal.open(directory / "raft", RealFiles(), SystemClock(), segment_bytes=backup.SEGMENT_BYTES)
    before = sorted(directory.rglob("*"))
    with pytest.raises(PreconditionFailedError):
        restore(config, made, replace=True)
    journal.close()
    assert sorted(directory.rglob("*")) == before


def test_another_clusters_directory_is_refused(config: NodeConfig, made: Path) -> None:
    genesis = m.GenesisRequest(
        cluster_id="another", history=1, members=[m.Member(node_id="c1", member_uuid="u")]
    )
    Identity.accept(config.node.data_dir, genesis, "c1")
    with pytest.raises(SafetyGuardError):
        restore(config, made, replace=True)


class CutError(Exception):
    """The process ends here."""


STEPS = ("rename", "sync_directory", "sync_data", "create")


@pytest.mark.parametrize("step", STEPS)
def test_wherever_it_ends_nothing_starts_from_half_a_restore_and_the_next_one_succeeds(
    config: NodeConfig, made: Path, step: str
) -> None:
    """Over an older state, cut before the k-th of these calls, for every k."""
    directory = config.node.data_dir
    restore(config, made)
    shutil.copytree(directory, directory.with_name("kept"))
    real = getattr(RealFiles, step)
    k, finished = 0, False
    while not finished:
        shutil.rmtree(directory)
        shutil.copytree(directory.with_name("kept"), directory)
        planned = backup.plan(config, made)
        left = k

        def cut(*arguments: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise CutError
            return real(*arguments)

        with patch.object(RealFiles, step, cut):
            try:
                backup.restore(planned, made, replace=True)
                finished = True
            except CutError:
                pass
        found = started(directory)
        if not finished:
            assert found in ("former", "nothing", "empty", "restored")
            assert restore(config, made, replace=True).history > planned.manifest.history
        assert started(directory) == "restored"
        k += 1
    assert k > 1


def started(directory: Path) -> str:
    """What a start finds: the former state whole, the restored one whole, or nothing that it would go on from: it
    refuses ("nothing"), or waits as an empty coordinator does ("empty")."""
    try:
        identity = Identity.load(directory, "c1")
    except SafetyGuardError:
        return "nothing"
    if identity is None:
        return "empty"
    with closing(Database.open(directory, Machine(migrations.upgrade))) as database:
        assert database.applied_index == 3
    journal = Journal.open(directory / "raft", RealFiles(), SystemClock(), segment_bytes=backup.SEGMENT_BYTES)
    member = Configuration.decode(journal[-1][0][1:]).find("c1")
    journal.close()
    assert member is not None
    assert member.member_uuid == identity.member_uuid
    return "former" if not any(directory.glob("replaced-*/identity.json")) else "restored"
