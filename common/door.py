"""The one place that decides whether a gRPC call of operators may run (`access.RPC_ROLES` has the rules).

Who calls is known by one of three: the proof of the cluster's secret that nodes give (they may do anything: they
are the cluster), a bearer token, or, while no tokens are configured, nothing. In mode `insecure` strangers reach the
port: then no change is taken from another machine, as over HTTP. Whoever came first would make the first token, and the
cluster would be theirs.
"""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import unquote

from common.access import (
    BEARER_METADATA,
    FOUNDING_RPC,
    Principal,
    Role,
    bearer_of,
    is_change,
    require_role,
    role_of_rpc,
)
from common.token_book import TokenBook
from common.trust import TokenRegistry
from quorumfs.errors import UnauthenticatedError
from quorumfs.rpc.trust import TOKEN_METADATA


class Door:
    """Any thread may call. `nodes` are the proofs that this server has accepted. Without a book nobody is asked.

    `host`: where the server listens; who calls from there is on this machine, as who calls from loopback is.
    """

    def __init__(self, book: TokenBook | None, nodes: TokenRegistry, host: str = "") -> None:
        self._book = book
        self._nodes = nodes
        self._host = host

    def wants_refresh(self, path: str, context: Any) -> bool:
        """Whether the book should be asked anew before this call is judged; `refresh` may take a second."""
        role = role_of_rpc(path)
        if self._book is None or role in (None, Role.ANON) or _sent(context, TOKEN_METADATA):
            return False
        return self._book.wants_refresh(_bearer(context))

    def refresh(self, context: Any) -> None:
        """Ask the book anew for who makes this call."""
        if self._book is not None:
            self._book.refresh_for(_bearer(context))

    def admit(self, path: str, context: Any) -> Principal | None:
        """Who calls; None where nobody is asked. Raises UnauthenticatedError, PermissionDeniedError, and
        UnavailableError when it is not known which tokens there are."""
        role = role_of_rpc(path)
        if role is None or role is Role.ANON or self._book is None:
            return None
        address = address_of(context.peer())
        is_here = is_local(address) or (self._host != "" and address == self._host)
        proof = _sent(context, TOKEN_METADATA)
        if isinstance(proof, bytes) and proof:
            return self._node(proof, address)
        token = _bearer(context)
        if not is_change(role) and not token and is_here:
            return Principal("local", role, address)
        if self._book.is_nobodys and is_here:
            return Principal("local", role, address)
        found = self._book.judge(token, address, is_founding=path == FOUNDING_RPC and is_here)
        if found is None:
            if is_change(role) and not is_here:
                raise _not_from_elsewhere(path, address)
            return Principal("local" if is_here else "anybody", role, address)
        require_role(found, role, f"call {path.rpartition('/')[2]}")
        return found

    def _node(self, proof: bytes, address: str) -> Principal:
        node_id = self._nodes.check(proof)
        if node_id is None:
            raise UnauthenticatedError(
                "the caller's proof is not known here", cause="this node was restarted, or it is too old"
            )
        return Principal(f"node {node_id}", Role.ADMIN, address)


def _not_from_elsewhere(path: str, address: str) -> UnauthenticatedError:
    return UnauthenticatedError(
        f"{path.rpartition('/')[2]} is not taken from another machine",
        cause=f"no tokens are configured, and the call came from {address}",
        next="make an admin's token, on a node: dfsctl auth token create --role admin --secret-file FILE",
    )


def address_of(peer: str) -> str:
    """The address in gRPC's name of a peer, such as ipv4:127.0.0.1:51820 or ipv6:%5B::1%5D:51820."""
    kind, _, rest = unquote(peer).partition(":")
    if kind == "unix":
        return kind
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else rest


def is_local(address: str) -> bool:
    """Whether the caller is on this machine, as far as its address says."""
    try:
        return ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback
    except ValueError:
        return address == "unix"


def _bearer(context: Any) -> str:
    header = _sent(context, BEARER_METADATA)
    return bearer_of(header) if isinstance(header, str) else ""


def _sent(context: Any, name: str) -> str | bytes | None:
    return next((value for key, value in context.invocation_metadata() or () if key == name), None)
