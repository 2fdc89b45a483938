"""`dfsctl auth`: access tokens. A secret is printed once, when it is made."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from dfsctl.output import pairs, show, table, time_of_ms
from dfsctl.shell import Settings, command, settings
from quorumfs.v1 import admin_pb2, types_pb2

ROLES = ("metrics", "viewer", "operator", "admin")
_UNIT_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([smhd]?)")

secret_file = click.option(
    "--secret-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Prove the cluster's secret instead of a token: on a node, when no admin token is left.",
)


@command("create")
@click.option(
    "--role", type=click.Choice(ROLES), required=True, help="What it may do; each includes the former."
)
@click.option("--name", default="", help="Who or what uses it; shown in lists and in audit lines.")
@click.option(
    "--ttl", metavar="DURATION", default="", help="How long it is good: 90s, 30m, 12h, 30d. Default: always."
)
@secret_file
def create(role: str, name: str, ttl: str, secret_file: Path | None) -> None:
    """Make a token. From the first one on every change wants one; make an admin's first."""
    request = admin_pb2.ControlTokenRequest(action="create", role=role, name=name, ttl_seconds=_seconds(ttl))
    given = settings()
    answer = _control(given, request, secret_file)
    data = {"token": answer.token, **token_of(answer.tokens[0])}

    def lines() -> Iterable[str]:
        yield from pairs(data.items())
        yield ""
        yield "It is shown this once. Use it: export QUORUMFS_TOKEN=" + answer.token

    show(given, data, lines)


@command("ls")
@click.option("--all", "everything", is_flag=True, help="Revoked and ended ones too.")
@secret_file
def ls(everything: bool, secret_file: Path | None) -> None:
    """The tokens there are, without their secrets."""
    given = settings()
    answer = _control(given, admin_pb2.ControlTokenRequest(action="ls"), secret_file, repeatable=True)
    data = [token_of(one) for one in answer.tokens]
    if not everything:
        data = [one for one in data if one["state"] == "good"]
    rows = ([one[key] for key in data[0]] for one in data)
    show(given, data, lambda: table([key.upper() for key in data[0]] if data else ["TOKEN_ID"], rows))


@command("revoke")
@click.argument("token_id", metavar="TOKEN_ID|NAME")
@secret_file
def revoke(token_id: str, secret_file: Path | None) -> None:
    """End a token. Refused (exit code 10) for the last good admin token."""
    given = settings()
    request = admin_pb2.ControlTokenRequest(action="revoke", token_id=token_id)
    data = token_of(_control(given, request, secret_file, repeatable=True).tokens[0])
    show(given, data, lambda: [f"{data['token_id']} is revoked"])


def token_of(one: types_pb2.TokenInfo) -> dict[str, Any]:
    """One token as `auth ls` shows it."""
    ended = one.expires_in_seconds < 0
    return {
        "token_id": one.token_id,
        "name": one.name,
        "role": one.role,
        "state": "revoked" if one.revoked else "ended" if ended else "good",
        "created_at": time_of_ms(one.created_wall_ms),
        "expires_in_seconds": round(one.expires_in_seconds, 3) if one.expires_in_seconds else None,
    }


def _control(
    given: Settings,
    request: admin_pb2.ControlTokenRequest,
    secret: Path | None,
    repeatable: bool = False,
) -> admin_pb2.ControlTokenResponse:
    if secret is not None:
        given = replace(given, prove=secret)
    with given.coordinator() as coordinator:
        answer: admin_pb2.ControlTokenResponse = coordinator.control(
            "Control.ControlToken", request, repeatable=repeatable
        )
    return answer


def _seconds(text: str) -> float:
    if not text:
        return 0.0
    found = _DURATION.fullmatch(text)
    if found is None or not float(found[1]):
        raise click.BadParameter(f"{text!r} is no duration such as 90s, 30m, 12h, 30d", param_hint="--ttl")
    return float(found[1]) * _UNIT_SECONDS[found[2] or "s"]
