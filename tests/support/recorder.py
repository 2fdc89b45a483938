"""What real clients asked and were told, and when, on disk: what a client that is killed had begun stays known.

A journal is one client's: two JSON lines per call, written through before the call and after it. Times are the
machine's monotonic clock, which all its processes share, so that the calls of many clients make one history.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from quorumfs.errors import AlreadyExistsError, NotFoundError, OutcomeUnknownError, QuorumFSError

T = TypeVar("T")

CHANGES = ("put", "create", "delete", "rename")
QUESTIONS = ("get", "list")


@dataclass(frozen=True, slots=True)
class Call:
    """`kind`: one of CHANGES or QUESTIONS. `path`, `target`: what it is about, and where a rename leads.

    `content`: the digest that a change writes, or what a question was told: a digest, or the names of a directory.
    `outcome`: done, absent (not found), exists, refused (it has not happened), or unknown; `ended` is infinite then.
    """

    client: str
    number: int
    kind: str
    path: str
    target: str = ""
    content: str = ""
    began: float = 0.0
    ended: float = math.inf
    outcome: str = "unknown"
    detail: str = ""


class Recorder:
    """Any thread may call."""

    def __init__(self, journal: Path, client: str) -> None:
        self._client = client
        self._file = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._lock = threading.Lock()
        self._count = 0

    def run(
        self,
        act: Callable[[], T],
        kind: str,
        path: str,
        *,
        target: str = "",
        content: str = "",
        told: Callable[[T], str] | None = None,
    ) -> T | None:
        """Carry out one call of one thread; None when it failed. `told`: what a question was answered, as content."""
        number = self.begin(kind, path, target, content)
        try:
            answer = act()
        except QuorumFSError as error:
            self.end(number, outcome_of(error), detail=repr(error))
            return None
        self.end(number, "done", content=told(answer) if told else None)
        return answer

    def begin(self, kind: str, path: str, target: str = "", content: str = "") -> int:
        """A call is about to be made."""
        with self._lock:
            self._count += 1
            number = self._count
        line = {"begin": number, "kind": kind, "path": path, "at": time.monotonic()}
        if target:
            line["target"] = target
        if content:
            line["content"] = content
        self._write(line)
        return number

    def end(self, number: int, outcome: str, *, content: str | None = None, detail: str = "") -> None:
        """The answer came."""
        line: dict[str, Any] = {"end": number, "at": time.monotonic(), "outcome": outcome}
        if content is not None:
            line["content"] = content
        if detail:
            line["detail"] = detail
        self._write(line)

    def close(self) -> None:
        os.close(self._file)

    def _write(self, line: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")  # one call: lines of threads do not mix


def outcome_of(error: QuorumFSError) -> str:
    """What a client knows after an error. IntegrityError of a question is an error, not an answer: refused."""
    if isinstance(error, OutcomeUnknownError):
        return "unknown"
    if isinstance(error, NotFoundError):
        return "absent"
    return "exists" if isinstance(error, AlreadyExistsError) else "refused"


def read_journal(journal: Path) -> list[Call]:
    """All calls of a client, in the order of their beginning. What has no end, or an unknown one, ends never."""
    calls: dict[int, Call] = {}
    for line in _lines(journal):
        if "begin" in line:
            calls[line["begin"]] = Call(
                client=journal.stem,
                number=line["begin"],
                kind=line["kind"],
                path=line["path"],
                target=line.get("target", ""),
                content=line.get("content", ""),
                began=line["at"],
            )
        else:
            begun = calls[line["end"]]
            calls[line["end"]] = dataclasses.replace(
                begun,
                ended=math.inf if line["outcome"] == "unknown" else line["at"],
                outcome=line["outcome"],
                content=line.get("content", begun.content),
                detail=line.get("detail", ""),
            )
    return list(calls.values())


def read_journals(journals: Iterable[Path]) -> list[Call]:
    return [call for journal in sorted(journals) for call in read_journal(journal)]


def _lines(journal: Path) -> Iterable[dict[str, Any]]:
    """Whole lines; the last of a client that was killed may be half."""
    raw = journal.read_bytes() if journal.exists() else b""
    for line in raw[: raw.rfind(b"\n") + 1].splitlines():
        yield json.loads(line)
