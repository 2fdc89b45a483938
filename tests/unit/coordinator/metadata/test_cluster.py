"""What the cluster is: its birth, format, schema, settings, alarms and tokens."""

from __future__ import annotations

import sqlite3

import pytest

from coordinator.metadata import migrations, queries, settings
from coordinator.metadata.commands.cluster import TOKENS_OVER_MAX
from coordinator.metadata.machine import FORMAT, Machine
from quorumfs import limits
from quorumfs.errors import Code, InternalError
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from tests.support.machines import MEMBERS, Cluster
from tests.support.ops import put


def init(cluster: Cluster, **fields: object) -> e.SystemResult.One:
    values: dict[str, object] = {"cluster_id": "cluster", "history": 1, "members": MEMBERS, **fields}
    return cluster.system(e.SystemCommand(init=e.InitCluster(**values)))  # type: ignore[arg-type]


def settle(cluster: Cluster, key: str, value: str) -> e.SystemResult.One:
    return cluster.system(e.SystemCommand(set_setting=e.SetSetting(key=key, value=value)))


def rows(cluster: Cluster, query: str) -> list[tuple[object, ...]]:
    return cluster.replica.db.execute(query).fetchall()


def test_a_cluster_is_born_once(cluster: Cluster) -> None:
    assert queries.cluster_identity(cluster.replica.db) == ("cluster", 1)
    assert init(cluster).code == Code.OK  # two leaders in a row may both propose it
    assert init(cluster, cluster_id="other").code == Code.ALREADY_EXISTS
    assert [one.node_id for one in queries.members(cluster.replica.db)] == ["c1", "c2", "c3"]


def test_a_new_history_begins_where_it_was_written_down_and_an_old_one_never_again(cluster: Cluster) -> None:
    assert init(cluster, history=5).number == 1
    fork = cluster.replica.index
    assert [init(cluster, history=number).code for number in (5, 4, 1)] == [0, *[Code.ALREADY_EXISTS] * 2]
    assert rows(cluster, "SELECT history, fork_index FROM cluster") == [(5, fork)]
    cluster.one(put(b"/x", b"body"))
    assert rows(cluster, "SELECT birth_history FROM chunk") == [(5,)]


@pytest.mark.parametrize(
    "fields", [{"cluster_id": ""}, {"history": 0}, {"history": 2**64 - 1}, {"members": []}]
)
def test_a_birth_without_id_history_or_members_is_refused(
    cluster: Cluster, fields: dict[str, object]
) -> None:
    assert init(cluster, **fields).code == Code.INVALID_ARGUMENT


# Settings


def test_a_setting_is_in_force_from_the_next_command_on(cluster: Cluster) -> None:
    assert settle(cluster, "data.replication", "5").code == Code.OK
    assert cluster.one(put(b"/x")).info.replication == 5
    assert settle(cluster, "data.replication", "007").code == Code.OK
    assert rows(cluster, "SELECT key, value FROM setting") == [("data.replication", "7")]


def test_an_entry_sees_what_it_changes_of_the_cluster_itself(cluster: Cluster) -> None:
    # The first of them reads settings, members and history; what it does not go by may still change.
    begun = e.SystemCommand(init=e.InitCluster(cluster_id="cluster", history=5, members=MEMBERS))
    set_to_7 = e.SystemCommand(set_setting=e.SetSetting(key="data.replication", value="7"))
    items = [
        e.Item(batch=n.Batch(ops=[put(b"/before")]).SerializeToString()),
        e.Item(system=e.SystemBatch(commands=[set_to_7]).SerializeToString()),
        e.Item(batch=n.Batch(ops=[put(b"/between")]).SerializeToString()),
        e.Item(system=e.SystemBatch(commands=[begun]).SerializeToString()),
        e.Item(batch=n.Batch(ops=[put(b"/after", b"body")]).SerializeToString()),
    ]
    answers = cluster.entry(*items)
    results = [n.BatchResult.FromString(answers[k]).results[0] for k in (0, 2, 4)]
    assert [one.info.replication for one in results] == [limits.REPLICATION_DEFAULT, 7, 7]
    assert rows(cluster, "SELECT birth_history FROM chunk") == [(5,)]


def test_an_entry_that_was_undone_leaves_no_setting_behind(cluster: Cluster) -> None:
    replica, log = cluster.replica, cluster.log
    before = replica.image()
    settle(cluster, "data.replication", "7")
    undone = log.pop()
    replica.db.deserialize(before)
    assert cluster.one(put(b"/x")).info.replication == limits.REPLICATION_DEFAULT
    replica.db.execute("BEGIN")
    replica.machine.apply(replica.db, replica.index + 1, 1, undone)
    replica.db.execute("ROLLBACK")
    assert cluster.one(put(b"/y")).info.replication == limits.REPLICATION_DEFAULT


@pytest.mark.parametrize("key", settings.KNOWN)
def test_a_setting_has_bounds(cluster: Cluster, key: str) -> None:
    known = settings.KNOWN[key]
    assert known.least <= known.default <= known.most
    for value in (known.least, known.most):
        assert settle(cluster, key, str(value)).code == Code.OK
    for wrong in (str(known.least - 1), str(known.most + 1), "", "1.5", " 1", "²", "9" * 400):
        assert settle(cluster, key, wrong).code == Code.INVALID_ARGUMENT
    assert settings.load(cluster.replica.db)[key] == known.most


def test_a_setting_that_apply_does_not_go_by_is_not_replicated(cluster: Cluster) -> None:
    assert settle(cluster, "log.level", "1").code == Code.INVALID_ARGUMENT


# Alarms and tokens


