"""Whether a history of registers is linearizable, by search: Wing and Gong, with Lowe's memory of what was tried.

It knows nothing of logs and indexes, only when each call began and ended and what was answered. Each path is a
register of its own, and linearizability is local, so each is searched for itself.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from quorumfs.errors import Code
from tests.simulation.history import Call
from tests.simulation.world import Violation

STATES_MAX = 200_000

Content = tuple[int, int] | None
"""(size, checksum) of a file, None for no file."""


@dataclass(frozen=True, slots=True)
class Event:
    """A call on one register. `ended` is infinite, and `code` None, when nobody knows whether it happened."""

    began: float
    ended: float
    kind: str
    written: Content
    if_absent: bool
    code: Code | None
    seen: Content = None


class Timed(Protocol):
    """A call. `ended` is infinite when nobody knows whether it happened: then it may, at any time, or never."""

    @property
    def began(self) -> float: ...

    @property
    def ended(self) -> float: ...


T = TypeVar("T", bound=Timed)
S = TypeVar("S", bound=Hashable)


class Impossible:
    """What no call can have answered in a state."""


IMPOSSIBLE: Final = Impossible()


def check(calls: Iterable[Call]) -> int:
    """Raises Violation for a history that no order explains; how many were too large to be searched."""
    inconclusive = 0
    for path, events in sorted(_by_register(calls).items()):
        verdict = is_linearizable(events)
        if verdict is False:
            raise Violation(f"no order explains the history of {path!r}: {len(events)} calls")
        inconclusive += verdict is None
    return inconclusive


def _by_register(calls: Iterable[Call]) -> dict[bytes, list[Event]]:
    found: dict[bytes, list[Event]] = defaultdict(list)
    for call in calls:
        if not call.stale and call.outcome != "refused":
            for path, event in _events(call):
                found[path].append(event)
    return found


def _events(call: Call) -> Iterator[tuple[bytes, Event]]:
    if call.question is not None and call.answers is not None:
        for asked, told in zip(call.question.ops, call.answers.results, strict=True):
            seen = None if told.code else (told.info.size, told.info.checksum)
            yield (
                asked.stat.ref.path,
                Event(call.began, call.ended, "stat", None, False, Code(told.code), seen),
            )
    elif call.change is not None:
        for number, op in enumerate(call.change.ops):
            kind = op.WhichOneof("op")
            if kind not in ("put_file", "delete"):
                continue
            code = Code(call.result.results[number].code) if call.result is not None else None
            ended = call.ended if call.result is not None else math.inf
            put = op.put_file
            written = (len(put.body), put.checksum) if kind == "put_file" else None
            path = put.ref.path if kind == "put_file" else op.delete.ref.path
            yield path, Event(call.began, ended, kind, written, put.if_absent, code)


def is_linearizable(events: list[Event]) -> bool | None:
    """None: too many states to say."""
    return is_explained(events, None, _step)


def is_explained(
    events: Sequence[T], start: S, step: Callable[[T, S], S | Impossible], states_max: int = STATES_MAX
) -> bool | None:
    """Whether some order of the calls, within their times, explains all answers, from the state `start` on.

    `step` is the state after a call, or IMPOSSIBLE when the call cannot have answered so. None: `states_max` states
    were not enough to say.
    """
    ordered = sorted(events, key=lambda event: (event.began, event.ended))
    known = sum(1 << k for k, event in enumerate(ordered) if event.ended != math.inf)
    tried: set[tuple[int, S]] = set()
    stack: list[tuple[int, S]] = [(0, start)]
    while stack:
        done, state = stack.pop()
        if done & known == known:
            return True
        if (done, state) in tried:
            continue
        tried.add((done, state))
        if len(tried) > states_max:
            return None
        for k in _candidates(ordered, done):
            after = step(ordered[k], state)
            if not isinstance(after, Impossible):
                stack.append((done | 1 << k, after))
    return False


def _candidates(events: Sequence[Timed], done: int) -> list[int]:
    """Those that may come next: begun before any that is not done has ended."""
    first = (~done & (done + 1)).bit_length() - 1
    found: list[int] = []
    deadline = math.inf
    for k in range(first, len(events)):
        if events[k].began > deadline:
            break
        if not done >> k & 1:
            found.append(k)
            deadline = min(deadline, events[k].ended)
    return [k for k in found if events[k].began <= deadline]


def _step(event: Event, content: Content) -> Content | Impossible:
    """The register after the call, or IMPOSSIBLE when it cannot have answered so."""
    if event.kind == "stat":
        expected = Code.NOT_FOUND if content is None else Code.OK
        return content if (event.code, event.seen) == (expected, content) else IMPOSSIBLE
    if event.kind == "delete":
        code, after = (Code.NOT_FOUND, content) if content is None else (Code.OK, None)
    elif event.if_absent and content is not None:
        code, after = Code.ALREADY_EXISTS, content
    else:
        code, after = Code.OK, event.written
    return after if event.code in (None, code) else IMPOSSIBLE
