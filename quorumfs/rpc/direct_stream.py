"""A stream of batches that its caller drives: no thread of gRPC's stands between a request and its answer.

A stream of gRPC's public kind is fed by one thread and heard by another, and each hand-over costs more than the
message. Its blocking unary calls do without: the caller waits on a completion queue of its own. This is a stream made
the same way, of the same parts of gRPC, which are not public:

1. It is used only with releases of gRPC whose parts were read and tried (`TRIED`), and only over a bare channel of
   gRPC's. Whatever else there is (`open_direct` says None) has the public kind.
2. What was given to gRPC comes back as an event, each exactly once. `_due` counts them: at nought gRPC gives the queue
   back to the system, and it must not be asked again.
3. Nobody listens between two exchanges. Before the next an empty batch goes in, which comes out at once, but behind
   the news that the stream has ended, if there is such.
4. Who closes it, from any thread, or forgets it, cancels the call and takes what is left in the queue; while a thread
   waits there, that one does it when it is through. What is not taken keeps the connection open for ever.
5. An interrupt may come between an event and its count. The call is cancelled then, and its queue left as it is.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence
from typing import Any

import grpc

from quorumfs.rpc.broken import BrokenStreamError

try:
    from grpc._channel import Channel as _Channel
    from grpc._cython import cygrpc as _cygrpc  # type: ignore[attr-defined]
except ImportError:  # another build of gRPC
    _cygrpc = None

TRIED = ("1.85.",)

_ENDED, _BEGUN, _ANSWERED, _LOOKED = "ended", "begun", "answered", "looked"
_STATUS = {code.value[0]: code for code in grpc.StatusCode}
_CANCELLED: int = grpc.StatusCode.CANCELLED.value[0]
_GIVEN_UP = "Locally cancelled by application!"


def is_possible() -> bool:
    """Whether this gRPC was tried. With its support for fork() a child waits for calls like these, for ever."""
    if _cygrpc is None or not grpc.__version__.startswith(TRIED):
        return False
    forks: Any = getattr(_cygrpc, "is_fork_support_enabled", None)
    return forks is not None and not forks()


def open_direct(channel: Any, path: str, metadata: Sequence[tuple[str, str]]) -> DirectStream | None:
    """A stream to `path` over `channel`; None: take the public kind. Raises ValueError on a closed channel."""
    if not is_possible() or type(channel) is not _Channel:
        return None
    try:
        return DirectStream(channel._channel, path, metadata)
    except (AttributeError, TypeError):  # not of the shape that was tried
        return None


class DirectStream:
    """One stream. `is_active` and `ask` by one thread at a time; `cancel` and `close` by any."""

    def __init__(self, channel: Any, path: str, metadata: Sequence[tuple[str, str]]) -> None:
        self._call: Any = None
        self._send: Any = _cygrpc.SendMessageOperation
        self._receive: Any = _cygrpc.ReceiveMessageOperation
        first = (
            (
                _cygrpc.SendInitialMetadataOperation(tuple(metadata), 0),
                _cygrpc.ReceiveStatusOnClientOperation(0),
            ),
            _ENDED,
        )
        second = ((_cygrpc.ReceiveInitialMetadataOperation(0),), _BEGUN)
        self._pid = os.getpid()
        self._turn = threading.Lock()
        self._due = 2
        self._exact = True  # whether `_due` is known to be right
        self._over = False  # nothing is sent any more
        self._error: BrokenStreamError | None = None
        self._call = channel.segregated_call(0, path.encode(), None, None, None, None, (first, second))

    def is_active(self) -> bool:
        """Whether it has not ended, as far as is known here."""
        if self._over or not self._turn.acquire(blocking=False):
            return False
        try:
            if self._start((), _LOOKED):
                while self._take().tag is not _LOOKED:
                    pass
        finally:
            self._turn.release()
        return self._exact and not self._over

    def ask(self, raw: bytes) -> bytes | None:
        """The answer to `raw`; None when the server has ended the stream. Raises grpc.RpcError."""
        if not self._turn.acquire(blocking=False):
            raise BrokenStreamError(grpc.StatusCode.UNAVAILABLE, "the stream was not left in order")
        try:
            if not self._over and self._start((self._send(raw, 0), self._receive(0)), _ANSWERED):
                while (event := self._take()).tag is not _ANSWERED:
                    pass
                answer: bytes | None = event.batch_operations[1].message()
                if answer is not None:
                    return answer
            self._finish()
        finally:
            self._turn.release()
            if self._over:
                self._drain()
        error = self._error or BrokenStreamError(grpc.StatusCode.CANCELLED, _GIVEN_UP)
        if error.code() is grpc.StatusCode.OK:
            return None
        raise error

    def cancel(self) -> None:
        """End the call; who waits for an answer gets CANCELLED."""
        self._over = True
        self._call.cancel(_CANCELLED, _GIVEN_UP)

    def close(self) -> None:
        """End the call and give back what it holds. After a fork() the child only lets go of it."""
        if self._pid == os.getpid():
            self.cancel()
            self._drain()
        else:  # gRPC's threads are the parent's: what would be taken apart here they may have had in hand
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._call))

    def __del__(self) -> None:
        if self._call is not None:
            self.close()

    def _start(self, operations: tuple[Any, ...], tag: str) -> bool:
        """Whether gRPC took `operations`: it does not once everything has come back."""
        if not self._exact:
            return False
        self._exact = False
        taken: bool = self._call.operate(operations, tag)
        self._due += taken
        self._exact = True
        return taken

    def _take(self) -> Any:
        """The next event. It waits for one: something must be due."""
        self._exact = False
        event = self._call.next_event()
        self._due -= 1
        self._exact = True
        if event.tag is _ENDED:
            self._over = True
            self._error = _error(event.batch_operations[1])
        return event

    def _finish(self) -> None:
        """Take what is due, the status among it: the call is over."""
        while self._exact and self._due:
            self._take()

    def _drain(self) -> None:
        """`_finish` for a call that was cancelled, unless a thread waits in it: that one does it then."""
        if self._turn.acquire(blocking=False):
            try:
                self._finish()
            finally:
                self._turn.release()


def _error(status: Any) -> BrokenStreamError:
    """What the end of the call was; its code may be OK."""
    code = _STATUS.get(status.code(), grpc.StatusCode.UNKNOWN)
    details = status.details()
    text = details.decode(errors="replace") if isinstance(details, bytes) else str(details or "")
    return BrokenStreamError(code, text, tuple(status.trailing_metadata() or ()))
