"""`AsyncClient` over a cluster in memory: the verbs of `Client`, and coroutines that travel together."""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from quorumfs import AsyncClient, Client
from quorumfs.errors import (
    AlreadyExistsError,
    InvalidPathError,
    NotFoundError,
    PartialError,
    UnavailableError,
)
from quorumfs.limits import MIB
from quorumfs.v1 import namespace_pb2 as pb
from tests.unit.quorumfs.fakes import Cluster

DATA = random.Random(9).randbytes(5 * MIB + 5)


def run(work: Callable[[AsyncClient, Cluster], Awaitable[Any]]) -> Any:
    """Run a coroutine with a client of a new cluster."""

    async def main() -> Any:
        cluster = Cluster()
        async with AsyncClient("c1:1,c2:1,c3:1", channels=cluster.net) as fs:
            return await work(fs, cluster)

    return asyncio.run(main())


def batches(cluster: Cluster) -> list[int]:
    """How many operations each message with changes had, the opening of the session aside."""
    sent = [pb.Batch.FromString(raw) for _, name, raw in cluster.net.calls if name == "Do"]
    return [len(batch.ops) for batch in sent if batch.session]


def test_its_verbs_and_their_arguments_are_those_of_the_client() -> None:
    def verbs(of: type) -> dict[str, Any]:
        return {
            name: [(p.name, p.kind, p.default) for p in inspect.signature(value).parameters.values()]
            for name, value in vars(of).items()
            if callable(value) and not name.startswith("_") and name not in ("open", "cluster_id")
        }

    assert verbs(AsyncClient) == verbs(Client)


def test_coroutines_that_are_woken_together_travel_together() -> None:
    async def work(fs: AsyncClient, cluster: Cluster) -> None:
        await asyncio.gather(*(fs.write_bytes(f"/{n}", str(n).encode()) for n in range(300)))
        assert batches(cluster) == [256, 44]
        found = await asyncio.gather(*(fs.stat(f"/{n}") for n in range(300)))
        assert [one.name for one in found] == [str(n) for n in range(300)]
        assert sum(name == "Read" for _, name, _ in cluster.net.calls) == 2

    run(work)


def test_an_error_reaches_the_coroutine_it_belongs_to() -> None:
    async def work(fs: AsyncClient, cluster: Cluster) -> None:
        await fs.mkdir("/d")
        done = await asyncio.gather(
            fs.mkdir("/d"), fs.mkdir("/e"), fs.stat("/missing"), return_exceptions=True
        )
        assert [type(one) for one in done] == [AlreadyExistsError, type(done[1]), NotFoundError]
        assert done[1].is_directory  # type: ignore[union-attr]  it is a status
        with pytest.raises(InvalidPathError):
            await fs.mkdir("relative")

    run(work)


def test_a_failover_costs_time_and_no_error() -> None:
    async def work(fs: AsyncClient, cluster: Cluster) -> None:
        await fs.write_bytes("/a", b"1")
        cluster.net.down.add("c1:1")
        cluster.leader = "c2:1"
        await asyncio.gather(*(fs.write_bytes(f"/{n}", b"2") for n in range(20)))
        assert await fs.exists("/19")
        assert cluster.applied.count("put_file") == 21

    run(work)


def test_a_cancelled_coroutine_harms_nobody_else() -> None:
    async def work(fs: AsyncClient, cluster: Cluster) -> None:
        await fs.mkdir("/d")
        gone = asyncio.ensure_future(fs.write_bytes("/gone", b"x"))
        stays = asyncio.ensure_future(fs.write_bytes("/stays", b"y"))
        await asyncio.sleep(0)
        gone.cancel()
        assert (await stays).path == "/stays"
        with pytest.raises(asyncio.CancelledError):
            await gone

    run(work)


