"""Changing the namespace: mkdir, mv, cp, rm, setrep."""

from __future__ import annotations

from typing import Any

import click

from dfsctl.errors import advised
from dfsctl.output import show
from dfsctl.parallel import for_each, raise_failures
from dfsctl.remote import clean, full_entry, walk
from dfsctl.shell import command, settings
from quorumfs.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError, SafetyGuardError
from quorumfs.limits import REPLICATION_MAX

_REPLACE = "name the new path in full, or add --force: what is there goes to the trash"

force_option = click.option("--force", is_flag=True, help="What is at TARGET goes to the trash.")


@command()
@click.argument("paths", metavar="REMOTE...", nargs=-1, required=True)
@click.option("-p", "--parents", is_flag=True, help="With what is missing above; an existing one is fine.")
def mkdir(paths: tuple[str, ...], parents: bool) -> None:
    """Make directories."""
    given = settings()
    wanted = [clean(path) for path in paths]
    with given.client() as client, advised(NotFoundError, "add -p to make what is missing above it"):
        made = [full_entry(client.mkdir(path, parents=parents)) for path in wanted]
    show(given, made, lambda: ())


@command()
@click.argument("source")
@click.argument("target")
@force_option
def mv(source: str, target: str, force: bool) -> None:
    """Rename or move a file or a tree, atomically. An existing TARGET is refused (exit code 4)."""
    given = settings()
    before, after = clean(source), clean(target)
    with given.client() as client, advised(AlreadyExistsError, _REPLACE):
        data = full_entry(client.rename(before, after, replace=force))
    show(given, data, lambda: ())


@command()
@click.argument("source")
@click.argument("target")
@force_option
def cp(source: str, target: str, force: bool) -> None:
    """Copy a file on the servers: the copy shares its chunks, no byte moves."""
    given = settings()
    before, after = clean(source), clean(target)
    with given.client() as client, advised(AlreadyExistsError, _REPLACE):
        data = full_entry(client.copy(before, after, replace=force))
    show(given, data, lambda: ())


@command()
@click.argument("paths", metavar="REMOTE...", nargs=-1, required=True)
@click.option("-r", "--recursive", is_flag=True, help="Directories with all that is in them.")
@click.option("-f", "--force", is_flag=True, help="What is not there is fine.")
@click.option("--purge", is_flag=True, help="Past the trash: it cannot be undeleted.")
def rm(paths: tuple[str, ...], recursive: bool, force: bool, purge: bool) -> None:
    """Remove files, links and empty directories to the trash; trees with -r."""
    given = settings()
    wanted = [clean(path) for path in paths]
    if "/" in wanted:
        raise SafetyGuardError("/ cannot be removed", next="remove what is in it")
    removed: list[dict[str, Any]] = []
    with given.client() as client:
        for path in wanted:
            trash_id = client.delete(path, recursive=recursive, purge=purge, missing_ok=force)
            removed.append({"path": path, "trash_id": trash_id or None})
    show(given, removed, lambda: ())


@command()
@click.argument("replication", type=click.IntRange(1, REPLICATION_MAX))
@click.argument("path", metavar="REMOTE")
@click.option("-R", "--recursive", is_flag=True, help="All files below a directory.")
def setrep(replication: int, path: str, recursive: bool) -> None:
    """How many replicas a file has from now on; the cluster adds or removes them by and by."""
    given = settings()
    where = clean(path)
    with given.client() as client:
        status = client.stat(where)
        if status.is_directory and not recursive:
            raise InvalidArgumentError(f"{where} is a directory", next="add -R for all files below it")
        files = [one.path for one in walk(client, where) if one.is_file] if status.is_directory else [where]
        failures = for_each(files, lambda one: client.set_attributes(one, replication=replication), str)
    raise_failures(failures, len(files) - len(failures), "changed")
    data = {"path": where, "replication": replication, "files": len(files)}
    show(given, data, lambda: [f"{len(files)} files: replication {replication}"] if recursive else ())
