"""Runs version scripts on the connection that `coordinator.metadata.migrations` hands in, in its transaction.

Without one (the `alembic` command line, to write a new version) it works on an empty database in memory. The
tables are named here for the drift check alone: no version script sees them.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, create_engine

from coordinator.metadata import tables


def run(connection: Connection) -> None:
    """No transaction is begun or ended here: the caller's is the one that counts."""
    context.configure(connection=connection, target_metadata=tables.metadata, transactional_ddl=False)
    context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with create_engine("sqlite://").connect() as scratch:
        run(scratch)
