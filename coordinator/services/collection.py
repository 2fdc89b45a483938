"""What operators ask of the garbage collection, and tell it.

Any coordinator says how many orphans there are; everything else is the leader's, who hears of the datanodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from coordinator.decisions.collection import Classes, Found, Restored
from coordinator.metadata import garbage
from coordinator.metadata.garbage import Story
from coordinator.services.asking import Questions
from coordinator.services.gateway import Gateway
from coordinator.services.view import hint_of
from coordinator.soft.cycles import SHRINK_GUARD, Report
from coordinator.soft_state import SoftState
from quorumfs.clock import Clock
from quorumfs.errors import (
    BusyError,
    InvalidArgumentError,
    NotFoundError,
    PreconditionFailedError,
    QuorumFSError,
    make,
)
from quorumfs.ids import ID_BYTES
from quorumfs.limits import LIST_PAGE_DEFAULT, RPC_SECONDS_FIRST
from quorumfs.paths import show
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import types_pb2 as t

WAIT_SECONDS = 1.0  # of one call: the caller asks again
LOOK_SECONDS = 0.05
PAGE_MAX = 1000
CHUNKS_MAX = 1000
COUNTED_SHARE = 20  # a count that took a second holds for so many

assert WAIT_SECONDS < RPC_SECONDS_FIRST  # a caller that gave up could not know what it began


class Cycles(Protocol):
    """The leader's collection: see `coordinator.duties.collect.Collect`."""

    last: Report | None

    def request(self, *, dry_run: bool) -> int: ...

    def report(self, ticket: int) -> Report | None: ...

    def ended(self) -> list[tuple[float, Report]]: ...

    def phase(self) -> str: ...

    def seen(self, chunk: bytes) -> dict[str, int]: ...


class Rewriting(Protocol):
    """What the leader's `coordinator.duties.repack.Repack` has found: see `Figures` there."""

    rounds: int
    chunks: int
    total_bytes: int
    live_bytes: int
    sparse_chunks: int
    dead_bytes: int
    rewritten_chunks: int


class Holders(Protocol):
    """Datanodes by their id: see `coordinator.duties.holders`. All block, and raise QuorumFSError."""

    def find(self, node_id: str, chunk: bytes) -> Found | None: ...

    def quarantined(self, node_id: str, after: bytes, limit: int) -> list[bytes]: ...

    def restore(self, node_id: str, epoch: t.Epoch, chunks: Sequence[bytes], void_below: int) -> Restored: ...


