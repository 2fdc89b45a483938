"""What was removed or replaced, and how it comes back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import click

from dfsctl.output import show, table, time_of_ms
from dfsctl.remote import clean, full_entry
from dfsctl.shell import command, settings
from quorumfs.errors import AlreadyExistsError, SafetyGuardError
from quorumfs.values import TrashItem

to_option = click.option("--to", "target", metavar="REMOTE", help="To here instead of where it was.")
force_option = click.option("--force", is_flag=True, help="What is there now goes to the trash.")


@contextlib.contextmanager
def _options_named() -> Iterator[None]:
    """The cluster speaks to libraries too; who types commands is told of the options."""
    try:
        yield
    except AlreadyExistsError as error:
        error.next = "--to REMOTE puts it elsewhere; --force moves what is there to the trash"
        raise


@command()
@click.argument("path", metavar="REMOTE")
@to_option
@force_option
def undelete(path: str, target: str | None, force: bool) -> None:
    """Bring back what was removed from REMOTE last."""
    given = settings()
    where = clean(path)
    to = None if target is None else clean(target)
    with given.client() as client, _options_named():
        data = full_entry(client.undelete(where, to=to, replace=force))
    show(given, data, lambda: [f"{data['path']} is back"])


@command()
def ls() -> None:
    """What lies in the trash, the oldest first."""
    given = settings()
    with given.client() as client:
        data = [_item(one) for one in client.list_trash()]
    rows = (
        (
            one["trash_id"],
            one["type"],
            one["size_bytes"],
            one["deleted"],
            one["expires_in_seconds"],
            one["path"],
        )
        for one in data
    )
    head = ("ID", "TYPE", "BYTES", "DELETED", "EXPIRES IN S", "PATH")
    show(given, data, lambda: table(head, rows))


@command()
@click.argument("trash_id", metavar="ID", type=click.IntRange(min=1))
@to_option
@force_option
def restore(trash_id: int, target: str | None, force: bool) -> None:
    """Bring back the entry ID of `trash ls`."""
    given = settings()
    to = None if target is None else clean(target)
    with given.client() as client, _options_named():
        data = full_entry(client.undelete(trash_id=trash_id, to=to, replace=force))
    show(given, data, lambda: [f"{data['path']} is back"])


@command()
@click.argument("trash_id", metavar="[ID]", type=click.IntRange(min=1), required=False)
@click.option(
    "--older-than", metavar="SECONDS", type=click.FloatRange(min=0), default=0.0, help="Only what is older."
)
@click.option("--yes", is_flag=True, help="Yes, it cannot be undone.")
def empty(trash_id: int | None, older_than: float, yes: bool) -> None:
    """Remove one entry, or all of them, for good: only the collector's grace is left to them."""
    given = settings()
    if not yes:
        raise SafetyGuardError(
            "the trash was not emptied", cause="it cannot be undone", next="say so with --yes"
        )
    with given.client() as client:
        removed = client.empty_trash(trash_id=trash_id or 0, older_than_seconds=older_than)
    show(given, {"removed": removed}, lambda: [f"{removed} entries removed"])


def _item(one: TrashItem) -> dict[str, Any]:
    return {
        "trash_id": one.trash_id,
        "path": one.path,
        "type": str(one.status.type),
        "size_bytes": one.status.size_bytes,
        "deleted": time_of_ms(int(one.deleted.timestamp() * 1000)),
        "expires_in_seconds": round(one.expires_in_seconds, 3),
        "deleted_by": one.deleted_by,
    }
