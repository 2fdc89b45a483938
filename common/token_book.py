"""The tokens as this process knows them, so that callers can be judged also while nobody leads.

1. `fetch` asks a coordinator's own table; no leader is needed. It is asked again when what is known is older than
   FRESH_SECONDS and somebody wants to know, and in the background (`KeepTokens`), so that there is something to go by
   when the coordinators are gone.
2. What was told is kept in a file beside the node's data (mode 0600, hashes only): a process that starts while no
   coordinator answers goes by it.
3. Closed when in doubt: without any knowledge, or with one older than STALE_SECONDS, nobody is let in.
4. A token's end never moves away, whatever is told later: replicated time stands still without a leader, this
   process's does not. Revoked tokens are known as revoked.
5. Who presents a token that is not known may be ahead of us: it was made a moment ago, and the coordinator that we ask
   has not applied it yet. Then we ask again for up to SETTLE_SECONDS; for one caller at a time, so that who sends
   nonsense does not keep others waiting.
6. Tokens that have all ended or been revoked are tokens all the same: nothing opens by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common import log
from common.access import HeldToken, Principal, Role, id_of, matches
from quorumfs.clock import Clock
from quorumfs.errors import QuorumFSError, UnauthenticatedError, UnavailableError
from quorumfs.rpc.status import raise_for
from quorumfs.v1 import membership_pb2, types_pb2

FRESH_SECONDS = 0.25
SETTLE_SECONDS = 0.5
AGAIN_SECONDS = 0.05
ASK_SECONDS = 2.0
KEEP_SECONDS = 15.0  # a thousand nodes ask; who presents a token has it asked for at once
STALE_SECONDS = 24 * 3600.0
SAVE_SECONDS = 300.0
_FILE_BYTES_MAX = 4 << 20

Fetch = Callable[[], Sequence[types_pb2.TokenInfo]]
"""All tokens there are. Raises QuorumFSError when nobody tells."""

_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Known:
    """What was told, and when that was true (monotonic)."""

    tokens: Mapping[str, HeldToken]
    at: float


class TokenBook:
    """Any thread may call. `refresh` may take as long as `fetch` does; `judge` never waits."""

    def __init__(
        self,
        fetch: Fetch,
        clock: Clock,
        file: Path | None = None,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self._fetch = fetch
        self._pause = pause
        self._settling = threading.Lock()
        self._clock = clock
        self._file = file
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._known: Known | None = None
        self._tried_at = float("-inf")
        self._saved_at = float("-inf")
        self._is_kept = True  # until it turns out otherwise, which is said once
        if file is not None:
            self._known = _load(file, clock)

    @property
    def age_seconds(self) -> float:
        """Since what is known was told; infinite when nothing is."""
        known = self._known
        return float("inf") if known is None else max(0.0, self._clock.monotonic() - known.at)

    @property
    def configured(self) -> bool | None:
        """Whether there are tokens; None: not known."""
        known = self._known
        return None if known is None else bool(known.tokens)

    @property
    def is_nobodys(self) -> bool:
        """Whether this node has never been told, so that no cluster has taken it yet: it belongs to its machine. Never
        of a coordinator, which tells itself; nor when there is a file that makes no sense."""
        return self._known is None and self._file is not None and not self._file.exists()

    def wants_refresh(self, token: str) -> bool:
        """Whether who presents `token` should be judged after `refresh_for`: what is known is not fresh and nobody
        asked a moment ago, or this token is not in it."""
        return self._is_due() or self._is_news(token)

    def refresh_for(self, token: str) -> None:
        """Ask again; and, while `token` is not known (5), once more. Does not raise."""
        if self._is_due():
            self.refresh()
        if not self._is_news(token) or not self._settling.acquire(blocking=False):
            return
        try:
            until = self._clock.monotonic() + SETTLE_SECONDS
            while self._is_news(token) and self._clock.monotonic() < until:
                self.refresh()
                if self._is_news(token):
                    self._pause(AGAIN_SECONDS)
        finally:
            self._settling.release()

    def _is_due(self) -> bool:
        with self._lock:
            tried = self._clock.monotonic() - self._tried_at
        return self.age_seconds > FRESH_SECONDS and tried > FRESH_SECONDS

    def _is_news(self, token: str) -> bool:
        """Whether it looks like a token and is none that is known."""
        known, token_id = self._known, id_of(token)
        return bool(token_id) and known is not None and token_id not in known.tokens

    def refresh(self) -> str:
        """Ask again; what came of it, in words. Does not raise: the old knowledge stays, and ages."""
        if not self._asking.acquire(timeout=ASK_SECONDS):
            return "somebody asks already"
        try:
            begun = self._clock.monotonic()
            with self._lock:
                self._tried_at = begun
            try:
                told = self._fetch()
            except QuorumFSError as error:
                _log.debug("tokens.not_told", cause=str(error))
                return f"nobody tells: {error}"
            self._take(told, begun)
            return f"{len(told)} tokens"
        finally:
            self._asking.release()

    def judge(self, token: str, address: str, *, is_founding: bool = False) -> Principal | None:
        """Who presents `token` (empty: none). None: no tokens are configured, and nobody can be told apart; or
        `is_founding`, and there was never an admin's token.

        Raises UnauthenticatedError, and UnavailableError when it is not known which tokens there are.
        """
        known, now = self._known, self._clock.monotonic()
        if known is None or now - known.at > STALE_SECONDS:
            raise _not_known(None if known is None else now - known.at)
        if not known.tokens:
            return None
        if not token and is_founding and not any(one.role is Role.ADMIN for one in known.tokens.values()):
            return None
        if not token:
            raise UnauthenticatedError(
                "this call wants an access token",
                cause="none was sent, and the cluster has tokens",
                next="set QUORUMFS_TOKEN; an admin makes tokens with dfsctl auth token create",
            )
        held = known.tokens.get(id_of(token))
        if held is None or not matches(held, token, now):
            raise UnauthenticatedError(
                "the access token is not good",
                cause="it is unknown, revoked, or has ended",
                next="an admin sees them with dfsctl auth token ls, and makes new ones",
            )
        name = f"{held.name}/{held.token_id}" if held.name else held.token_id
        return Principal(name, held.role, address)

    def _take(self, told: Sequence[types_pb2.TokenInfo], at: float) -> None:
        with self._lock:
            before = self._known.tokens if self._known is not None else {}
            tokens = {one.token_id: _earlier(held_of(one, at), before.get(one.token_id)) for one in told}
            self._known = Known(tokens, at)
            changed = tokens.keys() != before.keys() or any(
                (before[key].role, before[key].revoked) != (one.role, one.revoked)
                for key, one in tokens.items()
            )
            due = changed or at - self._saved_at > SAVE_SECONDS
            if due:
                self._saved_at = at
        if due and self._file is not None:
            self._keep(self._file, self._known)

    def _keep(self, file: Path, known: Known) -> None:
        try:
            _save(file, known, self._clock)
            self._is_kept = True
        except OSError as error:
            if self._is_kept:
                _log.warning(
                    "tokens.not_kept",
                    file=str(file),
                    cause=str(error),
                    means="after a restart nobody is judged here until a coordinator answers",
                )
            self._is_kept = False


def ask_in_turn(
    addresses: Sequence[str], ask: Callable[[str], membership_pb2.TokenTable]
) -> Sequence[types_pb2.TokenInfo]:
    """What the first coordinator tells that does. Raises UnavailableError."""
    failures = []
    for address in addresses:
        try:
            table = ask(address)
            raise_for(table.error.code, table.error)
        except QuorumFSError as error:
            failures.append(f"{address}: {error}")
            continue
        return table.tokens
    raise UnavailableError(
        "no coordinator tells which tokens there are",
        cause="; ".join(failures) or "none is known that answers",
    )


class KeepTokens:
    """A Worker: asks now and then, so that what is known is young when nobody answers any more."""

    name = "tokens"

    def __init__(self, book: TokenBook) -> None:
        self._book = book

    def work(self) -> str:
        return self._book.refresh()

    def wait(self) -> float:
        return KEEP_SECONDS


def held_of(told: types_pb2.TokenInfo, at: float) -> HeldToken:
    """A token as it was told at `at`. One of a role that is unknown here may do nothing."""
    role = Role.__members__.get(told.role.upper(), Role.ANON)
    until = at + told.expires_in_seconds if told.expires_in_seconds else None
    return HeldToken(told.token_id, told.name, role, told.hash, until, told.revoked)


def _earlier(now: HeldToken, before: HeldToken | None) -> HeldToken:
    if before is None or before.until is None or now.until is None:
        return now
    return replace(now, until=min(now.until, before.until))


def _not_known(age_seconds: float | None) -> UnavailableError:
    return UnavailableError(
        "access cannot be checked here now",
        cause="no coordinator has told which tokens there are"
        + ("" if age_seconds is None else f" for {age_seconds / 3600:.0f} h"),
        next="start a coordinator, or see why this node does not reach one (dfsctl status)",
    )


def _save(file: Path, known: Known, clock: Clock) -> None:
    """Raises OSError."""
    now, wall_ms = clock.monotonic(), clock.wall_ms()
    rows = [
        {
            "token_id": one.token_id,
            "name": one.name,
            "role": one.role.name.lower(),
            "hash": one.hash.hex(),
            "until_wall_ms": None if one.until is None else wall_ms + int((one.until - now) * 1000),
            "revoked": one.revoked,
        }
        for one in known.tokens.values()
    ]
    raw = json.dumps({"format": 1, "told_wall_ms": wall_ms - int((now - known.at) * 1000), "tokens": rows})
    beside = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        with open(
            os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
        ) as out:
            out.write(raw)
        beside.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def _load(file: Path, clock: Clock) -> Known | None:
    """What the file keeps; None when it is missing or makes no sense."""
    now, wall_ms = clock.monotonic(), clock.wall_ms()
    try:
        with open(file, "rb") as source:
            found = json.loads(source.read(_FILE_BYTES_MAX))
        age_ms = wall_ms - int(found["told_wall_ms"])
        if found["format"] != 1 or age_ms < 0:  # told in the future: nobody knows how old it is
            return None
        tokens = [
            HeldToken(
                str(row["token_id"]),
                str(row["name"]),
                Role[str(row["role"]).upper()],
                bytes.fromhex(row["hash"]),
                None if row["until_wall_ms"] is None else now + (int(row["until_wall_ms"]) - wall_ms) / 1000,
                bool(row["revoked"]),
            )
            for row in found["tokens"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Known({one.token_id: one for one in tokens}, now - age_ms / 1000)
