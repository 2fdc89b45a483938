"""Logs: events, escapes, levels at run time, and a ring that never waits for its readers."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import log
from common.log_buffer import Filter, LogBuffer, Reader
from quorumfs.errors import BusyError, InvalidArgumentError


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield io.StringIO()
    root.handlers[:] = before
    log.levels.reset("info")
    root.setLevel(level)
    logging.captureWarnings(False)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_line_with_its_fields(stream: io.StringIO) -> None:
    buffer = log.setup("info", "json", node_id="d1", role="datanode", stream=stream)
    with log.bind_request("req-1"):
        log.get("room").info("chunk.published", chunk=b"\x01\xff", bytes=3, level="x")
    (event,) = lines(stream)
    assert event["event"] == "chunk.published"
    assert (event["node_id"], event["role"], event["request_id"]) == ("d1", "datanode", "req-1")
    assert (event["chunk"], event["bytes"], event["level"], event["field_level"]) == ("01ff", 3, "info", "x")
    assert json.loads(buffer.read(0)[0][0].json) == event


def test_what_libraries_log_comes_out_the_same_way(stream: io.StringIO) -> None:
    log.setup("info", "json", stream=stream)
    logging.getLogger("some.library").warning("took %d s", 3)
    assert lines(stream)[0]["event"] == "took 3 s"


def test_a_traceback_is_a_field(stream: io.StringIO) -> None:
    log.setup("info", "json", stream=stream)
    try:
        raise ValueError("inside")
    except ValueError:
        log.get("room").exception("work.failed")
    (event,) = lines(stream)
    assert event["level"] == "error"
    assert "ValueError: inside" in event["exception"]


@given(st.text(), st.text())
def test_no_text_can_command_a_terminal(name: str, value: str) -> None:
    record = logging.LogRecord("room", logging.INFO, "", 0, name, None, None)
    record._fields = {"path": value, "raw": value.encode("utf-8", "surrogatepass")}
    event = log.to_event(record, {})
    for line in (log.to_json(event), log.to_text(event)):
        assert line.isprintable()
    assert json.loads(log.to_json(event))["path"] == value


def test_a_call_that_was_cancelled_is_no_error_of_ours(stream: io.StringIO) -> None:
    log.setup("info", "json", stream=stream)
    for name, error in (
        ("grpc._cython.cygrpc", asyncio.CancelledError()),
        ("grpc._cython.cygrpc", ValueError()),
        ("ours", asyncio.CancelledError()),
    ):
        try:
            raise error
        except BaseException:
            logging.getLogger(name).exception("not handled")
    assert [event["logger"] for event in lines(stream)] == ["grpc._cython.cygrpc", "ours"]


def test_a_huge_event_keeps_its_head(stream: io.StringIO) -> None:
    log.setup("info", "json", stream=stream)
    log.get("room").info("too.much", blob="x" * 1_000_000)
    (event,) = lines(stream)
    assert event["event"] == "too.much"
    assert event["cut_from_bytes"] > 1_000_000


def test_a_closed_stderr_does_not_end_the_work(stream: io.StringIO) -> None:
    buffer = log.setup("info", "text", stream=stream)
    stream.close()
    log.get("room").info("still.here")
    assert buffer.last_id == 1


def test_a_level_with_a_time_to_live_goes_back_by_itself(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers: list[Callable[[], None]] = []

    class Timer:
        def __init__(self, seconds: float, function: Callable[..., None], arguments: tuple[str, ...]) -> None:
            timers.append(lambda: function(*arguments))

        def start(self) -> None: ...

        def cancel(self) -> None: ...

    monkeypatch.setattr(threading, "Timer", Timer)
    log.setup("warning", "json", stream=stream)
    room = log.get("ttl.room")
    room.info("before")
    log.levels.set("debug", ttl_seconds=60)
    assert log.levels.current() == "debug"
    assert 0 < log.levels.remaining_seconds() <= 60
    room.debug("during")
    timers[0]()
    assert log.levels.remaining_seconds() == 0
    room.info("after")
    assert [event["event"] for event in lines(stream)] == ["during"]
    assert log.levels.current() == "warning"


def test_one_logger_may_have_a_level_of_its_own(stream: io.StringIO) -> None:
    log.setup("warning", "json", stream=stream)
    log.levels.set("debug", logger="own.room")
    log.get("own.room").debug("mine")
    log.get("other.room").info("not mine")
    assert [event["event"] for event in lines(stream)] == ["mine"]
    log.levels.set("", logger="own.room")
    assert log.levels.current("own.room") == "warning"


@pytest.mark.parametrize(
    ("level", "ttl"), [("loud", 0), ("", 0), ("info", -1), ("info", 1e9), ("info", float("nan"))]
)
def test_a_level_that_is_none_is_refused(level: str, ttl: float) -> None:
    with pytest.raises(InvalidArgumentError):
        log.levels.set(level, ttl)


def test_a_loggers_level_is_told_as_it_holds_and_asking_makes_no_logger(stream: io.StringIO) -> None:
    log.setup("warning", "json", stream=stream)
    log.levels.set("debug", 600, "asked.room")
    for name in ("asked.room", "asked.room.inner"):
        assert log.levels.current(name) == "debug"
        assert 0 < log.levels.remaining_seconds(name) <= 600
    for name in ("asked", "asked.elsewhere", ""):
        assert (log.levels.current(name), log.levels.remaining_seconds(name)) == ("warning", 0)
    log.levels.set("info", 60)
    assert (log.levels.current("asked"), log.levels.remaining_seconds("asked") > 0) == ("info", True)
    assert "asked.room.inner" not in logging.Logger.manager.loggerDict
    assert "asked.elsewhere" not in logging.Logger.manager.loggerDict


def test_so_many_loggers_have_a_level_of_their_own_and_no_more(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with a ttl has a thread, and stdlib keeps every name."""
    monkeypatch.setattr(log, "LOGGERS_MAX", 3)
    log.setup("warning", "json", stream=stream)
    log.levels.set("debug", 600, "many.0")
    log.levels.set("debug", 0, "many.1")
    log.levels.set("debug", 0, "many.2")
    before = threading.active_count()
    for ttl in (0, 600):
        with pytest.raises(BusyError, match="too many loggers"):
            log.levels.set("debug", ttl, "many.3")
    assert "many.3" not in logging.Logger.manager.loggerDict
    assert threading.active_count() == before
    log.levels.set("info", 60, "many.0")
    log.levels.set("info", 60)
    log.levels.set("", 0, "many.2")
    log.levels.set("debug", 0, "many.3")


