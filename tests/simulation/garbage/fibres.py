"""Production code that waits, in a world of events: threads of the system, of which exactly one runs at any time.

A fibre runs until it waits. `wait(ask)` gives control back to the world, which then calls `ask(done)`; whoever calls
`done` with an answer has the fibre go on with it, as an event of its host. So a duty that blocks on a proposal stands
still while the world goes on, and one seed is one history.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

Done = Callable[[Any], None]


class Host(Protocol):
    """A process of the simulation, or a client."""

    node_id: str
    alive: bool

    def later(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        """As another thread of this process, if it lives then."""
        ...


class Ended(BaseException):
    """The process is gone: the fibre unwinds, and nothing that it does counts any more."""


class Fibre:
    """`body` runs from the first `go` on."""

    def __init__(self, host: Host, body: Callable[[], object], thread: _Thread) -> None:
        self.host = host
        self.over = False
        self._body = body
        self._thread = thread
        self._ask: Callable[[Done], None] | None = None
        self._answer: Any = None
        self._error: BaseException | None = None
        self._waits = 0

    # On the world's thread

    def go(self, answer: Any = None) -> None:
        """Run until it waits, or ends. Raises what the body raises."""
        global _running
        self._answer, before, _running = answer, _running, self
        try:
            self._thread.run(self)
        finally:
            _running = before
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if not self.over:
            ask, self._ask = self._ask, None
            assert ask is not None
            ask(self._done_of(self._waits))

    def _done_of(self, number: int) -> Done:
        def done(answer: Any) -> None:
            if number == self._waits and not self.over:
                self._waits += 1
                self.host.later(0.0, self._go_on, answer)

        return done

    def _go_on(self, answer: Any) -> None:
        if not self.over:
            self.go(answer)

    def end(self) -> None:
        """Its host is gone."""
        while not self.over and self is not _running:
            self._answer = Ended()
            self._thread.run(self)
        self._error = None

    # On its own

    def work(self) -> None:
        try:
            if not isinstance(self._answer, Ended):
                self._body()
        except Ended:
            pass
        except BaseException as error:  # noqa: BLE001  the world's thread raises it
            self._error = error
        finally:
            self.over = True

    def wait(self, ask: Callable[[Done], None]) -> Any:
        self._ask = ask
        self._thread.give_back()
        answer, self._answer = self._answer, None
        if isinstance(answer, BaseException):
            raise answer
        return answer


class _Thread:
    """A thread of the system, used by one fibre after another."""

    def __init__(self) -> None:
        self._turn = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._fibre: Fibre | None = None
        threading.Thread(target=self._loop, name="fibre", daemon=True).start()

    def run(self, fibre: Fibre) -> None:
        self._fibre = fibre
        self._turn.release()
        self._back.acquire()

    def give_back(self) -> None:
        self._back.release()
        self._turn.acquire()

    def _loop(self) -> None:
        while True:
            self._turn.acquire()
            fibre, self._fibre = self._fibre, None
            assert fibre is not None
            fibre.work()
            _IDLE.append(self)
            self._back.release()


_IDLE: list[_Thread] = []
_running: Fibre | None = None


class Fibres:
    """All of a run. `close` ends them."""

    def __init__(self) -> None:
        self._all: list[Fibre] = []

    def spawn(self, host: Host, body: Callable[[], object], seconds: float = 0.0) -> None:
        """Run `body` as a thread of `host`, in a while."""
        fibre = Fibre(host, body, _IDLE.pop() if _IDLE else _Thread())
        self._all.append(fibre)
        host.later(seconds, fibre.go)

    def sweep(self) -> None:
        """End those whose hosts are gone."""
        for fibre in self._all:
            if not fibre.host.alive:
                fibre.end()
        self._all = [fibre for fibre in self._all if not fibre.over]

    def close(self) -> None:
        for fibre in self._all:
            fibre.end()
        self._all.clear()


def wait(ask: Callable[[Done], None]) -> Any:
    """Have the world call `ask`, and return what it calls `done` with; raises it, if it is an exception."""
    assert _running is not None, "only a fibre may wait"
    return _running.wait(ask)


def sleep(seconds: float) -> None:
    """Let time pass."""
    assert _running is not None, "only a fibre may wait"
    host = _running.host
    wait(lambda done: host.later(seconds, done, None))


def run_now(steps: Any) -> Any:
    """The result of a coroutine that waits as a fibre does and so never gives anything up to a loop."""
    try:
        steps.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("a coroutine waits for a loop that is not there")
