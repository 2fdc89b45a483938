"""Every call of operators wants a role, and passes the door only with it: on threads and on asyncio alike."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import structlog

from common.access import FOUNDING_RPC, GIVEN_ROLES, RPC_ROLES, Role, hash_of, is_change, mint_token
from common.door import Door, address_of, is_local
from common.interceptors import AsyncInterceptor, BoundedPool, ThreadedInterceptor, told_result
from common.token_book import TokenBook
from common.trust import TokenRegistry
from quorumfs.clock import ManualClock
from quorumfs.errors import Code, NoLeaderError
from quorumfs.rpc.status import from_detail
from quorumfs.rpc.trust import TOKEN_METADATA
from quorumfs.v1 import admin_pb2, types_pb2

TOKENS = {role: mint_token(lambda n, k=k: bytes([k]) * n)[1] for k, role in enumerate(GIVEN_ROLES)}  # type: ignore[misc]
METHODS = {
    f"/{service.full_name}/{method.name}"
    for service in admin_pb2.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
CHANGES = sorted(path for path in METHODS if is_change(RPC_ROLES[path]))
OWN_ADDRESS = "10.1.2.9"
ELSEWHERE, HERE = "ipv4:10.1.2.3:999", "ipv4:127.0.0.1:999"


def held(role: str, revoked: bool = False) -> types_pb2.TokenInfo:
    text = TOKENS[role]
    return types_pb2.TokenInfo(
        token_id=text.split("_")[1], name=role, role=role, hash=hash_of(text), revoked=revoked
    )


class AbortedError(Exception):
    def __init__(self, status: grpc.StatusCode, code: Code) -> None:
        super().__init__(f"{status} {code!r}")
        self.status = status
        self.code_of_ours = code


class Context:
    def __init__(self, peer: str, metadata: tuple[tuple[str, Any], ...]) -> None:
        self._peer = peer
        self._metadata = metadata
        self.trailer: Any = ()

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> Any:
        return self._metadata

    def code(self) -> None:
        return None

    def is_active(self) -> bool:
        return True

    def set_trailing_metadata(self, trailer: Any) -> None:
        self.trailer = trailer

    def _end(self, status: grpc.StatusCode, trailer: Any) -> AbortedError:
        detail = types_pb2.ErrorDetail.FromString(trailer[0][1])
        return AbortedError(status, from_detail(detail).code)

    def abort(self, status: grpc.StatusCode, details: str) -> None:
        raise self._end(status, self.trailer)


class AsyncContext(Context):
    async def abort(self, status: grpc.StatusCode, details: str, trailer: Any) -> None:  # type: ignore[override]
        raise self._end(status, trailer)


class Bench:
    """Both interceptors over one book."""

    def __init__(self, *roles: str, known: bool = True) -> None:
        self.clock = ManualClock()
        self.nodes = TokenRegistry(self.clock)
        self.known = known
        self.roles = list(roles)
        self.revoked: set[str] = set()
        self.asked = 0
        self.ran = 0
        self.book = TokenBook(self.fetch, self.clock)
        self.pool = BoundedPool("control", 1, 1)
        self.refusing = ThreadPoolExecutor(1)

    def fetch(self) -> list[types_pb2.TokenInfo]:
        self.asked += 1
        if not self.known:
            raise NoLeaderError("nobody tells")
        return [held(role, role in self.revoked) for role in self.roles]

    def close(self) -> None:
        self.pool.shutdown()
        self.refusing.shutdown()

    def call(self, path: str, token: str = "", peer: str = HERE, proof: bytes = b"") -> Code:
        """How both forms end the call; they must agree."""
        metadata: list[tuple[str, Any]] = [("authorization", f"Bearer {token}")] if token else []
        metadata += [(TOKEN_METADATA, proof)] if proof else []
        outcomes = {self._threaded(path, peer, tuple(metadata)), self._aio(path, peer, tuple(metadata))}
        assert len(outcomes) == 1, outcomes
        return outcomes.pop()

    def _threaded(self, path: str, peer: str, metadata: tuple[tuple[str, Any], ...]) -> Code:
        pools: Any = {"data": self.pool, "control": self.pool, "streams": self.pool}
        gate = ThreadedInterceptor(self.nodes, None, pools, {}, self.refusing, self.book, OWN_ADDRESS)
        handler = grpc.unary_unary_rpc_method_handler(self._run)
        details: Any = type("Details", (), {"method": path})()
        wrapped: Any = gate.intercept_service(lambda _: handler, details)
        try:
            wrapped.unary_unary(admin_pb2.SetNodeRequest(node_id="d1"), Context(peer, metadata))
        except AbortedError as aborted:
            return aborted.code_of_ours
        return Code.OK

    def _aio(self, path: str, peer: str, metadata: tuple[tuple[str, Any], ...]) -> Code:
        async def run() -> Code:
            gate = AsyncInterceptor(self.nodes, None, self.book, OWN_ADDRESS)

            async def behavior(request: Any, context: Any) -> Any:
                return self._run(request, context)

            async def found(_: Any) -> Any:
                return grpc.unary_unary_rpc_method_handler(behavior)

            details: Any = type("Details", (), {"method": path})()
            wrapped: Any = await gate.intercept_service(found, details)
            context = AsyncContext(peer, metadata)
            try:
                await wrapped.unary_unary(admin_pb2.SetNodeRequest(node_id="d1"), context)
            except AbortedError as aborted:
                return aborted.code_of_ours
            return Code.OK

        return asyncio.run(run())

    def _run(self, request: Any, context: Any) -> admin_pb2.ActionResponse:
        self.ran += 1
        return admin_pb2.ActionResponse(code=types_pb2.ERROR_CODE_OK)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(*GIVEN_ROLES)
    yield made
    made.close()


def test_every_call_of_operators_has_a_role_and_no_other_is_listed() -> None:
    assert RPC_ROLES.keys() == METHODS


def test_a_call_that_nobody_thought_of_wants_an_admin(bench: Bench) -> None:
    assert bench.call("/quorumfs.v1.Control/NewCall", TOKENS["operator"]) is Code.PERMISSION_DENIED
    assert bench.call("/quorumfs.v1.Control/NewCall", TOKENS["admin"]) is Code.OK


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize("peer", [HERE, ELSEWHERE])
def test_no_change_is_taken_without_a_sufficient_token(bench: Bench, path: str, peer: str) -> None:
    assert bench.call(path, peer=peer) is Code.UNAUTHENTICATED
    assert bench.call(path, "qfs_010101010101_" + "0" * 64, peer=peer) is Code.UNAUTHENTICATED
    for role, token in TOKENS.items():
        expected = Code.OK if Role[role.upper()] >= RPC_ROLES[path] else Code.PERMISSION_DENIED
        assert bench.call(path, token, peer=peer) is expected, role
    allowed = sum(Role[role.upper()] >= RPC_ROLES[path] for role in TOKENS)
    assert bench.ran == 2 * allowed


@pytest.mark.parametrize("path", sorted(METHODS - set(CHANGES)))
def test_questions_are_open_here_and_want_a_token_from_elsewhere(bench: Bench, path: str) -> None:
    assert bench.call(path) is Code.OK
    is_open = RPC_ROLES[path] is Role.ANON
    assert bench.call(path, peer=ELSEWHERE) is (Code.OK if is_open else Code.UNAUTHENTICATED)
    assert bench.call(path, TOKENS["viewer"], peer=ELSEWHERE) is Code.OK


def test_the_address_on_which_a_node_listens_is_this_machine_too(bench: Bench) -> None:
    here, path = f"ipv4:{OWN_ADDRESS}:999", "/quorumfs.v1.Admin/GetMetrics"
    assert bench.call(path, peer=here) is Code.OK
    assert bench.call(CHANGES[0], peer=here) is Code.UNAUTHENTICATED


def test_nodes_prove_the_clusters_secret_instead(bench: Bench) -> None:
    proof = bench.nodes.issue("d1")
    assert bench.call(CHANGES[0], proof=proof, peer=ELSEWHERE) is Code.OK
    assert bench.call(CHANGES[0], proof=b"x" * 32, peer=ELSEWHERE) is Code.UNAUTHENTICATED


def test_while_it_is_not_known_which_tokens_there_are_nothing_is_changed() -> None:
    bench = Bench(known=False)
    assert bench.call(CHANGES[0]) is Code.UNAVAILABLE
    assert bench.call(CHANGES[0], TOKENS["admin"]) is Code.UNAVAILABLE
    assert bench.ran == 0
    bench.close()


def test_a_new_token_is_known_at_its_first_use() -> None:
    bench = Bench()
    assert bench.call(CHANGES[0]) is Code.OK, "no tokens are configured"
    bench.roles = ["admin"]
    bench.clock.advance(1.0)
    assert bench.call(CHANGES[0]) is Code.UNAUTHENTICATED
    assert bench.call(CHANGES[0], TOKENS["admin"]) is Code.OK
    bench.close()


def test_until_there_was_an_admin_tokens_are_made_here_without_one() -> None:
    bench = Bench("viewer", "operator")
    assert bench.call(FOUNDING_RPC) is Code.OK
    assert bench.call(FOUNDING_RPC, peer=ELSEWHERE) is Code.UNAUTHENTICATED
    assert bench.call(FOUNDING_RPC, TOKENS["operator"]) is Code.PERMISSION_DENIED
    for path in CHANGES:
        assert (bench.call(path) is Code.OK) == (path == FOUNDING_RPC)
    bench.roles, bench.revoked = ["viewer", "admin"], {"admin"}
    bench.clock.advance(1.0)
    assert bench.call(FOUNDING_RPC) is Code.UNAUTHENTICATED, "there was one, if it is revoked by now"
    bench.close()


def test_the_first_token_is_not_made_from_another_machine() -> None:
    """In mode `insecure` strangers reach the port: they do not take over."""
    bench = Bench()
    assert bench.call(FOUNDING_RPC, peer=ELSEWHERE) is Code.UNAUTHENTICATED
    assert bench.ran == 0
    proof = bench.nodes.issue("operator")
    assert bench.call(FOUNDING_RPC, proof=proof, peer=ELSEWHERE) is Code.OK
    assert bench.call(FOUNDING_RPC) is Code.OK
    bench.close()


def test_until_there_are_tokens_no_change_is_taken_from_another_machine_and_every_question_is() -> None:
    """As over HTTP. This machine calls from loopback, or from the address where the node listens."""
    bench = Bench()
    for path in CHANGES:
        assert bench.call(path, peer=ELSEWHERE) is Code.UNAUTHENTICATED, path
    assert bench.ran == 0
    proof = bench.nodes.issue("d1")
    for path in CHANGES:
        assert bench.call(path, proof=proof, peer=ELSEWHERE) is Code.OK, path
        assert bench.call(path) is Code.OK, path
        assert bench.call(path, peer=f"ipv4:{OWN_ADDRESS}:5") is Code.OK, path
    for path in METHODS - set(CHANGES):
        assert bench.call(path, peer=ELSEWHERE) is Code.OK, path
    bench.close()


def test_other_services_have_their_own_rules(bench: Bench) -> None:
    door = Door(bench.book, bench.nodes)
    context = Context(ELSEWHERE, ())
    assert door.admit("/quorumfs.v1.Namespace/Stat", context) is None
    assert not door.wants_refresh("/quorumfs.v1.Namespace/Stat", context)


@pytest.mark.parametrize(
    ("peer", "address", "local"),
    [
        ("ipv4:127.0.0.1:5", "127.0.0.1", True),
        ("ipv6:%5B::1%5D:5", "::1", True),
        ("ipv6:[::ffff:127.0.0.1]:5", "::ffff:127.0.0.1", True),
        ("ipv4:10.0.0.9:5", "10.0.0.9", False),
        ("unix:", "unix", True),
        ("", "", False),
        ("odd", "", False),
    ],
)
def test_where_a_caller_is(peer: str, address: str, local: bool) -> None:
    assert (address_of(peer), is_local(address_of(peer))) == (address, local)


def test_who_did_what_from_where_and_what_came_of_it_is_logged(bench: Bench) -> None:
    with structlog.testing.capture_logs() as events:
        bench.call("/quorumfs.v1.Control/SetNode", TOKENS["operator"], peer=ELSEWHERE)
        bench.call("/quorumfs.v1.Control/SetNode", TOKENS["viewer"], peer=ELSEWHERE)
    told = [one for one in events if one["event"].startswith("rpc.change")]
    assert [one["event"] for one in told] == ["rpc.changed"] * 2 + [
        "rpc.change_refused"
    ] * 2  # of either form
    assert (told[0]["method"], told[0]["what"]) == ("SetNode", 'node_id: "d1"')
    assert (told[0]["principal"][:9], told[0]["address"], told[0]["result"]) == (
        "operator/",
        "10.1.2.3",
        "ok",
    )
    assert told[2]["result"] == "permission_denied"


def test_a_refusal_within_an_answer_is_told_as_one() -> None:
    refused = admin_pb2.ActionResponse(code=types_pb2.ErrorCode.ValueType(Code.SAFETY_GUARD))
    assert told_result(refused) == "safety_guard"
    inner = admin_pb2.GcReport(
        error=types_pb2.ErrorDetail(code=types_pb2.ErrorCode.ValueType(Code.NO_LEADER))
    )
    assert told_result(inner) == "no_leader"
    assert told_result(admin_pb2.LogLevel()) == "ok"
    newer = admin_pb2.ActionResponse()
    newer.code = 999  # type: ignore[assignment]
    assert told_result(newer) == "code_999"
