"""Chunks on this machine, read from the disk: how their open files are got from the datanode that has them.

A *door* is the connection to one datanode's socket. `ShortCircuit.open` gives an open chunk, or None: then the
chunk is read over gRPC. Nothing here raises, and what failed is left alone for a while (docs/decisions/0007).
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import lru_cache
from typing import Any

import grpc

from quorumfs import descriptors, limits
from quorumfs.checksum import compose
from quorumfs.clock import Clock, SystemClock
from quorumfs.descriptors import Opened
from quorumfs.errors import InvalidArgumentError, QuorumFSError
from quorumfs.mint import RandomBytes, system_random
from quorumfs.open_chunks import OpenChunk, OpenChunks
from quorumfs.rpc.channels import ChannelSource
from quorumfs.rpc.trust import proof
from quorumfs.v1 import chunks_pb2, namespace_pb2

SHORT_CIRCUIT_VARIABLE = "QUORUMFS_SHORT_CIRCUIT"
_ASK = "/quorumfs.v1.Chunks/GetShortCircuit"


class _ClosedError(Exception):
    """There is no way through this door. `seconds`: how long not to try again."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class ShortCircuit:
    """The doors of a client. Any thread may call."""

    def __init__(
        self,
        channels: ChannelSource,
        *,
        host: str,
        connect: Callable[[bytes], socket.socket] | None = None,
        clock: Clock | None = None,
        random: RandomBytes = system_random,
        chunks: OpenChunks | None = None,
    ) -> None:
        self._channels = channels
        self._host = host
        self._connect = connect or connect_abstract
        self._clock = clock or SystemClock()
        self._random = random
        self._chunks = chunks or OpenChunks(self._clock)
        self._doors: dict[str, _Door] = {}
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def may_have(self, replica: namespace_pb2.ReplicaLocation) -> bool:
        """Whether the node of `replica` seems to be on this machine."""
        return (replica.host == self._host and bool(self._host)) or is_loopback(replica.grpc)

    def open(
        self, replica: namespace_pb2.ReplicaLocation, chunk: namespace_pb2.ChunkLocation
    ) -> AbstractContextManager[OpenChunk | None]:
        """For a with-statement: the open file of `chunk` on the node of `replica`; None if it is to be read over gRPC.

        What it reads matches checksums that compose to the one in the metadata.
        """
        if not self.may_have(replica) or os.getpid() != self._pid:  # in a fork the doors are the parent's
            return nullcontext()
        return self._chunks.use((replica.grpc, chunk.chunk), lambda: self._ask(replica.grpc, chunk))

    def drop(self, replica: namespace_pb2.ReplicaLocation, chunk: namespace_pb2.ChunkLocation) -> None:
        """The file was not good: do not use it again."""
        self._chunks.drop((replica.grpc, chunk.chunk))

    def close(self) -> None:
        """Close all connections and files. May be called again."""
        with self._lock:
            doors, self._doors = list(self._doors.values()), {}
        for door in doors:
            door.close()
        self._chunks.close()

    def _ask(self, address: str, chunk: namespace_pb2.ChunkLocation) -> tuple[int, Opened] | None:
        with self._lock:
            door = self._doors.setdefault(address, _Door())
        with door.lock:
            if door.closed_until > self._clock.monotonic():
                return None
            try:
                got = self._pass(door, address, chunk.chunk)
            except (_ClosedError, OSError, InvalidArgumentError) as error:
                door.close()
                seconds = getattr(error, "seconds", limits.SHORT_CIRCUIT_RETRY_SECONDS)
                door.closed_until = self._clock.monotonic() + seconds
                return None
        if got is None:
            return None
        fd, opened = got
        if opened.length == chunk.length and compose(opened.table, opened.length) == chunk.checksum:
            return got
        os.close(fd)
        return None

    def _pass(self, door: _Door, address: str, chunk: bytes) -> tuple[int, Opened] | None:
        """One question and its answer; a connection that the other side had closed is made anew, once."""
        if door.connection is not None:
            with suppress(ConnectionError, _ClosedError):
                return _receive(door.connection, chunk)
            door.close()
        door.connection = self._enter(address)
        return _receive(door.connection, chunk)

    def _enter(self, address: str) -> socket.socket:
        """A connection on which both sides have proven themselves."""
        told = self._told(address)
        connection = self._connect(told.socket)
        try:
            connection.settimeout(limits.SHORT_CIRCUIT_SECONDS)
            nonce = self._random(descriptors.NONCE_BYTES)
            connection.sendall(told.ticket + nonce)
            answer = connection.recv(descriptors.ANSWER_BYTES)
            other = answer[: descriptors.NONCE_BYTES]
            name = told.socket.hex()
            if not hmac.compare_digest(
                answer[descriptors.NONCE_BYTES :], proof(told.key, "server", nonce, other, name)
            ):
                raise _ClosedError(limits.SHORT_CIRCUIT_RETRY_SECONDS)
            connection.sendall(proof(told.key, "client", nonce, other, name))
        except BaseException:
            connection.close()
            raise
        return connection

    def _told(self, address: str) -> chunks_pb2.GetShortCircuitResponse:
        """Where the node's socket is, as it says itself."""
        try:
            ask: Any = self._channels.get(address).unary_unary(
                _ASK,
                request_serializer=chunks_pb2.GetShortCircuitRequest.SerializeToString,
                response_deserializer=chunks_pb2.GetShortCircuitResponse.FromString,
            )
            told: chunks_pb2.GetShortCircuitResponse = ask(
                chunks_pb2.GetShortCircuitRequest(), timeout=limits.SHORT_CIRCUIT_SECONDS
            )
        except grpc.RpcError as error:
            unknown = error.code() is grpc.StatusCode.UNIMPLEMENTED  # a node of an older version
            raise _ClosedError(
                limits.SHORT_CIRCUIT_OFF_SECONDS if unknown else limits.SHORT_CIRCUIT_RETRY_SECONDS
            ) from error
        except (QuorumFSError, ValueError) as error:  # the channel was closed
            raise _ClosedError(limits.SHORT_CIRCUIT_RETRY_SECONDS) from error
        if not told.socket or len(told.ticket) != descriptors.TICKET_BYTES:
            raise _ClosedError(limits.SHORT_CIRCUIT_OFF_SECONDS)
        return told


