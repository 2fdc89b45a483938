"""What must hold after the last harm was undone: everything runs, is whole, agrees, and nothing is left over.

Each check waits for its condition with a deadline and gives what is wrong in words; "" when nothing is.
"""

from __future__ import annotations

import dataclasses
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datanode.store.layout import HEADER_BYTES, decode_header, file_size
from quorumfs import Client
from quorumfs.errors import TimedOutError
from quorumfs.ids import ChunkId
from quorumfs.testing import wait_for
from tests.support.chunk_files import sealed, unequal
from tests.support.commands import Dfsctl
from tests.support.load import ROOT, digest, names_in
from tests.support.recorder import Call, Recorder

HEAL_SECONDS = 120.0
SPARE_SEGMENT = re.compile(r"spare-\d+\.tmp")  # of a journal: made ahead, named so while it is not in use


@dataclasses.dataclass(frozen=True)
class Aftermath:
    """`disks`: data directory of every datanode. `homes`: of every node."""

    control: Dfsctl
    disks: Mapping[str, Path]
    homes: Mapping[str, Path]
    members: int
    tell: Callable[[str], None] = print

    def problems(self) -> Iterator[str]:
        """What is wrong, after giving each thing time to become right."""
        for what, find in (
            ("fsck is not clean, or replicas are missing", self._fsck),
            ("replicas differ", self._replicas),
            ("the collection's books do not add up", self._books),
            ("temporary files are left", self._temporary),
            ("the coordinators do not agree", self._hashes),
        ):
            wrong = settled(find)
            self.tell(f"  {what}: {wrong or 'not so'}")
            if wrong:
                yield f"{what}: {wrong}"

    def _fsck(self) -> str:
        said = self.control("fsck", "-o", "json")
        found = said.json
        short = [one for one in found.get("copies", ()) if one["live"] < one["want"]]
        odd = [
            f"{one['node_id']}: {name} {one[name]}"
            for one in found.get("nodes", ())
            for name in ("error", "missing", "strays", "unrecorded")
            if one[name]
        ]
        if said.code or short or odd or not found["ok"] or found["under_replicated"]:
            return f"exit code {said.code}, {short}, {odd}, {found.get('error', '')}"
        return ""

    def _replicas(self) -> str:
        return ", ".join(unequal(self.disks))

    def _temporary(self) -> str:
        left = [path for home in self.homes.values() for path in home.rglob("*.tmp")]
        return ", ".join(str(path) for path in left if not SPARE_SEGMENT.fullmatch(path.name))

    def _hashes(self) -> str:
        said = self.control("raft", "hash", "-o", "json").json
        equal = (
            isinstance(said, list) and len(said) == self.members and len({one["hash"] for one in said}) == 1
        )
        return "" if equal else str(said)

    def _books(self) -> str:
        """As of a cycle that ran now: all bytes are accounted for, none as garbage, and as the disks have them."""
        report = self.control("gc", "run", "--wait", "-o", "json").json
        if report.get("outcome") != "done" or report.get("void_nodes"):
            return str(report)
        books = {one["node_id"]: one for one in self.control("gc", "status", "-o", "json").json["accounting"]}
        if books.keys() != self.disks.keys():
            return f"there are books of {sorted(books)} only"
        return "; ".join(
            f"{node_id}: {wrong}"
            for node_id, book in sorted(books.items())
            if (wrong := _wrong_in(book, self.disks[node_id]))
        )


def _wrong_in(book: Mapping[str, Any], disk: Path) -> str:
    """`unaccounted_bytes`, of no chunk's content: at rest the headers and checksums of the chunks' files, no more."""
    content, around = bytes_on(disk)
    classes = {name: value for name, value in book.items() if name not in ("node_id", "total_bytes")}
    at_rest = {
        "referenced_bytes": content,
        "uploading_bytes": 0,
        "orphan_bytes": 0,
        "condemned_bytes": 0,
        "unaccounted_bytes": around,
    }
    odd = {name: (classes[name], wanted) for name, wanted in at_rest.items() if classes[name] != wanted}
    if odd:
        return f"(booked, on the disk): {odd}"
    if sum(classes.values()) != book["total_bytes"]:
        return f"the classes come to {sum(classes.values())}, not {book['total_bytes']}"
    return ""


def bytes_on(disk: Path) -> tuple[int, int]:
    """Bytes of content in all sealed chunks of a disk, as their headers say; and of their files around it."""
    content = around = 0
    for chunk, files in sealed({"": disk}).items():
        with files[""].open("rb") as file:
            length = decode_header(file.read(HEADER_BYTES), ChunkId(bytes.fromhex(chunk))).length
        content, around = content + length, around + file_size(length) - length
    return content, around


def settled(find: Callable[[], str], seconds: float = HEAL_SECONDS) -> str:
    """What is still wrong after that time; "" as soon as nothing is."""
    last = ""

    def well() -> bool:
        nonlocal last
        last = find()
        return not last

    try:
        wait_for(well, seconds, "all is well")
    except TimedOutError as error:
        return last or error.cause
    return ""


def read_everything(client: Client, calls: Sequence[Call], journal: Path) -> None:
    """Read every file that any client may have stored, and list all directories: part of the history."""
    recorder = Recorder(journal, journal.stem)
    files: dict[str, set[str]] = {one.path: set() for one in client.list(ROOT)}
    for call in calls:
        if call.kind == "list":
            files.setdefault(call.path, set())
            continue
        for path in filter(None, (call.path, call.target)):
            files.setdefault(posixpath.dirname(path), set()).add(path)
    for directory in sorted(files):
        recorder.run(partial(names_in, client, directory), "list", directory, told=str)
        for path in sorted(files[directory]):
            recorder.run(partial(client.read_bytes, path), "get", path, told=digest)
    recorder.close()


def rivals(logs: Mapping[str, str]) -> list[str]:
    """The terms in which more than one coordinator led, one line each. `logs`: node id -> all that it logged."""
    leaders: dict[str, set[str]] = defaultdict(set)
    for node_id, text in logs.items():
        for line in text.splitlines():
            if '"leadership.begun"' in line and (found := re.search(r'"term": ?(\d+)', line)):
                leaders[found[1]].add(node_id)
    return [f"{', '.join(sorted(who))} led in term {term}" for term, who in leaders.items() if len(who) > 1]


def unread(calls: Iterable[Call]) -> list[str]:
    """The reads at the end that failed, one line each."""
    return [
        f"{call.path} cannot be read: {call.detail}"
        for call in calls
        if call.outcome in ("refused", "unknown")
    ]