def test_an_alarm_stands_since_it_was_first_raised(cluster: Cluster) -> None:
    raised = e.SystemCommand(set_alarm=e.SetAlarm(code="a", message="first"))
    cluster.system(raised)
    since = rows(cluster, "SELECT since_wall_ms FROM alarm")
    cluster.now_ms += 1000
    raised.set_alarm.message = "again"
    cluster.system(raised)
    assert rows(cluster, "SELECT since_wall_ms FROM alarm") == since
    assert rows(cluster, "SELECT message FROM alarm") == [("again",)]
    clear = e.SystemCommand(set_alarm=e.SetAlarm(code="a", clear=True))
    assert [cluster.system(clear).number for _ in range(2)] == [1, 0]
    assert cluster.system(e.SystemCommand(set_alarm=e.SetAlarm())).code == Code.INVALID_ARGUMENT


def test_a_token_is_kept_as_a_hash_until_it_is_revoked(cluster: Cluster) -> None:
    token = e.SetToken(token_id="t1", name="ci", role="operator", hash=b"h" * 32, expires_cluster_ms=9)
    assert cluster.system(e.SystemCommand(set_token=token)).number == 1
    assert cluster.system(e.SystemCommand(set_token=token)).code == Code.ALREADY_EXISTS
    revoke = e.SystemCommand(set_token=e.SetToken(token_id="t1", revoke=True))
    assert [cluster.system(revoke).number for _ in range(2)] == [1, 0]
    assert rows(cluster, "SELECT role, hash, expires_ms, revoked FROM token") == [
        ("operator", b"h" * 32, 9, 1)
    ]
    revoke.set_token.token_id = "other"
    assert cluster.system(revoke).code == Code.NOT_FOUND
    for wrong in (
        e.SetToken(token_id="t2"),
        e.SetToken(token_id="t2", hash=b"h", expires_cluster_ms=2**64 - 1),
        e.SetToken(token_id="t2", hash=b"h" * 2000),
    ):
        assert cluster.system(e.SystemCommand(set_token=wrong)).code == Code.INVALID_ARGUMENT


def test_of_tokens_that_are_over_the_latest_are_kept_and_never_none(cluster: Cluster) -> None:
    def make(token_id: str) -> None:
        token = e.SetToken(token_id=token_id, role="viewer", hash=b"h" * 32)
        assert cluster.system(e.SystemCommand(set_token=token)).number == 1

    admin = e.SetToken(token_id="first", role="admin", hash=b"h" * 32, expires_cluster_ms=1)
    assert cluster.system(e.SystemCommand(set_token=admin)).number == 1
    make("good")
    for number in range(TOKENS_OVER_MAX + 20):
        make(f"t{number:04}")
        revoke = e.SetToken(token_id=f"t{number:04}", revoke=True)
        assert cluster.system(e.SystemCommand(set_token=revoke)).number == 1
    make("last")
    assert rows(cluster, "SELECT count(*) FROM token WHERE revoked = 1") == [(TOKENS_OVER_MAX,)]
    assert rows(cluster, "SELECT token_id FROM token WHERE revoked = 0 ORDER BY token_id") == [
        ("first",),
        ("good",),
        ("last",),
    ]


# Format and schema


def test_a_format_that_is_known_here_is_raised_and_never_lowered(cluster: Cluster) -> None:
    assert cluster.system(e.SystemCommand(raise_format=e.RaiseFormat(format=FORMAT))).number == FORMAT
    assert cluster.system(e.SystemCommand(raise_format=e.RaiseFormat(format=0))).number == FORMAT


def test_a_format_of_newer_software_ends_the_process(cluster: Cluster) -> None:
    with pytest.raises(InternalError, match="format"):
        cluster.system(e.SystemCommand(raise_format=e.RaiseFormat(format=FORMAT + 1)))


def test_a_migration_runs_in_the_entry_with_the_scripts_that_were_meant(cluster: Cluster) -> None:
    command = e.Migrate(revision=migrations.FIRST, digest=migrations.digest(migrations.FIRST))
    assert cluster.system(e.SystemCommand(migrate=command)).code == Code.OK


def test_a_migration_by_other_scripts_ends_the_process(cluster: Cluster) -> None:
    command = e.Migrate(revision=migrations.FIRST, digest=b"other")
    with pytest.raises(InternalError, match="another"):
        cluster.system(e.SystemCommand(migrate=command))


def test_a_migration_that_was_not_committed_leaves_neither_schema_nor_index(cluster: Cluster) -> None:
    def migrate(tx: sqlite3.Connection, revision: str) -> None:
        tx.execute("CREATE TABLE new (x)")
        tx.execute("ALTER TABLE alarm ADD COLUMN extra")

    replica = cluster.replica
    machine = Machine(migrate, digest=lambda revision: b"same")
    command = e.SystemCommand(migrate=e.Migrate(revision="next", digest=b"same"))
    item = e.Item(system=e.SystemBatch(commands=[command]).SerializeToString())
    entry = e.Entry(format=1, seed=bytes(16), items=[item]).SerializeToString()
    index = replica.index
    schema = "SELECT sql FROM sqlite_schema ORDER BY name"
    before = replica.db.execute(schema).fetchall()
    replica.db.execute("BEGIN")
    machine.apply(replica.db, index + 1, 1, entry)
    replica.db.execute("ROLLBACK")
    assert replica.db.execute(schema).fetchall() == before
    assert replica.index == index
    replica.db.execute("BEGIN")
    machine.apply(replica.db, index + 1, 1, entry)
    replica.db.execute("COMMIT")
    assert replica.db.execute("SELECT count(*) FROM new").fetchone() == (0,)
    assert replica.index == index + 1
