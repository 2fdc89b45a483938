"""Proof of the cluster's secret: the file, the proofs, and the channels that carry a token."""

from __future__ import annotations

import hmac
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from quorumfs.errors import InvalidArgumentError, PermissionDeniedError, UnauthenticatedError
from quorumfs.rpc.trust import TOKEN_METADATA, TrustedChannels, proof, read_secret, write_secret
from quorumfs.v1 import membership_pb2
from tests.unit.quorumfs.fakes import FakeRpcError

SECRET = bytes(range(32))


def secret_file(path: Path, text: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(text)
    path.chmod(mode)
    return path


def test_a_secret_that_was_written_is_read_back_and_nobody_else_may_look(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    made = write_secret(path)
    assert read_secret(path) == made
    assert len(made) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write_secret(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o610])
def test_a_secret_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(PermissionDeniedError, match="not secret"):
        read_secret(secret_file(tmp_path / "s", SECRET.hex().encode(), mode))


@pytest.mark.parametrize("text", [b"", b"ab" * 31, b"xy" * 32, b"abc" * 21, SECRET, b"\xff" * 64])
def test_a_secret_that_is_short_or_not_hexadecimal_is_refused(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(InvalidArgumentError):
        read_secret(secret_file(tmp_path / "s", text))


def test_a_secret_that_is_missing_or_a_directory_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InvalidArgumentError):
            read_secret(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_secret_of_another_user_is_refused(tmp_path: Path) -> None:
    path = secret_file(tmp_path / "s", SECRET.hex().encode())
    os.chown(path, 12345, 12345)
    if os.geteuid() == 0:
        with pytest.raises(PermissionDeniedError, match="another user"):
            read_secret(path)


def test_every_part_changes_the_proof() -> None:
    base = (SECRET, "server", b"c" * 32, b"s" * 32, "d1")
    others = [
        (b"x" * 32, *base[1:]),
        (SECRET, "client", *base[2:]),
        (*base[:2], b"C" * 32, *base[3:]),
        (*base[:3], b"S" * 32, "d1"),
        (*base[:4], "d2"),
        (SECRET, "server", b"c" * 31, b"c" + b"s" * 32, "d1"),
    ]
    proofs = {proof(*parts) for parts in [base, *others]}  # type: ignore[arg-type]  side is a literal
    assert len(proofs) == 7
    assert all(len(made) == 32 for made in proofs)


class Server:
    """The serving half, behind a fake channel; `tokens` is what it remembers."""

    def __init__(self, secret: bytes = SECRET) -> None:
        self.secret = secret
        self.tokens: set[bytes] = set()
        self.nonce = b""
        self.handshakes = 0
        self.calls = 0

    def hello(self, request: Any) -> Any:
        self.nonce = bytes([self.handshakes]) * 32
        made = proof(self.secret, "server", request.nonce, self.nonce, "d1")
        self.client_nonce = request.nonce
        return membership_pb2.HelloResponse(node_id="d1", nonce=self.nonce, proof=made)

    def prove(self, request: Any) -> Any:
        expected = proof(self.secret, "client", self.client_nonce, self.nonce, "d1")
        if not hmac.compare_digest(request.proof, expected):
            return membership_pb2.ProveResponse(error="that is not the secret")
        self.handshakes += 1
        token = b"token-%d" % self.handshakes
        self.tokens.add(token)
        return membership_pb2.ProveResponse(token=token)

    def check(self, metadata: Any) -> None:
        self.calls += 1
        if dict(metadata).get(TOKEN_METADATA) not in self.tokens:
            raise FakeRpcError(grpc.StatusCode.UNAUTHENTICATED, "who are you")


class Outcome:
    """What a unary call gives an interceptor: it is done."""

    def __init__(self, value: Any = None, error: FakeRpcError | None = None) -> None:
        self.value, self.error = value, error

    def done(self) -> bool:
        return True

    def code(self) -> grpc.StatusCode:
        return self.error.code() if self.error else grpc.StatusCode.OK

    def result(self, timeout: float | None = None) -> Any:
        if self.error:
            raise self.error
        return self.value

    def add_done_callback(self, callback: Any) -> None:
        callback(self)


class Stream(Outcome):
    def __init__(self, server: Server, metadata: Any) -> None:
        super().__init__()
        self._parts = self._run(server, metadata)

    def _run(self, server: Server, metadata: Any) -> Iterator[int]:
        try:
            server.check(metadata)
        except FakeRpcError as error:
            self.error = error
            raise
        yield from (1, 2, 3)

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> int:
        return next(self._parts)


class FakeChannel(grpc.Channel):
    """Just enough of a channel for `grpc.intercept_channel`."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        server = self.server

        class Callable:
            def __call__(self, request: Any, timeout: Any = None, metadata: Any = (), **_: Any) -> Any:
                return self.with_call(request, timeout, metadata)[0]

            def with_call(self, request: Any, timeout: Any = None, metadata: Any = (), **_: Any) -> Any:
                if method.endswith("/Hello"):
                    return server.hello(request), Outcome()
                if method.endswith("/Prove"):
                    return server.prove(request), Outcome()
                server.check(metadata or ())
                return f"done {request}", Outcome()

        return Callable()

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return lambda request, metadata=(), **_: Stream(self.server, metadata)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        server = self.server

        class Callable:
            def future(self, requests: Any, metadata: Any = (), **_: Any) -> Any:
                try:
                    server.check(metadata)
                except FakeRpcError as error:
                    return Outcome(error=error)
                return Outcome(sum(requests))

        return Callable()

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def subscribe(self, callback: Any, try_to_connect: bool | None = False) -> None:
        raise NotImplementedError

    def unsubscribe(self, callback: Any) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass

    def __enter__(self) -> FakeChannel:
        return self

    def __exit__(self, *args: Any) -> None:
        pass


def trusted(server: Server, secret: bytes = SECRET) -> grpc.Channel:
    channels = TrustedChannels(secret, "d2", lambda n: b"r" * n, opener=lambda *_: FakeChannel(server))
    return channels.get("d1:1")


def test_the_first_call_proves_the_secret_and_the_next_use_the_token() -> None:
    server = Server()
    call: Any = trusted(server).unary_unary("/x/Y")
    assert call(1) == "done 1"
    assert call(2) == "done 2"
    assert server.handshakes == 1


def test_a_server_that_restarted_is_proven_to_again_and_the_call_succeeds() -> None:
    server = Server()
    call: Any = trusted(server).unary_unary("/x/Y")
    call(1)
    server.tokens.clear()
    assert call(2) == "done 2"
    assert server.handshakes == 2


def test_a_server_that_never_accepts_ends_after_one_more_try() -> None:
    server = Server()
    call: Any = trusted(server).unary_unary("/x/Y")

    class Forgetful(set[bytes]):
        def add(self, _: bytes) -> None:
            pass

    server.tokens = Forgetful()
    with pytest.raises(grpc.RpcError):
        call(1)
    assert server.calls == 2


def test_a_stranger_gets_no_proof() -> None:
    server = Server(b"another secret, not the cluster's")
    call: Any = trusted(server).unary_unary("/x/Y")
    with pytest.raises(UnauthenticatedError, match="not a node of this cluster"):
        call(1)
    assert server.handshakes == 0
    assert server.calls == 0


def test_a_client_without_the_secret_is_told_so() -> None:
    server = Server()

    class Careless(Server):
        def hello(self, request: Any) -> Any:
            answer = super().hello(request)
            answer.proof = proof(b"y" * 32, "server", request.nonce, self.nonce, "d1")
            return answer

    server = Careless()
    call: Any = trusted(server, b"y" * 32).unary_unary("/x/Y")
    with pytest.raises(UnauthenticatedError, match="did not accept"):
        call(1)


def test_a_streamed_answer_is_asked_for_again_after_a_restart() -> None:
    server = Server()
    call: Any = trusted(server).unary_stream("/x/Y")
    assert list(call(1)) == [1, 2, 3]
    server.tokens.clear()
    assert list(call(1)) == [1, 2, 3]
    assert server.handshakes == 2


def test_a_streamed_request_fails_once_and_the_next_proves_again() -> None:
    server = Server()
    call: Any = trusted(server).stream_unary("/x/Y")
    assert call.future(iter([1, 2])).result() == 3
    server.tokens.clear()
    with pytest.raises(grpc.RpcError):
        call.future(iter([1, 2])).result()
    assert call.future(iter([1, 2])).result() == 3


def test_threads_that_start_together_share_one_handshake() -> None:
    server = Server()
    call: Any = trusted(server).unary_unary("/x/Y")
    threads = [threading.Thread(target=call, args=(n,), daemon=True) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert server.handshakes == 1
    assert server.calls == 8
