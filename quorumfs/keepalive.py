"""Signs of life for open uploads: one thread per client, only while something is open or was just now."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from quorumfs.errors import QuorumFSError
from quorumfs.limits import KEEP_ALIVE_SECONDS


class KeepAlive:
    """Names all open uploads to the leader every few seconds. Any thread may call.

    A sign that does not get through is no error: uploads live much longer than a failover, and one that is
    gone says so at its next step.
    """

    def __init__(
        self, send: Callable[[Sequence[bytes]], object], interval_seconds: float = KEEP_ALIVE_SECONDS
    ) -> None:
        self._send = send
        self._interval = interval_seconds
        self._open: set[bytes] = set()
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._closed = False

    @contextmanager
    def holding(self, upload: bytes) -> Iterator[None]:
        """Keep `upload` alive inside the with-block."""
        self.hold(upload)
        try:
            yield
        finally:
            self.release(upload)

    def hold(self, upload: bytes) -> None:
        """Keep `upload` alive until its `release`."""
        with self._changed:
            if self._thread is None and not self._closed:
                thread = threading.Thread(target=self._run, name="quorumfs-keep-alive", daemon=True)
                thread.start()  # where that fails the next upload tries again
                self._thread = thread
            self._open.add(upload)

    def release(self, upload: bytes) -> None:
        with self._changed:
            self._open.discard(upload)

    def close(self) -> None:
        """Stop the thread and wait for it."""
        with self._changed:
            self._closed = True
            self._open.clear()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed, self._interval)
                if not self._open:  # for a whole interval: the next upload starts another
                    self._thread = None
                    return
                uploads = sorted(self._open)
            try:
                self._send(uploads)
            except (QuorumFSError, RuntimeError):  # the latter where no thread can be started for it
                continue  # see the class: the upload's next step reports what is wrong
