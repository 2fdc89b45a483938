"""Every way to fail, once: stable code, exit code, and what a caller may do about it.

Rules:
1. One class per thing a caller can react to; the number is the wire's `ErrorCode`.
2. `retry` answers "may the same request be sent again?" without reading prose.
3. Every error says what was tried (`message`), why it failed (`cause`) and what to do next (`next`).
4. Outcomes are three: done, refused (any class but OutcomeUnknown), unknown (OutcomeUnknown).

Foreign errors are translated once, at the border (`quorumfs/rpc/status.py` for gRPC).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, unique
from typing import Any, ClassVar


@unique
class Code(IntEnum):
    """The wire's ErrorCode (types.proto); a house test holds the two together."""

    OK = 0
    INTERNAL = 1
    INVALID_ARGUMENT = 2
    INVALID_PATH = 3
    NOT_FOUND = 4
    ALREADY_EXISTS = 5
    NOT_EMPTY = 6
    NOT_A_DIRECTORY = 7
    IS_A_DIRECTORY = 8
    PRECONDITION_FAILED = 9
    NOT_LEADER = 10
    NO_LEADER = 11
    UNAVAILABLE = 12
    UNAUTHENTICATED = 13
    PERMISSION_DENIED = 14
    TIMED_OUT = 15
    PARTIAL = 16
    CORRUPT = 17
    SAFETY_GUARD = 18
    OUTCOME_UNKNOWN = 19
    BUSY = 20
    NO_SPACE = 21
    NO_PLACEMENT = 22
    SESSION_EXPIRED = 23
    STALE_SEQUENCE = 24
    UPLOAD_GONE = 25
    CHUNK_CONDEMNED = 26
    CHUNK_NOT_FOUND = 27
    WRONG_CLUSTER = 28
    FENCED = 29
    FORMAT_TOO_NEW = 30
    CYCLE = 31
    TOO_LARGE = 32
    INLINE_BUDGET = 33
    HISTORY_BEHIND = 34
    DUPLICATE_NODE = 35


class Exit(IntEnum):
    """Exit codes of `dfsctl` (docs/dfsctl.md); scripts rely on them."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNAVAILABLE = 5
    DENIED = 6
    TIMED_OUT = 7
    PARTIAL = 8
    INTEGRITY = 9
    SAFETY_GUARD = 10
    OUTCOME_UNKNOWN = 11


class Retry(Enum):
    """What may be done with the request that failed."""

    NEVER = "never"  # the answer will not change by itself
    SAME_BYTES = "same_bytes"  # send the very same request again (session, slot, seq)
    ELSEWHERE = "elsewhere"  # nothing happened: ask another node, now
    LATER = "later"  # nothing happened: back off, then again


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads, as the one who refused knows it."""

    node_id: str
    grpc: str
    http: str = ""
    term: int = 0


