"""Many files at once: the layouts of hundreds in a message, and neighbours in a pack in one read.

1. Inline bodies come with the layouts, and a chunk of many files comes once. A file that is one range of a chunk is
   read together with those that lie close to it in the same chunk: a *run*. What lies between them is read and
   thrown away.
2. Runs are read several at a time; the next layouts are asked for while they are under way, and while the last ones
   are looked at. The order of the answers is that of the runs.
3. A run is verified block by block, and then each of its files by its own checksum. Whatever is wrong with a run,
   each of its files is then read alone, as `get` does: that finds other replicas, and chunks that moved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import attrgetter

from quorumfs import limits, ops
from quorumfs.checksum import crc32c
from quorumfs.download import OpenedFile, of_one_version
from quorumfs.errors import Code, IntegrityError, QuorumFSError
from quorumfs.namespace import Namespace
from quorumfs.read_chunk import ChunkReader
from quorumfs.rpc.status import raise_for
from quorumfs.v1 import namespace_pb2

_LAYOUTS_AT_ONCE = limits.BATCH_OPS_MAX
_PAGES_IN_FLIGHT = 2


@dataclass(frozen=True, slots=True)
class Got:
    """A file that was asked for as `path`: its content, or why there is none."""

    path: bytes
    info: namespace_pb2.FileInfo
    content: bytes = b""
    error: QuorumFSError | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file whose content is one range of a chunk."""

    path: bytes
    info: namespace_pb2.FileInfo
    chunk: namespace_pb2.ChunkLocation
    chunk_offset: int

    @property
    def end(self) -> int:
        return self.chunk_offset + self.info.size

    @property
    def place(self) -> tuple[bytes, int, int]:
        """Chunk id, offset in it, size: what runs are made by."""
        return self.chunk.chunk, self.chunk_offset, self.info.size


@dataclass(frozen=True, slots=True)
class Run:
    """Files in one range of a chunk, by their place in it."""

    files: tuple[Wanted, ...]
    start: int
    end: int


_Task = Callable[[], list[Got]]


