"""Backups of the metadata, offline: is one whole, and the beginning of a new history from it.

1. A restored state knows less than the datanodes have seen. So it goes on under a history that is higher than any
   before: the nodes obey it, former leaders are fenced, and every chunk that is younger than the backup is one of
   another log, which waits for an operator (docs/decisions/0010).
2. Two restores of one backup must not share a number: it takes a random step ahead (histories.py).
3. The identity is written last. Whatever ends this before leaves a directory that no coordinator starts from, and
   that the same command, told to replace it, begins again with. What is replaced is put aside, not deleted.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from common.config import NodeConfig
from coordinator.consensus import Configuration, Identity
from coordinator.consensus.entry_writer import position_of
from coordinator.consensus.files import DirectoryLock, RealFiles
from coordinator.consensus.identity import FILE, decode, encode, read_record, write_record
from coordinator.consensus.journal import Journal
from coordinator.consensus.memory import FILE as MEMORY_FILE
from coordinator.consensus.snapshots import known_schema, open_frozen, sha256_of
from coordinator.consensus.sqlite_files import POINTER, SqliteFiles
from coordinator.consensus.standing import CONFIGURATION
from coordinator.histories import HISTORY_MAX, later
from coordinator.metadata import migrations, queries
from coordinator.metadata.invariants import violations
from quorumfs.backups import DATABASE, read_manifest
from quorumfs.clock import SystemClock
from quorumfs.errors import AlreadyExistsError, IntegrityError, InvalidArgumentError, SafetyGuardError
from quorumfs.mint import RandomBytes, system_random, uuid_text
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import membership_pb2 as m

SEGMENT_BYTES = 16 << 20
LOG = "raft"
COPY = "restoring.tmp"
ASIDE = "replaced-"
WRONG_SHOWN = 5


def verify(directory: Path) -> a.BackupManifest:
    """Look at everything of a backup: checksum, structure, schema, what it says of itself, every rule of the state.

    Raises NotFoundError, IntegrityError, QuorumFSError for a newer software's, OSError.
    """
    manifest = read_manifest(directory)
    path = directory / DATABASE
    if not path.is_file():
        raise _damaged(directory, f"it has no {DATABASE}")
    size, digest = path.stat().st_size, sha256_of(path)
    if (size, digest) != (manifest.size_bytes, manifest.sha256):
        raise _damaged(
            directory,
            f"{DATABASE} has {size} bytes and SHA-256 {digest.hex()}, "
            f"not {manifest.size_bytes} and {manifest.sha256.hex()}",
        )
    try:
        with closing(open_frozen(path)) as tx:
            wrong = _wrong_in(tx, manifest)
    except sqlite3.Error as error:
        raise _damaged(directory, str(error)) from error
    if wrong:
        raise _damaged(directory, "; ".join(wrong[:WRONG_SHOWN]))
    return manifest


def _wrong_in(tx: sqlite3.Connection, manifest: a.BackupManifest) -> list[str]:
    structure = [str(row[0]) for row in tx.execute(f"PRAGMA integrity_check({WRONG_SHOWN})")]
    if structure != ["ok"]:
        return structure
    known_schema(tx)
    at, revision = position_of(tx), migrations.current_revision(tx)
    found = (queries.cluster_identity(tx), at.index, at.term, revision)
    said = (
        (manifest.cluster_id, manifest.history),
        manifest.index,
        manifest.term,
        manifest.schema_revision,
    )
    if found != said:
        return [f"the database is of (cluster, index, term, schema) {found}, the manifest says {said}"]
    return _violations(tx, revision)


def _violations(tx: sqlite3.Connection, revision: str) -> list[str]:
    """The rules are those of the newest schema: an older one is brought there first, in a copy."""
    if revision == migrations.head():
        return violations(tx)
    with (
        tempfile.TemporaryDirectory() as scratch,
        closing(sqlite3.connect(Path(scratch) / DATABASE, isolation_level=None)) as copied,
    ):
        tx.backup(copied)
        copied.execute("BEGIN")
        migrations.upgrade(copied, migrations.head())
        copied.execute("COMMIT")
        return violations(copied)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a restore would do. `present`: the files of a member that are in the way; `member`: who it will be."""

    manifest: a.BackupManifest
    directory: Path
    history: int
    member: m.Member
    former: tuple[str, ...]
    present: tuple[str, ...]