class QuorumFSError(Exception):
    """Base of all errors of this system. Not raised itself, except for codes a newer server invented."""

    code: ClassVar[Code] = Code.INTERNAL
    exit_code: ClassVar[Exit] = Exit.FAILURE
    retry: ClassVar[Retry] = Retry.NEVER
    default_next: ClassVar[str] = ""

    def __init__(
        self,
        message: str,
        *,
        cause: str = "",
        next: str = "",  # noqa: A002  the field's name on every face
        leader: Leader | None = None,
        ids: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause
        self.next = next or self.default_next
        self.leader = leader
        self.ids = dict(ids or {})

    def __str__(self) -> str:
        return f"{self.message}: {self.cause}" if self.cause else self.message

    def to_json(self) -> dict[str, Any]:
        """The value of "error" in every JSON answer (docs/dfsctl.md)."""
        return {
            "code": self.code.name.lower(),
            "message": self.message,
            "cause": self.cause,
            "next": self.next,
        }


class InternalError(QuorumFSError):
    code = Code.INTERNAL
    default_next = "this is a bug of QuorumFS: keep the node's log and report it"


class InvalidArgumentError(QuorumFSError):
    code = Code.INVALID_ARGUMENT
    exit_code = Exit.USAGE


class InvalidPathError(InvalidArgumentError):
    code = Code.INVALID_PATH
    default_next = "use an absolute path such as /data/x; names are UTF-8, at most 255 bytes, without . or .."


class NotFoundError(QuorumFSError):
    code = Code.NOT_FOUND
    exit_code = Exit.NOT_FOUND


class ConflictError(QuorumFSError):
    code = Code.PRECONDITION_FAILED
    exit_code = Exit.CONFLICT


class AlreadyExistsError(ConflictError):
    code = Code.ALREADY_EXISTS


class NotEmptyError(ConflictError):
    code = Code.NOT_EMPTY
    default_next = "add -r to remove a directory with all that is in it"


class PathNotADirectoryError(ConflictError):
    code = Code.NOT_A_DIRECTORY


class PathIsADirectoryError(ConflictError):
    code = Code.IS_A_DIRECTORY


class PreconditionFailedError(ConflictError):
    code = Code.PRECONDITION_FAILED


class CycleError(ConflictError):
    code = Code.CYCLE


class NotLeaderError(QuorumFSError):
    """A follower was asked; nothing happened. `leader` says whom to ask, when known."""

    code = Code.NOT_LEADER
    exit_code = Exit.UNAVAILABLE
    retry = Retry.ELSEWHERE


class UnavailableError(QuorumFSError):
    code = Code.UNAVAILABLE
    exit_code = Exit.UNAVAILABLE
    retry = Retry.ELSEWHERE


class NoLeaderError(UnavailableError):
    code = Code.NO_LEADER
    retry = Retry.LATER
    default_next = "dfsctl status shows which coordinators answer; two of three must run"


class UnauthenticatedError(QuorumFSError):
    code = Code.UNAUTHENTICATED
    exit_code = Exit.DENIED


class PermissionDeniedError(QuorumFSError):
    code = Code.PERMISSION_DENIED
    exit_code = Exit.DENIED


class WrongClusterError(PermissionDeniedError):
    code = Code.WRONG_CLUSTER


class FencedError(PermissionDeniedError):
    """A leader of an older epoch was refused by a datanode."""

    code = Code.FENCED


class HistoryBehindError(PermissionDeniedError):
    code = Code.HISTORY_BEHIND


class DuplicateNodeError(PermissionDeniedError):
    code = Code.DUPLICATE_NODE


class TimedOutError(QuorumFSError):
    """It was given up before anything was proposed; nothing happened."""

    code = Code.TIMED_OUT
    exit_code = Exit.TIMED_OUT
    retry = Retry.LATER


class PartialError(QuorumFSError):
    code = Code.PARTIAL
    exit_code = Exit.PARTIAL


class IntegrityError(QuorumFSError):
    """Bytes that do not match their checksum, or none left to read."""

    code = Code.CORRUPT
    exit_code = Exit.INTEGRITY


class ChunkNotFoundError(IntegrityError):
    code = Code.CHUNK_NOT_FOUND
    retry = Retry.ELSEWHERE


class SafetyGuardError(QuorumFSError):
    code = Code.SAFETY_GUARD
    exit_code = Exit.SAFETY_GUARD


class OutcomeUnknownError(QuorumFSError):
    """It may have happened, or may yet happen. Never reported as a failure."""

    code = Code.OUTCOME_UNKNOWN
    exit_code = Exit.OUTCOME_UNKNOWN
    retry = Retry.SAME_BYTES
    default_next = "look whether it happened (dfsctl stat) before you do it again"


class BusyError(QuorumFSError):
    """RESOURCE_EXHAUSTED: a queue or a limit is full; nothing happened."""

    code = Code.BUSY
    retry = Retry.LATER


class NoSpaceError(QuorumFSError):
    code = Code.NO_SPACE
    default_next = "free space or add a datanode; dfsctl df shows where room is left"


class NoPlacementError(QuorumFSError):
    """Not enough datanodes can take a replica; the cause names each node and the rule that excluded it."""

    code = Code.NO_PLACEMENT
    exit_code = Exit.UNAVAILABLE
    retry = Retry.LATER


class SessionExpiredError(OutcomeUnknownError):
    """The session is gone: what was in flight is unknown, and is never sent again under another session."""

    code = Code.SESSION_EXPIRED
    retry = Retry.NEVER


class StaleSequenceError(OutcomeUnknownError):
    code = Code.STALE_SEQUENCE
    retry = Retry.NEVER


class UploadGoneError(ConflictError):
    code = Code.UPLOAD_GONE
    default_next = "start the upload again"


class ChunkCondemnedError(ConflictError):
    """A commit names a chunk that GC has condemned; the client sends that chunk again under a new id."""

    code = Code.CHUNK_CONDEMNED


class FormatTooNewError(InvalidArgumentError):
    code = Code.FORMAT_TOO_NEW
    default_next = "finish the upgrade of all coordinators, or use an older client"


class TooLargeError(InvalidArgumentError):
    code = Code.TOO_LARGE


class InlineBudgetError(QuorumFSError):
    """No room for another inline body; the client sends the bytes to datanodes instead."""

    code = Code.INLINE_BUDGET


def _classes(cls: type[QuorumFSError]) -> list[type[QuorumFSError]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in _classes(sub))]


CLASS_OF: Mapping[Code, type[QuorumFSError]] = {
    cls.code: cls for cls in reversed(_classes(QuorumFSError)) if "code" in vars(cls)
} | {Code.PRECONDITION_FAILED: PreconditionFailedError, Code.INTERNAL: InternalError}


def make(
    code: int,
    message: str,
    *,
    cause: str = "",
    next: str = "",  # noqa: A002
    leader: Leader | None = None,
    ids: Mapping[str, str] | None = None,
) -> QuorumFSError:
    """The error of a wire code; a code of a newer server becomes InternalError and keeps its number."""
    try:
        cls = CLASS_OF[Code(code)]
    except (ValueError, KeyError):
        return InternalError(
            message, cause=f"{cause} (unknown code {code})".strip(), next=next, leader=leader, ids=ids
        )
    return cls(message, cause=cause, next=next, leader=leader, ids=ids)
