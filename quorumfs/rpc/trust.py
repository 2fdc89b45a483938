"""The calling half of mutual trust between nodes: proof of the cluster's secret, once per channel.

1. Hello(my id, my nonce) -> (server's id, its nonce, its proof). The server's proof is checked first, in
   constant time: nothing is proven to a stranger that only listens.
2. Prove(my id, its nonce, my proof) -> a token, kept in memory on both sides. The secret never travels.
3. Every call on the channel carries the token as metadata. A server that restarted does not know it:
   UNAUTHENTICATED, and the channel proves itself once more.

Both proofs are HMAC-SHA256 over the side, both nonces and the server's id, each with its length before it,
so that no proof can be taken for another.
"""

from __future__ import annotations

import hmac
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import grpc

from quorumfs.errors import (
    InvalidArgumentError,
    PermissionDeniedError,
    TimedOutError,
    UnauthenticatedError,
)
from quorumfs.limits import RPC_DEADLINE_SECONDS
from quorumfs.mint import RandomBytes, system_random
from quorumfs.rpc.channels import Channels, Opener, open_channel
from quorumfs.v1 import membership_pb2, membership_pb2_grpc

TOKEN_METADATA = "quorumfs-node-token-bin"
NONCE_BYTES = 32
SECRET_BYTES_MIN = 32
STREAM_PROOF_SECONDS = 1.0
_SECRET_FILE_BYTES_MAX = 4096

Side = Literal["server", "client"]


def read_secret(path: str | os.PathLike[str]) -> bytes:
    """The cluster's secret from its file: at least 64 hexadecimal digits on one line.

    Raises PermissionDeniedError when group or others may read the file, or it belongs to neither this user
    nor root; InvalidArgumentError when it is missing, not a plain file, or not such a line.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            raw = file.read(_SECRET_FILE_BYTES_MAX)
    except OSError as error:
        raise InvalidArgumentError(f"the cluster's secret {path} cannot be read", cause=str(error)) from error
    _check_owner(path, status)
    try:
        secret = bytes.fromhex(raw.decode("ascii").strip())
    except (UnicodeDecodeError, ValueError):
        raise InvalidArgumentError(
            f"the cluster's secret {path} is not valid", cause="it is not one line of hexadecimal digits"
        ) from None
    if len(secret) < SECRET_BYTES_MIN:
        raise InvalidArgumentError(
            f"the cluster's secret {path} is too short",
            cause=f"{len(secret)} bytes; at least {SECRET_BYTES_MIN} (64 hexadecimal digits) are asked for",
        )
    return secret


def write_secret(path: str | os.PathLike[str], random: RandomBytes = system_random) -> bytes:
    """Make a new secret in a new file of mode 0600, durable on return. Raises FileExistsError."""
    secret = random(SECRET_BYTES_MIN)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(secret.hex().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    directory = os.open(Path(path).absolute().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return secret


def proof(secret: bytes, side: Side, client_nonce: bytes, server_nonce: bytes, server_id: str) -> bytes:
    """What `side` shows to prove that it knows `secret`: 32 bytes. Compare with `hmac.compare_digest`."""
    parts = (b"quorumfs-trust-1", side.encode(), client_nonce, server_nonce, server_id.encode())
    text = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hmac.digest(secret, text, "sha256")


class TrustedChannels:
    """Like Channels, but every call proves that it comes from the node `node_id` of this cluster.

    Unary calls are repeated once after UNAUTHENTICATED, and so are calls with a streamed answer when it is
    refused at its first message. A streamed request cannot be sent again: it fails, and the next one proves.
    Raises UnauthenticatedError when the other side does not know the secret. Any thread may call.
    """

    def __init__(
        self,
        secret: bytes,
        node_id: str,
        random: RandomBytes = system_random,
        credentials: grpc.ChannelCredentials | None = None,
        opener: Opener = open_channel,
    ) -> None:
        def trusted(address: str, given: grpc.ChannelCredentials | None) -> grpc.Channel:
            channel = opener(address, given)
            stub = membership_pb2_grpc.TrustStub(channel)
            return grpc.intercept_channel(
                channel, _TokenInterceptor(_Prover(stub, address, secret, node_id, random))
            )

        self._channels = Channels(credentials, trusted)

    def get(self, address: str) -> grpc.Channel:
        """The channel to `address`; it proves itself at its first call."""
        return self._channels.get(address)

    def drop(self, address: str) -> None:
        """Close the channel to `address` and forget its token."""
        self._channels.drop(address)

    def close(self) -> None:
        """Close all. May be called again."""
        self._channels.close()


class _Prover:
    """Holds one channel's token and gets a new one; threads that need one at once share one handshake."""

    def __init__(
        self,
        stub: membership_pb2_grpc.TrustStub,
        address: str,
        secret: bytes,
        node_id: str,
        random: RandomBytes,
    ) -> None:
        self._stub = stub
        self._address = address
        self._secret = secret
        self._node_id = node_id
        self._random = random
        self._token: bytes | None = None
        self._lock = threading.Lock()

    def token(self, seconds: float | None) -> bytes:
        """The token, after a handshake if there is none, which takes at most `seconds`, the call's own limit.

        Raises grpc.RpcError, UnauthenticatedError, TimedOutError.
        """
        until = time.monotonic() + min(seconds or RPC_DEADLINE_SECONDS, RPC_DEADLINE_SECONDS)
        if not self._lock.acquire(timeout=max(0.0, until - time.monotonic())):
            raise TimedOutError(f"{self._address} was not called", cause="it has not answered a handshake")
        try:
            if self._token is None:
                self._token = self._handshake(until)
            return self._token
        finally:
            self._lock.release()

    def refused(self, token: bytes) -> None:
        """The server does not know `token`: the next `token()` gets a new one."""
        with self._lock:
            if self._token == token:
                self._token = None

    def _handshake(self, until: float) -> bytes:
        nonce = self._random(NONCE_BYTES)
        hello = self._stub.Hello(
            membership_pb2.HelloRequest(node_id=self._node_id, nonce=nonce),
            timeout=max(0.0, until - time.monotonic()),
        )
        expected = proof(self._secret, "server", nonce, hello.nonce, hello.node_id)
        if len(hello.nonce) != NONCE_BYTES or not hmac.compare_digest(hello.proof, expected):
            raise UnauthenticatedError(
                f"{self._address} is not a node of this cluster",
                cause=f"{hello.node_id or 'it'} does not prove the cluster's secret",
                next="compare cluster.secret_file on both nodes",
            )
        mine = proof(self._secret, "client", nonce, hello.nonce, hello.node_id)
        answer = self._stub.Prove(
            membership_pb2.ProveRequest(node_id=self._node_id, server_nonce=hello.nonce, proof=mine),
            timeout=max(0.0, until - time.monotonic()),
        )
        if not answer.token:
            raise UnauthenticatedError(
                f"{self._address} did not accept this node's proof of the cluster's secret",
                cause=answer.error or "it gave no reason",
            )
        return answer.token


