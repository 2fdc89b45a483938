"""What a node knows of tokens: it judges without a leader, keeps what it knew, and is closed when in doubt."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import structlog.testing

from common.access import TOKENS_FILE_NAME, Role, hash_of, mint_token
from common.token_book import SAVE_SECONDS, STALE_SECONDS, KeepTokens, TokenBook, ask_in_turn
from quorumfs.clock import ManualClock
from quorumfs.errors import NoLeaderError, QuorumFSError, UnauthenticatedError, UnavailableError
from quorumfs.rpc.status import to_detail
from quorumfs.v1 import membership_pb2
from quorumfs.v1.types_pb2 import TokenInfo

_, GOOD = mint_token(lambda n: b"\x01" * n)
_, OTHER = mint_token(lambda n: b"\x02" * n)


def info(text: str, role: str = "operator", expires: float = 0.0, revoked: bool = False) -> TokenInfo:
    return TokenInfo(
        token_id=text.split("_")[1],
        name="ci",
        role=role,
        hash=hash_of(text),
        expires_in_seconds=expires,
        revoked=revoked,
    )


class Coordinators:
    def __init__(self, *tokens: TokenInfo) -> None:
        self.tokens: Sequence[TokenInfo] = tokens
        self.trouble: QuorumFSError | None = None
        self.asked = 0

    def __call__(self) -> Sequence[TokenInfo]:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
        return self.tokens


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_without_any_knowledge_nobody_is_let_in(clock: ManualClock) -> None:
    coordinators = Coordinators()
    coordinators.trouble = NoLeaderError("nobody answers")
    book = TokenBook(coordinators, clock)
    assert book.wants_refresh("")
    assert "nobody answers" in book.refresh()
    assert not book.wants_refresh(""), "the next caller does not wait for the same silence"
    assert book.configured is None
    for token in ("", GOOD):
        with pytest.raises(UnavailableError):
            book.judge(token, "")


def test_a_node_that_was_never_told_is_its_machines_and_a_damaged_note_does_not_make_it_so(
    clock: ManualClock, tmp_path: Path
) -> None:
    coordinators = Coordinators()
    file = tmp_path / "tokens.json"
    assert not TokenBook(coordinators, clock).is_nobodys, "a coordinator tells itself"
    book = TokenBook(coordinators, clock, file)
    assert book.is_nobodys
    book.refresh()
    assert not book.is_nobodys
    file.write_bytes(b"{")
    assert not TokenBook(coordinators, clock, file).is_nobodys


def test_without_tokens_there_is_nobody_to_tell_apart(clock: ManualClock) -> None:
    book = TokenBook(Coordinators(), clock)
    book.refresh()
    assert book.judge("", "127.0.0.1") is None
    assert book.judge(GOOD, "127.0.0.1") is None


def test_a_token_names_its_holder_and_role(clock: ManualClock) -> None:
    book = TokenBook(Coordinators(info(GOOD)), clock)
    book.refresh()
    found = book.judge(GOOD, "10.0.0.1")
    assert found is not None
    assert (found.name, found.role, found.address) == ("ci/010101010101", Role.OPERATOR, "10.0.0.1")


@pytest.mark.parametrize("token", ["", OTHER, GOOD[:-1], GOOD + "0", GOOD[:-1] + "f", "x" * 100, "\ud800"])
def test_any_other_token_is_refused(clock: ManualClock, token: str) -> None:
    book = TokenBook(Coordinators(info(GOOD)), clock)
    book.refresh()
    with pytest.raises(UnauthenticatedError):
        book.judge(token, "")


def test_a_token_that_was_made_a_moment_ago_is_waited_for(clock: ManualClock) -> None:
    coordinators = Coordinators(info(GOOD))

    def pause(seconds: float) -> None:
        clock.advance(seconds)
        if coordinators.asked == 4:
            coordinators.tokens = [info(GOOD), info(OTHER)]

    book = TokenBook(coordinators, clock, pause=pause)
    book.refresh()
    assert not book.wants_refresh(GOOD)
    assert book.wants_refresh(OTHER)
    book.refresh_for(OTHER)
    assert book.judge(OTHER, "") is not None
    assert coordinators.asked == 5


def test_a_token_that_never_comes_is_waited_for_half_a_second_and_by_one_caller(clock: ManualClock) -> None:
    coordinators = Coordinators(info(GOOD))
    begun = clock.monotonic()

    def pause(seconds: float) -> None:
        clock.advance(seconds)
        asked = coordinators.asked
        book.refresh_for(OTHER)  # somebody else, meanwhile
        assert coordinators.asked - asked <= 1
        assert clock.monotonic() - begun < 1.0

    book = TokenBook(coordinators, clock, pause=pause)
    book.refresh()
    book.refresh_for(OTHER)
    with pytest.raises(UnauthenticatedError):
        book.judge(OTHER, "")


@pytest.mark.parametrize("gone", [{"revoked": True}, {"expires": -1.0}])
def test_tokens_that_are_gone_open_nothing_and_the_place_stays_closed(
    clock: ManualClock, gone: dict[str, float]
) -> None:
    book = TokenBook(Coordinators(info(GOOD, **gone)), clock)  # type: ignore[arg-type]
    book.refresh()
    for token in ("", GOOD):
        with pytest.raises(UnauthenticatedError):
            book.judge(token, "")


def test_a_token_ends_without_a_leader_and_its_end_never_moves_away(clock: ManualClock) -> None:
    coordinators = Coordinators(info(GOOD, expires=60.0))
    book = TokenBook(coordinators, clock)
    book.refresh()
    clock.advance(59.0)
    book.refresh()  # replicated time stands still: it is said to last 60 s from now
    assert book.judge(GOOD, "") is not None
    clock.advance(2.0)
    with pytest.raises(UnauthenticatedError):
        book.judge(GOOD, "")


def test_what_was_known_serves_for_a_day_while_nobody_answers(clock: ManualClock) -> None:
    coordinators = Coordinators(info(GOOD))
    book = TokenBook(coordinators, clock)
    book.refresh()
    coordinators.trouble = NoLeaderError("nobody answers")
    clock.advance(STALE_SECONDS - 1)
    book.refresh()
    assert book.judge(GOOD, "") is not None
    clock.advance(2.0)
    with pytest.raises(UnavailableError, match="24 h"):
        book.judge(GOOD, "")


def test_a_process_that_starts_alone_goes_by_what_was_kept(clock: ManualClock, tmp_path: Path) -> None:
    file = tmp_path / TOKENS_FILE_NAME
    TokenBook(Coordinators(info(GOOD, expires=100.0), info(OTHER, "viewer")), clock, file).refresh()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert GOOD not in file.read_text()
    clock.advance(50.0)
    again = TokenBook(Coordinators(), clock, file)
    assert again.age_seconds == pytest.approx(50.0)
    found = again.judge(GOOD, "")
    assert found is not None
    assert found.role is Role.OPERATOR
    clock.advance(51.0)
    with pytest.raises(UnauthenticatedError):
        again.judge(GOOD, "")
    assert again.judge(OTHER, "") is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"format": 2, "told_wall_ms": 0, "tokens": []}',
        '{"format": 1, "told_wall_ms": 99999999999999, "tokens": []}',
        '{"format": 1, "tokens": 1}',
    ],
)
def test_a_file_that_makes_no_sense_is_no_knowledge(clock: ManualClock, tmp_path: Path, text: str) -> None:
    file = tmp_path / TOKENS_FILE_NAME
    file.write_text(text)
    assert TokenBook(Coordinators(), clock, file).configured is None


def test_what_cannot_be_kept_is_known_all_the_same(clock: ManualClock, tmp_path: Path) -> None:
    book = TokenBook(Coordinators(info(GOOD)), clock, tmp_path / "missing" / "tokens.json")
    book.refresh()
    assert book.judge(GOOD, "") is not None


def test_that_tokens_cannot_be_kept_is_said_once_as_something_to_look_at(
    clock: ManualClock, tmp_path: Path
) -> None:
    coordinators = Coordinators(info(GOOD))
    home = tmp_path / "data"
    book = TokenBook(coordinators, clock, home / "tokens.json")

    def warned() -> int:
        clock.advance(SAVE_SECONDS + 1.0)
        with structlog.testing.capture_logs() as events:
            book.refresh()
        told = [one for one in events if one["event"] == "tokens.not_kept"]
        assert all(one["log_level"] == "warning" for one in told)
        return len(told)

    assert [warned(), warned()] == [1, 0]
    home.mkdir()
    assert warned() == 0
    assert (home / "tokens.json").exists()
    shutil.rmtree(home)
    assert [warned(), warned()] == [1, 0], "it is new that it cannot"


def test_coordinators_are_asked_in_turn_until_one_tells() -> None:
    def ask(address: str) -> membership_pb2.TokenTable:
        match address:
            case "c1":
                raise NoLeaderError("c1 is down")
            case "c2":
                return membership_pb2.TokenTable(error=to_detail(UnavailableError("c2 starts")))
            case _:
                return membership_pb2.TokenTable(tokens=[info(GOOD)])

    assert len(ask_in_turn(["c1", "c2", "c3"], ask)) == 1
    with pytest.raises(UnavailableError, match=r"c1 is down.*c2 starts"):
        ask_in_turn(["c1", "c2"], ask)


def test_the_duty_keeps_it_young(clock: ManualClock) -> None:
    coordinators: Callable[[], Sequence[TokenInfo]] = Coordinators(info(GOOD))
    duty = KeepTokens(TokenBook(coordinators, clock))
    assert duty.work() == "1 tokens"
    assert duty.wait() > 0
