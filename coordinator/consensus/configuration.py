"""Who belongs to the Raft group, and how that changes: one member at a time, by entries of the log. Pure.

1. A configuration is effective from the moment it is appended, and undone when it is truncated. So a member keeps
   those of its log's tail, over the one that its state has applied.
2. Only voters count for a majority. A learner is sent everything and counts for nothing.
3. Two configurations that follow each other differ in one voter at most: their majorities overlap.
4. A member may lack the configuration that its leader goes by, or have one that was never committed. So it hears, and
   votes for, everybody it knows: the members of all configurations above, and of a later one that a peer told it of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from quorumfs.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError, SafetyGuardError
from quorumfs.v1 import membership_pb2 as m

MEMBERS_MAX = 9


@dataclass(frozen=True, slots=True)
class Configuration:
    """Members in order of their node ids."""

    members: tuple[m.Member, ...]

    @staticmethod
    def of(members: Iterable[m.Member]) -> Configuration:
        return Configuration(tuple(sorted(members, key=lambda member: member.node_id)))

    @staticmethod
    def decode(raw: bytes) -> Configuration:
        """Raises InvalidArgumentError."""
        try:
            return Configuration.of(m.Configuration.FromString(raw).members)
        except DecodeError as error:
            raise InvalidArgumentError("an entry is no configuration", cause=str(error)) from error

    def encode(self) -> bytes:
        return m.Configuration(members=self.members).SerializeToString(deterministic=True)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(member.node_id for member in self.members)

    @property
    def voters(self) -> tuple[str, ...]:
        return tuple(member.node_id for member in self.members if not member.learner)

    def find(self, node_id: str) -> m.Member | None:
        return next((member for member in self.members if member.node_id == node_id), None)

    def with_learner(self, member: m.Member) -> Configuration:
        """Raises AlreadyExistsError, InvalidArgumentError."""
        if self.find(member.node_id) is not None:
            raise AlreadyExistsError(
                f"{member.node_id} is a member already",
                next="a coordinator that lost its disk is removed first, then added as a new one",
            )
        if len(self.members) == MEMBERS_MAX:
            raise InvalidArgumentError(f"a group has at most {MEMBERS_MAX} members")
        made = m.Member()
        made.CopyFrom(member)
        made.learner = True
        return Configuration.of((*self.members, made))

    def promoted(self, node_id: str) -> Configuration:
        """The learner becomes a voter. Raises NotFoundError, AlreadyExistsError."""
        member = self._require(node_id)
        if not member.learner:
            raise AlreadyExistsError(f"{node_id} votes already")
        made = m.Member()
        made.CopyFrom(member)
        made.learner = False
        return Configuration.of((*(one for one in self.members if one.node_id != node_id), made))

    def without(self, node_id: str) -> Configuration:
        """Raises NotFoundError, SafetyGuardError for the last voter."""
        self._require(node_id)
        made = Configuration.of(one for one in self.members if one.node_id != node_id)
        if not made.voters:
            raise SafetyGuardError(f"{node_id} is the last that votes", next="add another coordinator first")
        return made

    def _require(self, node_id: str) -> m.Member:
        member = self.find(node_id)
        if member is None:
            raise NotFoundError(
                f"{node_id} is no member of the Raft group", cause=f"members: {', '.join(self.ids)}"
            )
        return member


class Configurations:
    """The applied configuration, and those that the log's tail has on top of it, by their index."""

    def __init__(self, applied: Configuration) -> None:
        self._applied = applied
        self._tail: list[tuple[int, Configuration]] = []
        self._told: tuple[int, Configuration] | None = None

    @property
    def current(self) -> Configuration:
        return self._tail[-1][1] if self._tail else self._applied

    @property
    def committed(self) -> Configuration:
        return self._applied

    @property
    def known(self) -> Mapping[str, m.Member]:
        """By node id: everybody who is a member by one of them; of two of one name, the newer."""
        told = (self._told[1],) if self._told else ()
        every = (self._applied, *(one for _, one in self._tail), *told)
        return {member.node_id: member for one in every for member in one.members}

    @property
    def last_index(self) -> int:
        """Of the last entry that changed it and is not known to be applied; 0: none."""
        return self._tail[-1][0] if self._tail else 0

    def append(self, index: int, configuration: Configuration) -> None:
        self._tail.append((index, configuration))

    def truncate_from(self, index: int) -> bool:
        """The log lost its entries from `index` on; True when the current configuration is another now."""
        kept = [one for one in self._tail if one[0] < index]
        changed = len(kept) != len(self._tail)
        self._tail = kept
        return changed

    def tell(self, index: int, configuration: Configuration) -> None:
        """By a peer's word this one is committed as of `index`, which lies beyond what is applied here."""
        if self._told is None or self._told[0] < index:
            self._told = index, configuration

    def applied(self, index: int) -> bool:
        """Entries up to `index` can be truncated no more; True when somebody may be known no longer."""
        before = self._applied, self._told
        while self._tail and self._tail[0][0] <= index:
            self._applied = self._tail.pop(0)[1]
        if self._told is not None and self._told[0] <= index:
            self._told = None
        return before != (self._applied, self._told)

    def reset(self, index: int, configuration: Configuration) -> None:
        """A snapshot of `index` was installed, which has this configuration."""
        self._applied = configuration
        self._tail = [one for one in self._tail if one[0] > index]
        if self._told is not None and self._told[0] <= index:
            self._told = None