class _CallDetails(NamedTuple):
    method: str
    timeout: float | None
    metadata: Any
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: Any


class _Details(_CallDetails, grpc.ClientCallDetails):
    pass


class _TokenInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    def __init__(self, prover: _Prover) -> None:
        self._prover = prover

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        token = self._prover.token(client_call_details.timeout)
        call = continuation(_with_token(client_call_details, token), request)
        if not call.done():  # a future under way: it cannot be repeated in here
            return self._watch(call, token)
        if call.code() is not grpc.StatusCode.UNAUTHENTICATED:
            return call
        self._prover.refused(token)
        return continuation(
            _with_token(client_call_details, self._prover.token(client_call_details.timeout)), request
        )

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        token = self._prover.token(client_call_details.timeout)
        call = continuation(_with_token(client_call_details, token), request)

        def again() -> Any:
            self._prover.refused(token)
            return continuation(
                _with_token(client_call_details, self._prover.token(client_call_details.timeout)), request
            )

        return _RepeatableStream(call, again)

    def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        token = self._prover.token(client_call_details.timeout)
        return self._watch(continuation(_with_token(client_call_details, token), request_iterator), token)

    def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        # A stream has no limit as a whole. Who waits for its first answer must not wait longer for the proof alone.
        token = self._prover.token(client_call_details.timeout or STREAM_PROOF_SECONDS)
        return self._watch(continuation(_with_token(client_call_details, token), request_iterator), token)

    def _watch(self, call: Any, token: bytes) -> Any:
        def ended(_: object = None) -> None:
            if call.code() is grpc.StatusCode.UNAUTHENTICATED:
                self._prover.refused(token)

        if call.done():
            ended()
        else:
            call.add_done_callback(ended)
        return call


class _RepeatableStream:
    """A call with a streamed answer, begun once more when it is refused before its first message."""

    def __init__(self, call: Any, again: Callable[[], Any]) -> None:
        self._call = call
        self._again: Callable[[], Any] | None = again

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        again, self._again = self._again, None
        try:
            return next(self._call)
        except grpc.RpcError:
            if again is None or self._call.code() is not grpc.StatusCode.UNAUTHENTICATED:
                raise
        self._call = again()
        return next(self._call)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


def _with_token(details: Any, token: bytes) -> _Details:
    metadata = [*(details.metadata or ()), (TOKEN_METADATA, token)]
    return _Details(
        details.method,
        details.timeout,
        metadata,
        details.credentials,
        getattr(details, "wait_for_ready", None),
        getattr(details, "compression", None),
    )


def _check_owner(path: str | os.PathLike[str], status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise InvalidArgumentError(f"the cluster's secret {path} is not a plain file")
    if status.st_mode & 0o077:
        raise PermissionDeniedError(
            f"the cluster's secret {path} is not secret",
            cause=f"mode {stat.S_IMODE(status.st_mode):04o} lets group or others at it",
            next=f"chmod 600 {path}",
        )
    if status.st_uid not in (0, os.geteuid()):
        raise PermissionDeniedError(
            f"the cluster's secret {path} belongs to another user",
            cause=f"its owner is uid {status.st_uid}",
            next="run this as the file's owner, or as root with a file of root's own",
        )
