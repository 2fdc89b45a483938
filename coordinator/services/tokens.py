"""Access tokens: made, shown and revoked by the leader; told to nodes by any coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from common import log
from common.access import (
    NAME_CHARACTERS_MAX,
    TOKENS_MAX,
    TTL_SECONDS_MAX,
    Role,
    hash_of,
    mint_token,
    role_named,
)
from coordinator.decisions.tokens import Standing, why_not_revoke
from coordinator.metadata.tokens import TokenRow, is_good, token_rows
from coordinator.services.gateway import Gateway
from quorumfs.errors import (
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    SafetyGuardError,
    make,
)
from quorumfs.mint import RandomBytes
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import types_pb2 as t

_log = log.get(__name__)
_ADMIN = Role.ADMIN.name.lower()


class TokenDesk:
    """Runs on the gRPC loop. `changed` is called, on a thread of its own, after each change: this node's own
    book must not be older than its answer."""

    def __init__(
        self, gateway: Gateway, random: RandomBytes, changed: Callable[[], object] = lambda: None
    ) -> None:
        self._gateway = gateway
        self._random = random
        self._changed = changed

    async def control(self, request: a.ControlTokenRequest) -> a.ControlTokenResponse:
        """Create, ls, revoke. Raises QuorumFSError."""
        self._gateway.require_leadership()
        match request.action:
            case "create":
                return await self._create(request)
            case "ls":
                shown = [told(row, self._now_ms()) for row in await self._rows()]
                for one in shown:
                    one.ClearField("hash")
                return a.ControlTokenResponse(code=t.ERROR_CODE_OK, tokens=shown)
            case "revoke":
                return await self._revoke(request.token_id)
            case other:
                raise InvalidArgumentError(
                    f"tokens cannot be told to {other[:64]!a}", next="use create, ls or revoke"
                )

    async def table(self) -> Sequence[t.TokenInfo]:
        """What nodes are told, from this coordinator's own state. Nothing before genesis."""
        if not self._gateway.attached and self._gateway.founding:
            return []
        now_ms = self._now_ms()
        return [told(row, now_ms) for row in await self._rows()]

    async def _create(self, request: a.ControlTokenRequest) -> a.ControlTokenResponse:
        role_named(request.role)  # raises for one that there is not
        if len(request.name) > NAME_CHARACTERS_MAX or not request.name.isprintable():
            raise InvalidArgumentError(f"a name has at most {NAME_CHARACTERS_MAX} printable characters")
        if not 0 <= request.ttl_seconds <= TTL_SECONDS_MAX:
            raise InvalidArgumentError(
                f"no token lasts {request.ttl_seconds:g} s", cause=f"at most {TTL_SECONDS_MAX:g} s"
            )
        rows = await self._rows()
        standing = self._standing(rows)
        if len(standing) >= TOKENS_MAX:
            raise ConflictError(f"there are {len(standing)} tokens", next="revoke those that nobody uses")
        token_id, text = mint_token(self._random)
        ends_ms = self._now_ms() + int(request.ttl_seconds * 1000) if request.ttl_seconds else 0
        await self._propose(
            e.SetToken(
                token_id=token_id,
                name=request.name,
                role=request.role,
                hash=hash_of(text),
                expires_cluster_ms=ends_ms,
            )
        )
        _log.info("token.created", token_id=token_id, name=request.name, role=request.role)
        made = next(row for row in await self._rows() if row.token_id == token_id)
        shown = told(made, self._now_ms())
        shown.ClearField("hash")
        return a.ControlTokenResponse(code=t.ERROR_CODE_OK, token=text, tokens=[shown])

    async def _revoke(self, asked: str) -> a.ControlTokenResponse:
        rows = await self._rows()
        found = _find(rows, asked)
        reason = why_not_revoke(self._standing(rows), found.token_id)
        if reason:
            raise SafetyGuardError(
                f"token {found.token_id} was not revoked",
                cause=reason,
                next="dfsctl auth token create --role admin, then revoke this one",
            )
        await self._propose(e.SetToken(token_id=found.token_id, revoke=True))
        _log.info("token.revoked", token_id=found.token_id, name=found.name)
        shown = told(found, self._now_ms())
        shown.ClearField("hash")
        shown.revoked = True
        return a.ControlTokenResponse(code=t.ERROR_CODE_OK, tokens=[shown])

    async def _propose(self, command: e.SetToken) -> None:
        done = await self._gateway.system(e.SystemCommand(set_token=command))
        if done.code != t.ERROR_CODE_OK:
            raise make(done.code, done.error.message, cause=done.error.cause, next=done.error.next)
        await asyncio.to_thread(self._changed)

    async def _rows(self) -> list[TokenRow]:
        return await self._gateway.ask(token_rows)

    def _now_ms(self) -> int:
        return self._gateway.consensus.cluster_ms()

    def _standing(self, rows: Sequence[TokenRow]) -> list[Standing]:
        now_ms = self._now_ms()
        return [Standing(row.token_id, row.role == _ADMIN) for row in rows if is_good(row, now_ms)]


def told(row: TokenRow, now_ms: int) -> t.TokenInfo:
    """A token as it travels. An end is never 0, which would mean: none."""
    left = 0.0
    if row.expires_ms:
        left = (row.expires_ms - now_ms) / 1000 or -0.001
    return t.TokenInfo(
        token_id=row.token_id,
        name=row.name,
        role=row.role,
        created_wall_ms=row.created_wall_ms,
        expires_in_seconds=left,
        hash=row.hash,
        revoked=bool(row.revoked),
    )


def _find(rows: Sequence[TokenRow], asked: str) -> TokenRow:
    """By id, or by a name that only one has. Raises NotFoundError, InvalidArgumentError."""
    found = [row for row in rows if row.token_id == asked] or [
        row for row in rows if row.name and row.name == asked and not row.revoked
    ]
    if not found:
        raise NotFoundError(f"there is no token {asked[:64]!a}", next="dfsctl auth token ls")
    if len(found) > 1:
        raise InvalidArgumentError(
            f"{len(found)} tokens are called {asked[:64]!a}",
            cause=", ".join(row.token_id for row in found),
            next="name the one by its id",
        )
    return found[0]
