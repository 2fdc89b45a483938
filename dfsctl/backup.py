"""`dfsctl backup`: copies of the metadata. They are judged and restored by the coordinator's own program, offline."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from dfsctl.errors import in_words, show_json
from dfsctl.output import pairs, show
from dfsctl.shell import command, settings
from quorumfs import backups
from quorumfs.errors import Code, Exit, InternalError, InvalidArgumentError, SafetyGuardError, make
from quorumfs.local.processes import console_script
from quorumfs.v1 import admin_pb2

CREATE_SECONDS = 3600.0

_STEPS = """\
{node_id} is the only member now, of history {history}, with everything up to index {fork_index}.
  1. Keep the former members stopped ({former}): give each an empty node.data_dir.
  2. Start {node_id}; then take each of the others in:  dfsctl raft add HOST:PORT
  3. What the datanodes have beyond the backup stays until you say otherwise:  dfsctl gc candidates --held
"""

directory_argument = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))


@command()
@directory_argument
def create(directory: Path) -> None:
    """Copy the metadata, as of one index, from the leader to the new directory DIR while it is served."""
    given = settings()
    with given.coordinator() as coordinator:
        pieces = coordinator.stream(
            "Control.CreateBackup",
            admin_pb2.CreateBackupRequest(),
            given.timeout_seconds or CREATE_SECONDS,
        )
        manifest = backups.receive(pieces, directory)
    data = {"directory": str(directory), **backups.as_json(manifest)}
    show(given, data, lambda: pairs(data.items()))


@command()
@directory_argument
def verify(directory: Path) -> None:
    """Look at all of a backup, without a cluster. Exit code 9 when it is not whole."""
    _, data = _ask("--verify-backup", str(directory))
    show(settings(), data, lambda: pairs(data.items()))


@command()
@directory_argument
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--replace", is_flag=True, help="Put a state that is there aside; without, only an empty one.")
@click.option("--history", type=int, metavar="N", help="The number of the new history, above all others.")
@click.option("--yes", is_flag=True, help="Do it; without, it is only said what would be done.")
def restore(directory: Path, file: Path, replace: bool, history: int | None, yes: bool) -> None:
    """Let the stopped coordinator of this configuration FILE begin a new history from the backup in DIR, alone."""
    given = settings()
    words = ["--config", str(file), "--restore-backup", str(directory)]
    words += ["--replace"] * replace + ["--yes"] * yes
    words += [] if history is None else ["--history", str(history)]
    code, data = _ask(*words)
    if code == Exit.SAFETY_GUARD:
        error = SafetyGuardError(
            "nothing was changed",
            cause=f"it would begin a new history with everything up to index {data['fork_index']}"
            + (f", and put aside {', '.join(data['replaces'])}" if data["replaces"] else ""),
            next="again with --yes" + (" --replace" if data["replaces"] and not replace else ""),
        )
        if not given.as_json:
            raise error
        show_json({**data, "error": error.to_json()})
        click.echo(in_words(error), err=True, nl=False)
        raise click.exceptions.Exit(code)
    former = ", ".join(data["former_members"]) or "none"
    show(given, data, lambda: _STEPS.format(**{**data, "former": former}).splitlines())


def _ask(*words: str) -> tuple[int, dict[str, Any]]:
    """What the coordinator's program answers, with its exit code: 0, or 10 for a plan. Raises its refusal."""
    argv = [console_script("quorumfs-coordinator"), *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    data = _last_object(done.stdout.splitlines())
    refused = data.get("error")
    if refused is not None:
        code = Code[refused["code"].upper()]
        raise make(code, refused["message"], cause=refused["cause"], next=refused["next"])
    if not data:
        said = (done.stdout + done.stderr).strip()
        if done.returncode == Exit.USAGE:
            raise InvalidArgumentError(
                "the coordinator's configuration is refused",
                cause=said,
                next="give the configuration of a coordinator; dfsctl config check FILE",
            )
        raise InternalError(f"{argv[0]} ended with status {done.returncode}", cause=said)
    return done.returncode, data


def _last_object(lines: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        found = value if isinstance(value, dict) else found
    return found
