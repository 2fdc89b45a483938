"""The schema's versions: in the caller's transaction or not at all, and the same tables as the code expects."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from coordinator.metadata import invariants, migrations, tables
from quorumfs.errors import InternalError

OBJECTS = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY type, name"


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    yield connection
    connection.close()


def upgrade(db: sqlite3.Connection, revision: str = migrations.FIRST) -> None:
    db.execute("BEGIN")
    migrations.upgrade(db, revision)
    db.execute("COMMIT")


def test_the_migrations_make_exactly_the_tables_of_the_code(db: sqlite3.Connection) -> None:
    upgrade(db, migrations.head())
    made = [row for row in db.execute(OBJECTS) if row[1] != "alembic_version"]
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        tables.metadata.create_all(connection)
        expected = [tuple(row) for row in connection.exec_driver_sql(OBJECTS)]
    engine.dispose()
    assert made == expected


def test_a_new_database_is_an_empty_cluster_at_index_1(db: sqlite3.Connection) -> None:
    upgrade(db)
    assert db.execute(
        "SELECT applied_index, applied_term, cluster_ms, rolling FROM raft_state"
    ).fetchall() == [(1, 0, 0, bytes(32))]
    assert db.execute("SELECT id, type, parent, name, mode FROM inode").fetchall() == [(1, 2, 0, b"", 0o755)]
    assert db.execute("SELECT next_inode, files, directories FROM totals").fetchall() == [(2, 0, 1)]
    assert db.execute("SELECT count(*) FROM cluster").fetchone() == (0,)
    assert invariants.violations(db) == []


def test_a_rollback_undoes_the_tables_too(db: sqlite3.Connection) -> None:
    db.execute("BEGIN")
    migrations.upgrade(db, migrations.FIRST)
    assert db.in_transaction
    db.execute("ROLLBACK")
    assert db.execute(OBJECTS).fetchall() == []


def test_what_the_caller_wrote_before_goes_the_same_way_as_the_migration(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    first = sqlite3.connect(path, isolation_level=None)
    first.execute("CREATE TABLE mine (x)")
    first.execute("BEGIN")
    first.execute("INSERT INTO mine VALUES (1)")
    migrations.upgrade(first, migrations.FIRST)
    first.close()  # as a crash would: nothing was committed
    second = sqlite3.connect(path)
    assert second.execute("SELECT count(*) FROM mine").fetchone() == (0,)
    assert [row[1] for row in second.execute(OBJECTS)] == ["mine"]
    second.close()


def test_an_upgrade_to_where_the_schema_is_does_nothing(db: sqlite3.Connection) -> None:
    upgrade(db)
    before = db.total_changes
    upgrade(db)
    assert db.total_changes == before
    assert migrations.current_revision(db) == migrations.FIRST


def test_without_a_transaction_nothing_is_migrated(db: sqlite3.Connection) -> None:
    with pytest.raises(InternalError, match="transaction"):
        migrations.upgrade(db, migrations.FIRST)
    assert db.execute(OBJECTS).fetchall() == []


def test_a_version_of_newer_software_is_refused_by_name(db: sqlite3.Connection) -> None:
    upgrade(db)
    db.execute("BEGIN")
    with pytest.raises(InternalError, match="9999"):
        migrations.upgrade(db, "9999")
    with pytest.raises(InternalError, match="9999"):
        migrations.digest("9999")


def test_a_database_of_newer_software_is_refused_by_name(db: sqlite3.Connection) -> None:
    upgrade(db)
    db.execute("UPDATE alembic_version SET version_num = '9999'")
    db.execute("BEGIN")
    with pytest.raises(InternalError, match="9999"):
        migrations.upgrade(db, migrations.FIRST)


def test_the_digest_is_of_the_scripts_text() -> None:
    assert len(migrations.digest(migrations.FIRST)) == 32
    assert migrations.lineage(migrations.head())[0] == migrations.FIRST


def test_version_scripts_import_nothing_of_ours() -> None:
    scripts = [one for one in files("migrations").joinpath("versions").iterdir() if one.name.endswith(".py")]
    assert len(scripts) > 1
    for script in scripts:
        imports = [line for line in script.read_text().splitlines() if line.startswith(("import", "from"))]
        assert {line.split()[1].split(".")[0] for line in imports} <= {"sqlalchemy", "alembic"}


def test_a_coordinator_starts_without_loading_alembic() -> None:
    program = "import sys, coordinator.metadata.machine; sys.exit('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