class CollectionDesk:
    """All methods run on the gRPC loop and raise QuorumFSError. `collect`, `rewriting`: of the leader's duties; None:
    another leads."""

    def __init__(
        self,
        gateway: Gateway,
        soft: SoftState,
        holders: Callable[[], Holders],
        collect: Callable[[], Cycles | None],
        clock: Clock,
        *,
        rewriting: Callable[[], Rewriting | None] = lambda: None,
        grace_seconds: float,
        interval_seconds: float,
    ) -> None:
        self._gateway = gateway
        self._soft = soft
        self._holders = holders
        self._collect = collect
        self._questions = Questions()
        self._clock = clock
        self._rewriting = rewriting
        self._grace_seconds = grace_seconds
        self._interval_seconds = interval_seconds
        self._counts = garbage.Counts(0, 0, 0, 0)
        self._counted_until = clock.monotonic()

    # Questions

    async def status(self) -> a.GcStatus:
        status = a.GcStatus(
            state="idle",
            phase="none",
            grace_seconds=self._grace_seconds,
            interval_seconds=self._interval_seconds,
        )
        if not self._gateway.attached:
            return status
        status.authoritative = self._gateway.leadership() is not None
        hint = hint_of(self._gateway.leader())
        if hint is not None:
            status.leader.CopyFrom(hint)
        now = await self._gateway.ask(garbage.cluster)
        if now is None:
            return status
        counts = await self._count()
        status.grace_seconds = now.grace_ms / 1000
        status.cycle, status.paused = now.cycle, now.paused
        status.candidates, status.condemned, status.held = counts.candidates, counts.condemned, counts.held
        status.quarantined = sum(
            disk.quarantined_chunks for pulse in self._soft.pulses().values() for disk in pulse.disks
        )
        collect = self._collect()
        phase = collect.phase() if collect is not None else ""
        status.state = "running" if phase else "paused" if now.paused else "idle"
        status.phase = phase or "none"
        if collect is not None and collect.last is not None:
            status.last_cycle.CopyFrom(wire(collect.last, 0))
            status.accounting.extend(
                classes(node_id, one) for node_id, one in sorted(collect.last.accounting.items())
            )
        found = self._rewriting()
        if found is not None and found.rounds:
            status.live.CopyFrom(live(found))
        return status

    async def cycles(self) -> a.GcStatus:
        """`status`, with the cycles that this leadership remembers."""
        status = await self.status()
        collect = self._collect()
        for age_seconds, report in collect.ended() if collect is not None else ():
            told = wire(report, 0)
            told.age_seconds = age_seconds
            status.cycles.append(told)
        return status

    async def figures(self) -> Mapping[str, float]:
        """For the metrics: how many orphans there are, and whether the collection is paused. Of the leader; else
        nothing."""
        if not self._gateway.attached or self._gateway.leadership() is None:
            return {}
        now = await self._gateway.ask(garbage.cluster)
        counts = await self._count()
        return {
            "candidates": counts.candidates,
            "condemned": counts.condemned,
            "held": counts.held,
            "paused": now is not None and now.paused,
        }

    async def _count(self) -> garbage.Counts:
        """As of now, or of a moment ago when counting takes long."""
        began = self._clock.monotonic()
        if began >= self._counted_until:
            self._counts = await self._gateway.ask(garbage.counts)
            self._counted_until = began + COUNTED_SHARE * (self._clock.monotonic() - began)
        return self._counts

    async def explain(self, chunk: bytes, *, stale: bool = False) -> a.ChunkStory:
        """`stale`: a member that does not lead tells what its tables say, and asks nobody."""
        leads, age_ms = self._gateway.may_tell(stale=stale)
        check_ids([chunk])
        story = await self._gateway.ask(lambda tx: garbage.story(tx, chunk))
        told = self._told(chunk, story)
        told.authoritative, told.age_ms = leads, age_ms
        seen = await self._find(chunk) if leads else {}
        told.seen_on[:] = sorted({*story.nodes, *seen})
        told.sightings.extend(self._sightings(chunk, story, seen))
        told.quarantined_on[:] = sorted(node_id for node_id, found in seen.items() if found.quarantined)
        if story.state == "unknown" and seen:
            told.state = "quarantined" if len(told.quarantined_on) == len(seen) else "stray"
        if told.state == "stray":
            told.held_by = "the next cycle looks at it"
        return told

    def _sightings(self, chunk: bytes, story: Story, seen: Mapping[str, Found]) -> list[a.Sighting]:
        """Where it was seen and when: just now, in an inventory, or by the metadata alone."""
        collect, now = self._collect(), self._clock.wall_ms()
        listed = collect.seen(chunk) if collect is not None else {}
        found = []
        for node_id in sorted({*story.nodes, *seen, *listed}):
            if node_id in seen:
                state, at = "quarantined" if seen[node_id].quarantined else "live", now
            elif node_id in listed:
                state, at = "listed", listed[node_id]
            else:
                state, at = "recorded", 0
            found.append(a.Sighting(node_id=node_id, state=state, wall_ms=at))
        return found

    def _told(self, chunk: bytes, story: Story) -> a.ChunkStory:
        wall_ms = self._clock.wall_ms()
        told = a.ChunkStory(
            chunk=chunk,
            state=story.state,
            referenced_by=[show(path) for path in story.references],
            seen_on=story.nodes,
            deleted_by=story.deleted_by,
            held_by=self._guard_of(story),
            condemned_index=story.condemned_index,
            length=story.length,
            live_bytes=story.live_bytes,
        )
        if story.since_index:
            told.deleted_at_index = story.since_index
            told.since_wall_ms = story.since_wall_ms or max(0, wall_ms - (story.now_ms - story.since_ms))
            told.last_referenced_by[:] = [show(story.last_path)] if story.last_path else []
        if story.state == "orphan" and story.hold <= 0:
            told.earliest_sweep_wall_ms = wall_ms + max(0, story.since_ms + story.grace_ms - story.now_ms)
        return told

    def _guard_of(self, story: Story) -> str:
        guard = garbage.guard_of(story)
        if guard or story.state not in ("orphan", "condemned"):
            return guard
        stopped = any(code == SHRINK_GUARD for code, *_ in self._soft.alarms())
        return "the shrink guard has stopped the collection: see the alarm" if stopped else ""

    async def candidates(self, request: a.ListCandidatesRequest) -> a.Candidates:
        leads, age_ms = self._gateway.may_tell(stale=request.stale and not request.quarantined)
        limit = min(request.limit or LIST_PAGE_DEFAULT, PAGE_MAX)
        if request.quarantined:
            return await self._quarantined(request.after, limit, request.node_id)
        chunks, stories = await self._gateway.ask(
            lambda tx: (
                found := garbage.candidates(tx, request.after, limit, held=request.held),
                [garbage.story(tx, chunk) for chunk in found],
            )
        )
        told = [self._told(chunk, story) for chunk, story in zip(chunks, stories, strict=True)]
        return a.Candidates(
            chunks=told,
            next=chunks[-1] if len(chunks) == limit else b"",
            authoritative=leads,
            age_ms=age_ms,
        )

    async def _quarantined(self, after: bytes, limit: int, node_id: str) -> a.Candidates:
        """What nodes have in quarantine, and what is known of it; those that do not answer are named."""
        nodes = [one for one in self._there() if node_id in ("", one)]
        silent = {one for one in self._datanodes() if node_id in ("", one)}.difference(nodes)
        holders = self._holders()
        answers = await self._questions.of_each(nodes, lambda one: holders.quarantined(one, after, limit))
        silent |= set(nodes) - answers.keys()
        found: dict[bytes, list[str]] = {}
        for one, listed in answers.items():
            for chunk in listed:
                found.setdefault(chunk, []).append(one)
        chunks = sorted(found)[:limit]
        stories = await self._gateway.ask(lambda tx: [garbage.story(tx, chunk) for chunk in chunks])
        told = []
        for chunk, story in zip(chunks, stories, strict=True):
            line = self._told(chunk, story)
            line.state, line.quarantined_on[:] = "quarantined", found[chunk]
            told.append(line)
        following = chunks[-1] if len(chunks) == limit else b""
        return a.Candidates(chunks=told, next=following, authoritative=True, silent_nodes=sorted(silent))

    # Orders

    async def run(self, request: a.RunGcRequest) -> a.GcReport:
        """Begin a cycle, or look after one that was begun; waits for a moment if that is wanted."""
        self._gateway.require_leadership()
        collect = self._collect()
        if collect is None:
            raise BusyError("this coordinator has only just begun to lead")
        if not request.ticket:
            await self._require_not_paused()
        ticket = request.ticket or collect.request(dry_run=request.dry_run)
        until = self._clock.monotonic() + WAIT_SECONDS
        while True:
            report = collect.report(ticket)
            over = report is not None and report.outcome != "running"
            if over or not request.wait or self._clock.monotonic() >= until:
                return wire(report or Report(request.dry_run, phase="waiting"), ticket)
            await asyncio.sleep(LOOK_SECONDS)

    async def control(self, request: a.ControlGcRequest) -> a.GcStatus:
        """Pause or resume; it holds for every leader."""
        if request.pause == request.resume:
            raise InvalidArgumentError("the collection is either paused or resumed")
        setting = e.SetSetting(key="gc.paused", value=str(int(request.pause)))
        await self._system(e.SystemCommand(set_setting=setting))
        return await self.status()

    async def release(self, chunks: Sequence[bytes]) -> str:
        """End their holds. Raises NotFoundError when none of them is held."""
        check_ids(chunks)
        done = await self._system(e.SystemCommand(release=e.ReleaseChunks(chunks=chunks)))
        if not done:
            raise NotFoundError(
                f"none of the {len(chunks)} chunks is held",
                cause="only what was restored, or is of another history, waits for a release",
                next="dfsctl gc candidates --held",
            )
        return f"{done} of {len(chunks)} were held, and are not any more; their grace begins now"

    async def restore(self, chunks: Sequence[bytes]) -> str:
        """Hold the chunks, void their condemnations, and bring them back where they lie in quarantine; a sentence that
        also names the nodes on which that did not work. Again is harmless."""
        check_ids(chunks)
        self._gateway.require_leadership()
        adopted = [one for chunk in chunks if (one := await self._adoption(chunk)) is not None]
        if adopted:
            await self._system(e.SystemCommand(adopt=e.AdoptChunks(chunks=adopted)))
        stories = await self._gateway.ask(lambda tx: [garbage.story(tx, chunk) for chunk in chunks])
        for chunk, story in zip(chunks, stories, strict=True):
            if story.state == "unknown":
                raise NotFoundError(
                    f"chunk {chunk.hex()} is nowhere",
                    cause="no table knows it, and no node that answers has it in quarantine",
                    next="dfsctl gc quarantine ls",
                )
        void_below = await self._system(e.SystemCommand(restore=e.RestoreChunks(chunks=chunks)))
        nodes, epoch, holders = self._there(), self._soft.epoch(), self._holders()
        asked = [asyncio.to_thread(holders.restore, one, epoch, chunks, void_below) for one in nodes]
        back = 0
        silent = []
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for node_id, answer in zip(nodes, answers, strict=True):
            if isinstance(answer, Restored):
                back += answer.count
                if answer.refused:
                    silent.append(f"{node_id}: {len(answer.refused)} were not brought back: {answer.why}")
            elif isinstance(answer, QuorumFSError):
                silent.append(f"{node_id}: {answer}")
            else:
                raise answer
        told = f"{len(chunks)} chunks are held; {back} replicas of them are there on {len(nodes)} nodes"
        return "; ".join([told, *silent])

    async def _adoption(self, chunk: bytes) -> e.AdoptChunks.One | None:
        """Who has it in quarantine, as the log is told."""
        seen = await self._find(chunk)
        aside = {node_id: found for node_id, found in seen.items() if found.quarantined}
        if not aside:
            return None
        found = next(iter(aside.values()))
        birth = t.ChunkBirth(
            history=found.birth.history, index=found.birth.index, cluster_ms=found.birth.cluster_ms
        )
        return e.AdoptChunks.One(
            chunk=chunk, node_ids=sorted(aside), birth=birth, length=found.length, checksum=found.checksum
        )

    # Small things

    async def _require_not_paused(self) -> None:
        now = await self._gateway.ask(garbage.cluster)
        if now is not None and now.paused:
            raise PreconditionFailedError(
                "no cycle can be run: the collection is paused",
                cause="an operator has paused it, and that holds for every leader",
                next="dfsctl gc resume; then again",
            )

    async def _system(self, command: e.SystemCommand) -> int:
        done = await self._gateway.system(command)
        if done.code != t.ERROR_CODE_OK:
            raise make(done.code, done.error.message, cause=done.error.cause, next=done.error.next)
        return done.number

    def _there(self) -> list[str]:
        """Datanodes that were heard a moment ago."""
        return [node_id for node_id in self._datanodes() if self._soft.recently_heard(node_id)]

    def _datanodes(self) -> list[str]:
        return sorted(node_id for node_id, known in self._soft.known().items() if known.is_datanode)

    async def _find(self, chunk: bytes) -> dict[str, Found]:
        """The nodes that have it, in quarantine or not, of those that answer."""
        holders = self._holders()
        answers = await self._questions.of_each(self._there(), lambda one: holders.find(one, chunk))
        return {one: found for one, found in answers.items() if found is not None}


