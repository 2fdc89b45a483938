"""Batches over streams: a batch costs one message each way and no call, half of what a call costs a server.

1. A lane has one batch under way: what comes after it was written is its answer. Different lanes have
   different streams, and each stream one writer.
2. Whatever goes wrong in an exchange ends its stream, so that no late answer is taken for the next one's.
   What failed looks like a failed unary call: who follows the leader repeats the same bytes elsewhere.
3. A server that has no streams is asked by unary calls from then on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Protocol

import grpc

from quorumfs.errors import UnavailableError
from quorumfs.rpc.broken import BrokenStreamError
from quorumfs.rpc.channels import ChannelSource
from quorumfs.rpc.direct_stream import open_direct
from quorumfs.rpc.status import status_of
from quorumfs.watchdog import Watchdog

Unary = Callable[[str, str, bytes, float], bytes]
"""One unary call (address, path, request, seconds) of serialized messages."""


class Wire(Protocol):
    """A stream of gRPC's: one exchange at a time, in one thread."""

    def is_active(self) -> bool:
        """Whether it has not ended, as far as is known here."""
        ...

    def ask(self, raw: bytes) -> bytes | None:
        """The answer to `raw`; None when the server has ended the stream. Raises grpc.RpcError."""
        ...

    def cancel(self) -> object:
        """End the call, from any thread."""
        ...

    def close(self) -> None:
        """End the call and give back what it holds, from any thread."""
        ...


class FedStream:
    """A stream of the public kind: a thread of gRPC's waits for the next request, another for its answer."""

    def __init__(self, channel: Any, path: str, metadata: Sequence[tuple[str, str]]) -> None:
        self._requests: SimpleQueue[bytes | None] = SimpleQueue()
        begin: Any = channel.stream_stream(path, request_serializer=None, response_deserializer=None)
        self._call: Any = begin(iter(self._requests.get, None), metadata=metadata)
        self.is_active: Callable[[], bool] = self._call.is_active
        self.cancel: Callable[[], object] = self._call.cancel

    def ask(self, raw: bytes) -> bytes | None:
        self._requests.put(raw)
        answer: bytes | None = next(self._call, None)
        return answer

    def close(self) -> None:
        self.cancel()
        self._requests.put(None)


@dataclass(eq=False, frozen=True, slots=True)
class _Stream:
    address: str
    channel: Any
    wire: Wire


class BatchStreams:
    """The open streams of one client. A lane is used by one thread at a time; different lanes by several."""

    def __init__(
        self,
        channels: ChannelSource,
        unary: Unary,
        metadata: Sequence[tuple[str, str]] = (),
        watchdog: Watchdog | None = None,
    ) -> None:
        self._channels = channels
        self._unary = unary
        self._metadata = metadata
        self._watchdog = watchdog or Watchdog()
        self._streams: dict[tuple[str, int], _Stream] = {}
        self._without: set[str] = set()  # addresses that serve no streams
        self._lock = threading.Lock()
        self._closed = False

    def exchange(self, lane: int, address: str, path: str, raw: bytes, timeout: float) -> bytes:
        """The answer to `raw` of the unary call `path`, over its streamed sister `path` + "Stream".

        Raises grpc.RpcError like a unary call with that timeout, UnavailableError when closed.
        """
        if address in self._without:
            return self._unary(address, path, raw, timeout)
        stream = self._open(lane, address, path)
        try:
            return self._ask(stream, raw, timeout)
        except grpc.RpcError as error:
            self._drop(lane, path, stream)
            if status_of(error) is not grpc.StatusCode.UNIMPLEMENTED:
                raise
        except BaseException:
            self._drop(lane, path, stream)
            raise
        self._without.add(address)
        return self._unary(address, path, raw, timeout)

    def close(self) -> None:
        """End all streams; what is under way fails. May be called again."""
        with self._lock:
            self._closed = True
            streams = list(self._streams.values())
            self._streams.clear()
        for stream in streams:
            stream.wire.close()
        self._watchdog.close()

    def _open(self, lane: int, address: str, path: str) -> _Stream:
        channel = self._channels.get(address)
        with self._lock:
            kept = self._streams.get((path, lane))
        if kept is not None:
            if kept.address == address and kept.channel is channel and kept.wire.is_active():
                return kept
            self._drop(lane, path, kept)
        made = _begin(channel, address, path, self._metadata)
        with self._lock:
            if not self._closed:
                self._streams[path, lane] = made
                return made
        made.wire.close()
        raise UnavailableError(f"no call to {address}", cause="the connections were closed")

    def _ask(self, stream: _Stream, raw: bytes, timeout: float) -> bytes:
        with self._watchdog.limit(timeout, stream.wire.cancel) as watch:
            try:
                answer = stream.wire.ask(raw)
            except grpc.RpcError as error:
                if watch.expired:
                    late = f"no answer within {timeout:.3g} s"
                    raise BrokenStreamError(grpc.StatusCode.DEADLINE_EXCEEDED, late) from error
                raise
        if answer is None:
            raise BrokenStreamError(grpc.StatusCode.UNAVAILABLE, "the server ended the stream")
        return answer

    def _drop(self, lane: int, path: str, stream: _Stream) -> None:
        with self._lock:
            if self._streams.get((path, lane)) is stream:
                del self._streams[path, lane]
        stream.wire.close()


def _begin(channel: Any, address: str, path: str, metadata: Sequence[tuple[str, str]]) -> _Stream:
    path += "Stream"
    try:
        wire = open_direct(channel, path, metadata) or FedStream(channel, path, metadata)
    except ValueError as error:  # gRPC's word for a channel that was closed
        raise UnavailableError(f"no call to {address}", cause=str(error)) from error
    return _Stream(address, channel, wire)
