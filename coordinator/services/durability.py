"""How well all chunks are kept, and what a node really has: the leader's answers to `fsck`.

1. The report reads all chunks, in pages, so that nobody waits behind it. It is made at most so often that it takes a
   small part of the time; whoever asks in between gets the last one, with its age.
2. An examination compares a page of what lies on a node with what the metadata says, both ways. Either may change
   meanwhile, so what differs is looked at again, on both sides, before it is told.
3. A replica that is not there is not struck from the metadata on this evidence: its node is told to verify it, and what
   it finds is written. Strays are the collection's.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from coordinator.decisions.placement import Candidate
from coordinator.metadata import departures, durability, queries
from coordinator.metadata.durability import Domains, Kept
from coordinator.metadata.queries import DamagedChunk, Gone
from coordinator.services.asking import Questions
from coordinator.services.gateway import Gateway
from coordinator.soft_state import SoftState
from quorumfs.clock import Clock
from quorumfs.errors import NotFoundError, PreconditionFailedError, TimedOutError, UnavailableError
from quorumfs.limits import LIST_PAGE_DEFAULT, LIST_PAGE_MAX
from quorumfs.v1 import admin_pb2 as a

CHUNKS_PER_PAGE = 10_000
LACKING_MAX = 1000
SHARE = 20  # a report that took a second holds for so many
SECONDS_MAX = 600.0
RECORDED_MAX = 2 * LIST_PAGE_MAX


class Holders(Protocol):
    """Datanodes by their id: see `coordinator.duties.holders`. Blocks, and raises QuorumFSError."""

    def present(self, node_id: str, after: bytes, limit: int) -> list[bytes]: ...


@dataclass(slots=True)
class Report:
    """What the pages add up to. `lacking`: the first of them, with some paths of each."""

    kept: Counter[Kept] = field(default_factory=Counter)
    kept_bytes: Counter[Kept] = field(default_factory=Counter)
    inline_chunks: int = 0
    inline_bytes: int = 0
    lacking: list[tuple[DamagedChunk, list[bytes]]] = field(default_factory=list)
    made_at: float = 0.0
    seconds: float = 0.0

    def add(self, page: durability.Page) -> None:
        for kept, (chunks, size) in page.kept.items():
            self.kept[kept] += chunks
            self.kept_bytes[kept] += size
        self.inline_chunks += page.inline[0]
        self.inline_bytes += page.inline[1]


class DurabilityDesk:
    """All methods run on the gRPC loop and raise QuorumFSError."""

    def __init__(
        self, gateway: Gateway, soft: SoftState, holders: Callable[[], Holders], clock: Clock
    ) -> None:
        self._gateway = gateway
        self._soft = soft
        self._holders = holders
        self._questions = Questions()
        self._clock = clock
        self._one = asyncio.Lock()
        self._last: tuple[object, Report] | None = None

    async def report(self, request: a.GetDurabilityRequest) -> a.Durability:
        """As of now, or of a moment ago."""
        self._gateway.require_leadership()
        async with self._one:
            found = await self._report()
        return wire(found, request.problems, self._clock.monotonic() - found.made_at)

    async def _report(self) -> Report:
        epoch = self._soft.epoch()
        gone, domains = self._soft.gone(), domains_of(self._soft.candidates())
        about = (epoch.history, epoch.term, gone, tuple(sorted(domains.items(), key=lambda one: one[0])))
        began = self._clock.monotonic()
        if self._last is not None and self._last[0] == about:
            last = self._last[1]
            if began < last.made_at + min(SECONDS_MAX, SHARE * last.seconds):
                return last
        made = Report()
        after: bytes | None = b""
        while after is not None:
            after = await self._add_page(made, after, gone, domains)
        made.made_at = self._clock.monotonic()
        made.seconds = made.made_at - began
        self._last = (about, made)
        return made

    async def _add_page(
        self, report: Report, after: bytes, gone: Gone, domains: Mapping[str, Domains]
    ) -> bytes | None:
        """Where the next page begins; None: there is none."""

        def ask(tx: sqlite3.Connection) -> durability.Page:
            room = LACKING_MAX - len(report.lacking)
            page = durability.page(tx, after, CHUNKS_PER_PAGE, gone, domains, room)
            for one in queries.damaged_chunks(tx, page.lacking, gone):
                away = tuple(node_id for node_id in one.live if node_id in gone)
                live = tuple(node_id for node_id in one.live if node_id not in gone)
                told = replace(one, live=live, others=(*one.others, *away))
                report.lacking.append((told, departures.paths_of(tx, one.chunk)))
            return page

        page = await self._gateway.ask(ask)
        report.add(page)
        return page.after or None

    async def examine(self, request: a.ExamineNodeRequest) -> a.NodeExamination:
        """One page of a node's replicas. Raises NotFoundError, PreconditionFailedError for a node that is not heard."""
        self._gateway.require_leadership()
        node_id, after = request.node_id, request.after
        if node_id not in self._soft.candidates():
            raise NotFoundError(f"no datanode {node_id!r} is registered", next="dfsctl node ls")
        if not self._soft.recently_heard(node_id):
            raise PreconditionFailedError(f"{node_id} is not heard: what it has cannot be compared")
        limit = min(request.limit or LIST_PAGE_DEFAULT, LIST_PAGE_MAX)
        listed = await self._listed(node_id, after, limit)
        through = listed[-1] if len(listed) == limit else None
        recorded = await self._recorded(node_id, after, through)
        if len(recorded) == RECORDED_MAX:  # it lacks very many: a shorter page
            through = recorded[-1]
            listed = [chunk for chunk in listed if chunk <= through]
        found = a.NodeExamination(listed=len(listed), recorded=len(recorded), next=through or b"")
        known = set(recorded)
        absent, strange = known.difference(listed), set(listed) - known
        if absent or strange:
            again = set(await self._listed(node_id, after, limit))
            still = set(await self._recorded(node_id, after, through))
            found.missing.extend(sorted((absent & still) - again))
            there = sorted(strange & again)
            strays, unrecorded = await self._gateway.ask(lambda tx: durability.strangers(tx, node_id, there))
            found.strays.extend(sorted(strays))
            found.unrecorded.extend(sorted(unrecorded))
        for chunk in found.missing:
            self._soft.order_verification(node_id, chunk)
        return found

    async def _listed(self, node_id: str, after: bytes, limit: int) -> list[bytes]:
        try:
            holders = self._holders()
            return await self._questions.of_one(node_id, lambda one: holders.present(one, after, limit))
        except (UnavailableError, TimedOutError) as error:  # the node: this coordinator is asked rightly
            raise PreconditionFailedError(f"{node_id} does not answer", cause=str(error)) from error

    async def _recorded(self, node_id: str, after: bytes, through: bytes | None) -> list[bytes]:
        return await self._gateway.ask(
            lambda tx: durability.recorded(tx, node_id, after, through, RECORDED_MAX)
        )


