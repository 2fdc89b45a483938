"""Who may do what: roles, access tokens, and the role that each call wants. Pure values.

1. A token is `qfs_ID_SECRET`. Its id is shown everywhere, its secret once, when it is made; kept is only SHA-256 of the
   whole. The secret is 32 random bytes, so a plain digest cannot be guessed backwards.
2. Roles are ordered: each may do what those before it may.
3. `RPC_ROLES` names every call of the services that operators use. A call of theirs that is not in the table wants
   ADMIN: a new one is closed until somebody has thought about it (and a test asks for that).
4. Questions (METRICS, VIEWER) are open to callers on this machine, and to nodes, which prove the cluster's secret; from
   elsewhere they want a token too. Whether a node is well, and who leads, is told to everybody.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from quorumfs.errors import InvalidArgumentError, PermissionDeniedError
from quorumfs.mint import RandomBytes

TOKEN_ID_BYTES = 6
SECRET_BYTES = 32
TOKENS_MAX = 1000
NAME_CHARACTERS_MAX = 64
TTL_SECONDS_MAX = 10 * 365 * 86_400.0
BEARER_METADATA = "authorization"
TOKENS_FILE_NAME = "tokens.json"  # in a node's data directory: what its processes know of tokens
_TOKEN = re.compile(r"qfs_([0-9a-f]{12})_[0-9a-f]{64}")


class Role(IntEnum):
    """Each may do what those before it may."""

    ANON = 0
    METRICS = 1
    VIEWER = 2
    OPERATOR = 3
    ADMIN = 4


GIVEN_ROLES = tuple(role.name.lower() for role in Role if role is not Role.ANON)

_ADMIN, _CONTROL = "/quorumfs.v1.Admin/", "/quorumfs.v1.Control/"
GUARDED_SERVICES = (_ADMIN, _CONTROL)
RPC_ROLES: Mapping[str, Role] = {
    _ADMIN + "GetStatus": Role.VIEWER,
    _ADMIN + "GetHealth": Role.ANON,
    _ADMIN + "GetLeader": Role.ANON,
    _ADMIN + "GetLogLevel": Role.VIEWER,
    _ADMIN + "GetLabels": Role.VIEWER,
    _ADMIN + "ListDuties": Role.VIEWER,
    _ADMIN + "GetMetrics": Role.METRICS,
    _ADMIN + "StreamLogs": Role.VIEWER,
    _ADMIN + "SetLogLevel": Role.OPERATOR,
    _ADMIN + "Shutdown": Role.OPERATOR,
    _ADMIN + "SetLabels": Role.OPERATOR,
    _ADMIN + "ControlDuty": Role.OPERATOR,
    _CONTROL + "GetClusterStatus": Role.VIEWER,
    _CONTROL + "GetRaft": Role.VIEWER,
    _CONTROL + "GetDecommission": Role.VIEWER,
    _CONTROL + "CreateBackup": Role.ADMIN,
    _CONTROL + "GetBalance": Role.VIEWER,
    _CONTROL + "ControlBalance": Role.OPERATOR,
    _CONTROL + "GetDurability": Role.VIEWER,
    _CONTROL + "GetGc": Role.VIEWER,
    _CONTROL + "GetRepair": Role.VIEWER,
    _CONTROL + "GetStateHash": Role.VIEWER,
    _CONTROL + "ExplainChunk": Role.VIEWER,
    _CONTROL + "ListCandidates": Role.VIEWER,
    _CONTROL + "ListEvents": Role.VIEWER,
    _CONTROL + "TransferLeadership": Role.OPERATOR,
    _CONTROL + "SetNode": Role.OPERATOR,
    _CONTROL + "ForgetNode": Role.OPERATOR,
    _CONTROL + "ExamineNode": Role.OPERATOR,
    _CONTROL + "ReserveAbsence": Role.OPERATOR,
    _CONTROL + "RunRepair": Role.OPERATOR,
    _CONTROL + "ControlScrub": Role.OPERATOR,
    _CONTROL + "RunGc": Role.OPERATOR,
    _CONTROL + "ControlGc": Role.OPERATOR,
    _CONTROL + "RestoreQuarantined": Role.OPERATOR,
    _CONTROL + "ChangeMember": Role.ADMIN,
    _CONTROL + "ControlToken": Role.ADMIN,
}

# Until the cluster has had an admin's token, this is taken from the node's own machine without one: somebody has to
# make the first.
FOUNDING_RPC = _CONTROL + "ControlToken"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, for the audit line."""

    name: str
    role: Role
    address: str


@dataclass(frozen=True, slots=True)
class HeldToken:
    """A token as a node knows it. `until`: monotonic seconds; None: it does not end."""

    token_id: str
    name: str
    role: Role
    hash: bytes
    until: float | None
    revoked: bool


def role_of_rpc(path: str) -> Role | None:
    """The role that a gRPC call wants; None for services that have their own rules (files, nodes)."""
    if not path.startswith(GUARDED_SERVICES):
        return None
    return RPC_ROLES.get(path, Role.ADMIN)


def is_change(role: Role) -> bool:
    """Whether what wants this role changes something: it is written down who did it."""
    return role >= Role.OPERATOR


def role_named(name: str) -> Role:
    """Raises InvalidArgumentError."""
    if name not in GIVEN_ROLES:
        raise InvalidArgumentError(
            f"there is no role {name[:64]!a}", next=f"use one of {', '.join(GIVEN_ROLES)}"
        )
    return Role[name.upper()]


def mint_token(random: RandomBytes) -> tuple[str, str]:
    """A new token's (id, text)."""
    token_id = random(TOKEN_ID_BYTES).hex()
    return token_id, f"qfs_{token_id}_{random(SECRET_BYTES).hex()}"


def id_of(token: str) -> str:
    """The id within a token's text; empty when it is no token."""
    found = _TOKEN.fullmatch(token)
    return found[1] if found else ""


def hash_of(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def matches(held: HeldToken, token: str, now: float) -> bool:
    """Whether `token` is this one, and still good. The comparison takes the same time for every wrong one."""
    right = hmac.compare_digest(held.hash, hash_of(token))
    return right and not held.revoked and (held.until is None or now < held.until)


def bearer_of(header: str) -> str:
    """The token in an Authorization header; empty without one."""
    scheme, _, token = header.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def require_role(principal: Principal, role: Role, what: str) -> None:
    """Raises PermissionDeniedError unless `principal` has at least this role."""
    if principal.role < role:
        raise PermissionDeniedError(
            f"{principal.name} may not {what}",
            cause=f"its role is {principal.role.name.lower()}, this wants {role.name.lower()}",
            next=f"use a token with the role {role.name.lower()} (dfsctl auth token create)",
        )
