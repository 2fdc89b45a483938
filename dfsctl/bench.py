"""`dfsctl bench`: how fast a running cluster is, as this machine sees it.

It works in a directory of its own, which it removes for good at its end, also after a failure. The bytes are random,
so that nothing on the way can make them fewer. For comparisons with other systems: `make bench`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from dfsctl.output import show, table, talk
from dfsctl.shell import command, settings
from quorumfs.errors import QuorumFSError

if TYPE_CHECKING:
    from quorumfs import Client

WHAT = ("write", "read", "meta", "mixed")
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(slots=True)
class Tally:
    """Of one phase: how long each operation took, and how many failed."""

    name: str
    seconds: float = 0.0
    bytes: int = 0
    took: list[float] = field(default_factory=list)
    failures: list[QuorumFSError] = field(default_factory=list)


@command("bench")
@click.argument("what", type=click.Choice(WHAT), default="mixed")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1, max=3600),
    default=5.0,
    show_default=True,
    help="Of each phase.",
)
@click.option(
    "--size", "size_text", default="1M", show_default=True, metavar="BYTES", help="Of each file; K, M, G."
)
@click.option(
    "--parallel", type=click.IntRange(1, 256), default=8, show_default=True, help="Operations at once."
)
@click.option(
    "--in", "parent", default="/", show_default=True, metavar="REMOTE", help="Where its directory is made."
)
def bench(what: str, seconds: float, size_text: str, parallel: int, parent: str) -> None:
    """Measure write, read, meta (small operations), or mixed: all of them."""
    given = settings()
    content = os.urandom(_size(size_text))
    directory = f"{parent.rstrip('/')}/.bench-{os.urandom(4).hex()}"
    tallies: list[Tally] = []
    with given.client() as client:
        client.mkdir(directory)
        try:
            run = _Run(client, directory, content, seconds, parallel)
            for name, phase in run.phases(what):
                talk(given, f"{name} for {seconds:g} s")
                tallies.append(phase())
        finally:
            client.delete(directory, recursive=True, purge=True)
    data = {
        "directory": directory,
        "size_bytes": len(content),
        "parallel": parallel,
        "results": [_told(one) for one in tallies],
    }
    show(given, data, lambda: _lines(data["results"]))
    failures = [one for tally in tallies for one in tally.failures]
    if failures:
        raise failures[0]


class _Run:
    def __init__(self, client: Client, directory: str, content: bytes, seconds: float, parallel: int) -> None:
        self._client, self._directory, self._content = client, directory, content
        self._seconds, self._parallel = seconds, parallel
        self._written: list[str] = []
        self._made: dict[int, int] = dict.fromkeys(range(parallel), 0)
        self._renamed: dict[int, int] = dict.fromkeys(range(parallel), 0)

    def phases(self, what: str) -> Iterable[tuple[str, Callable[[], Tally]]]:
        if what in ("write", "read", "mixed"):
            yield "write", self._write
        if what in ("read", "mixed"):
            yield "read", self._read
        if what in ("meta", "mixed"):
            for name in ("create", "stat", "rename", "delete"):
                yield name, partial(self._meta, name)

    def _write(self) -> Tally:
        def one(worker: int, number: int) -> int:
            path = f"{self._directory}/w{worker}-{number}"
            self._client.write_bytes(path, self._content)
            self._written.append(path)
            return len(self._content)

        return self._measure("write", one)

    def _read(self) -> Tally:
        def one(worker: int, number: int) -> int:
            path = self._written[(worker + number * self._parallel) % len(self._written)]
            return len(self._client.read_bytes(path))

        return self._measure("read", one) if self._written else Tally("read")

    def _meta(self, name: str) -> Tally:
        """Of empty files: no byte goes to a datanode."""
        here = f"{self._directory}/m"

        def one(worker: int, number: int) -> int:
            path = f"{here}{worker}-{number}"
            if name == "create":
                self._client.write_bytes(path, b"")
                made[worker] = number + 1
            elif number >= made[worker] and name != "stat":
                raise StopIteration
            elif name == "stat":
                self._client.stat(f"{here}{worker}-{number % max(1, made[worker])}")
            elif name == "rename":
                self._client.rename(path, f"{path}-renamed")
                renamed[worker] = number + 1
            else:
                moved = number < renamed[worker]
                self._client.delete(f"{path}-renamed" if moved else path, purge=True)
            return 0

        made, renamed = self._made, self._renamed
        return self._measure(name, one)

    def _measure(self, name: str, one: Callable[[int, int], int]) -> Tally:
        """Call `one(worker, number)` over and over in every worker until the time is over, or it has no more to do."""
        tally = Tally(name)
        began = time.monotonic()
        until = began + self._seconds

        def work(worker: int) -> None:
            number = 0
            while time.monotonic() < until:
                start = time.monotonic()
                try:
                    done = one(worker, number)
                except StopIteration:
                    return
                except QuorumFSError as error:
                    tally.failures.append(error)
                    return
                tally.took.append(time.monotonic() - start)
                tally.bytes += done
                number += 1

        with ThreadPoolExecutor(self._parallel, thread_name_prefix="bench") as pool:
            for done in [pool.submit(work, worker) for worker in range(self._parallel)]:
                done.result()
        tally.seconds = time.monotonic() - began
        return tally


def _told(tally: Tally) -> dict[str, Any]:
    took = sorted(tally.took)
    return {
        "name": tally.name,
        "operations": len(took),
        "failed": len(tally.failures),
        "seconds": round(tally.seconds, 3),
        "operations_per_second": round(len(took) / tally.seconds, 1) if tally.seconds else None,
        "bytes_per_second": round(tally.bytes / tally.seconds, 1) if tally.seconds else None,
        "p50_ms": _percentile(took, 0.5),
        "p99_ms": _percentile(took, 0.99),
    }


def _percentile(took: Sequence[float], fraction: float) -> float | None:
    return round(took[min(len(took) - 1, int(len(took) * fraction))] * 1000, 3) if took else None


def _lines(results: Any) -> list[str]:
    return table(
        ("WHAT", "OPERATIONS", "FAILED", "PER SECOND", "MiB/s", "p50 ms", "p99 ms"),
        (
            (
                one["name"],
                one["operations"],
                one["failed"],
                one["operations_per_second"],
                None if not one["bytes_per_second"] else one["bytes_per_second"] / (1 << 20),
                one["p50_ms"],
                one["p99_ms"],
            )
            for one in results
        ),
    )


def _size(text: str) -> int:
    number, unit = (text[:-1], text[-1].lower()) if text[-1:].lower() in ("k", "m", "g") else (text, "")
    if not number.isdigit() or not 0 < int(number) * UNITS[unit] <= UNITS["g"]:
        raise click.BadParameter(f"{text!r} is no size from 1 to 1G", param_hint="--size")
    return int(number) * UNITS[unit]
