"""Trust, the serving half: who does not know the secret gets no token, and no proof serves twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from common import trust
from common.trust import Handshakes, TokenRegistry, require_node, serving_tokens
from quorumfs.clock import ManualClock
from quorumfs.errors import InvalidArgumentError, QuorumFSError, UnauthenticatedError
from quorumfs.rpc.trust import TOKEN_METADATA, proof
from quorumfs.v1 import membership_pb2 as m

SECRET = b"s" * 32
NONCE = b"n" * 32


class Context:
    def __init__(self, *metadata: tuple[str, Any]) -> None:
        self.metadata = metadata

    def invocation_metadata(self) -> tuple[tuple[str, Any], ...]:
        return self.metadata


class Server:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.tokens = TokenRegistry(self.clock)
        self.secret = SECRET
        self.handshakes = Handshakes("c1", lambda: self.secret, self.tokens, self.clock)

    def hello(self, node_id: str = "d1") -> m.HelloResponse:
        return self.handshakes.hello(m.HelloRequest(node_id=node_id, nonce=NONCE))

    def prove(self, nonce: bytes, secret: bytes = SECRET, node_id: str = "d1", side: Any = "client") -> bytes:
        mine = proof(secret, side, NONCE, nonce, "c1")
        request = m.ProveRequest(node_id=node_id, server_nonce=nonce, proof=mine)
        return self.handshakes.prove(request).token


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def serving(server: Server) -> Iterator[Server]:
    token = serving_tokens.set(server.tokens)
    yield server
    serving_tokens.reset(token)


def test_both_sides_prove_the_secret_and_the_token_names_the_node(server: Server) -> None:
    hello = server.hello()
    assert hello.proof == proof(SECRET, "server", NONCE, hello.nonce, "c1")
    assert server.tokens.check(server.prove(hello.nonce)) == "d1"


def test_a_proof_is_accepted_once(server: Server) -> None:
    nonce = server.hello().nonce
    server.prove(nonce)
    with pytest.raises(UnauthenticatedError):
        server.prove(nonce)


@pytest.mark.parametrize(
    "wrong",
    [{"secret": b"t" * 32}, {"node_id": "d2"}, {"side": "server"}],
    ids=["secret", "node", "reflected"],
)
def test_a_wrong_proof_is_refused_and_spends_the_nonce(server: Server, wrong: dict[str, Any]) -> None:
    nonce = server.hello().nonce
    with pytest.raises(UnauthenticatedError):
        server.prove(nonce, **wrong)
    with pytest.raises(UnauthenticatedError):
        server.prove(nonce)


def test_a_greeting_and_a_token_grow_old(server: Server) -> None:
    nonce = server.hello().nonce
    server.clock.advance(trust.NONCE_SECONDS)
    with pytest.raises(UnauthenticatedError):
        server.prove(nonce)
    token = server.prove(server.hello().nonce)
    server.clock.advance(trust.TOKEN_SECONDS)
    assert server.tokens.check(token) is None


def test_strangers_can_push_out_greetings_but_no_tokens(server: Server) -> None:
    token = server.prove(server.hello().nonce)
    first = server.hello().nonce
    for _ in range(trust.NONCES_MAX):
        server.hello("stranger")
    with pytest.raises(UnauthenticatedError):
        server.prove(first)
    assert server.tokens.check(token) == "d1"


def test_tokens_are_bounded() -> None:
    tokens = TokenRegistry(ManualClock())
    first = tokens.issue("d1")
    for _ in range(trust.TOKENS_MAX):
        tokens.issue("d2")
    assert tokens.check(first) is None


@pytest.mark.parametrize(("node_id", "nonce"), [("d1", b"short"), ("", NONCE), ("x" * 64, NONCE)])
def test_a_malformed_greeting_is_refused(server: Server, node_id: str, nonce: bytes) -> None:
    with pytest.raises(InvalidArgumentError):
        server.handshakes.hello(m.HelloRequest(node_id=node_id, nonce=nonce))


def test_a_node_without_a_secret_refuses_with_the_reason() -> None:
    def none_yet() -> bytes:
        raise InvalidArgumentError("the cluster's secret cannot be read")

    handshakes = Handshakes("c1", none_yet, TokenRegistry())
    with pytest.raises(QuorumFSError, match="secret cannot be read"):
        handshakes.hello(m.HelloRequest(node_id="d1", nonce=NONCE))


def test_require_node_gives_the_proven_id(serving: Server) -> None:
    token = serving.tokens.issue("d7")
    assert require_node(Context(("x", "y"), (TOKEN_METADATA, token))) == "d7"  # type: ignore[arg-type]  # a fake


@pytest.mark.parametrize("metadata", [(), ((TOKEN_METADATA, b"guessed"),), ((TOKEN_METADATA, "text"),)])
def test_require_node_refuses_who_has_not_proven(serving: Server, metadata: Any) -> None:
    with pytest.raises(UnauthenticatedError):
        require_node(Context(*metadata))  # type: ignore[arg-type]  # a fake


def test_outside_of_a_call_nobody_is_trusted() -> None:
    with pytest.raises(UnauthenticatedError):
        require_node(Context((TOKEN_METADATA, b"x")))  # type: ignore[arg-type]  # a fake
