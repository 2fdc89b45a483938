"""The serving half of mutual trust: proof of the cluster's secret by HMAC, then an opaque token.

The calling half and the argument are `quorumfs/rpc/trust.py`. Here:
1. A server nonce is made by Hello, used by at most one Prove, and dies after NONCE_SECONDS.
2. A token is 32 random bytes in this process's memory, bound to the node id that proved; it dies with the
   process or after TOKEN_SECONDS, and the caller proves itself again.
3. Both tables are bounded: strangers can call Hello, so they can push out nonces, but never tokens.
"""

from __future__ import annotations

import contextvars
import hmac
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc

from common import log
from quorumfs.clock import Clock, SystemClock
from quorumfs.errors import InvalidArgumentError, UnauthenticatedError
from quorumfs.mint import RandomBytes, system_random
from quorumfs.rpc.trust import NONCE_BYTES, TOKEN_METADATA, proof
from quorumfs.v1 import membership_pb2, membership_pb2_grpc

NONCES_MAX = 1024
NONCE_SECONDS = 10.0
TOKENS_MAX = 4096
TOKEN_BYTES = 32
TOKEN_SECONDS = 24 * 3600.0
NODE_ID_CHARACTERS_MAX = 63

_log = log.get(__name__)


class _Pending(NamedTuple):
    node_id: str
    client_nonce: bytes
    until: float


class _Token(NamedTuple):
    node_id: str
    until: float


class TokenRegistry:
    """The tokens that this process gave out. Any thread may call."""

    def __init__(self, clock: Clock | None = None, random: RandomBytes = system_random) -> None:
        self._clock = clock or SystemClock()
        self._random = random
        self._tokens: OrderedDict[bytes, _Token] = OrderedDict()
        self._lock = threading.Lock()

    def issue(self, node_id: str, ttl_seconds: float = TOKEN_SECONDS) -> bytes:
        """A new token for a node that has proven itself; the oldest goes when there are too many."""
        token = self._random(TOKEN_BYTES)
        with self._lock:
            self._tokens[token] = _Token(node_id, self._clock.monotonic() + ttl_seconds)
            while len(self._tokens) > TOKENS_MAX:
                self._tokens.popitem(last=False)
        return token

    def check(self, token: bytes) -> str | None:
        """The node that `token` was given to; None when it is unknown or too old."""
        with self._lock:
            found = self._tokens.get(token)
            if found is None:
                return None
            if found.until <= self._clock.monotonic():
                del self._tokens[token]
                return None
            return found.node_id


class Handshakes:
    """Hello and Prove without the wire. Any thread may call.

    `secret` is read at each call, so that a node may start before it has one; what it raises is the refusal.
    """

    def __init__(
        self,
        node_id: str,
        secret: Callable[[], bytes],
        tokens: TokenRegistry,
        clock: Clock | None = None,
        random: RandomBytes = system_random,
    ) -> None:
        self._node_id = node_id
        self._secret = secret
        self._tokens = tokens
        self._clock = clock or SystemClock()
        self._random = random
        self._pending: OrderedDict[bytes, _Pending] = OrderedDict()
        self._lock = threading.Lock()

    def hello(self, request: membership_pb2.HelloRequest) -> membership_pb2.HelloResponse:
        """Prove this node to the caller, under a fresh nonce. Raises InvalidArgumentError."""
        if len(request.nonce) != NONCE_BYTES:
            raise InvalidArgumentError(f"a nonce is {NONCE_BYTES} bytes", cause=f"{len(request.nonce)} came")
        if not 0 < len(request.node_id) <= NODE_ID_CHARACTERS_MAX:
            raise InvalidArgumentError("a greeting names its node id")
        secret = self._secret()
        nonce = self._random(NONCE_BYTES)
        until = self._clock.monotonic() + NONCE_SECONDS
        with self._lock:
            self._pending[nonce] = _Pending(request.node_id, request.nonce, until)
            while len(self._pending) > NONCES_MAX:
                self._pending.popitem(last=False)
        mine = proof(secret, "server", request.nonce, nonce, self._node_id)
        return membership_pb2.HelloResponse(node_id=self._node_id, nonce=nonce, proof=mine)

    def prove(self, request: membership_pb2.ProveRequest) -> membership_pb2.ProveResponse:
        """Check the caller's proof and give it a token. Raises UnauthenticatedError; a nonce serves once."""
        with self._lock:
            pending = self._pending.pop(request.server_nonce, None)
        if pending is None or pending.until <= self._clock.monotonic():
            raise self._refusal(request, "the greeting is unknown, used, or too old")
        expected = proof(self._secret(), "client", pending.client_nonce, request.server_nonce, self._node_id)
        right = hmac.compare_digest(expected, request.proof)
        if not right or request.node_id != pending.node_id:
            raise self._refusal(request, "it does not prove the cluster's secret")
        token = self._tokens.issue(request.node_id)
        _log.info("trust.proven", peer=request.node_id)
        return membership_pb2.ProveResponse(token=token, ttl_ms=int(TOKEN_SECONDS * 1000))

    def _refusal(self, request: membership_pb2.ProveRequest, cause: str) -> UnauthenticatedError:
        _log.warning("trust.refused", peer=request.node_id[:NODE_ID_CHARACTERS_MAX], cause=cause)
        return UnauthenticatedError(
            f"{self._node_id} does not trust the caller",
            cause=cause,
            next="compare cluster.secret_file on both nodes",
        )


class TrustService(membership_pb2_grpc.TrustServicer):
    """Trust for a threaded server."""

    def __init__(self, handshakes: Handshakes) -> None:
        self._handshakes = handshakes

    def Hello(self, request: membership_pb2.HelloRequest, context: Any) -> membership_pb2.HelloResponse:  # noqa: N802
        return self._handshakes.hello(request)

    def Prove(self, request: membership_pb2.ProveRequest, context: Any) -> membership_pb2.ProveResponse:  # noqa: N802
        return self._handshakes.prove(request)


class AsyncTrustService(membership_pb2_grpc.TrustServicer):
    """Trust for an asyncio server; a handshake takes microseconds, so it runs on the loop."""

    def __init__(self, handshakes: Handshakes) -> None:
        self._handshakes = handshakes

    async def Hello(self, request: membership_pb2.HelloRequest, context: Any) -> membership_pb2.HelloResponse:  # noqa: N802
        return self._handshakes.hello(request)

    async def Prove(self, request: membership_pb2.ProveRequest, context: Any) -> membership_pb2.ProveResponse:  # noqa: N802
        return self._handshakes.prove(request)


serving_tokens: contextvars.ContextVar[TokenRegistry | None] = contextvars.ContextVar(
    "serving_tokens", default=None
)
"""The registry of the server whose handler runs; the interceptors set it."""


def require_node(context: grpc.ServicerContext | grpc.aio.ServicerContext[Any, Any]) -> str:
    """The id of the node that calls, as it has proven. For threaded and asyncio handlers.

    Raises UnauthenticatedError: the call has no token, or one that this process does not know (any more).
    """
    tokens = serving_tokens.get()
    for key, value in context.invocation_metadata() or ():
        if key == TOKEN_METADATA:
            node_id = tokens.check(value) if tokens is not None and isinstance(value, bytes) else None
            if node_id is None:
                raise UnauthenticatedError(
                    "the caller's proof is not known here", cause="this node was restarted, or it is too old"
                )
            return node_id
    raise UnauthenticatedError(
        "this call is for nodes of the cluster", cause="the caller has not proven the cluster's secret"
    )
