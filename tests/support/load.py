"""A real client as a process of its own: threads that create, put, get, overwrite, rename, list and delete through
the library, and write down what they are told (recorder.py).

    python -m tests.support.load --coordinators ... --journal k1.jsonl --seed 7 --origin 1234.5

Until SIGTERM, which lets calls under way end. All clients work in the same few directories at a time, so that they
are in each other's way, and move on to new ones every EPOCH_SECONDS: what lies in the old ones is cold by then, and
is read now and then. `origin`: when that began, on the monotonic clock.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from functools import partial
from pathlib import Path

from quorumfs import Client
from quorumfs.errors import QuorumFSError
from tests.support.recorder import Recorder, outcome_of

ROOT = "/load"
EPOCH_SECONDS = 15.0
DIRECTORIES = 4
NAMES = ("a", "b", "c")
SIZES = (0, 1, 900, 16 << 10, (16 << 10) + 1, 100 << 10, 300 << 10, 1500 << 10)
WEIGHTS = (1, 1, 4, 2, 2, 4, 3, 1)
KINDS = {"put": 26, "create": 8, "many": 6, "get": 30, "fetch": 6, "delete": 8, "rename": 8, "list": 8}
COLD_SHARE = 0.15
PAUSE_SECONDS = 0.04
TIMEOUT_SECONDS = 30.0


class Hands:
    """One thread's doings. `made`: directories that are known to exist, shared by the threads of a client."""

    def __init__(
        self, client: Client, recorder: Recorder, dice: random.Random, origin: float, made: set[str]
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._dice = dice
        self._origin = origin
        self._made = made

    def act(self) -> None:
        """One call, whatever becomes of it; or the making of a directory that is still missing."""
        epoch = int((time.monotonic() - self._origin) / EPOCH_SECONDS)
        kind = self._dice.choices(list(KINDS), list(KINDS.values()))[0]
        if kind in ("get", "fetch", "list") and epoch and self._dice.random() < COLD_SHARE:
            epoch = self._dice.randrange(epoch)
        directory = f"{ROOT}/{epoch}-{self._dice.randrange(DIRECTORIES)}"
        if directory not in self._made:
            try:
                self._client.makedirs(directory)
            except QuorumFSError:
                return
            self._made.add(directory)
        getattr(self, f"_{kind}")(directory)

    def _put(self, directory: str) -> None:
        path, body = self._path(directory), self._body()
        write = self._client.write_bytes if self._dice.random() < 0.6 else self._stream
        self._recorder.run(partial(write, path, body), "put", path, content=digest(body))

    def _create(self, directory: str) -> None:
        path, body = self._path(directory), self._body()
        create = partial(self._client.write_bytes, path, body, if_absent=True)
        self._recorder.run(create, "create", path, content=digest(body))

    def _many(self, directory: str) -> None:
        """Each file is a call of its own: they do not appear at once."""
        files = {f"{directory}/{name}": self._body()[: 64 << 10] for name in NAMES}
        numbers = {
            path: self._recorder.begin("put", path, content=digest(body)) for path, body in files.items()
        }
        failed: dict[str, QuorumFSError | OSError] = {}
        try:
            self._client.put_many(files, failed=failed)
        except QuorumFSError as error:
            failed = dict.fromkeys(files, error)
        for path, number in numbers.items():
            reason = failed.get(path)
            outcome = outcome_of(reason) if isinstance(reason, QuorumFSError) else "done"
            self._recorder.end(number, outcome, detail=repr(reason) if reason else "")

    def _get(self, directory: str) -> None:
        path = self._path(directory)
        self._recorder.run(partial(self._client.read_bytes, path), "get", path, told=digest)

    def _fetch(self, directory: str) -> None:
        """Into a local file."""
        path = self._path(directory)
        with tempfile.TemporaryDirectory() as scratch:
            target = Path(scratch, "copy")
            self._recorder.run(
                partial(self._client.get, path, target),
                "get",
                path,
                told=lambda _: digest(target.read_bytes()),
            )

    def _delete(self, directory: str) -> None:
        path = self._path(directory)
        delete = partial(self._client.delete, path, purge=self._dice.random() < 0.5)
        self._recorder.run(delete, "delete", path)

    def _rename(self, directory: str) -> None:
        source, target = (f"{directory}/{name}" for name in self._dice.sample(NAMES, 2))
        rename = partial(self._client.rename, source, target, replace=True)
        self._recorder.run(rename, "rename", source, target=target)

    def _list(self, directory: str) -> None:
        self._recorder.run(partial(names_in, self._client, directory), "list", directory, told=str)

    def _stream(self, path: str, body: bytes) -> None:
        with self._client.open(path, "wb") as file:
            for begin in range(0, len(body), 50_000):
                file.write(body[begin : begin + 50_000])

    def _path(self, directory: str) -> str:
        return f"{directory}/{self._dice.choice(NAMES)}"

    def _body(self) -> bytes:
        return os.urandom(self._dice.choices(SIZES, WEIGHTS)[0])


def names_in(client: Client, directory: str) -> str:
    """A directory's names as a listing's content."""
    return ",".join(sorted(one.name for one in client.list(directory)))


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def work(coordinators: str, journal: Path, seed: str, origin: float, threads: int) -> bool:
    """Until SIGTERM. Returns whether all went as foreseen; what did not is on stderr."""
    # Blocked in all threads, so that it waits for who asks for it: a handler would wait for this thread to wake up.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    recorder, made, surprises = Recorder(journal, journal.stem), set[str](), []
    stopping = threading.Event()
    with Client(coordinators, timeout=TIMEOUT_SECONDS) as client:

        def busy(number: int) -> None:
            dice = random.Random(f"{seed} {number}")
            hands = Hands(client, recorder, dice, origin, made)
            try:
                while not stopping.wait(dice.expovariate(1 / PAUSE_SECONDS)):
                    hands.act()
            except Exception as error:  # noqa: BLE001  told by the exit code
                surprises.append(error)
                traceback.print_exc()

        crew = [threading.Thread(target=busy, args=(number,)) for number in range(threads)]
        for one in crew:
            one.start()
        signal.sigwait({signal.SIGTERM})
        stopping.set()
        for one in crew:
            one.join()
    recorder.close()
    return not surprises


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--coordinators", required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--seed", required=True)
    parser.add_argument("--origin", type=float, required=True)
    parser.add_argument("--threads", type=int, default=3)
    given = parser.parse_args()
    well = work(given.coordinators, given.journal, given.seed, given.origin, given.threads)
    sys.exit(0 if well else 3)


if __name__ == "__main__":
    main()
