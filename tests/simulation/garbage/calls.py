"""Calls between processes, as gRPC carries them: bounded by a deadline, refused, lost, and some of them very late.

An answer that is a QuorumFSError is raised at the caller. A call may be carried out long after its caller has given
it up, or is gone: that is what fences are for.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, Protocol
from unittest.mock import patch

from coordinator.services import collection, membership
from coordinator.services.asking import Questions
from datanode.services import chunks
from quorumfs.errors import QuorumFSError, TimedOutError, UnavailableError
from tests.simulation.garbage import fibres
from tests.simulation.garbage.fibres import Done, Host
from tests.simulation.world import World

LOSS = 0.005
LATE = 0.01
LATE_SECONDS_MAX = 3.0


class Server(Protocol):
    def serve(self, caller: str, method: str, request: Any, answer: Callable[[Any], None]) -> None: ...


class Calls:
    """`find`: the process that listens at a node, or None. `cut`: directions that carry nothing."""

    def __init__(self, world: World, find: Callable[[str], Any]) -> None:
        self.cut: set[tuple[str, str]] = set()
        self.calm = False
        self._world = world
        self._random = world.stream("calls of nodes")
        self._find = find
        self._generation = 0

    def sever(self) -> None:
        """What is under way now is lost."""
        self._generation += 1

    def __call__(self, source: Host, target_id: str, method: str, request: Any, seconds: float) -> Any:
        """Ask, as the fibre that runs now. Raises QuorumFSError."""
        return fibres.wait(lambda done: self.begin(source, target_id, method, request, seconds, done))

    def begin(
        self, source: Host, target_id: str, method: str, request: Any, seconds: float, done: Done
    ) -> None:
        late = TimedOutError(f"{target_id} did not answer {method}")
        source.later(seconds, done, late)
        self._world.after(
            self._delay(), self._arrive, self._generation, source, target_id, method, request, done
        )

    def _arrive(
        self, generation: int, source: Host, target_id: str, method: str, request: Any, done: Done
    ) -> None:
        severed = generation < self._generation
        if severed or (source.node_id, target_id) in self.cut or self._lost():
            return
        target = self._find(target_id)
        if target is None:
            self._back(source, target_id, UnavailableError(f"nothing listens at {target_id}"), done)
            return

        def answer(found: Any) -> None:
            self._back(source, target_id, found, done)

        target.later(0.0, target.serve, source.node_id, method, request, answer)

    def _back(self, source: Host, target_id: str, found: Any, done: Done) -> None:
        self._world.after(self._delay(), self._returned, source, target_id, found, done)

    def _returned(self, source: Host, target_id: str, found: Any, done: Done) -> None:
        if (target_id, source.node_id) not in self.cut and not self._lost():
            source.later(0.0, done, found)

    def _lost(self) -> bool:
        return not self.calm and self._random.random() < LOSS

    def _delay(self) -> float:
        if not self.calm and self._random.random() < LATE:
            return self._random.random() * LATE_SECONDS_MAX
        return 0.0003 + 0.002 * self._random.random()


def answered(work: Callable[[], Any]) -> Any:
    """What `work` gives, or the error of this house that it raises."""
    try:
        return work()
    except QuorumFSError as error:
        return error


class Task:
    """A task of a loop that is not there: whoever waits for it first carries it out, the others wait for that."""

    def __init__(self, steps: Coroutine[Any, Any, None]) -> None:
        self._steps = steps
        self._begun = self._over = False
        self._error: Exception | None = None
        self._then: list[Callable[[Task], None]] = []
        self._waiting: list[Done] = []

    def add_done_callback(self, then: Callable[[Task], None]) -> None:
        self._then.append(then)

    def cancelled(self) -> bool:
        return False

    def exception(self) -> Exception | None:
        return self._error

    async def result(self) -> None:
        if not self._begun:
            await self._carry_out()
        elif not self._over:
            fibres.wait(self._waiting.append)
        if self._error is not None:
            raise self._error

    async def _carry_out(self) -> None:
        self._begun = True
        try:
            await self._steps
        except Exception as error:  # noqa: BLE001  raised at everybody who waits
            self._error = error
        self._over = True
        for then in self._then:
            then(self)
        for done in self._waiting:
            done(None)


class _Asked:
    """Questions to many datanodes, one after the other."""

    async def of_one(self, node: str, ask: Callable[[str], Any]) -> Any:
        return ask(node)

    async def of_each(self, nodes: Sequence[str], ask: Callable[[str], Any]) -> dict[str, Any]:
        asked = {one: answered(lambda one=one: ask(one)) for one in nodes}  # type: ignore[misc]
        return {one: found for one, found in asked.items() if not isinstance(found, QuorumFSError)}


@contextmanager
def on_fibres() -> Iterator[None]:
    """Production handlers run as fibres within the block: what they do in threads is done at once, in order, and
    who calls is who the simulation says it is."""

    async def wait_for(steps: Any, seconds: float) -> Any:
        return await steps

    async def to_thread(work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)

    async def gather(*steps: Any, return_exceptions: bool) -> list[Any]:
        found: list[Any] = []
        try:
            for one in steps:
                try:
                    found.append(await one)
                except Exception as error:  # noqa: BLE001  as gather does it
                    found.append(error)
        finally:
            for one in steps:
                one.close()
        return found

    loop = SimpleNamespace(
        wait_for=wait_for, to_thread=to_thread, gather=gather, create_task=Task, shield=Task.result
    )
    with ExitStack() as stack:
        stack.enter_context(patch.multiple(Questions, of_one=_Asked.of_one, of_each=_Asked.of_each))
        for module in (membership, collection):
            stack.enter_context(patch.object(module, "asyncio", loop))
        for module in (membership, chunks):
            stack.enter_context(patch.object(module, "require_node", lambda context: context.node_id))
        yield
