"""Next nodes of a pipeline without sockets: channels whose calls behave as a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from quorumfs.checksum import block_checksums, crc32c
from quorumfs.frames import encode_end, encode_frame, encode_open
from quorumfs.limits import MIB
from quorumfs.v1.chunks_pb2 import WriteOpen, WriteResponse
from quorumfs.v1.types_pb2 import ChunkBirth, NodeAddress, ReplicaAck

CHUNK = b"c" * 16


def address(name: str, port: int = 7500) -> NodeAddress:
    return NodeAddress(node_id=name, grpc=f"{name}.example:{port}")


class BrokenCall(grpc.RpcError):
    """A call that ended with a status."""

    def __init__(self, status: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        super().__init__()
        self._status = status

    def code(self) -> grpc.StatusCode:
        return self._status

    def details(self) -> str:
        return "broken"

    def trailing_metadata(self) -> tuple[()]:
        return ()


class Row:
    """The row behind, as one node: takes `takes` messages (None: all), then stops, fails, or answers. Before each it
    rests for `pause_seconds`."""

    def __init__(
        self,
        *names: str,
        takes: int | None = None,
        fails: bool = False,
        answers: bool = True,
        pause_seconds: float = 0.0,
    ) -> None:
        self.pause_seconds = pause_seconds
        self.names = names
        self.takes = takes
        self.fails = fails
        self.answers = answers
        self.taken: list[bytes] = []
        self.cancelled = False
        self.ended = threading.Event()
        self._error: Exception | None = None

    # The part of gRPC's future that a Forward uses.

    def future(self, messages: Iterator[bytes], timeout: float) -> Row:
        threading.Thread(target=self._consume, args=(messages,), daemon=True).start()
        return self

    def _consume(self, messages: Iterator[bytes]) -> None:
        if self.takes is not None:
            for _ in range(self.takes):
                self.taken.append(next(messages))
            if self.fails:
                self._end(BrokenCall())
            return
        for message in messages:
            self.ended.wait(self.pause_seconds)
            self.taken.append(message)
        if self.answers:
            self._end(None)

    def _end(self, error: Exception | None) -> None:
        self._error = error
        self.ended.set()

    def done(self) -> bool:
        return self.ended.is_set()

    def cancel(self) -> None:
        if not self.ended.is_set():
            self.cancelled = True
            self._end(grpc.FutureCancelledError())

    def result(self, timeout: float | None = None) -> WriteResponse:
        if not self.ended.wait(timeout):
            raise grpc.FutureTimeoutError
        if self._error is not None:
            raise self._error
        return WriteResponse(replicas=[ReplicaAck(node_id=name, durable=True) for name in self.names])


class OneMessage:
    """A call to the row with one message."""

    def __init__(self, row: Row) -> None:
        self._row = row

    def future(self, message: bytes, timeout: float) -> Row:
        return self._row.future(iter([message]), timeout)


class RowChannels:
    """A ChannelSource of one row."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.asked: list[str] = []

    def get(self, address: str) -> Any:
        self.asked.append(address)
        return self

    def stream_unary(self, method: str, **_: object) -> Any:
        return self.row

    def unary_unary(self, method: str, **_: object) -> Any:
        return OneMessage(self.row)

    def drop(self, address: str) -> None: ...

    def close(self) -> None: ...


def opening(*behind: str, min_replicas: int = 1, size_hint: int = 0, chunk: bytes = CHUNK) -> bytes:
    return encode_open(
        WriteOpen(
            chunk=chunk,
            upload=b"u" * 16,
            birth=ChunkBirth(history=1, index=7, cluster_ms=9),
            pipeline=[address(name) for name in behind],
            min_replicas=min_replicas,
            size_hint=size_hint,
        )
    )


def frames(data: bytes, step: int = MIB) -> list[bytes]:
    return [
        encode_frame(at, data[at : at + step], block_checksums(data[at : at + step]))
        for at in range(0, len(data), step)
    ]


def ending(data: bytes) -> bytes:
    return encode_end(len(data), crc32c(data))


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    pause = threading.Event()
    for _ in range(int(seconds / 0.005)):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("the condition did not come true in time")