def check_ids(chunks: Sequence[bytes]) -> None:
    """Raises InvalidArgumentError."""
    if not 0 < len(chunks) <= CHUNKS_MAX or any(len(chunk) != ID_BYTES for chunk in chunks):
        raise InvalidArgumentError(f"1 to {CHUNKS_MAX} chunk ids of {ID_BYTES} bytes each are wanted")


def wire(report: Report, ticket: int) -> a.GcReport:
    return a.GcReport(
        cycle=report.cycle,
        outcome=report.outcome,
        reason=report.reason,
        marked=report.marked,
        mark_index=report.mark_index,
        gathered=report.gathered,
        strays=report.strays,
        adopted=report.adopted,
        recalled=report.recalled,
        candidates=report.candidates,
        condemned=report.condemned,
        deleted=report.deleted,
        void_nodes=sorted(report.void),
        seconds=report.seconds,
        dry_run=report.dry_run,
        would_condemn=report.would_condemn if report.outcome != "running" else (),
        ticket=ticket,
    )


def live(found: Rewriting) -> a.LiveBytes:
    return a.LiveBytes(
        chunks=found.chunks,
        total_bytes=found.total_bytes,
        live_bytes=found.live_bytes,
        sparse_chunks=found.sparse_chunks,
        dead_bytes=found.dead_bytes,
        rewritten_chunks=found.rewritten_chunks,
    )


def classes(node_id: str, one: Classes) -> a.DiskClasses:
    return a.DiskClasses(
        node_id=node_id,
        total_bytes=one.room.total,
        free_bytes=one.room.free,
        referenced_bytes=one.referenced,
        uploading_bytes=one.uploading,
        orphan_bytes=one.orphan,
        condemned_bytes=one.condemned,
        quarantined_bytes=one.room.quarantined,
        unaccounted_bytes=one.unaccounted,
        other_bytes=one.other,
    )
