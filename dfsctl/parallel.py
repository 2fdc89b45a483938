"""Many transfers at once over one client, with what failed told at the end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

from dfsctl.errors import from_os
from quorumfs.errors import (
    ConflictError,
    IntegrityError,
    InvalidArgumentError,
    NotFoundError,
    PartialError,
    PermissionDeniedError,
    QuorumFSError,
)

Item = TypeVar("Item")
Answer = TypeVar("Answer")

THREADS = 8
NODES_AT_ONCE = 32
NODE_SECONDS = 1.2  # a question to one node that it answers at once, or hangs
_SHOWN = 10
# These say something about one entry; all others would meet the next entry as well.
_OF_ONE_ENTRY = (ConflictError, IntegrityError, InvalidArgumentError, NotFoundError, PermissionDeniedError)


@dataclass(frozen=True, slots=True)
class Failure:
    path: str
    error: QuorumFSError


def for_each(
    items: Iterable[Item],
    work: Callable[[Item], object],
    name: Callable[[Item], str],
    threads: int = THREADS,
) -> list[Failure]:
    """Call `work` for every item, `threads` at a time; returns the failures of single entries.

    An error that is not about one entry (no leader, no room, ...) ends it all and is raised, once what was
    under way has ended. An interrupt does not wait for that: closing the client ends it.
    """
    failures: list[Failure] = []
    queue = iter(items)
    stop = threading.Event()

    def one(item: Item) -> None:
        if not stop.is_set():
            work(item)

    pool = ThreadPoolExecutor(threads, thread_name_prefix="dfsctl")
    try:
        under_way: dict[Future[None], Item] = {}
        for item in _first(queue, 2 * threads):
            under_way[pool.submit(one, item)] = item
        while under_way:
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                failure = _failure(future, name(under_way.pop(future)))
                if failure is not None:
                    failures.append(failure)
                for item in _first(queue, 1):
                    under_way[pool.submit(one, item)] = item
    except BaseException as error:
        stop.set()
        pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
        raise
    pool.shutdown()
    return failures


def of_each(nodes: Sequence[Item], ask: Callable[[Item], Answer]) -> list[Answer]:
    """What `ask` makes of every node, in order, all at once: one that hangs holds up nobody. Raises what `ask` does."""
    with ThreadPoolExecutor(max(1, min(NODES_AT_ONCE, len(nodes))), thread_name_prefix="nodes") as pool:
        return list(pool.map(ask, nodes))


def raise_failures(failures: list[Failure], succeeded: int, what: str) -> None:
    """Raise what is to be told of the failures: the only one as it is, several as a PartialError."""
    if not failures:
        return
    if len(failures) == 1 and not succeeded:
        raise failures[0].error
    shown = [f"{one.path}: {one.error}" for one in failures[:_SHOWN]]
    if len(failures) > _SHOWN:
        shown.append(f"and {len(failures) - _SHOWN} more")
    raise PartialError(
        f"{len(failures)} of {len(failures) + succeeded} entries were not {what}",
        cause="\n".join(shown),
        next="the others are there; the same command again repeats all of it",
    )


def _first(queue: Iterator[Item], count: int) -> list[Item]:
    return [item for _, item in zip(range(count), queue, strict=False)]


def failure_of(path: str, error: QuorumFSError | OSError) -> Failure:
    """What is wrong with this entry alone; raises what is wrong with all of them."""
    known = from_os(error) if isinstance(error, OSError) else error
    if not isinstance(known, _OF_ONE_ENTRY):
        raise known from error
    return Failure(path, known)


def _failure(future: Future[None], path: str) -> Failure | None:
    try:
        future.result()
    except (QuorumFSError, OSError) as error:
        return failure_of(path, error)
    return None
