"""Many files at once: small ones travel hundreds per message, the others one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from quorumfs import limits, ops, paths
from quorumfs.checksum import Buffer, crc32c
from quorumfs.errors import InlineBudgetError, PartialError, QuorumFSError, TooLargeError
from quorumfs.namespace import Operations
from quorumfs.ops import NewFile
from quorumfs.rpc.status import raise_for
from quorumfs.sources import BytesSource
from quorumfs.upload import Uploader
from quorumfs.values import FileStatus, file_status


class ManyFiles:
    """Stores files and keeps account of them: every one is in `stored` or in `failed`, by its path."""

    def __init__(self, operations: Operations, uploader: Uploader) -> None:
        self._operations = operations
        self._uploader = uploader
        self.stored: dict[str, FileStatus] = {}
        self.failed: dict[str, QuorumFSError] = {}

    def put(self, files: Iterable[tuple[NewFile, Buffer]]) -> None:
        """Store all. Raises only what concerns none of them alone (OutcomeUnknownError, NoLeaderError)."""
        batch: list[tuple[NewFile, bytes]] = []
        size = 0
        for new, data in files:
            if len(data) > limits.INLINE_BYTES_MAX:
                self._put_one(new, data)
                continue
            if len(batch) == limits.BATCH_OPS_MAX or size + len(data) > limits.BATCH_BYTES_MAX // 2:
                self._put_batch(batch)
                batch, size = [], 0
            batch.append((new, bytes(data)))
            size += len(data)
        self._put_batch(batch)

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

    def _put_one(self, new: NewFile, data: Buffer) -> None:
        name = paths.show(new.path)
        try:
            self.stored[name] = file_status(self._uploader.upload(BytesSource(data), new), new.path)
        except QuorumFSError as error:
            self.failed[name] = error

    def _put_batch(self, batch: Sequence[tuple[NewFile, bytes]]) -> None:
        if not batch:
            return
        results = self._operations.do([ops.put_file(new, body, crc32c(body)) for new, body in batch])
        for (new, body), result in zip(batch, results, strict=True):
            name = paths.show(new.path)
            try:
                raise_for(result.code, result.error)
            except (InlineBudgetError, TooLargeError):
                self._put_one(new, body)  # the metadata has no room for it
            except QuorumFSError as error:
                self.failed[name] = error
            else:
                self.stored[name] = file_status(result.info, new.path)
