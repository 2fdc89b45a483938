"""`dfsctl`: runs one command; whatever it raises becomes words, JSON and an exit code here, and only here."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from dfsctl import errors
from dfsctl.commands import dfsctl
from dfsctl.shell import Settings
from quorumfs.errors import Exit, QuorumFSError


def main() -> NoReturn:
    """The console script."""
    if sys.stderr is None:  # closed by whoever started us: the exit code still speaks
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  it lives as long as we do
    if sys.stdout is None:
        closed = errors.LocalError("stdout is closed", next="send it somewhere, if only to /dev/null")
        sys.exit(errors.report(closed, as_json=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names are UTF-8, whatever the locale says
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    instruction = os.environ.get("_DFSCTL_COMPLETE")
    if instruction:
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(dfsctl, {}, "dfsctl", "_DFSCTL_COMPLETE", instruction))
    code = run(sys.argv[1:])
    if code == errors.BROKEN_PIPE:  # the interpreter would flush, fail and complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def run(argv: Sequence[str], settings: Settings | None = None) -> int:
    """Run one command line; returns its exit code. Never raises, but for what ends the interpreter."""
    as_json = errors.wants_json(argv)
    try:
        with dfsctl.make_context("dfsctl", list(argv), obj=settings or Settings()) as context:
            code = dfsctl.invoke(context)
        sys.stdout.flush()
        return code if isinstance(code, int) else Exit.OK
    except click.exceptions.Exit as end:
        return int(end.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return Exit.USAGE
    except click.ClickException as error:
        failure, usage = errors.from_click(error)
        return errors.report(failure, as_json, usage)
    except (KeyboardInterrupt, click.Abort):
        return errors.INTERRUPTED
    except BrokenPipeError:
        return errors.BROKEN_PIPE
    except QuorumFSError as error:
        return errors.report(error, as_json)
    except OSError as error:
        return errors.report(errors.from_os(error), as_json)
    except Exception as error:  # noqa: BLE001  the outermost frame: a trace is no answer for a person
        return errors.report(errors.from_surprise(error), as_json)


if __name__ == "__main__":
    main()
