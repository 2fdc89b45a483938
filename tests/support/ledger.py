"""A client's own account of what it was told: what must be there, what may be there, what must not.

`Ledger` is judged at the end against the cluster; `Writers` are threads that write, overwrite, read and
delete through `quorumfs.Client` and keep it. Each writer owns its paths: one author per account.
"""

from __future__ import annotations

import hashlib
import random
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from quorumfs import Client
from quorumfs.errors import NotFoundError, OutcomeUnknownError, QuorumFSError

SIZES = (0, 1, 900, 16 << 10, (16 << 10) + 1, 200 << 10, 3 << 20)


def content(path: str, generation: int, size: int) -> bytes:
    """Bytes that belong to this path and generation and to no other."""
    seed = zlib.crc32(f"{path}#{generation}".encode())
    block = random.Random(seed).randbytes(min(size, 4096))
    return (block * (size // max(1, len(block)) + 1))[:size] if size else b""


@dataclass
class Account:
    """What may be read at one path: the digest of every content that a read may return; None = absent.

    `afloat`: what attempts of unknown outcome would leave; they may take effect at any later time.
    """

    allowed: set[str | None] = field(default_factory=lambda: {None})
    afloat: set[str | None] = field(default_factory=set)
    history: list[str] = field(default_factory=list)


@dataclass
class Ledger:
    accounts: dict[str, Account] = field(default_factory=dict)
    acknowledged: int = 0
    unknown: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def account(self, path: str) -> Account:
        with self.lock:
            return self.accounts.setdefault(path, Account())

    def attempt(self, path: str, digest: str | None, act: Callable[[], object]) -> None:
        """Run `act`, which should leave `digest` at `path`, and write down what is known afterwards."""
        account = self.account(path)
        before = set(account.allowed)
        account.allowed = before | {digest}
        try:
            act()
        except OutcomeUnknownError as error:
            self.unknown += 1
            account.afloat.add(digest)
            account.history.append(f"unknown {digest and digest[:8]}: {error}")
        except NotFoundError:
            account.allowed = {None} | account.afloat
            account.history.append(f"absent when it should become {digest and digest[:8]}")
            if None not in before:
                self.wrong.append(f"{path}: reported absent; {account.history[-4:]}")
        except QuorumFSError as error:
            self.refused += 1
            account.allowed = before
            account.history.append(f"refused {digest and digest[:8]}: {error!r}")
        else:
            self.acknowledged += 1
            account.allowed = {digest} | account.afloat
            account.history.append(f"ok {digest and digest[:8]}")

    def check_read(self, path: str, read: Callable[[], bytes]) -> None:
        """A read must return allowed bytes, or fail with an error that is not about bytes."""
        account = self.account(path)
        try:
            found: str | None = hashlib.sha256(read()).hexdigest()
        except NotFoundError:
            found = None
        if found not in account.allowed:
            self.wrong.append(f"{path}: found {found and found[:8]}; {account.history[-6:]}")

    def verify(self, client: Client) -> list[str]:
        """Everything acknowledged is there, byte for byte; returns what is wrong (empty: nothing)."""
        for path in sorted(self.accounts):
            self.check_read(path, partial(client.read_bytes, path))
        return self.wrong


class Writers:
    """Threads under `directory`, each with its own files, until `stop`."""

    def __init__(
        self,
        client: Client,
        ledger: Ledger,
        directory: str,
        *,
        threads: int = 4,
        files: int = 12,
        seed: int = 1,
    ):
        self._client = client
        self._ledger = ledger
        self._stopping = threading.Event()
        self.failures: list[BaseException] = []
        self._threads = [
            threading.Thread(
                target=self._guarded,
                args=(f"{directory}/w{n}", files, random.Random(seed * 1000 + n)),
                daemon=True,
            )
            for n in range(threads)
        ]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive(), "a writer never came back"
        if self.failures:
            raise self.failures[0]

    def _guarded(self, stem: str, files: int, dice: random.Random) -> None:
        try:
            self._write(stem, files, dice)
        except BaseException as error:  # noqa: BLE001  shown by the test's own thread
            self.failures.append(error)

    def _write(self, stem: str, files: int, dice: random.Random) -> None:
        generation = 0
        while not self._stopping.is_set():
            generation += 1
            path = f"{stem}-{dice.randrange(files)}"
            if dice.random() < 0.12:
                self._ledger.attempt(path, None, partial(self._client.delete, path))
            else:
                body = content(path, generation, dice.choice(SIZES))
                digest = hashlib.sha256(body).hexdigest()
                self._ledger.attempt(path, digest, partial(self._client.write_bytes, path, body))
            if dice.random() < 0.3:
                try:
                    self._ledger.check_read(path, partial(self._client.read_bytes, path))
                except QuorumFSError:
                    pass
