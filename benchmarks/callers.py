"""The load on QuorumFS: a process with callers of the library, or with plain unary calls to compare them with.

Run as a child (children.py) with `{"coordinators": "host:port,..."}`. A command is
`{"way", "verb", "callers", "seconds", "start_at", "directory", "address", "names"}`:
way `threads`: `callers` threads share one `Client`, as a program would have it;
way `asyncio`: as many coroutines share one `AsyncClient`;
way `unary`: as many asyncio callers, each with a session of its own and one operation per gRPC call to `address`.
verb `create`: every request makes an empty file in `directory`; `stat`: asks for one of its `names` files.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import grpc

from benchmarks import ops
from benchmarks.children import serve, wait_until
from benchmarks.tally import Stopwatch, Tally, merge
from quorumfs import Client
from quorumfs.aio import AsyncClient
from quorumfs.errors import QuorumFSError
from quorumfs.rpc.status import raise_for
from quorumfs.v1 import namespace_pb2 as pb

_UNARY_SECONDS = 30.0


class ClientCallers:
    """Threads with one Client between them."""

    def __init__(self, coordinators: str) -> None:
        self._client = Client(coordinators)

    def run(self, command: dict[str, Any]) -> dict[str, Any]:
        verb = {"create": self._create, "stat": self._stat}[command["verb"]]
        self._client.stat("/")  # connected before the time begins
        tallies = [Tally() for _ in range(command["callers"])]
        end = command["start_at"] + command["seconds"]
        threads = [
            threading.Thread(target=self._loop, args=(verb, command, number, tally, end))
            for number, tally in enumerate(tallies)
        ]
        for thread in threads:
            thread.start()
        wait_until(command["start_at"])
        watch = Stopwatch()
        for thread in threads:
            thread.join()
        return merge(tallies).report(*watch.read())

    @staticmethod
    def _loop(
        verb: Callable[[dict[str, Any], int, int], object],
        command: dict[str, Any],
        caller: int,
        tally: Tally,
        end: float,
    ) -> None:
        wait_until(command["start_at"])
        request = 0
        while time.monotonic() < end:
            began = time.perf_counter()
            try:
                verb(command, caller, request)
            except QuorumFSError as error:
                tally.fail(error)
            else:
                tally.latencies.append(time.perf_counter() - began)
            request += 1

    def _create(self, command: dict[str, Any], caller: int, request: int) -> None:
        self._client.write_bytes(f"{command['directory']}/{new_name(caller, request)}", b"")

    def _stat(self, command: dict[str, Any], caller: int, request: int) -> None:
        self._client.stat(f"{command['directory']}/{known_name(caller, request, command['names'])}")


Request = Callable[[int], Coroutine[Any, Any, object]]
"""One caller's request, by its number."""


class AsyncCallers:
    """Coroutines with one AsyncClient between them, on one loop for the life of the process."""

    def __init__(self, coordinators: str, loop: asyncio.AbstractEventLoop) -> None:
        self._coordinators = coordinators
        self._loop = loop
        self._client: AsyncClient | None = None

    def run(self, command: dict[str, Any]) -> dict[str, Any]:
        return self._loop.run_until_complete(self._run(command))

    async def _run(self, command: dict[str, Any]) -> dict[str, Any]:
        client = self._client = self._client or AsyncClient(self._coordinators)
        await client.stat("/")  # connected before the time begins
        directory = command["directory"]

        def creator(caller: int) -> Request:
            return lambda request: client.write_bytes(f"{directory}/{new_name(caller, request)}", b"")

        def statter(caller: int) -> Request:
            names = command["names"]
            return lambda request: client.stat(f"{directory}/{known_name(caller, request, names)}")

        make = {"create": creator, "stat": statter}[command["verb"]]
        return await loop_together([make(caller) for caller in range(command["callers"])], command)


