"""`AsyncClient`: the verbs of `Client` for asyncio.

    async with AsyncClient("127.0.0.1:7400") as fs:
        await asyncio.gather(*(fs.write_bytes(f"/n/{k}", b"...") for k in range(1000)))

1. It is a `Client` inside: the same session, streams, retries and coalescer, and no second copy of any rule.
2. Operations on the namespace, small files among them, cost no thread: coroutines that are woken together hand
   their operations over together, and these travel in one message.
3. What moves many bytes, or answers in pages, runs in a few threads of this client.

One event loop; not for several threads. Cancelling a coroutine does not take back what it has sent.
"""

from __future__ import annotations

import asyncio
import builtins
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, BinaryIO, Generic, ParamSpec, TypeVar

from quorumfs import limits, ops
from quorumfs.batch import Done, Later
from quorumfs.checksum import Buffer, crc32c
from quorumfs.client import Client, LocalPath, RemotePath, link_target, remote_path
from quorumfs.errors import (
    Code,
    InlineBudgetError,
    InternalError,
    Leader,
    NotFoundError,
    QuorumFSError,
    TooLargeError,
)
from quorumfs.ops import NewFile
from quorumfs.questions import encode_stat
from quorumfs.rpc.channels import ChannelSource
from quorumfs.rpc.status import raise_for
from quorumfs.upload import Progress
from quorumfs.v1 import admin_pb2
from quorumfs.v1 import namespace_pb2 as pb
from quorumfs.values import FileStatus, Location, SpaceStatus, TrashItem, file_status

P = ParamSpec("P")
T = TypeVar("T")
Op = TypeVar("Op")
Answer = TypeVar("Answer")

THREADS = 16
_ENTRY_PAUSE_SECONDS = 0.05
_PAGE = 1000
_CONTENTS = 16  # files of a page with contents