def test_large_files_go_in_and_out(tmp_path: Path) -> None:
    async def work(fs: AsyncClient, cluster: Cluster) -> None:
        (tmp_path / "a").write_bytes(DATA)
        assert (await fs.put(tmp_path / "a", "/a")).size_bytes == len(DATA)
        await fs.get("/a", tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == DATA
        assert (await fs.write_bytes("/c", DATA)).size_bytes == len(DATA)
        assert await fs.read_bytes("/c") == DATA

    run(work)


def test_without_room_in_the_metadata_small_files_go_to_datanodes() -> None:
    async def work(fs: AsyncClient, cluster: Cluster) -> None:
        cluster.inline_max = 0
        assert (await fs.write_bytes("/a", b"small")).size_bytes == 5
        assert await fs.read_bytes("/a") == b"small"
        assert any(node.chunks for node in cluster.nodes.values())

    run(work)


def test_what_the_metadata_did_not_take_is_not_offered_to_it_for_a_while() -> None:
    async def work(fs: AsyncClient, cluster: Cluster) -> None:
        cluster.inline_max = 0
        for number in range(3):
            await fs.write_bytes(f"/{number}", b"small")
            assert await fs.read_bytes(f"/{number}") == b"small"
        offered = [pb.Batch.FromString(raw).ops for _, name, raw in cluster.net.calls if name == "Do"]
        assert sum(bool(op.put_file.body) for ops in offered for op in ops) == 1

    run(work)


def test_file_objects_read_and_write() -> None:
    async def work(fs: AsyncClient, cluster: Cluster) -> None:
        async with fs.open("/a", "wb") as file:
            await file.write(DATA[:MIB])
            await file.write(DATA[MIB:])
            assert not await fs.exists("/a")
        assert file.status is not None
        assert file.status.size_bytes == len(DATA)
        reader = await fs.open("/a")
        assert reader.status is not None
        await reader.seek(MIB)
        assert await reader.read(10) == DATA[MIB : MIB + 10]
        assert reader.tell() == MIB + 10
        await reader.close()
        async with fs.open("/text", "w") as text:
            await text.write("one\ntwo\n")
        assert [line async for line in await fs.open("/text", "r")] == ["one\n", "two\n"]

    run(work)


def test_an_exception_in_the_block_leaves_what_was_there() -> None:
    async def work(fs: AsyncClient, cluster: Cluster) -> None:
        await fs.write_text("/a", "old")

        async def change() -> None:
            async with fs.open("/a", "wb") as file:
                await file.write(b"new")
                raise RuntimeError("it changed its mind")

        with pytest.raises(RuntimeError):
            await change()
        assert await fs.read_text("/a") == "old"

    run(work)


def test_the_namespace_s_other_verbs() -> None:
    async def work(fs: AsyncClient, cluster: Cluster) -> None:
        await fs.makedirs("/d")
        await fs.put_many({f"/d/{n:04}": b"x" for n in range(1200)})
        assert [one.name async for one in fs.iterate("/d")] == [f"{n:04}" for n in range(1200)]
        assert len(await fs.list("/d")) == 1200
        await fs.rename("/d/0000", "/d/moved")
        assert await fs.delete("/d/moved") > 0
        assert (await fs.symlink(b"caf\xe9", "/link")).target.encode("utf-8", "surrogateescape") == b"caf\xe9"
        assert len(await fs.locate("/d/0001")) == 1
        assert (await fs.leader()).node_id == "c1"
        with pytest.raises(PartialError):
            await fs.put_many({"/d/0001": b"x"}, if_absent=True)

    run(work)


def test_closed_it_refuses_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())

    async def main() -> None:
        fs = AsyncClient("c1:1", channels=Cluster().net)
        await fs.write_bytes("/a", b"1")
        await fs.read_bytes("/a")
        await fs.close()
        await fs.close()
        with pytest.raises(UnavailableError):
            await fs.write_bytes("/b", b"2")

    asyncio.run(main())
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(10)
    assert not any(thread.is_alive() for thread in left)
