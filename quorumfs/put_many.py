"""Many files at once: small ones share chunks and log entries, hundreds each; the others go one by one.

1. Small files are collected into packs. A pack is stored on datanodes in one pass, then its files are made in one or
   two messages; a few packs are under way while the next is collected.
2. What is too little for a write on datanodes goes inline, if the metadata takes it; and so does a pack that no
   datanodes take, as far as its files are small enough.
3. A pack that is refused when its files are made (its upload expired, its replicas were lost) is sent again, with
   all files that are not made yet.
4. Of two files of one name the later one wins: it waits until the packs before it are through.
5. An account is kept of every file that was taken, message by message: also when an error ends it all, each is known to
   be stored, or why it is not known to be.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

from quorumfs import limits, ops
from quorumfs.checksum import crc32c
from quorumfs.errors import (
    ChunkNotFoundError,
    InlineBudgetError,
    NoLeaderError,
    OutcomeUnknownError,
    PartialError,
    QuorumFSError,
    TooLargeError,
    UnavailableError,
    UploadGoneError,
)
from quorumfs.keepalive import KeepAlive
from quorumfs.local_file import attributes_of
from quorumfs.namespace import Namespace
from quorumfs.ops import NewFile
from quorumfs.pack import PackFile, PackUpload
from quorumfs.rpc.status import raise_for
from quorumfs.sources import Source, open_source
from quorumfs.upload import Progress, Uploader
from quorumfs.v1 import namespace_pb2
from quorumfs.values import FileStatus, file_status, text

_PACK_ROUNDS = 3
_OF_THE_PACK = (UploadGoneError, ChunkNotFoundError)
_OF_ALL = (NoLeaderError, OutcomeUnknownError)


class ManyFiles:
    """Stores files and keeps account of them: every one is in `stored` or in `failed`, by its path.

    One call of `put`. `progress` is told of the bytes of files that are stored. `stored` and `failed` may be given.
    """

    def __init__(
        self,
        uploader: Uploader,
        namespace: Namespace,
        keep_alive: KeepAlive,
        progress: Progress | None = None,
        stored: dict[str, FileStatus] | None = None,
        failed: dict[str, QuorumFSError | OSError] | None = None,
    ) -> None:
        self._uploader = uploader
        self._namespace = namespace
        self._keep_alive = keep_alive
        self._progress = progress
        self._uploads: dict[int, PackUpload] = {}
        self._pool = ThreadPoolExecutor(limits.PACKS_IN_FLIGHT, thread_name_prefix="quorumfs-packs")
        self._under_way: deque[tuple[list[PackFile], Future[None]]] = deque()
        self._collected: list[PackFile] = []
        self._collected_bytes = 0
        self._names: set[bytes] = set()  # collected or under way, and their fate not known
        self._inline_only = False  # datanodes took no pack; what may be inline is not tried there again
        self._done_bytes = 0
        self._lock = threading.Lock()
        self.stored: dict[str, FileStatus] = {} if stored is None else stored
        self.failed: dict[str, QuorumFSError | OSError] = {} if failed is None else failed

    def put(self, files: Iterable[tuple[NewFile, object]]) -> None:
        """Store all. Raises only what concerns none of them alone (OutcomeUnknownError, NoLeaderError), and what
        `files` raises; then every file that was taken is in `stored`, or in `failed` with what is known of it."""
        try:
            for new, data in files:
                self._take(new, data)
            self._settle()
        except BaseException:
            for upload in self._uploads.values():
                upload.cancel()
            raise
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._account()
            for upload in self._uploads.values():
                upload.close()

    def check(self) -> dict[str, FileStatus]:
        """What was stored. Raises PartialError, with the reasons by path in `ids`, when something was not."""
        if not self.failed:
            return self.stored
        first = [f"{name}: {error}" for name, error in list(self.failed.items())[:3]]
        raise PartialError(
            f"{len(self.failed)} of {len(self.stored) + len(self.failed)} files were not stored",
            cause="; ".join(first),
            ids={name: str(error) for name, error in self.failed.items()},
        )

    def _account(self) -> None:
        """Give those of which nothing is known, because an error ended it all, their reasons."""
        for files, future in self._under_way:
            error = None if future.cancelled() else future.exception()
            for file in files:
                if file.new.path in self._names:
                    self._fail(file.new, _reason(error))
        for file in self._collected:
            self._fail(file.new, _reason(None))

    # ---- collecting, in the caller's thread --------------------------------------------------------------

    def _take(self, new: NewFile, data: object) -> None:
        if new.path in self._names:
            self._settle()
        if type(data) is bytes and len(data) <= limits.PACKED_FILE_BYTES_MAX:
            self._collect(PackFile(new, data, crc32c(data)))
            return
        try:
            source, close = open_source(data)
            try:
                mode, mtime_ns = attributes_of(data)
                if mode or mtime_ns:
                    new = replace(new, mode=new.mode or mode, mtime_ns=new.mtime_ns or mtime_ns)
                body = source.whole(limits.PACKED_FILE_BYTES_MAX) if source.replayable else None
                if body is None:
                    self._put_one(new, source)
                    return
            finally:
                close()
        except _OF_ALL as error:
            self._fail(new, error)
            raise
        except (QuorumFSError, OSError) as error:
            self._fail(new, error)
            return
        self._collect(PackFile(new, body, crc32c(body)))

    def _put_one(self, new: NewFile, source: Source) -> None:
        stored = self._uploader.upload(source, new)
        self._note([(new, stored)])

    def _collect(self, file: PackFile) -> None:
        size = len(file.body)
        if self._collected and (
            len(self._collected) == limits.PACK_FILES_MAX
            or self._collected_bytes + size > limits.PACK_BYTES_MAX
            or self._collected[0].new.replication != file.new.replication
        ):
            self._send_collected(more=True)
        self._collected.append(file)
        self._collected_bytes += size
        self._names.add(file.new.path)

    def _send_collected(self, more: bool) -> None:
        """`more`: another pack follows for sure."""
        while self._collected and len(self._under_way) >= limits.PACKS_IN_FLIGHT:
            self._await_pack()
        files, self._collected, self._collected_bytes = self._collected, [], 0
        if files:
            self._under_way.append((files, self._pool.submit(self._put_files, files, more)))

    def _await_pack(self) -> None:
        self._under_way[0][1].result()
        self._under_way.popleft()

    def _settle(self) -> None:
        """Wait until the fate of all that was taken is known."""
        self._send_collected(more=False)
        while self._under_way:
            self._await_pack()

    # ---- storing, in threads of the pool -----------------------------------------------------------------

    def _put_files(self, files: Sequence[PackFile], more: bool) -> None:
        size = sum(len(file.body) for file in files)
        may_be_inline = max(len(file.body) for file in files) <= limits.INLINE_BYTES_MAX
        if may_be_inline and (size <= limits.PACK_BYTES_MIN or self._inline_only):
            files = [file for file, _ in self._put_inline(files)]
        if files:
            self._put_packed(files, may_be_inline, more)

    def _put_inline(self, files: Sequence[PackFile]) -> list[tuple[PackFile, QuorumFSError]]:
        """Those for which the metadata has no room; the others are stored or have failed."""
        made = [ops.put_file(file.new, file.body, file.checksum) for file in files]
        return self._make(files, made, (InlineBudgetError, TooLargeError))

    def _put_packed(self, files: Sequence[PackFile], may_be_inline: bool, more: bool) -> None:
        left: Sequence[tuple[PackFile, QuorumFSError]] = ()
        for _ in range(_PACK_ROUNDS):
            try:
                patience_seconds = limits.PACK_SECONDS if may_be_inline else limits.STORE_CHUNK_SECONDS
                left = self._try_packed(files, patience_seconds, more)
            except _OF_ALL:
                raise
            except UploadGoneError as gone:
                left = [(file, gone) for file in files]
            except QuorumFSError as error:
                self._put_elsewhere(files, may_be_inline, error)
                return
            files = [file for file, _ in left]
            if not files:
                return
        for file, refusal in left:
            self._fail(file.new, refusal)

    def _try_packed(
        self, files: Sequence[PackFile], patience_seconds: float, more: bool
    ) -> list[tuple[PackFile, QuorumFSError]]:
        """Those that have to be sent again, with the reasons; the others are stored or have failed."""
        full = [file for file in files if file.body]
        if not full:
            return self._put_inline(files)
        upload = self._upload_for(files[0].new.replication)
        pack = upload.store(full, patience_seconds, more)
        ranges = iter(pack.ranges)
        made = [
            ops.put_packed(file.new, next(ranges), file.checksum)
            if file.body
            else ops.put_file(file.new, b"", file.checksum)
            for file in files
        ]
        left = self._make(files, made, _OF_THE_PACK, ops.hand_in(pack.upload, pack.chunk))
        if any(isinstance(error, UploadGoneError) for _, error in left):
            upload.renew(pack.upload)
        return left

    def _upload_for(self, replication: int) -> PackUpload:
        with self._lock:
            if replication not in self._uploads:
                self._uploads[replication] = PackUpload(
                    self._uploader, self._namespace, self._keep_alive, replication
                )
            return self._uploads[replication]

    def _put_elsewhere(self, files: Sequence[PackFile], may_be_inline: bool, error: QuorumFSError) -> None:
        """No datanodes took the pack, or a message that makes its files was refused: `error` says why. What messages
        before that have made, or refused, is settled."""
        left = [file for file in files if file.new.path in self._names]
        if may_be_inline:
            self._inline_only = True
            left = [file for file, _ in self._put_inline(left)]
        for file in left:
            self._fail(file.new, error)

    def _make(
        self,
        files: Sequence[PackFile],
        made: Sequence[namespace_pb2.Op],
        again: tuple[type[QuorumFSError], ...],
        *before: namespace_pb2.Op,
    ) -> list[tuple[PackFile, QuorumFSError]]:
        """Have `before` done and the files made; those that were refused with one of `again`.

        Each message is judged when it is answered: what a later one raises takes nothing away from it.
        """
        left = []
        waiting, skipped = iter(files), len(before)
        for part, _ in ops.messages([*before, *made]):
            results = self._namespace.operations.do(part)[skipped:]
            left += self._judge(list(islice(waiting, len(results))), results, again)
            skipped = 0
        return left

    def _judge(
        self,
        files: Sequence[PackFile],
        results: Sequence[namespace_pb2.Result],
        again: tuple[type[QuorumFSError], ...],
    ) -> list[tuple[PackFile, QuorumFSError]]:
        """Note what became of the files; returns those that were refused with one of `again`."""
        left, good = [], []
        for file, result in zip(files, results, strict=True):
            if not result.code:
                good.append((file.new, result.info))
                continue
            try:
                raise_for(result.code, result.error)
            except again as error:
                left.append((file, error))
            except QuorumFSError as error:
                self._fail(file.new, error)
        self._note(good)
        return left

    def _note(self, stored: Sequence[tuple[NewFile, namespace_pb2.FileInfo]]) -> None:
        found = [(new.path, text(new.path), file_status(info, new.path)) for new, info in stored]
        with self._lock:
            for path, name, status in found:
                self.failed.pop(name, None)
                self.stored[name] = status
                self._names.discard(path)
            self._tell(sum(status.size_bytes for _, _, status in found))

    def _fail(self, new: NewFile, error: QuorumFSError | OSError) -> None:
        with self._lock:
            self.failed[text(new.path)] = error
            self._names.discard(new.path)

    def _tell(self, count: int) -> None:
        if self._progress is not None and count:
            self._done_bytes += count
            self._progress(self._done_bytes)


def _reason(error: BaseException | None) -> QuorumFSError | OSError:
    """Of a file whose fate is not known: `error` ended its pack; None: it was not begun."""
    if error is None:
        return UnavailableError("the file was not stored", cause="the call ended before its turn")
    if isinstance(error, QuorumFSError | OSError):
        return error
    return OutcomeUnknownError("whether the file is stored is not known", cause=repr(error))
