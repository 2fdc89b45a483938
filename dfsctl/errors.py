"""What goes wrong, in words on stderr, as JSON on stdout when asked, and as an exit code."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import click

from quorumfs.errors import (
    AlreadyExistsError,
    Exit,
    InternalError,
    InvalidArgumentError,
    NoSpaceError,
    NotFoundError,
    PathIsADirectoryError,
    PathNotADirectoryError,
    PermissionDeniedError,
    QuorumFSError,
)
from quorumfs.local.pointer import cache_home

INTERRUPTED = 130
BROKEN_PIPE = 141

_OF_ERRNO: Mapping[int, type[QuorumFSError]] = {
    errno.ENOENT: NotFoundError,
    errno.EEXIST: AlreadyExistsError,
    errno.EISDIR: PathIsADirectoryError,
    errno.ENOTDIR: PathNotADirectoryError,
    errno.EACCES: PermissionDeniedError,
    errno.EPERM: PermissionDeniedError,
    errno.ENOSPC: NoSpaceError,
    errno.EDQUOT: NoSpaceError,
    errno.ENAMETOOLONG: InvalidArgumentError,
    errno.ELOOP: InvalidArgumentError,
}


class LocalError(QuorumFSError):
    """This machine's file system refused something that has no better class."""

    default_next = ""


def wants_json(argv: Sequence[str]) -> bool:
    """Whether JSON was asked for, judged without parsing: the usage itself may be what is wrong."""
    words = list(argv[: argv.index("--")] if "--" in argv else argv)
    said = "table"
    for word, after in pairwise([*words, ""]):
        if word in ("-o", "--output"):
            said = after
        elif word.startswith("--output="):
            said = word.removeprefix("--output=")
        elif word in ("-ojson", "-otable"):
            said = word.removeprefix("-o")
    return said == "json"


def from_os(error: OSError) -> QuorumFSError:
    """A local file's error as one of ours; its class decides the exit code."""
    cls = _OF_ERRNO.get(error.errno or 0, LocalError)
    name = printable(os.fsdecode(error.filename)) if error.filename is not None else "a local file"
    failure = cls(f"{name}: {error.strerror or error}")
    if isinstance(failure, NoSpaceError):
        failure.next = "free space on this machine"
    return failure


def from_click(error: click.ClickException) -> tuple[QuorumFSError, str]:
    """A usage error as one of ours, and the line that shows the right usage."""
    context = getattr(error, "ctx", None)
    usage = context.get_usage() if context is not None else ""
    hint = f"{context.command_path} --help" if context is not None else "dfsctl --help"
    return InvalidArgumentError(error.format_message().replace("\n\t", " "), next=hint), usage


def from_surprise(error: Exception) -> QuorumFSError:
    """An exception that nobody foresaw. Its trace is kept in the user's cache."""
    trace = "".join(traceback.format_exception(error))
    if os.environ.get("QUORUMFS_DEBUG") == "1":
        sys.stderr.write(trace)
        kept = "the trace is above"
    else:
        kept = _keep_trace(trace)
    failure = InternalError(f"unexpected {type(error).__name__}: {error}".rstrip(": "))
    failure.next = f"this is a bug: {kept}; QUORUMFS_DEBUG=1 shows it"
    return failure


@contextlib.contextmanager
def advised(kind: type[QuorumFSError], advice: str) -> Iterator[None]:
    """Add what to do next to an error of this kind that does not say it itself."""
    try:
        yield
    except kind as error:
        error.next = error.next or advice
        raise


def report(error: QuorumFSError, as_json: bool, usage: str = "") -> int:
    """Say it, and return the exit code."""
    if as_json:
        show_json({"error": error.to_json()})
    with contextlib.suppress(OSError):  # nobody listens on stderr: the exit code still speaks
        sys.stderr.write(in_words(error, usage))
        sys.stderr.flush()
    return int(exit_code(error))


def exit_code(error: QuorumFSError) -> Exit:
    return error.exit_code


def in_words(error: QuorumFSError, usage: str = "") -> str:
    """What, why and what next; every line of a longer cause is indented."""
    lines = [usage] if usage else []
    lines += [f"dfsctl: {printable(error.message)}"]
    if error.cause:
        lines += ["  cause: " + "\n    ".join(printable(line) for line in error.cause.splitlines())]
    if error.next:
        lines += [f"  next:  {printable(error.next)}"]
    return "\n".join(lines) + "\n"


def raise_shown(error: QuorumFSError) -> NoReturn:
    """End the command with the words and the exit code of `error`, beside what it has put on stdout already."""
    click.echo(in_words(error), err=True, nl=False)
    raise click.exceptions.Exit(int(error.exit_code))


def show_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def printable(text: str) -> str:
    """`text` without what a terminal would obey: control characters and broken UTF-8 as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _keep_trace(trace: str) -> str:
    path: Path = cache_home() / "last-error.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(trace)
    except OSError as error:
        return f"its trace could not be kept ({error})"
    return f"its trace is in {path}"
