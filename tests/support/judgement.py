"""Whether what real clients were told can be true: each directory they worked in is one object, and its history must
be linearizable, what was read at the end included. Pure.

The state of a directory is the digest at each of its names. A rename touches two of them and a listing all, so the
directory is what is searched, not the single file. What was refused must not have happened: it is left out, and
whoever saw it would see what nobody wrote. Reads that failed say nothing.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.simulation.linearizability import IMPOSSIBLE, Impossible, is_explained
from tests.support.recorder import QUESTIONS, Call

STATES_MAX = 2_000_000  # ten minutes of chaos on one directory, of which nothing is unknown, took 600,000

State = frozenset[tuple[str, str]]
"""(name, digest) of every file in a directory."""


@dataclass(slots=True)
class Verdict:
    """`wrong`: what no order explains, in words. `open`: directories whose histories were too large to be searched."""

    directories: int = 0
    calls: int = 0
    unknown: int = 0
    wrong: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    guilty: dict[str, list[Call]] = field(default_factory=dict)


def judge(calls: Iterable[Call]) -> Verdict:
    """The verdict over all clients' calls; `guilty` has the history of every directory that is wrong."""
    found, empty = Verdict(), State()
    for directory, history in sorted(by_directory(calls).items()):
        found.directories += 1
        found.calls += len(history)
        found.unknown += sum(call.outcome == "unknown" for call in history)
        complaint = nobody_wrote(history)
        explained = is_explained(history, empty, step, STATES_MAX)
        if complaint or explained is False:
            found.wrong.append(f"{directory}: {complaint or 'no order explains'} its {len(history)} calls")
            found.guilty[directory] = history
        elif explained is None:
            found.open.append(f"{directory}: too much is unknown of its {len(history)} calls")
            found.guilty[directory] = history
    return found


def by_directory(calls: Iterable[Call]) -> dict[str, list[Call]]:
    """What says something, by the directory that it is about."""
    found: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        silent = call.outcome == "refused" or (call.outcome == "unknown" and call.kind in QUESTIONS)
        if not silent:
            found[call.path if call.kind == "list" else posixpath.dirname(call.path)].append(call)
    return found


def nobody_wrote(history: Sequence[Call]) -> str:
    """A read of bytes that no call of the history wrote, in words; "" when there is none."""
    written = {call.content for call in history if call.kind in ("put", "create")}
    for call in history:
        if call.kind == "get" and call.outcome == "done" and call.content not in written:
            return f"{call.client} read at {call.path} what nobody wrote ({call.content[:12]}), in"
    return ""


def step(call: Call, state: State) -> State | Impossible:
    """The directory after the call, or IMPOSSIBLE when it cannot have been answered so."""
    files = dict(state)
    expected = _carry_out(call, files)
    return frozenset(files.items()) if call.outcome in ("unknown", expected) else IMPOSSIBLE


def _carry_out(call: Call, files: dict[str, str]) -> str:
    """What the call does to the files, and the outcome that it must have."""
    name, target = posixpath.basename(call.path), posixpath.basename(call.target)
    match call.kind:
        case "put":
            files[name] = call.content
            return "done"
        case "create":
            if name in files:
                return "exists"
            files[name] = call.content
            return "done"
        case "delete":
            return "absent" if files.pop(name, None) is None else "done"
        case "rename":
            moved = files.pop(name, None)
            if moved is not None:
                files[target] = moved
            return "absent" if moved is None else "done"
        case "get":
            seen = files.get(name)
            return "absent" if seen is None else ("done" if seen == call.content else "another")
        case "list":
            return "done" if call.content == ",".join(sorted(files)) else "another"
    raise ValueError(f"a call of the kind {call.kind!r}")
