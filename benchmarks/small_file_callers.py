"""Moves small files, in a process of its own: by the library, many or one per call, as plain files, and as objects.

Run as a child (children.py) with `{"coordinators", "directories", "stores", "size"}`; a command is
`{"verb", "system", "callers", "files"}`. `directories`: system -> where its plain files go, a peer's into its mount;
`stores`: system -> where Objects finds its objects.
The files of a command are divided among its callers, threads with one Client between them. `get`, `get cold` (the
caches were dropped before it) and `get_many` read what the `put` and `put_many` before them wrote.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.children import serve
from benchmarks.objects import Objects
from benchmarks.tally import Stopwatch
from quorumfs import Client


class SmallFiles:
    """One Client, as a program would have it."""

    def __init__(
        self, coordinators: str, directories: Mapping[str, str], stores: Mapping[str, str], size: int
    ) -> None:
        self._client = Client(coordinators)
        self._directories = {system: Path(directory) for system, directory in directories.items()}
        self._stores = {system: Objects(place) for system, place in stores.items()}
        self._size = size
        self._sets: dict[tuple[str, str], list[list[str]]] = {}
        self._count = 0

    def handle(self, command: dict[str, Any]) -> dict[str, Any]:
        verb, system = command["verb"], command["system"]
        kind = "many" if verb.endswith("many") else "one"
        if verb.startswith("put"):
            self._sets[system, kind] = self._names(system, command["callers"], command["files"])
        ours: dict[str, Callable[[Sequence[str]], None]] = {
            "put_many": self._put_many,
            "get_many": self._get_many,
            "put": self._put,
            "get": self._get,
            "get cold": self._get,
        }
        plain = {"put": self._put_plain, "get": self._get_plain, "get cold": self._get_plain}
        if system == "quorumfs":
            work = ours[verb]
        elif system in self._stores:
            move = self._put_objects if verb == "put" else self._get_objects
            work = partial(move, self._stores[system])
        else:
            work = plain[verb]
        shares = self._sets[system, kind]
        errors: list[Exception] = []
        threads = [threading.Thread(target=_noting, args=(work, share, errors)) for share in shares]
        watch = Stopwatch()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wall_seconds, cpu_seconds = watch.read()
        if errors:
            raise errors[0]
        return {"wall_seconds": wall_seconds, "cpu_seconds": cpu_seconds}

    def _names(self, system: str, callers: int, files: int) -> list[list[str]]:
        """Of each caller the names that it writes: new ones, in a new directory."""
        self._count += 1
        directory = f"/set-{self._count:04d}"
        if system == "quorumfs":
            self._client.mkdir(directory)
        elif system in self._stores:
            directory = directory[1:]
        else:
            directory = str(self._directories[system] / directory[1:])
            Path(directory).mkdir()
        return [
            [f"{directory}/{caller:02d}-{number:05d}" for number in range(files // callers)]
            for caller in range(callers)
        ]

    def _put_many(self, names: Sequence[str]) -> None:
        self._client.put_many((name, os.urandom(self._size)) for name in names)

    def _get_many(self, names: Sequence[str]) -> None:
        found = self._client.get_many(names)
        if any(len(one) != self._size for one in found.values()):
            raise RuntimeError("a file has not the size that was written")

    def _put(self, names: Sequence[str]) -> None:
        for name in names:
            self._client.write_bytes(name, os.urandom(self._size))

    def _get(self, names: Sequence[str]) -> None:
        for name in names:
            self._client.read_bytes(name)

    def _put_plain(self, names: Sequence[str]) -> None:
        for name in names:
            with open(name, "wb", buffering=0) as file:
                file.write(os.urandom(self._size))
                os.fdatasync(file.fileno())

    def _get_plain(self, names: Sequence[str]) -> None:
        for name in names:
            Path(name).read_bytes()

    def _put_objects(self, store: Objects, names: Sequence[str]) -> None:
        for name in names:
            store.put(name, os.urandom(self._size))

    def _get_objects(self, store: Objects, names: Sequence[str]) -> None:
        if any(store.get(name) != self._size for name in names):
            raise RuntimeError("an object has not the size that was written")


def _noting(work: Callable[[Sequence[str]], None], share: Sequence[str], errors: list[Exception]) -> None:
    try:
        work(share)
    except Exception as error:  # noqa: BLE001  raised again in the main thread
        errors.append(error)


def main() -> None:
    config = json.loads(sys.argv[1])
    callers = SmallFiles(config["coordinators"], config["directories"], config["stores"], config["size"])
    serve(callers.handle)


if __name__ == "__main__":
    main()