class _Door:
    """One datanode's. `lock` is held while a question is under way: each has one answer."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.connection: socket.socket | None = None
        self.closed_until = float("-inf")

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()


def connect_abstract(name: bytes) -> socket.socket:
    """A connection to the abstract Unix socket `name`. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(limits.SHORT_CIRCUIT_SECONDS)
        connection.connect(b"\0" + name)
    except BaseException:
        connection.close()
        raise
    return connection


def wanted(given: bool | None, environment: str) -> bool:
    """Whether to try at all: what the program says, else the environment ("off", "0", "no", "false"), else yes."""
    return environment.strip().lower() not in ("off", "0", "no", "false") if given is None else given


@lru_cache(maxsize=1024)
def is_loopback(address: str) -> bool:
    """Whether `host:port` is an address of this machine's own."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _receive(connection: socket.socket, chunk: bytes) -> tuple[int, Opened] | None:
    """Ask for `chunk`; its descriptor and what goes with it, None if it was refused. Raises OSError."""
    connection.sendall(chunk)
    raw, fds, flags, _ = socket.recv_fds(
        connection, descriptors.REPLY_BYTES_MAX + 1, 1, socket.MSG_CMSG_CLOEXEC
    )
    try:
        if not raw or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise _ClosedError(limits.SHORT_CIRCUIT_RETRY_SECONDS)
        opened = descriptors.decode_reply(raw)
        if opened is None:
            return None
        if len(fds) != 1:
            raise _ClosedError(limits.SHORT_CIRCUIT_RETRY_SECONDS)
        return fds.pop(), opened
    finally:
        for fd in fds:
            os.close(fd)
