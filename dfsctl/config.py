"""`dfsctl config`: a node's file, judged by the daemon that will read it; there is no second judge."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click

from dfsctl.errors import show_json
from dfsctl.shell import Settings, command, settings
from quorumfs.errors import InternalError, InvalidArgumentError, NotFoundError
from quorumfs.local.processes import console_script

_SECONDS = 60.0
_FILE_BYTES_MAX = 1 << 20

file_argument = click.argument("file", type=click.Path(path_type=Path))
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="As the daemon's --set."
)


@command()
@file_argument
@set_option
def check(file: Path, overrides: tuple[str, ...]) -> None:
    """Is the file good? Exit code 2 and every reason when it is not."""
    _ask_daemon(settings(), file, "--check-config", overrides)


@command()
@file_argument
@set_option
def origin(file: Path, overrides: tuple[str, ...]) -> None:
    """Each effective value and where it came from; secrets redacted."""
    _ask_daemon(settings(), file, "--config-origin", overrides)


def _ask_daemon(given: Settings, file: Path, question: str, overrides: tuple[str, ...]) -> None:
    if not file.exists():
        raise NotFoundError(f"{file} does not exist")
    argv = [console_script(f"quorumfs-{role_in(file)}"), "--config", str(file), question, "-o", given.output]
    for one in overrides:
        argv += ["--set", one]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode == 0:
        sys.stdout.write(done.stdout)
        return
    if done.returncode != 2:
        raise InternalError(f"{argv[0]} failed with status {done.returncode}", cause=done.stderr.strip())
    error = InvalidArgumentError(
        f"{file}: the configuration is refused", cause=_reasons(done, file, given.as_json)
    )
    if given.as_json:
        show_json({**_as_object(done.stdout), "error": error.to_json()})
        sys.stderr.write(f"dfsctl: {error.message}\n")
        raise click.exceptions.Exit(int(error.exit_code))
    raise error


def role_in(file: Path) -> str:
    """The role that the file names; a coordinator's daemon judges what names none."""
    try:
        with open(file, "rb") as opened:
            node = tomllib.loads(opened.read(_FILE_BYTES_MAX).decode("utf-8")).get("node", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError):
        return "coordinator"
    role = node.get("role") if isinstance(node, dict) else None
    return "datanode" if role == "datanode" else "coordinator"


def _reasons(done: subprocess.CompletedProcess[str], file: Path, as_json: bool) -> str:
    """Each once, and the file's name not at all: it stands in the message already."""
    if not as_json:
        lines = (done.stdout + done.stderr).strip().splitlines()
        return "\n".join(line.removeprefix(f"{file}: ").removesuffix(f" (file {file})") for line in lines)
    problems = _as_object(done.stdout).get("problems", [])
    return (
        "; ".join(f"{one['key']}: {one['reason']} ({one['origin']})" for one in problems)
        or done.stderr.strip()
    )


def _as_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
