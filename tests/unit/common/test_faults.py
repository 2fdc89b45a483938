"""Who is out of reach by `dev partition`: read from the file, told to the transports, and said back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from common.faults import Cuts, LostError
from quorumfs.local.faults import CUT_FILE_NAME, SEEN_FILE_NAME
from quorumfs.rpc.status import was_never_sent

ADDRESS = "127.0.0.1:1"


@pytest.fixture
def cuts(tmp_path: Path) -> Cuts:
    return Cuts(tmp_path)


def cut(tmp_path: Path, text: str) -> bytes:
    (tmp_path / CUT_FILE_NAME).write_text(text)
    return text.encode()


def test_without_a_file_everybody_is_in_reach_and_that_is_said(cuts: Cuts, tmp_path: Path) -> None:
    assert cuts.work() == "out of reach: nobody"
    assert cuts.reaches(ADDRESS)
    assert (tmp_path / SEEN_FILE_NAME).read_bytes() == b""


def test_what_the_file_names_is_out_of_reach_until_it_names_it_no_more(cuts: Cuts, tmp_path: Path) -> None:
    told: list[frozenset[str]] = []
    cuts.also(told.append)
    raw = cut(tmp_path, f'{{"c2": "{ADDRESS}"}}')
    assert cuts.work() == "out of reach: c2"
    assert not cuts.reaches(ADDRESS)
    assert (tmp_path / SEEN_FILE_NAME).read_bytes() == raw
    assert cuts.work() == "as before"
    cut(tmp_path, "")
    assert cuts.work() == "out of reach: nobody"
    assert cuts.reaches(ADDRESS)
    assert told == [frozenset(), frozenset({"c2"}), frozenset()]


KINDS: dict[str, Callable[[grpc.Channel], Any]] = {
    "unary": lambda channel: channel.unary_unary("/x")(b""),
    "future": lambda channel: channel.unary_unary("/x").future(b"").result(),
    "streamed answer": lambda channel: list(channel.unary_stream("/x")(b"")),
    "streamed request": lambda channel: channel.stream_unary("/x")(iter([b""])),
    "both streamed": lambda channel: list(channel.stream_stream("/x")(iter([b""]))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_of_any_kind_to_somebody_out_of_reach_is_lost(cuts: Cuts, tmp_path: Path, kind: str) -> None:
    cut(tmp_path, f'{{"c2": "{ADDRESS}"}}')
    cuts.work()
    with cuts.open(ADDRESS, None) as channel, pytest.raises(LostError) as lost:
        KINDS[kind](channel)
    assert was_never_sent(lost.value)
