from __future__ import annotations

import math
from pathlib import Path

from quorumfs.errors import AlreadyExistsError, NotFoundError, OutcomeUnknownError, UnavailableError
from tests.support.recorder import Call, Recorder, read_journal


def failing(error: Exception) -> object:
    raise error


def told(tmp_path: Path, error: Exception) -> Call:
    journal = tmp_path / "k1.jsonl"
    recorder = Recorder(journal, "k1")
    assert recorder.run(lambda: failing(error), "put", "/x/a", content="11") is None
    recorder.close()
    (call,) = read_journal(journal)
    return call


def test_a_call_is_read_back_with_what_was_answered(tmp_path: Path) -> None:
    journal = tmp_path / "k1.jsonl"
    recorder = Recorder(journal, "k1")
    assert recorder.run(lambda: b"22", "get", "/x/a", told=bytes.decode) == b"22"
    recorder.run(lambda: None, "rename", "/x/a", target="/x/b")
    recorder.close()
    read, moved = read_journal(journal)
    assert (read.client, read.number, read.kind, read.path) == ("k1", 1, "get", "/x/a")
    assert (read.content, read.outcome) == ("22", "done")
    assert read.began <= read.ended <= moved.began <= moved.ended
    assert (moved.number, moved.target, moved.outcome) == (2, "/x/b", "done")


def test_every_error_says_what_the_client_knows(tmp_path: Path) -> None:
    for error, outcome in (
        (NotFoundError("no"), "absent"),
        (AlreadyExistsError("no"), "exists"),
        (UnavailableError("no"), "refused"),
    ):
        directory = tmp_path / outcome
        directory.mkdir()
        call = told(directory, error)
        assert (call.outcome, call.content) == (outcome, "11")
        assert call.ended < math.inf
        assert "no" in call.detail


def test_what_is_unknown_has_no_end(tmp_path: Path) -> None:
    call = told(tmp_path, OutcomeUnknownError("who knows"))
    assert (call.outcome, call.ended) == ("unknown", math.inf)


def test_a_killed_client_leaves_its_last_call_as_unknown(tmp_path: Path) -> None:
    journal = tmp_path / "k1.jsonl"
    recorder = Recorder(journal, "k1")
    recorder.begin("put", "/x/a", content="11")
    recorder.close()
    journal.write_bytes(journal.read_bytes() + b'{"end": 1, "at": 5.0, "outc')
    (call,) = read_journal(journal)
    assert (call.outcome, call.ended, call.content) == ("unknown", math.inf, "11")