def plan(
    config: NodeConfig, backup: Path, history: int | None = None, random: RandomBytes = system_random
) -> Plan:
    """What a restore of `backup` to this coordinator would do; nothing is changed.

    `history`: its number, if the operator knows better. Raises what `verify` raises, SafetyGuardError when the
    directory is another cluster's, InvalidArgumentError when the number is no later one.
    """
    manifest = verify(backup)
    directory = config.node.data_dir
    known = max(manifest.history, _former_history(directory, manifest.cluster_id))
    number = later(known, random) if history is None else history
    if not known < number < HISTORY_MAX:
        raise InvalidArgumentError(
            f"no restore begins history {number}",
            cause=f"history {known} is known, and {HISTORY_MAX} is beyond the last",
            next="a higher one than any that the datanodes have seen (quorumfs_datanode_history)",
        )
    with closing(open_frozen(backup / DATABASE)) as tx:
        members = queries.members(tx)
    member = m.Member(
        node_id=config.node.id,
        member_uuid=uuid_text(random),
        raft=config.raft.advertise,
        grpc=config.grpc.advertise,
        http=config.http.advertise,
    )
    former = tuple(one.node_id for one in members if one.node_id != member.node_id)
    return Plan(manifest, directory, number, member, former, tuple(_present(directory)))


def restore(planned: Plan, backup: Path, *, replace: bool) -> None:
    """Make the coordinator's directory that of the only member of the new history; durable on return.

    Raises AlreadyExistsError when it holds a member's state and it is not to be replaced, PreconditionFailedError when
    that member runs, IntegrityError when the backup changed meanwhile; StorageFull, StorageFailure, OSError.
    """
    directory, files = planned.directory, RealFiles()
    if planned.present and not replace:
        raise AlreadyExistsError(
            f"{directory} holds the state of a member",
            cause=f"found {', '.join(planned.present[:3])}",
            next="stop this coordinator and restore with --replace, which puts its state aside, or name an empty one",
        )
    files.make_directory(directory)
    _put_aside(directory, files)
    copied = directory / COPY
    shutil.copyfile(backup / DATABASE, copied)
    if sha256_of(copied) != planned.manifest.sha256:
        raise _damaged(backup, "it changed, or was copied wrongly")
    SqliteFiles(directory, files).adopt(copied)
    _begin_log(planned, files)
    genesis = m.GenesisRequest(
        cluster_id=planned.manifest.cluster_id, history=planned.history, members=[planned.member]
    )
    identity = Identity(
        genesis.cluster_id,
        planned.history,
        planned.member.node_id,
        planned.member.member_uuid,
        (planned.member,),
        genesis,
        boot_counter=1,
    )
    write_record(directory / FILE, encode(identity), files)


def _begin_log(planned: Plan, files: RealFiles) -> None:
    """The log goes on behind the backup's index, in a later term, with a group of one."""
    at = planned.manifest
    journal = Journal.open(planned.directory / LOG, files, SystemClock(), segment_bytes=SEGMENT_BYTES)
    try:
        journal.reset(at.index, at.term)
        journal.set_term(at.term + 1, None)
        group = Configuration.of([planned.member]).encode()
        journal.append(CONFIGURATION + group, at.index + 1, at.term + 1)
        journal.sync()
    finally:
        journal.close()


def _put_aside(directory: Path, files: RealFiles) -> None:
    """Move a member's files out of the way, its identity first: without it nothing starts from the rest."""
    (directory / COPY).unlink(missing_ok=True)
    present = _present(directory)
    if not present:
        return
    lock = DirectoryLock(directory / LOG, files) if (directory / LOG).is_dir() else None
    try:
        numbers = [int(name.removeprefix(ASIDE)) for name in files.names(directory) if _is_aside(name)]
        aside = directory / f"{ASIDE}{1 + max(numbers, default=0)}"
        files.make_directory(aside)
        for name in present:
            files.rename(directory / name, aside / name)
            files.sync_directory(directory)
        files.sync_directory(aside)
    finally:
        if lock is not None:
            lock.release()


def _present(directory: Path) -> Sequence[str]:
    """The names of a member's files, the identity first."""
    if not directory.is_dir():
        return []
    names = sorted(os.listdir(directory))  # noqa: PTH208  names, not paths
    found = [name for name in names if name in (POINTER, MEMORY_FILE, LOG) or name.startswith("state-")]
    return [FILE, *found] if FILE in names else found


def _is_aside(name: str) -> bool:
    return name.startswith(ASIDE) and name.removeprefix(ASIDE).isdecimal()


def _former_history(directory: Path, cluster_id: str) -> int:
    """Of the member that the directory belongs to, 0 without one. A damaged record is no reason not to restore."""
    try:
        raw = read_record(directory / FILE, RealFiles())
        found = None if raw is None else decode(raw, directory / FILE)
    except (FileNotFoundError, IntegrityError):
        return 0
    if found is None:
        return 0
    if found.cluster_id != cluster_id:
        raise SafetyGuardError(
            f"{directory} belongs to cluster {found.cluster_id}",
            cause=f"the backup is of cluster {cluster_id}",
            next="restore to a coordinator of that cluster, or to an empty directory",
        )
    return found.history


def _damaged(directory: Path, cause: str) -> IntegrityError:
    return IntegrityError(f"the backup {directory} is not whole", cause=cause, next="use another backup")
