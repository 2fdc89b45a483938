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
from typing import Any

import grpc

from quorumfs.errors import UnavailableError
from quorumfs.rpc.channels import ChannelSource
from quorumfs.rpc.status import status_of
from quorumfs.watchdog import Watchdog

Unary = Callable[[str, str, bytes, float], bytes]
"""One unary call (address, path, request, seconds) of serialized messages."""


class BrokenStreamError(grpc.RpcError):
    """An exchange that ended without an answer, with the face of a failed call."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self._code = code
        self._details = details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


@dataclass(eq=False, slots=True)
class _Stream:
    address: str
    channel: Any
    requests: SimpleQueue[bytes | None]
    call: Any

    def close(self) -> None:
        """End the call, and the thread of gRPC's that waits for the next request."""
        self.call.cancel()
        self.requests.put(None)


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
            stream.close()
        self._watchdog.close()

    def _open(self, lane: int, address: str, path: str) -> _Stream:
        channel = self._channels.get(address)
        with self._lock:
            kept = self._streams.get((path, lane))
        if kept is not None:
            if kept.address == address and kept.channel is channel and kept.call.is_active():
                return kept
            self._drop(lane, path, kept)
        made = _begin(channel, address, path, self._metadata)
        with self._lock:
            if not self._closed:
                self._streams[path, lane] = made
                return made
        made.close()
        raise UnavailableError(f"no call to {address}", cause="the connections were closed")

    def _ask(self, stream: _Stream, raw: bytes, timeout: float) -> bytes:
        with self._watchdog.limit(timeout, stream.call.cancel) as watch:
            stream.requests.put(raw)
            try:
                answer: bytes | None = next(stream.call, None)
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
        stream.close()


def _begin(channel: Any, address: str, path: str, metadata: Sequence[tuple[str, str]]) -> _Stream:
    requests: SimpleQueue[bytes | None] = SimpleQueue()
    try:
        begin: Any = channel.stream_stream(
            path + "Stream", request_serializer=None, response_deserializer=None
        )
        call = begin(iter(requests.get, None), metadata=metadata)
    except ValueError as error:  # gRPC's word for a channel that was closed
        raise UnavailableError(f"no call to {address}", cause=str(error)) from error
    return _Stream(address, channel, requests, call)