class AsyncClient:
    """A connection to one cluster. The arguments and verbs are those of `Client`.

    `threads`: how many transfers may be under way at once; more of them wait.
    """

    def __init__(
        self,
        coordinators: str | Sequence[str] | None = None,
        *,
        timeout: float = limits.CLIENT_DEADLINE_SECONDS,
        token: str | None = None,
        channels: ChannelSource | None = None,
        short_circuit: bool | None = None,
        zone: str | None = None,
        threads: int = THREADS,
    ) -> None:
        self._client = Client(
            coordinators,
            timeout=timeout,
            token=token,
            channels=channels,
            short_circuit=short_circuit,
            zone=zone,
        )
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="quorumfs-aio")
        self._refusals = self._client._uploader.refusals
        coordinator = self._client.coordinator
        self._changes: _Crowd[pb.Op, pb.Result] = _Crowd(coordinator.submit)
        self._questions: _Crowd[bytes, pb.ReadResult] = _Crowd(coordinator.submit_reads)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the threads and connections of this client. What is under way fails. May be called again."""
        await asyncio.to_thread(self._client.close)
        self._pool.shutdown(wait=False, cancel_futures=True)

    # ---- whole files -------------------------------------------------------------------------------------

    async def put(
        self,
        source: LocalPath | BinaryIO | Buffer,
        path: RemotePath,
        *,
        if_absent: bool = False,
        expected_version: int = 0,
        replication: int = 0,
        mode: int | None = None,
        modified_ns: int | None = None,
        progress: Progress | None = None,
    ) -> FileStatus:
        """Store a local file, a binary file object or bytes; `progress` is called from other threads."""
        return await self._in_thread(
            self._client.put,
            source,
            path,
            if_absent=if_absent,
            expected_version=expected_version,
            replication=replication,
            mode=mode,
            modified_ns=modified_ns,
            progress=progress,
        )

    async def get(
        self, path: RemotePath, target: LocalPath, *, fsync: bool = False, progress: Progress | None = None
    ) -> FileStatus:
        """Fetch `path` into the local file `target`, which is replaced at the end, whole and verified."""
        return await self._in_thread(self._client.get, path, target, fsync=fsync, progress=progress)

    async def read_bytes(self, path: RemotePath) -> bytes:
        """The whole content."""
        return await self._in_thread(self._client.read_bytes, path)

    async def write_bytes(
        self,
        path: RemotePath,
        data: Buffer,
        *,
        if_absent: bool = False,
        expected_version: int = 0,
        mode: int = 0,
    ) -> FileStatus:
        """Store `data` as `path`, atomically; durable and visible on return."""
        where = remote_path(path)
        length = memoryview(data).nbytes
        if length <= limits.INLINE_BYTES_MAX and not self._refusals.cover(length):
            body = bytes(data)
            new = NewFile(where, if_absent=if_absent, expected_version=expected_version, mode=mode)
            try:
                stored = await self._do(ops.put_file(new, body, crc32c(body)))
                return file_status(stored.info, where)
            except (InlineBudgetError, TooLargeError) as error:
                self._refusals.add(error, length)  # the metadata has no room for it: it goes to datanodes
        return await self._in_thread(
            self._client.write_bytes,
            path,
            data,
            if_absent=if_absent,
            expected_version=expected_version,
            mode=mode,
        )

    async def read_text(self, path: RemotePath, encoding: str = "utf-8") -> str:
        return (await self.read_bytes(path)).decode(encoding)

    async def write_text(
        self, path: RemotePath, text: str, encoding: str = "utf-8", *, if_absent: bool = False
    ) -> FileStatus:
        return await self.write_bytes(path, text.encode(encoding), if_absent=if_absent)

    async def put_many(
        self,
        files: Mapping[str, Buffer | LocalPath] | Iterable[tuple[RemotePath, Buffer | LocalPath]],
        *,
        if_absent: bool = False,
        replication: int = 0,
        failed: dict[str, QuorumFSError | OSError] | None = None,
        stored: dict[str, FileStatus] | None = None,
        progress: Progress | None = None,
    ) -> dict[str, FileStatus]:
        """Store many files; raises PartialError, which names the failures, when some were not stored, unless
        `failed` takes them. When an error ends it all, `stored` and `failed` hold the account."""
        return await self._in_thread(
            self._client.put_many,
            files,
            if_absent=if_absent,
            replication=replication,
            failed=failed,
            stored=stored,
            progress=progress,
        )

    async def get_many(
        self, files: Iterable[RemotePath], *, failed: dict[str, QuorumFSError] | None = None
    ) -> dict[str, bytes]:
        """The contents of many files; raises PartialError, which names those that could not be read, unless
        `failed` takes them."""
        return await self._in_thread(self._client.get_many, files, failed=failed)

    def iterate_many(
        self, files: Iterable[RemotePath], *, failed: dict[str, QuorumFSError]
    ) -> AsyncIterator[tuple[str, FileStatus, bytes]]:
        """(path as given, status, content) of many files, as they come in; failures are put into `failed`."""
        return self._pages(lambda: self._client.iterate_many(files, failed=failed), _CONTENTS)

    def open(self, path: RemotePath, mode: str = "rb", **options: Any) -> Opening:
        """A file object: `async with fs.open("/x") as file: await file.read(4)`, or `await fs.open("/x")`.

        Modes and options are those of `Client.open`.
        """
        return Opening(self._in_thread, partial(self._client.open, path, mode, **options))

    # ---- the namespace -----------------------------------------------------------------------------------

    async def stat(self, path: RemotePath, *, follow: bool = True, stale: bool = False) -> FileStatus:
        """What `path` is. `follow`: of a link, what it leads to. `stale`: any coordinator may answer."""
        if stale:
            return await self._in_thread(self._client.stat, path, follow=follow, stale=True)
        where = remote_path(path)
        result = await self._questions.ask(encode_stat(where, follow))
        if result.code:  # of thousands a second nearly all are good
            raise_for(result.code, result.error)
        return file_status(result.info, where)

    async def exists(self, path: RemotePath) -> bool:
        """Whether something is at `path`; a link that leads nowhere is nothing."""
        try:
            await self.stat(path)
        except NotFoundError:
            return False
        return True

    async def list(self, path: RemotePath = "/", *, stale: bool = False) -> list[FileStatus]:
        """The entries of a directory, in byte order of their names."""
        return await self._in_thread(self._client.list, path, stale=stale)

    def iterate(self, path: RemotePath = "/", *, stale: bool = False) -> AsyncIterator[FileStatus]:
        """Like `list`, page by page, for large directories."""
        return self._pages(lambda: self._client.iterate(path, stale=stale))

    async def mkdir(
        self, path: RemotePath, *, parents: bool = False, mode: int = 0, modified_ns: int = 0
    ) -> FileStatus:
        """Make a directory. `parents`: with what is missing above it, and an existing one is fine."""
        where = remote_path(path)
        return file_status((await self._do(ops.mkdir(where, mode, modified_ns, parents))).info, where)

    async def makedirs(self, path: RemotePath) -> FileStatus:
        """`mkdir` with `parents`."""
        return await self.mkdir(path, parents=True)

    async def rename(self, source: RemotePath, target: RemotePath, *, replace: bool = False) -> FileStatus:
        """Move a file or tree, atomically. `replace`: what is at `target` goes to the trash."""
        where = remote_path(target)
        return file_status((await self._do(ops.rename(remote_path(source), where, replace))).info, where)

    async def delete(
        self,
        path: RemotePath,
        *,
        recursive: bool = False,
        purge: bool = False,
        missing_ok: bool = False,
    ) -> int:
        """Move a file, link or tree to the trash; returns its trash id (0: none). `purge`: past the trash."""
        op = ops.delete(remote_path(path), recursive, purge, missing_ok=missing_ok)
        return (await self._do(op)).removal.trash_id

    async def copy(self, source: RemotePath, target: RemotePath, *, replace: bool = False) -> FileStatus:
        """Copy a file within the cluster: the copy shares its chunks, no byte moves."""
        where = remote_path(target)
        return file_status((await self._do(ops.clone(remote_path(source), where, replace))).info, where)

    async def symlink(
        self,
        target: str | bytes,
        path: RemotePath,
        *,
        modified_ns: int | None = None,
        replace: bool = False,
    ) -> FileStatus:
        """Make `path` a symbolic link to `target`, like os.symlink. `modified_ns`: None is now."""
        where = remote_path(path)
        op = ops.symlink(where, link_target(target), modified_ns, replace)
        return file_status((await self._do(op)).info, where)

    async def set_attributes(
        self,
        path: RemotePath,
        *,
        mode: int | None = None,
        modified_ns: int | None = None,
        replication: int | None = None,
        expected_version: int = 0,
    ) -> FileStatus:
        """Change what is given, leave the rest."""
        where = remote_path(path)
        op = ops.set_attributes(where, mode, modified_ns, replication, expected_version)
        return file_status((await self._do(op)).info, where)

    async def locate(self, path: RemotePath) -> builtins.list[Location]:
        """Where the bytes lie: one Location per extent, in file order."""
        return await self._in_thread(self._client.locate, path)

    async def statfs(self, *, stale: bool = False) -> SpaceStatus:
        """Counts and space of the cluster."""
        return await self._in_thread(self._client.statfs, stale=stale)

    # ---- the trash ---------------------------------------------------------------------------------------

    def list_trash(self) -> AsyncIterator[TrashItem]:
        """What was deleted or replaced, oldest first, page by page."""
        return self._pages(self._client.list_trash)

    async def undelete(
        self,
        path: RemotePath | None = None,
        *,
        trash_id: int = 0,
        to: RemotePath | None = None,
        replace: bool = False,
    ) -> FileStatus:
        """Bring back the newest deleted at `path`, or the entry `trash_id`; where it was, or to `to`."""
        original = b"" if path is None else remote_path(path)
        target = b"" if to is None else remote_path(to)
        result = await self._do(ops.undelete(trash_id, original, target, replace))
        return file_status(result.info, target or original)

    async def empty_trash(self, *, trash_id: int = 0, older_than_seconds: float = 0) -> int:
        """Remove one entry, or all older than this; returns how many. Only GC's grace is left to them."""
        result = await self._do(ops.empty_trash(trash_id, int(older_than_seconds * 1000)))
        return result.removal.removed

    # ---- the cluster -------------------------------------------------------------------------------------

    async def leader(self) -> Leader:
        """Who leads, as it says itself. Raises NoLeaderError."""
        return await self._in_thread(self._client.leader)

    async def status(self) -> admin_pb2.ClusterStatus:
        """The leader's view of the cluster, as it comes over the wire."""
        return await self._in_thread(self._client.status)

    # ---- inside ------------------------------------------------------------------------------------------

    async def _do(self, op: pb.Op) -> pb.Result:
        deadline = asyncio.get_running_loop().time() + self._client.coordinator.timeout
        result = await self._changes.ask(op)
        while int(result.code) == Code.BUSY and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_ENTRY_PAUSE_SECONDS)  # its log entry had no room for it
            result = await self._changes.ask(op)
        raise_for(result.code, result.error)
        return result

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, partial(work, *args, **options))

    async def _pages(self, begin: Callable[[], Iterator[T]], size: int = _PAGE) -> AsyncIterator[T]:
        """What an iterator gives, fetched in a thread a page at a time."""
        source = begin()
        while page := await self._in_thread(_page_of, source, size):
            for one in page:
                yield one