class ManyReader:
    """Reads whole files. Any thread may call."""

    def __init__(self, namespace: Namespace, reader: ChunkReader) -> None:
        self._namespace = namespace
        self._reader = reader

    def read(self, paths: Iterable[bytes]) -> Iterator[Got]:
        """Every file of `paths`, links followed, in no particular order; a few megabytes are read ahead.

        Raises what concerns none of them alone (NoLeaderError), and what `paths` raises.
        """
        under_way: deque[Future[list[Got]]] = deque()
        pool = ThreadPoolExecutor(limits.RUNS_IN_FLIGHT, thread_name_prefix="quorumfs-runs")
        asking = ThreadPoolExecutor(_PAGES_IN_FLIGHT, thread_name_prefix="quorumfs-layouts")
        try:
            for task in self._tasks(iter(paths), asking):
                under_way.append(pool.submit(task))
                while len(under_way) > limits.RUNS_IN_FLIGHT or (under_way and under_way[0].done()):
                    yield from under_way.popleft().result()
            while under_way:
                yield from under_way.popleft().result()
        finally:
            for one in (pool, asking):
                one.shutdown(
                    wait=False, cancel_futures=True
                )  # who gave up waits for nothing that is under way

    def _tasks(self, paths: Iterator[bytes], asking: ThreadPoolExecutor) -> Iterator[_Task]:
        """What is to be done for all of `paths`; a page of layouts is asked for while the one before is looked at."""
        pages: deque[tuple[list[bytes], Future[list[namespace_pb2.ReadResult]]]] = deque()
        while True:
            while len(pages) < _PAGES_IN_FLIGHT and (page := list(islice(paths, _LAYOUTS_AT_ONCE))):
                pages.append((page, asking.submit(self._layouts, page)))
            if not pages:
                return
            page, answer = pages.popleft()
            layouts = answer.result()
            if left := page[len(layouts) :]:
                pages.append((left, asking.submit(self._layouts, left)))
            wanted = []
            chunks: dict[bytes, namespace_pb2.ChunkLocation] = {}
            for path, result in zip(page, layouts, strict=False):
                one = _wanted(path, result, chunks)
                if isinstance(one, Wanted):
                    wanted.append(one)
                elif isinstance(one, Got):
                    yield partial(list, (one,))
                else:
                    yield partial(self._alone, path)
            for run in plan(wanted):
                yield partial(self._read_run, run)

    def _layouts(self, page: Sequence[bytes]) -> list[namespace_pb2.ReadResult]:
        """Answers for the first of `page`, one at least: as many as a message holds."""
        results = self._namespace.operations.read([ops.layout_among(path) for path in page])
        fit = next(
            (at for at, one in enumerate(results) if at and int(one.code) == Code.TOO_LARGE), len(page)
        )
        return results[:fit]

    def _read_run(self, run: Run) -> list[Got]:
        first = run.files[0]
        try:
            pieces = self._reader.read(
                first.chunk, run.start, run.end - run.start, partial(self._again, first)
            )
            data = b"".join(pieces)
        except QuorumFSError:
            return [got for file in run.files for got in self._alone(file.path)]
        found = []
        for file in run.files:
            at, info = file.chunk_offset - run.start, file.info
            content = data[at : at + info.size]
            if crc32c(content) == info.checksum:
                found.append(Got(file.path, info, content))
            else:
                found += self._alone(file.path)
        return found

    def _again(self, file: Wanted) -> namespace_pb2.ChunkLocation | None:
        """Where the chunk is by now; None when the file is not there any more."""
        layout = self._namespace.layout_of(file.info.id, file.info.version)
        if [(one.chunk, one.chunk_offset) for one in layout.extents] != [
            (file.chunk.chunk, file.chunk_offset)
        ]:
            return None
        return layout.chunks[0]

    def _alone(self, path: bytes) -> list[Got]:
        try:
            open_file = partial(OpenedFile, self._namespace, self._reader, path)
            return [of_one_version(open_file, partial(self._read_alone, path))]
        except QuorumFSError as error:
            return [Got(path, namespace_pb2.FileInfo(), error=error)]

    @staticmethod
    def _read_alone(path: bytes, opened: OpenedFile) -> Got:
        content = b"".join(opened.read(0))
        if crc32c(content) != opened.info.checksum:
            raise IntegrityError(
                f"{path.decode('utf-8', 'backslashreplace')} does not match its checksum",
                cause=f"{len(content)} bytes with {crc32c(content):08x} came, not {opened.info.checksum:08x}",
                next="dfsctl verify tells which replicas are bad",
            )
        return Got(path, opened.info, content)


def _wanted(
    path: bytes, result: namespace_pb2.ReadResult, chunks: dict[bytes, namespace_pb2.ChunkLocation]
) -> Wanted | Got | None:
    """What is known of a file from its layout; None: it is to be read alone. `chunks`: those that the layouts before it
    in the message have told; its own are added."""
    layout = result.layout
    info = layout.info
    if result.code:
        try:
            raise_for(result.code, result.error)
        except QuorumFSError as error:
            return Got(path, info, error=error)
    for told in layout.chunks:
        chunks[told.chunk] = told
    size = info.size
    if not size:
        return Got(path, info)
    if layout.next_offset or len(layout.extents) != 1 or size > limits.PACKED_FILE_BYTES_MAX:
        return None
    extent = layout.extents[0]
    chunk = chunks.get(extent.chunk)
    if chunk is None or extent.offset or extent.length != size:
        return None
    if not chunk.inline:
        return Wanted(path, info, chunk, extent.chunk_offset)
    content = chunk.body[extent.chunk_offset : extent.chunk_offset + size]
    return Got(path, info, content) if crc32c(content) == info.checksum else None


def plan(files: Iterable[Wanted]) -> list[Run]:
    """Every file in one run, runs as long as they may be: over gaps of at most RUN_GAP_BYTES, up to RUN_BYTES_MAX."""
    runs: list[Run] = []
    collected: list[Wanted] = []
    of, start, end = b"", 0, 0
    for file in sorted(files, key=attrgetter("place")):
        chunk, offset, size = file.place
        stop = offset + size
        if collected and (
            chunk != of or offset > end + limits.RUN_GAP_BYTES or stop > start + limits.RUN_BYTES_MAX
        ):
            runs.append(Run(tuple(collected), start, end))
            collected = []
        if not collected:
            of, start, end = chunk, offset, stop
        end = max(end, stop)
        collected.append(file)
    if collected:
        runs.append(Run(tuple(collected), start, end))
    return runs