def test_names_under_which_nothing_is_logged_are_not_heaped_up(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "NEW_LOGGERS_MAX", 2)
    made = log.Levels()
    made.set("debug", 0, "heap.0")
    made.set("", 0, "heap.0")
    made.set("debug", 0, "heap.1")
    made.set("", 0, "heap.1")
    with pytest.raises(BusyError, match="nothing has been logged"):
        made.set("debug", 0, "heap.2")
    logging.getLogger("heap.3")
    made.set("debug", 0, "heap.3")
    made.set("", 0, "heap.3")
    for ask in (made.current, made.remaining_seconds, lambda name: made.set("debug", 0, name)):
        with pytest.raises(InvalidArgumentError):
            ask("h" * 201)


# The ring


def filled(count: int, records_max: int = 100) -> LogBuffer:
    buffer = LogBuffer(records_max=records_max, monotonic=lambda: 0.0)
    for number in range(1, count + 1):
        buffer.append("info", f"event.{number}", f'{{"n": {number}}}')
    return buffer


def ids(reader: Reader) -> list[int]:
    found: list[int] = []
    while batch := reader.batch():
        found.extend(record.id for record, _ in batch)
    return found


def test_ids_grow_by_one_and_a_reader_resumes_after_the_last_it_saw() -> None:
    buffer = filled(10)
    assert ids(Reader(buffer, Filter())) == list(range(1, 11))
    assert ids(Reader(buffer, Filter(), after_id=7)) == [8, 9, 10]


def test_a_slow_reader_is_told_how_much_it_missed_and_the_writer_never_waits() -> None:
    buffer = filled(10, records_max=10)
    reader = Reader(buffer, Filter())
    assert len(reader.batch()) == 10
    for number in range(1000):
        buffer.append("info", "more", str(number))
    batch = reader.batch()
    assert [record.id for record, _ in batch] == list(range(1001, 1011))
    assert [dropped for _, dropped in batch] == [990] + [0] * 9


def test_what_was_missed_is_told_with_the_next_record_that_is_wanted() -> None:
    buffer = filled(1, records_max=5)
    reader = Reader(buffer, Filter(level="error"), after_id=1)
    for _ in range(20):
        buffer.append("info", "noise", "{}")
    assert reader.batch() == []
    buffer.append("error", "signal", "{}")
    ((record, dropped),) = reader.batch()
    assert (record.event, dropped) == ("signal", 15)


def test_the_ring_is_bounded_in_bytes_too() -> None:
    buffer = LogBuffer(records_max=1000, bytes_max=1000)
    for _ in range(100):
        buffer.append("info", "e", "x" * 100)
    assert len(buffer.read(0, limit=1000)[0]) == 10


def test_a_reader_of_an_earlier_process_starts_over() -> None:
    assert ids(Reader(filled(3), Filter(), after_id=900)) == [1, 2, 3]


def test_readers_choose_by_level_text_and_age() -> None:
    now = [0.0]
    buffer = LogBuffer(monotonic=lambda: now[0])
    buffer.append("error", "old", "{}")
    now[0] = 100.0
    buffer.append("debug", "fine", '{"chunk": "AB"}')
    buffer.append("warning", "odd", "{}")

    def events(wanted: Filter) -> list[str]:
        return [record.event for record, _ in Reader(buffer, wanted, monotonic=lambda: now[0]).batch()]

    assert events(Filter(level="warning")) == ["old", "odd"]
    assert events(Filter(grep="ab")) == ["fine"]
    assert events(Filter(since_seconds=10)) == ["fine", "odd"]


def test_a_follower_sees_what_comes_later_and_ends_when_told() -> None:
    buffer = filled(1)
    followed = Reader(buffer, Filter()).follow(lambda: buffer.last_id > 2)
    assert next(followed)[0].id == 1
    buffer.append("info", "later", "{}")
    assert next(followed)[0].id == 2
    buffer.append("info", "last", "{}")
    assert list(followed) == []