def _page_of(source: Iterator[T], size: int) -> list[T]:
    return [one for _, one in zip(range(size), source, strict=False)]


class _Crowd(Generic[Op, Answer]):
    """Coroutines that hand over one operation each: all that were woken together, together."""

    def __init__(self, submit: Callable[[Sequence[tuple[Op, Done[Answer]]], Later], None]) -> None:
        self._submit = submit
        self._waiting: list[tuple[Op, asyncio.Future[Answer]]] = []
        self._told: deque[tuple[asyncio.Future[Answer], list[Answer] | None, QuorumFSError | None]] = deque()
        self._waking = False

    def ask(self, op: Op) -> asyncio.Future[Answer]:
        """The answer to `op`, to be awaited at once. Raises what concerns the whole message."""
        waiting = self._waiting
        # Asked for once a turn: each time it is a system call.
        loop = waiting[0][1].get_loop() if waiting else asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        waiting.append((op, future))
        if len(waiting) == 1:  # the others of this turn of the loop come before the call
            loop.call_soon(self._hand_over)
        return future

    def _hand_over(self) -> None:
        waiting, self._waiting = self._waiting, []
        calls = [(op, partial(self._tell, future)) for op, future in waiting if not future.cancelled()]
        if calls:
            self._submit(calls, partial(_later, asyncio.get_running_loop()))

    def _tell(
        self, future: asyncio.Future[Answer], answers: list[Answer] | None, error: QuorumFSError | None
    ) -> None:
        """From another thread: one wake-up of the loop for all that were told meanwhile."""
        self._told.append((future, answers, error))
        if self._waking:
            return
        self._waking = True
        try:
            future.get_loop().call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._told.clear()

    def _wake(self) -> None:
        self._waking = False  # before the queue is read: who is told after this wakes again
        while self._told:
            future, answers, error = self._told.popleft()
            if future.done():  # cancelled
                continue
            if answers:
                future.set_result(answers[0])
            else:
                future.set_exception(error or InternalError("an operation was not answered"))


