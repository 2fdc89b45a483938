"""What the transport alone costs: a server that answers empty messages with empty messages, a stream per caller.

Run as a child (children.py) with `{}` it is the server; `port` says where. With `{"address", "streams"}` it is the
callers, each with a connection of its own: `connect`, then `run` (`seconds`; one message per stream and heartbeat
interval; how long the answers took).
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
import time
from typing import Any

import grpc

from benchmarks.children import serve
from common.server import server_options
from quorumfs.limits import HEARTBEAT_SECONDS
from quorumfs.rpc.channels import OPTIONS

_METHOD = "Answer"
_SERVICE = "bench.Empty"
_AT_ONCE_MAX = 64  # connections being made
_WAIT_SECONDS = 120.0


class Loop:
    """A loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="streams", daemon=True).start()

    def run(self, work: Any, seconds: float = _WAIT_SECONDS) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)


class Server:
    def __init__(self) -> None:
        self._server: Any = None
        self._loop = Loop()
        self.port: int = self._loop.run(self._start())

    async def _start(self) -> int:
        self._server = grpc.aio.server(options=server_options())
        handler: Any = grpc.stream_stream_rpc_method_handler(self._answer)
        handlers = grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler})
        self._server.add_generic_rpc_handlers((handlers,))
        port: int = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return port

    async def _answer(self, _: Any, context: Any) -> None:
        while isinstance(await context.read(), bytes):
            await context.write(b"")


class Callers:
    def __init__(self, address: str, streams: int) -> None:
        self._address = address
        self._loop = Loop()
        self._streams: list[Any] = []
        self._channels: list[grpc.aio.Channel] = []
        self._count = streams

    def connect(self) -> None:
        self._loop.run(self._connect())

    async def _connect(self) -> None:
        connecting = asyncio.Semaphore(_AT_ONCE_MAX)

        async def one() -> None:
            async with connecting:
                channel = grpc.aio.insecure_channel(self._address, options=OPTIONS)
                stream: Any = channel.stream_stream(f"/{_SERVICE}/{_METHOD}")()
                await self._exchange(stream)
            self._channels.append(channel)
            self._streams.append(stream)

        await asyncio.gather(*(one() for _ in range(self._count)))

    @staticmethod
    async def _exchange(stream: Any) -> None:
        await stream.write(b"")
        if not isinstance(await stream.read(), bytes):
            raise ConnectionError("the stream ended")

    def run(self, seconds: float) -> dict[str, Any]:
        took: list[float] = self._loop.run(self._run(seconds), seconds + _WAIT_SECONDS)
        return {"took_ms": sorted(took), "seconds": seconds}

    async def _run(self, seconds: float) -> list[float]:
        end = time.monotonic() + seconds
        took: list[float] = []

        async def one(stream: Any) -> None:
            due = time.monotonic() + random.random() * HEARTBEAT_SECONDS
            while due < end:
                await asyncio.sleep(due - time.monotonic())
                began = time.monotonic()
                await self._exchange(stream)
                took.append((time.monotonic() - began) * 1e3)
                due = max(due + HEARTBEAT_SECONDS, time.monotonic())

        await asyncio.gather(*(one(stream) for stream in self._streams))
        return took


def main() -> None:
    config = json.loads(sys.argv[1])
    if not config:
        server = Server()
        serve(lambda _: {"port": server.port})
        return
    callers = Callers(config["address"], config["streams"])

    def handle(command: dict[str, Any]) -> dict[str, Any]:
        if command["verb"] == "connect":
            callers.connect()
            return {}
        return callers.run(command["seconds"])

    serve(handle)


if __name__ == "__main__":
    main()