class UnaryCallers:
    """Coroutines that make one gRPC call per operation, over one channel."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def run(self, command: dict[str, Any]) -> dict[str, Any]:
        return self._loop.run_until_complete(self._run(command))

    async def _run(self, command: dict[str, Any]) -> dict[str, Any]:
        async with grpc.aio.insecure_channel(command["address"]) as channel:
            await channel.channel_ready()
            make = {"create": self._creator, "stat": self._statter}[command["verb"]]
            try:
                requests = await asyncio.gather(
                    *(make(channel, command, caller) for caller in range(command["callers"]))
                )
            except (QuorumFSError, grpc.RpcError) as error:  # no session: there is nothing to measure
                tally = Tally()
                tally.fail(error)
                return tally.report(0.0, 0.0)
            return await loop_together(requests, command)

    async def _creator(self, channel: grpc.aio.Channel, command: dict[str, Any], caller: int) -> Request:
        do: Any = channel.unary_unary("/quorumfs.v1.Namespace/Do")

        async def send(batch: pb.Batch) -> pb.Result:
            reply = pb.BatchResult.FromString(await do(batch.SerializeToString(), timeout=_UNARY_SECONDS))
            raise_for(reply.code, reply.error)
            raise_for(reply.results[0].code, reply.results[0].error)
            return reply.results[0]

        opening = pb.Op(open_session=pb.OpenSessionRequest(client="benchmark"))
        session = (await send(pb.Batch(ops=[opening]))).session.session

        async def create(request: int) -> None:
            op = ops.create(f"{command['directory']}/{new_name(caller, request)}")
            await send(pb.Batch(session=session, seq=request + 1, ops=[op]))

        return create

    async def _statter(self, channel: grpc.aio.Channel, command: dict[str, Any], caller: int) -> Request:
        read: Any = channel.unary_unary("/quorumfs.v1.Namespace/Read")

        async def stat(request: int) -> None:
            path = f"{command['directory']}/{known_name(caller, request, command['names'])}"
            batch = pb.ReadBatch(ops=[ops.stat(path)])
            reply = pb.ReadBatchResult.FromString(
                await read(batch.SerializeToString(), timeout=_UNARY_SECONDS)
            )
            raise_for(reply.code, reply.error)
            raise_for(reply.results[0].code, reply.results[0].error)

        return stat


async def loop_together(requests: Sequence[Request], command: dict[str, Any]) -> dict[str, Any]:
    """All callers from `start_at` on, each with its own request again and again, until the time is up."""
    tallies = [Tally() for _ in requests]
    end = command["start_at"] + command["seconds"]
    await asyncio.sleep(command["start_at"] - time.monotonic())
    watch = Stopwatch()
    await asyncio.gather(
        *(_loop_alone(request, tally, end) for request, tally in zip(requests, tallies, strict=True))
    )
    return merge(tallies).report(*watch.read())


async def _loop_alone(ask: Request, tally: Tally, end: float) -> None:
    request = 0
    while time.monotonic() < end:
        began = time.perf_counter()
        try:
            await ask(request)
        except (QuorumFSError, grpc.RpcError) as error:
            tally.fail(error)
        else:
            tally.latencies.append(time.perf_counter() - began)
        request += 1


def new_name(caller: int, request: int) -> str:
    """No two requests have the same, of whatever process."""
    return f"file-{os.getpid()}-{caller:04d}-{request:08d}"


def known_name(caller: int, request: int, names: int) -> str:
    """One of `names` files, another each time."""
    return f"known-{(caller * 7919 + request) % names:06d}"


def main() -> None:
    coordinators = json.loads(sys.argv[1])["coordinators"]
    loop = asyncio.new_event_loop()
    ways: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "threads": ClientCallers(coordinators).run,
        "asyncio": AsyncCallers(coordinators, loop).run,
        "unary": UnaryCallers(loop).run,
    }
    serve(lambda command: ways[command["way"]](command))


if __name__ == "__main__":
    main()