def _later(loop: asyncio.AbstractEventLoop, go: Callable[[], None]) -> None:
    """Have `go` called after those were woken who were just told, and have handed over what they ask next."""
    try:  # they run in the next turn of the loop, `_hand_over` in the one after it
        loop.call_soon_threadsafe(loop.call_soon, loop.call_soon, go)
    except RuntimeError:  # the loop is closed: nobody asks again
        go()


class AsyncFile:
    """A file object of `Client` whose calls run in threads. One coroutine at a time."""

    def __init__(self, in_thread: Callable[..., Any], file: Any) -> None:
        self._in_thread = in_thread
        self._file = file

    @property
    def status(self) -> FileStatus | None:
        """What is read; of a writer, what was stored, once it is closed."""
        raw = getattr(self._file, "buffer", self._file)
        found: FileStatus | None = getattr(getattr(raw, "raw", raw), "status", None)
        return found

    async def read(self, size: int = -1) -> Any:
        """Bytes or text, fewer than `size` only at the end."""
        return await self._in_thread(self._file.read, size)

    async def readline(self) -> Any:
        return await self._in_thread(self._file.readline)

    async def write(self, data: Any) -> int:
        written: int = await self._in_thread(self._file.write, data)
        return written

    async def seek(self, offset: int, whence: int = 0) -> int:
        at: int = await self._in_thread(self._file.seek, offset, whence)
        return at

    def tell(self) -> int:
        at: int = self._file.tell()
        return at

    async def close(self) -> None:
        """Of a writer: durable and visible on return, or it raises why not."""
        await self._in_thread(self._file.close)

    async def __aenter__(self) -> AsyncFile:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self._in_thread(self._file.__exit__, kind, error, trace))

    def __aiter__(self) -> AsyncFile:
        return self

    async def __anext__(self) -> Any:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line


class Opening:
    """What `AsyncClient.open` gives: to be awaited, or used in `async with`."""

    def __init__(self, in_thread: Callable[..., Any], open_file: Callable[[], Any]) -> None:
        self._in_thread = in_thread
        self._open_file = open_file
        self._opened: AsyncFile | None = None

    def __await__(self) -> Generator[Any, None, AsyncFile]:
        return self._open().__await__()

    async def _open(self) -> AsyncFile:
        return AsyncFile(self._in_thread, await self._in_thread(self._open_file))

    async def __aenter__(self) -> AsyncFile:
        self._opened = await self._open()
        return self._opened

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._opened is not None
        await self._opened.__aexit__(kind, error, trace)
