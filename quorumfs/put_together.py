"""Small files that are put one by one share a chunk and a log entry with those that other threads put meanwhile.

1. A caller that finds nobody under way stores its file at once. Those who come meanwhile wait, and go together:
   their bytes as one chunk, then one message that hands it in and makes every file. No timer: one caller alone
   waits for nobody.
2. The upload that protects the chunks stays open for the next ones, and a few ids are allocated ahead: a file costs
   one round trip to the leader, where an upload of its own costs three.
3. What an open upload protects is not repaired, balanced or collected. So its last message ends it when it is old, or
   when its chunk has fewer replicas than wanted; if nothing follows, or something failed, the thread of the signs of
   life ends it, as soon as a leader hears that.
4. By itself goes a file that comes after a silence, one whose turn does not come soon (a datanode stalls, say), one
   with a replication of its own, and one that was refused for its chunk's sake too often.
5. A failure concerns all that travel together; a refusal (no such directory) only its own file.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from quorumfs import limits, ops
from quorumfs.batch import Combiner, copy_of
from quorumfs.checksum import crc32c
from quorumfs.clock import Clock, SystemClock
from quorumfs.errors import (
    ChunkNotFoundError,
    QuorumFSError,
    TimedOutError,
    UnavailableError,
    UploadGoneError,
)
from quorumfs.keepalive import KeepAlive
from quorumfs.namespace import Namespace
from quorumfs.ops import NewFile
from quorumfs.pack import PackFile, layout
from quorumfs.rpc.status import raise_for
from quorumfs.send_chunks import ChunkSender, before_the_commit
from quorumfs.sources import BytesSource
from quorumfs.store_chunk import Tally
from quorumfs.upload import Uploader
from quorumfs.v1 import namespace_pb2

_ROUNDS = 3
_AHEAD_FIRST = 2  # chunks allocated at once: there may be no more files
_AHEAD = 4
_OF_THE_CHUNK = (UploadGoneError, ChunkNotFoundError)

_Answer = namespace_pb2.FileInfo | QuorumFSError | None
"""The stored file, why it was not stored, or None: it is to be stored by itself."""


@dataclass(slots=True)
class _Open:
    """The upload under which chunks are stored."""

    info: namespace_pb2.UploadInfo
    sender: ChunkSender
    opened_at: float
    chunks: int = 0

    @property
    def upload(self) -> bytes:
        return self.info.upload


class PutTogether:
    """Any thread may call `put`; `finish` and `close` once, one before and one after the connections are closed."""

    def __init__(
        self,
        uploader: Uploader,
        namespace: Namespace,
        *,
        clock: Clock | None = None,
        turn_seconds: float = limits.TOGETHER_TURN_SECONDS,
    ) -> None:
        self._uploader = uploader
        self._namespace = namespace
        self._clock = clock or SystemClock()
        self._turn_seconds = turn_seconds
        self._keep_alive = KeepAlive(self._tend)
        self._open: _Open | None = None
        self._left: set[bytes] = set()  # uploads that nobody uses any more; any thread may end them
        self._busy = threading.Lock()  # held by who uses `_open`
        self._last: float | None = None
        self._finished = False
        self._combiner: Combiner[PackFile, _Answer] = Combiner(
            self._store_all,
            ops_max=limits.BATCH_OPS_MAX - 2,  # with the chunk and the upload's end, one message
            size_max=limits.PACK_BYTES_MAX,
            clock=self._clock,
        )

    def put(self, new: NewFile, body: bytes) -> namespace_pb2.FileInfo | None:
        """Store `body` (1 to TOGETHER_BYTES_MAX bytes) as `new`; durable and visible on return. None: nothing was
        done, and it is to be stored by itself.

        Raises what an upload does: AlreadyExistsError, PreconditionFailedError, NoPlacementError, NoSpaceError,
        NoLeaderError, UnavailableError, OutcomeUnknownError and the like.
        """
        if new.replication or not self._follows_another():
            return None
        try:
            (answer,) = self._combiner.run([PackFile(new, body, crc32c(body))], len(body), self._turn_seconds)
        except TimedOutError:  # of the turn: what storing it raised is an answer
            return None
        if isinstance(answer, QuorumFSError):
            raise answer
        return answer

    def finish(self) -> None:
        """No file is taken any more; the upload ends, if a leader is there. Takes 2 * TOGETHER_END_SECONDS at most."""
        self._finished = True
        self._combiner.close()
        current, seconds = self._open, limits.TOGETHER_END_SECONDS
        free = self._busy.acquire(blocking=False)
        if not free and current is not None:
            current.sender.cancel()  # the call under way fails
        if free or self._busy.acquire(timeout=seconds):  # else its upload expires by itself
            self._let_go()
            self._busy.release()
        self._end(sorted(self._left), seconds)

    def close(self) -> None:
        """End the thread. What is under way fails."""
        self._keep_alive.close()

    def _follows_another(self) -> bool:
        """Whether files come one soon after the other: a lone one would open an upload for nobody else."""
        now = self._clock.monotonic()
        last, self._last = self._last, now
        return last is not None and now - last < limits.TOGETHER_SILENCE_SECONDS

    # ---- storing, in the thread of one of the callers ----------------------------------------------------

    def _store_all(self, lane: int, files: list[PackFile], patience_seconds: float) -> list[_Answer]:
        """An answer for each of `files`, in order. The chunk has its own patience, that of any chunk."""
        answers: dict[int, _Answer] = {}
        left = dict(enumerate(files))
        with self._busy:
            for _ in range(_ROUNDS):
                answers.update(self._store(left))
                left = {k: file for k, file in left.items() if isinstance(answers[k], _OF_THE_CHUNK)}
                if not left:
                    break
                self._let_go()
        return [None if k in left else answers[k] for k in range(len(files))]

    def _store(self, files: dict[int, PackFile]) -> dict[int, _Answer]:
        """One try for `files`, by their numbers."""
        try:
            current = self._open or self._begin()
            fit = {k: one for k, one in files.items() if len(one.body) <= current.info.chunk_size_bytes}
            found: dict[int, _Answer] = dict.fromkeys(files)
            if fit:
                sealed = self._send(current, list(fit.values()))
                found.update(self._make(current, sealed, fit))
            return found
        except QuorumFSError as error:
            self._let_go()
            return {k: copy_of(error) for k in files}

    def _send(self, current: _Open, files: Sequence[PackFile]) -> namespace_pb2.SealedChunk:
        data = b"".join(file.body for file in files)
        (body,) = BytesSource(data).bodies(len(data))
        current.sender.expect(_AHEAD if current.chunks else _AHEAD_FIRST, len(data))
        current.chunks += 1
        return current.sender.send(body)

    def _make(
        self, current: _Open, sealed: namespace_pb2.SealedChunk, files: dict[int, PackFile]
    ) -> dict[int, _Answer]:
        """Have the files made. What a later message raises takes nothing away from an earlier one."""
        ranges = layout(current.upload, sealed.chunk, [len(file.body) for file in files.values()])
        changes = [ops.hand_in(current.upload, sealed)]
        for file, one in zip(files.values(), ranges, strict=True):
            changes.append(ops.put_packed(file.new, one, file.checksum))
        ends = self._is_old(current) or len(sealed.replicas) < current.info.replication
        if ends:
            changes.append(ops.abort_upload(current.upload))
        found: dict[int, _Answer] = {}
        waiting, skipped = iter(files), 1
        try:
            for part, _ in ops.messages(changes):
                results = self._namespace.operations.do(part)[skipped:]
                skipped = 0
                for k, result in zip(islice(waiting, len(results)), results, strict=False):
                    found[k] = _answer(result)
            if ends:
                self._open = None
                self._keep_alive.release(current.upload)
        except QuorumFSError as error:
            self._let_go()
            found.update({k: copy_of(error) for k in files if k not in found})
        return found

    # ---- the upload; who calls holds `_busy` -------------------------------------------------------------

    def _begin(self) -> _Open:
        if self._finished:  # who has its turn already would leave the upload to nobody
            raise UnavailableError("nothing was sent", cause="the connections were closed")
        name = b"/.quorumfs-pack-" + secrets.token_hex(8).encode()
        with before_the_commit():
            info = self._namespace.open_upload(NewFile(name))
        try:
            self._keep_alive.hold(info.upload)
        except RuntimeError as error:  # no thread could be started
            self._left.add(info.upload)
            raise UnavailableError("nothing was sent", cause=str(error)) from error
        self._open = _Open(info, self._uploader.sender(info, Tally(None)), self._clock.monotonic())
        return self._open

    def _let_go(self) -> None:
        """Nothing more is stored under the upload that is open."""
        current, self._open = self._open, None
        if current is not None:
            self._left.add(current.upload)

    def _is_old(self, current: _Open) -> bool:
        return self._clock.monotonic() - current.opened_at > limits.TOGETHER_UPLOAD_SECONDS

    def _tend(self, uploads: Sequence[bytes]) -> None:
        """The end of those uploads that nobody uses, and a sign of life for the others."""
        if self._busy.acquire(blocking=False):
            if self._open is not None and self._is_old(self._open):
                self._let_go()
            self._busy.release()
        left = sorted(self._left)  # not for the lock: callers who come one after the other leave it to nobody
        self._end(left, limits.RPC_DEADLINE_SECONDS)
        living = [upload for upload in uploads if upload not in left]
        if living:
            self._namespace.operations.keep_alive(living)

    def _end(self, uploads: Sequence[bytes], seconds: float) -> None:
        """What cannot be ended now is tried again, and expires by itself once the client is closed."""
        if not uploads:
            return
        with suppress(QuorumFSError, RuntimeError):  # the latter where no thread can be started for it
            self._namespace.operations.do([ops.abort_upload(upload) for upload in uploads], seconds)
            for upload in uploads:  # whatever its answer says: it is open no more, or expires
                self._left.discard(upload)
                self._keep_alive.release(upload)


def _answer(result: namespace_pb2.Result) -> _Answer:
    try:
        raise_for(result.code, result.error)
    except QuorumFSError as error:
        return error
    return result.info
