"""Versions of the database's schema, applied inside the caller's transaction.

Theory of operation
1. A version script runs as part of a log entry: on the writer's own connection, between the caller's BEGIN and
   COMMIT, so that the schema and the applied index change together or not at all.
2. SQLAlchemy and Alembic would begin, commit and roll back as they see fit. They get the connection through
   `_Borrowed`, which has no such doors: a rollback of the caller undoes DDL too (SQLite can).
3. Every member must run the same script: an entry that migrates carries `digest(revision)`, which covers that
   script and all before it.
4. Alembic is imported when there is something to do, not when a coordinator starts.
"""

from __future__ import annotations

import hashlib
import io
import sqlite3
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quorumfs.errors import InternalError

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

FIRST = "0001"
"""The version that a new database begins with; the rows of an empty cluster are in it."""

PACKAGE = "migrations"


def upgrade(connection: sqlite3.Connection, revision: str) -> None:
    """Bring the schema to `revision`, in the transaction that is open on `connection`.

    Nothing happens when the schema is there already, or past it. Raises InternalError for a revision that is
    not of this version of the software, sqlite3.Error. Neither commits nor rolls back.
    """
    if not connection.in_transaction:
        raise InternalError("a migration wants an open transaction", cause="the caller has not begun one")
    current = current_revision(connection)
    if current == revision or (current and revision in lineage(current)):
        return
    lineage(revision)
    _run(connection, revision)


def current_revision(connection: sqlite3.Connection) -> str:
    """The version of the schema that the database has; empty for a database without one."""
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
    if found is None:
        return ""
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return "" if row is None else str(row[0])


@lru_cache(maxsize=1)
def head() -> str:
    """The newest version that this software has."""
    return str(_scripts().get_current_head())


@lru_cache(maxsize=64)
def lineage(revision: str) -> tuple[str, ...]:
    """The versions from the first to `revision`. Raises InternalError for one that is not known here."""
    from alembic.util import CommandError

    try:
        found = [one.revision for one in _scripts().walk_revisions("base", revision)]
    except CommandError as error:
        raise InternalError(
            f"the schema's version {revision!r} is not known here",
            cause="it was made by a newer version of the software",
            next="upgrade this coordinator",
        ) from error
    return tuple(reversed(found))


@lru_cache(maxsize=64)
def digest(revision: str) -> bytes:
    """SHA-256 over the scripts from the first to `revision`: who has the same digest does the same."""
    found = hashlib.sha256()
    for one in lineage(revision):
        text = Path(_scripts().get_revision(one).path).read_bytes()
        found.update(len(text).to_bytes(8, "big") + text)
    return found.digest()


@lru_cache(maxsize=1)
def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory(_location())


def _location() -> str:
    return str(files(PACKAGE))


def _run(connection: sqlite3.Connection, revision: str) -> None:
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.pool import StaticPool

    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", _location().replace("%", "%%"))
    engine = create_engine("sqlite://", creator=lambda: _Borrowed(connection), poolclass=StaticPool)
    with engine.connect() as borrowed:
        config.attributes["connection"] = borrowed
        command.upgrade(config, revision)


class _Borrowed:
    """A connection of somebody else: statements go through; transaction, settings and life are the
    owner's."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def cursor(self) -> sqlite3.Cursor:
        return self._connection.cursor()

    def execute(self, statement: str, parameters: Any = ()) -> sqlite3.Cursor:
        return self._connection.execute(statement, parameters)

    def create_function(self, *arguments: Any, **options: Any) -> None:
        """SQLAlchemy's REGEXP, which no version script uses."""

    def commit(self) -> None:
        """The owner's."""

    def rollback(self) -> None:
        """The owner's."""

    def close(self) -> None:
        """The owner's."""
