"""Who may do what. Every view that changes something carries `@require(role)`; a test enumerates the routes.

With tokens, a bearer token of a sufficient role is asked for: for every change, and for questions (METRICS,
VIEWER) that come from another machine. The tokens are those of the cluster, as this agent last heard
(`common/token_book.py`).

Until tokens are configured, or while this node has never heard whether they are (no cluster has taken it yet), there
is nobody to tell apart, so the place must speak for the caller: changes are taken from this machine only, as JSON, and
never from a web page that somebody visits:
- a page's form or image cannot send `application/json`, its script cannot without the permission (CORS) that
  is never given;
- a browser says `Origin` with every change: with it, refused, also with a token: this agent has no such page;
- a name that an attacker's DNS points at this machine shows in `Host`: refused for reads too (`check_host`);
- a proxy in front hides who calls: with its headers, refused.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from flask import Request, current_app, g, request

from common.access import Principal, Role, bearer_of, is_change, require_role
from quorumfs.errors import InvalidArgumentError, PermissionDeniedError
from sidecar.settings import Settings, is_loopback

if TYPE_CHECKING:
    from common.token_book import TokenBook  # it loads gRPC, and the parent process must not

__all__ = ["Guard", "Principal", "Role", "require", "token_of"]

P = ParamSpec("P")
R = TypeVar("R")

PROXY_HEADERS = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
TOKEN_CHARACTERS_MAX = 200


class Guard:
    """Judges one request."""

    def __init__(self, settings: Settings, book: TokenBook) -> None:
        self._insecure = settings.insecure
        self._book = book
        advertised, _, _ = settings.http_advertised.rpartition(":")
        self._names = {
            "localhost",
            socket.gethostname().lower(),
            advertised.lower(),
            settings.http_host.lower(),
        }

    def check_host(self, asked: Request) -> None:
        """Raises PermissionDeniedError for a host name that is not this machine's (DNS rebinding)."""
        host = host_of(asked.headers.get("Host", ""))
        if self._insecure or _is_address(host) or host in self._names or host.endswith(".localhost"):
            return
        raise PermissionDeniedError(
            "the request is for another host",
            cause=f"Host is {host[:100]!r}, and this agent serves this machine only",
            next="use 127.0.0.1 or localhost in the address",
        )

    def authorize(self, asked: Request, role: Role) -> Principal:
        """The caller, if it may act as `role`. Raises PermissionDeniedError, UnauthenticatedError,
        InvalidArgumentError, and UnavailableError when it is not known which tokens there are."""
        address = asked.remote_addr or ""
        token = token_of(asked)
        if is_change(role):
            _refuse_browser(asked)
        elif not token and _is_this_machine(asked) and not _proxied(asked):
            return Principal("local", role, address)
        if self._book.wants_refresh(token):
            self._book.refresh_for(token)
        nobodys = self._book.is_nobodys and _is_this_machine(asked)
        found = None if nobodys else self._book.judge(token, address)
        if found is None:
            if is_change(role):
                _refuse_stranger(asked)
            return Principal("local" if _is_this_machine(asked) else "anybody", role, address)
        require_role(found, role, f"{asked.method} {asked.path[:100]}")
        return found


class NotJsonError(InvalidArgumentError):
    """The body's type is not the one that a web page cannot send."""


def require(
    role: Role, unless: Callable[[Request], Role | None] = lambda asked: None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Marks a view as one that only `role` and above may call, and checks it before the view runs.

    `unless` gives the role that does for this request, where it changes nothing; a web page may not send it for that.
    """

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(view)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            guard: Guard = current_app.extensions["quorumfs.guard"]
            enough = unless(request)
            if enough is not None:
                _refuse_browser(request)
            g.principal = guard.authorize(request, role if enough is None else enough)
            return view(*args, **kwargs)

        checked.required_role = role  # type: ignore[attr-defined]  # read by the test that enumerates the routes
        return checked

    return decorate


def host_of(header: str) -> str:
    """The host of a Host header, lower case, without port and brackets."""
    text = header.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


def _refuse_browser(asked: Request) -> None:
    if "Origin" in asked.headers or asked.headers.get("Sec-Fetch-Site", "none") != "none":
        raise PermissionDeniedError(
            "changes are not taken from a web page",
            cause="the request carries an Origin header, as only a browser sends",
            next="use dfsctl, or curl with -H 'Content-Type: application/json'",
        )
    if asked.mimetype != "application/json":
        raise NotJsonError(
            "changes are taken as JSON only",
            cause=f"the content type is {asked.mimetype[:100] or 'missing'!r}",
            next="send Content-Type: application/json",
        )


def token_of(asked: Request) -> str:
    """The bearer token that came with the request; empty without one."""
    return bearer_of(asked.headers.get("Authorization", ""))[:TOKEN_CHARACTERS_MAX]


def _proxied(asked: Request) -> list[str]:
    return [name for name in PROXY_HEADERS if name in asked.headers]


def _refuse_stranger(asked: Request) -> None:
    proxied = _proxied(asked)
    if proxied:
        raise PermissionDeniedError(
            "changes are not taken through a proxy",
            cause=f"no tokens are configured, and {proxied[0]} hides who calls",
            next="call the agent directly from its own machine",
        )
    if not _is_this_machine(asked):
        raise PermissionDeniedError(
            "changes are taken from this machine only",
            cause=f"no tokens are configured, and the request came from {asked.remote_addr}",
            next="run the command on the node itself",
        )


def _is_this_machine(asked: Request) -> bool:
    """Whether both ends of the connection are here: a loopback caller, or one with the address it called."""
    caller = asked.remote_addr or ""
    connection: socket.socket | None = asked.environ.get("gunicorn.socket")
    return is_loopback(caller) or (connection is not None and connection.getsockname()[0] == caller)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