def domains_of(candidates: Mapping[str, Candidate]) -> dict[str, Domains]:
    return {node_id: Domains(one.zone, one.rack, one.host) for node_id, one in candidates.items()}


def wire(report: Report, problems: int, age_seconds: float) -> a.Durability:
    told = a.Durability(
        chunks=report.kept.total(),
        inline_chunks=report.inline_chunks,
        inline_bytes=report.inline_bytes,
        lacking_total=sum(chunks for kept, chunks in report.kept.items() if kept.live < kept.want),
        missing_total=sum(chunks for kept, chunks in report.kept.items() if not kept.live),
        age_seconds=max(0.0, age_seconds),
        seconds=report.seconds,
        copies=_matrix(report, lambda kept: kept.live),
        zones=_matrix(report, lambda kept: kept.zones),
        racks=_matrix(report, lambda kept: kept.racks),
        hosts=_matrix(report, lambda kept: kept.hosts),
    )
    worst = sorted(report.lacking, key=lambda one: (len(one[0].live), one[0].chunk))
    for one, paths in worst[:problems]:
        told.lacking.add(
            chunk=one.chunk,
            length=one.length,
            want=one.want,
            live=one.live,
            others=one.others,
            paths=[path.decode("utf-8", "replace") for path in paths],
        )
    return told


def _matrix(report: Report, number: Callable[[Kept], int]) -> Iterable[a.KeptChunks]:
    chunks: Counter[tuple[int, int]] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    for kept, count in report.kept.items():
        chunks[kept.want, number(kept)] += count
        sizes[kept.want, number(kept)] += report.kept_bytes[kept]
    return [
        a.KeptChunks(want=want, number=many, chunks=chunks[want, many], bytes=sizes[want, many])
        for want, many in sorted(chunks)
    ]
