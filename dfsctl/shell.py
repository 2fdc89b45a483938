"""What every command has in common: lazy loading, the options that may stand anywhere, and their values.

A module of commands is imported when one of them runs, or when its own help is asked for; so `dfsctl --help`
and `dfsctl dev status` never wait for gRPC.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dfsctl.agents import Agents
    from quorumfs import Client
    from quorumfs.rpc.coordinator import Coordinator
    from quorumfs.rpc.trust import TrustedChannels


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table of commands: where it lives (`module:attribute`) and its one line of help."""

    where: str
    help: str


@dataclass(slots=True)
class Settings:
    """What the options that may stand anywhere came to. Tests hand in their own ways to connect."""

    output: str = "table"
    coordinators: str | None = None
    timeout_seconds: float | None = None
    directory: Path | None = None
    prove: Path | None = None  # the cluster's secret, to be proven instead of sending a token
    connect: Callable[[Settings], Client] = field(default_factory=lambda: _connect)
    follow: Callable[[Settings], Coordinator] = field(default_factory=lambda: _follow)
    agents: Callable[[Settings], Agents] = field(default_factory=lambda: _agents)

    @property
    def as_json(self) -> bool:
        return self.output == "json"

    @contextmanager
    def client(self) -> Iterator[Client]:
        """The client of this run; closed at the end of the block."""
        with self.connect(self) as client:
            yield client

    @contextmanager
    def coordinator(self) -> Iterator[Coordinator]:
        """The stub that follows the leader, for questions about the cluster itself."""
        coordinator = self.follow(self)
        try:
            yield coordinator
        finally:
            coordinator.close()

    @property
    def talkative(self) -> bool:
        """Whether somebody watches who would like to see progress."""
        return not self.as_json and sys.stderr.isatty()


def settings() -> Settings:
    """Those of the command that runs."""
    return click.get_current_context().ensure_object(Settings)


def _connect(given: Settings) -> Client:
    from quorumfs import Client
    from quorumfs.allocator import keep_freed_memory

    keep_freed_memory()

    if given.timeout_seconds is None:
        return Client(given.coordinators, fail_fast=True)
    return Client(given.coordinators, timeout=given.timeout_seconds, fail_fast=True)


def _follow(given: Settings) -> Coordinator:
    from quorumfs.discovery import TOKEN_VARIABLE, find_coordinators
    from quorumfs.limits import CLIENT_DEADLINE_SECONDS
    from quorumfs.rpc.coordinator import Coordinator

    return Coordinator(
        find_coordinators(given.coordinators),
        _proven(given.prove) if given.prove is not None else None,
        timeout=given.timeout_seconds or CLIENT_DEADLINE_SECONDS,
        token=os.environ.get(TOKEN_VARIABLE),
        fail_fast=True,
    )


def _agents(given: Settings) -> Agents:
    from dfsctl.agents import Agents

    return Agents(given.timeout_seconds)


def _proven(secret_file: Path) -> TrustedChannels:
    from quorumfs.rpc.trust import TrustedChannels, read_secret

    return TrustedChannels(read_secret(secret_file), "operator")


def _keeper(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def keep(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value is not None:
            setattr(context.ensure_object(Settings), name, value)

    return keep


def _anywhere() -> list[click.Parameter]:
    return [
        click.Option(
            ["-o", "--output"],
            type=click.Choice(["table", "json"]),
            expose_value=False,
            callback=_keeper("output"),
            help="How data is printed (default: table).",
        ),
        click.Option(
            ["--coordinators"],
            metavar="HOST:PORT,...",
            expose_value=False,
            callback=_keeper("coordinators"),
            help="Where the cluster is; else QUORUMFS_COORDINATORS, client.toml, or the local dev cluster.",
        ),
        click.Option(
            ["--timeout"],
            type=click.FloatRange(min=0, min_open=True),
            metavar="SECONDS",
            expose_value=False,
            callback=_keeper("timeout_seconds"),
            help="Give an operation up after this long.",
        ),
    ]


def _directory() -> click.Parameter:
    return click.Option(
        ["--dir"],
        type=click.Path(path_type=Path),
        expose_value=False,
        callback=_keeper("directory"),
        help="The local cluster's directory (default: the last one started).",
    )


def _version() -> click.Parameter:
    return click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_version,
        help="Show the version and end.",
    )


def _show_version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        import quorumfs

        click.echo(f"dfsctl {quorumfs.__version__}")
        context.exit()


class Command(click.Command):
    """A command that takes the common options too."""

    def common(self) -> list[click.Parameter]:
        return _anywhere()

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return _with(super().get_params(ctx), self.common())


class DevCommand(Command):
    """One of `dfsctl dev`: it takes --dir as well."""

    def common(self) -> list[click.Parameter]:
        return [_directory(), *_anywhere()]


class Group(click.Group):
    """A group whose commands are rows of a table; a row's module is imported when it is needed."""

    command_class = Command

    def __init__(
        self, name: str, table: dict[str, Entry | Group], help: str, with_directory: bool = False
    ) -> None:
        super().__init__(name=name, help=help, no_args_is_help=True)
        self.table = table
        self.with_directory = with_directory

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        extra = [_directory()] if self.with_directory else []
        if ctx.parent is None:
            extra.append(_version())
        return _with(super().get_params(ctx), [*extra, *_anywhere()])

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        row = self.table.get(cmd_name)
        if row is None or isinstance(row, Group):
            return row
        module, attribute = row.where.split(":")
        found: click.Command = getattr(import_module(module), attribute)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click does, but from the table: asking the commands would import them all."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, row.help or "") for name, row in self.table.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = self._in_a_group(args[0]) or _near(args[0], list(self.table))
            if not near:
                raise
            message = f"no command {args[0]!r}; did you mean {near!r}?"
            raise click.UsageError(message, ctx=ctx) from error

    def _in_a_group(self, word: str) -> str:
        """`node drain` for `drain`; empty when no group, or more than one, has it."""
        found = [
            f"{name} {word}"
            for name, row in self.table.items()
            if isinstance(row, Group) and word in row.table
        ]
        return found[0] if len(found) == 1 else ""


def _with(own: list[click.Parameter], common: list[click.Parameter]) -> list[click.Parameter]:
    """The common options before --help, which comes last; what a command defines itself goes before them."""
    taken = {name for parameter in own for name in parameter.opts}
    return [*own[:-1], *(one for one in common if not taken & set(one.opts)), *own[-1:]]


def _near(word: str, known: Sequence[str]) -> str:
    import difflib

    return next(iter(difflib.get_close_matches(word, known, 1)), "")


def command(name: str | None = None, **more: Any) -> Callable[[Callable[..., Any]], Command]:
    """`click.command` with the common options."""
    return click.command(name, cls=Command, **more)


def dev_command(name: str | None = None, **more: Any) -> Callable[[Callable[..., Any]], DevCommand]:
    """`click.command` with the common options and --dir."""
    return click.command(name, cls=DevCommand, **more)
