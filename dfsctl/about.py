"""What `dfsctl` says of itself."""

from __future__ import annotations

import platform
import sys

import click

from dfsctl.output import pairs, show
from dfsctl.shell import command, settings


@command()
def version() -> None:
    """The version of this program, and of what it runs on."""
    import quorumfs

    data = {"version": quorumfs.__version__, "python": platform.python_version()}
    show(settings(), data, lambda: pairs(data.items()))


@command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what SHELL needs: eval "$(dfsctl completion bash)" in its start-up file."""
    from click.shell_completion import get_completion_class

    from dfsctl.commands import dfsctl

    complete = get_completion_class(shell)
    if complete is None:
        raise click.UsageError(f"no completion for {shell}")
    sys.stdout.write(complete(dfsctl, {}, "dfsctl", "_DFSCTL_COMPLETE").source() + "\n")
