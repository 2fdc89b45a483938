"""What a member remembers of its peers' disks, and whether its own has forgotten something.

A disk that was set back (a restored virtual machine) has forgotten votes and acknowledgements, and its member does not
know. Its peers do: every start of a member has a number, which only grows. Who shows up with a lower one than before is
told so; from then on it is muted: it neither votes nor counts until it has caught up in a later term. It counts its
starts on from what its peers remember: so it is told once, and not at every start until its counter is there again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from coordinator.consensus.files import Files, translated
from coordinator.consensus.identity import read_record, write_record
from quorumfs.errors import IntegrityError

FILE = "peers.json"
CHANCE_BITS = 24


def boot_number(counter: int, chance: int) -> int:
    """What identifies one start of a member: the counter of its disk, and a random part, for a disk that was set back
    counts the same start again."""
    return counter << CHANCE_BITS | chance & (1 << CHANCE_BITS) - 1


def was_set_back(shown: int, remembered: int) -> bool:
    """Whether the start `shown` cannot have followed the start `remembered`, nor be the same."""
    counter, before = shown >> CHANCE_BITS, remembered >> CHANCE_BITS
    return counter < before or (counter == before and shown != remembered)


def boots_lacking(shown: int, remembered: int) -> int:
    """By how many starts `shown`, which was set back, is to be counted on so that it follows `remembered`."""
    return (remembered >> CHANCE_BITS) + 1 - (shown >> CHANCE_BITS)


class Memory(Protocol):
    """Everything is durable before a call returns. When one raises StorageFull, what it would have forgotten holds:
    an older boot of a peer, and that this member is muted."""

    @property
    def muted_term(self) -> int | None:
        """Since this term the member is muted; None: it is not."""
        ...

    @property
    def boots_ahead(self) -> int:
        """What a start's number is ahead of the disk's own counter, which was set back."""
        ...

    def boot_of(self, uuid: str) -> int:
        """The highest number of a start that the member of this UUID has shown; 0: never heard of."""
        ...

    def note_boot(self, uuid: str, boot: int) -> None: ...

    def mute(self, term: int, boots_lacking: int = 0) -> None:
        """`boots_lacking`: by so many starts this disk's counter was set back."""
        ...

    def unmute(self) -> None: ...


class VolatileMemory:
    """Remembers as long as the process lives."""

    def __init__(
        self, boots: Mapping[str, int] | None = None, muted_term: int | None = None, boots_ahead: int = 0
    ) -> None:
        self._boots = dict(boots or {})
        self._muted_term = muted_term
        self._boots_ahead = boots_ahead

    @property
    def muted_term(self) -> int | None:
        return self._muted_term

    @property
    def boots_ahead(self) -> int:
        return self._boots_ahead

    def boot_of(self, uuid: str) -> int:
        return self._boots.get(uuid, 0)

    def note_boot(self, uuid: str, boot: int) -> None:
        boots = {**self._boots, uuid: boot}
        self._keep(boots, self._muted_term, self._boots_ahead)
        self._boots = boots

    def mute(self, term: int, boots_lacking: int = 0) -> None:
        self._muted_term = term
        ahead = self._boots_ahead + boots_lacking
        self._keep(self._boots, term, ahead)
        self._boots_ahead = ahead

    def unmute(self) -> None:
        self._keep(self._boots, None, self._boots_ahead)
        self._muted_term = None

    def _keep(self, boots: Mapping[str, int], muted_term: int | None, boots_ahead: int) -> None:
        """Make it durable."""


class DurableMemory(VolatileMemory):
    """In the file `peers.json` of the data directory. Raises StorageFull, StorageFailure, IntegrityError."""

    def __init__(self, directory: Path, files: Files) -> None:
        self._path = directory / FILE
        self._files = files
        try:
            raw = read_record(self._path, files)
        except OSError as error:
            raise translated(error, f"{self._path} cannot be read") from error
        if raw is None:
            super().__init__()
            return
        try:
            found = json.loads(raw)
            boots = {str(uuid): int(boot) for uuid, boot in found["boots"].items()}
            muted = found["muted_term"]
            ahead = int(found.get("boots_ahead", 0))  # a file of an earlier version has none
            super().__init__(boots, None if muted is None else int(muted), ahead)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise IntegrityError(
                f"{self._path} is damaged",
                cause=repr(error),
                next="dfsctl raft rejoin brings this member back",
            ) from error

    def _keep(self, boots: Mapping[str, int], muted_term: int | None, boots_ahead: int) -> None:
        fields = {"boots": boots, "muted_term": muted_term, "boots_ahead": boots_ahead}
        content = json.dumps(fields, indent=2).encode() + b"\n"
        try:
            write_record(self._path, content, self._files)
        except OSError as error:
            raise translated(error, f"{self._path} cannot be written") from error
