"""The database under the real state machine."""

from contextlib import closing
from pathlib import Path

import pytest

from coordinator.consensus import snapshots
from coordinator.consensus.database import Database
from coordinator.consensus.interfaces import LogEntry
from coordinator.metadata import hashing, invariants, migrations
from coordinator.metadata.machine import Machine
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from tests.support.machines import Cluster
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    """A log with directories, a file, a refusal, and a mark at its end."""
    cluster = Cluster()
    for number in range(20):
        cluster.one(n.Op(mkdir=n.MkdirRequest(ref=n.Ref(path=b"/d%d" % number))))
    cluster.one(n.Op(mkdir=n.MkdirRequest(ref=n.Ref(path=b"/missing/child"))))
    cluster.upload(b"/d1/file", 1000, 500)
    cluster.system(e.SystemCommand(hash_at=e.HashAt(nonce=7)))
    return cluster


def entries_of(cluster: Cluster) -> list[LogEntry]:
    return [LogEntry(index, 1, data) for index, data in enumerate(cluster.log, 2)]


def opened(directory: Path) -> Database:
    directory.mkdir(exist_ok=True)
    return Database.open(directory, Machine(migrations.upgrade))


def test_one_transaction_and_a_start_for_every_entry_make_the_same_state(
    tmp_path: Path, cluster: Cluster
) -> None:
    entries = entries_of(cluster)
    last = entries[-1].index
    at_once = opened(tmp_path / "c1")
    at_once.apply(entries)
    for entry in entries:
        database = opened(tmp_path / "c2")
        database.apply([entry])
        with database.reader() as tx:
            assert invariants.violations(tx) == []
        if entry.index < last:
            database.close()
    eventually(lambda: None not in (at_once.hash_at(last), database.hash_at(last)))
    assert at_once.hash_at(last) == database.hash_at(last) == hashing.state_hash(cluster.replica.db)
    assert at_once.rolling_at(last) == database.rolling_at(last)
    assert at_once.cluster_ms() == cluster.now_ms
    at_once.close()
    database.close()


def test_a_snapshot_of_the_metadata_is_verified_and_installed(tmp_path: Path, cluster: Cluster) -> None:
    source, target = opened(tmp_path / "c1"), opened(tmp_path / "c2")
    entries = entries_of(cluster)
    source.apply(entries[:-5])
    made = snapshots.make(source, tmp_path)
    assert snapshots.verify(made.path) == (made.index, made.term) == (entries[-6].index, 1)
    target.install(made.path, made.index, made.term)
    assert target.apply(entries) == [None] * (len(entries) - 5) + list(source.apply(entries[-5:]))
    with source.reader() as one, target.reader() as other:
        assert hashing.state_hash(one) == hashing.state_hash(other)
    source.close()
    target.close()


def test_a_new_database_has_the_first_schema_and_is_a_snapshot_of_index_1(tmp_path: Path) -> None:
    database = opened(tmp_path / "c1")
    database.snapshot(tmp_path / "copy")
    database.close()
    assert snapshots.verify(tmp_path / "copy") == (1, 0)
    with closing(snapshots.open_frozen(tmp_path / "copy")) as connection:
        assert migrations.current_revision(connection) == migrations.FIRST
