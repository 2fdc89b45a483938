"""Logs of a node: events with fields, as JSON lines or key=value on stderr, and in a ring for readers.

`setup` once per process; then `log.get(__name__).info("chunk.published", chunk=..., bytes=...)`. Everything
that libraries log through stdlib `logging` comes out the same way. Control characters, and whatever else a
terminal would obey, are escaped. Nothing here waits for a reader: the ring is `log_buffer.LogBuffer`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import structlog

from common.log_buffer import LEVELS, LogBuffer
from quorumfs.errors import BusyError, InvalidArgumentError

__all__ = ["LEVELS", "Levels", "LogBuffer", "bind_request", "get", "levels", "request_id", "setup"]

Format = Literal["json", "text"]

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The request that the current thread or task works for; put into every event."""

LOGGERS_MAX = 64  # that have a level of their own; each with a ttl has a thread
NEW_LOGGERS_MAX = 256  # that only had a level set: stdlib keeps every name for good
LOGGER_CHARACTERS_MAX = 200
EVENT_BYTES_MAX = 64 << 10  # what is longer keeps its head and the end of its traceback
_FIELDS_FIRST = ("ts", "level", "event", "logger", "node_id", "role", "request_id")
_QUIET = (
    "asyncio",
    "grpc",
    "alembic",
    "sqlalchemy",
    "werkzeug",
)  # at info they tell what operators don't ask


def get(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module; cheap, and usable before `setup`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


@contextmanager
def bind_request(value: str) -> Iterator[None]:
    """Give every event of this thread or task the request id `value` within the block."""
    before = request_id.get()
    request_id.set(value)
    try:
        yield
    finally:
        request_id.set(before)  # not `reset`: a generator may end in another context


def setup(
    level: str,
    format: Format,  # noqa: A002  the setting's name
    *,
    node_id: str = "",
    role: str = "",
    stream: TextIO | None = None,
    buffer: LogBuffer | None = None,
) -> LogBuffer:
    """Send the whole process's logging to `stream` (stderr) and into the returned ring. Once per process.

    `node_id` and `role` go into every event. Called again, it replaces what was set up before.
    """
    buffer = LogBuffer() if buffer is None else buffer
    fixed = {name: value for name, value in (("node_id", node_id), ("role", role)) if value}
    handler = _NodeHandler(stream, format, fixed, buffer)
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one, _NodeHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    logging.captureWarnings(True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    levels.reset(level)
    return buffer


def _to_record(_: Any, method: str, event: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    fields = dict(event)
    exc_info = fields.pop("exc_info", None) or method == "exception"
    return (fields.pop("event", ""),), {"extra": {"_fields": fields}, "exc_info": exc_info}


# At import, so that a module which logs before `setup` reaches stdlib's handlers and never stdout.
structlog.configure(
    processors=[structlog.stdlib.filter_by_level, _to_record],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
    cache_logger_on_first_use=True,
)


class _NodeHandler(logging.Handler):
    """Renders each record once as an event; the ring keeps the JSON, the stream gets JSON or text."""

    def __init__(
        self,
        stream: TextIO | None,
        shape: Format,
        fixed: Mapping[str, str],
        buffer: LogBuffer,
    ) -> None:
        super().__init__()
        self.addFilter(_is_news)
        self._stream = stream
        self._shape = shape
        self._fixed = fixed
        self._buffer = buffer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event = to_event(record, self._fixed)
            as_json = to_json(event)
            if len(as_json) > EVENT_BYTES_MAX:
                event = _cut(event, len(as_json))
                as_json = to_json(event)
            self._buffer.append(event["level"], event["event"], as_json)
            line = as_json if self._shape == "json" else to_text(event)
            stream = self._stream or sys.stderr
            stream.write(line + "\n")
            stream.flush()
        except Exception:  # noqa: BLE001  logging's contract: a broken stderr or field must not end the work
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  stdlib's name
        """A closed stderr is nobody's fault; stdlib would print a traceback into it."""


def _is_news(record: logging.LogRecord) -> bool:
    """gRPC logs calls that were cancelled with their client, or at the server's stop, as errors with a traceback."""
    kind = record.exc_info[0] if record.exc_info else None
    return not (record.name.startswith("grpc") and kind is asyncio.CancelledError)


def to_event(record: logging.LogRecord, fixed: Mapping[str, str]) -> dict[str, Any]:
    """A log record as one flat event; `ts` is RFC 3339 in UTC."""
    stamp = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    event: dict[str, Any] = {
        "ts": stamp.replace("+00:00", "Z"),
        "level": record.levelname.lower() if record.levelname.lower() in LEVELS else "error",
        "event": record.getMessage(),
        "logger": record.name,
        **fixed,
    }
    current = request_id.get()
    if current:
        event["request_id"] = current
    for name, value in getattr(record, "_fields", {}).items():
        event[name if name not in _FIELDS_FIRST or name not in event else f"field_{name}"] = value
    if record.exc_info and record.exc_info[0] is not None:
        event["exception"] = "".join(traceback.format_exception(*record.exc_info))
    return event


def _cut(event: Mapping[str, Any], length: int) -> dict[str, Any]:
    head = {name: str(event[name])[:1000] for name in _FIELDS_FIRST if name in event}
    return {**head, "exception": str(event.get("exception", ""))[-8000:], "cut_from_bytes": length}


def to_json(event: Mapping[str, Any]) -> str:
    """One line of ASCII: whatever a terminal could take for a command is escaped."""
    return json.dumps(event, default=_plain, ensure_ascii=True).replace("\x7f", "\\u007f")


def to_text(event: Mapping[str, Any]) -> str:
    """`ts LEVEL event key=value ...`; values that could be misread are quoted and escaped."""
    head = f"{event['ts']} {str(event['level']).upper():7} {_shown(event['event'], bare_spaces=True)}"
    rest = (f"{_shown(k)}={_shown(v)}" for k, v in event.items() if k not in ("ts", "level", "event"))
    return " ".join((head, *rest))


def _shown(value: Any, *, bare_spaces: bool = False) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=_plain, ensure_ascii=True)
    bare = text.replace(" ", "") if bare_spaces else text
    if bare and bare.isprintable() and not any(mark in bare for mark in ' "=\\'):
        return text
    return json.dumps(text, ensure_ascii=True).replace("\x7f", "\\u007f") if isinstance(value, str) else text


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)


class Levels:
    """Levels at run time: of everything, or of one logger, for good or for a time. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lasting: dict[str, str] = {}
        self._timers: dict[str, threading.Timer] = {}
        self._until: dict[str, float] = {}
        self._new: set[str] = set()

    def reset(self, level: str) -> None:
        """Only the configured level holds from now on."""
        with self._lock:
            for timer in self._timers.values():
                timer.cancel()
            for name in (*self._lasting, *self._timers):
                if name:
                    logging.getLogger(name).setLevel(logging.NOTSET)
            self._timers.clear()
            self._until.clear()
            self._lasting.clear()
            self._apply("", level)
            self._lasting[""] = level

    def set(self, level: str, ttl_seconds: float = 0, logger: str = "") -> None:
        """From now on log `level` and above; with a ttl, back to the lasting level afterwards.

        `level` is one of debug, info, warning, error; for a named logger also "" (as everything else).
        Raises InvalidArgumentError, and BusyError when too many loggers have a level of their own.
        """
        if level not in LEVELS and not (logger and level == ""):
            raise InvalidArgumentError(
                f"there is no log level {level!r}", next="use one of " + ", ".join(LEVELS)
            )
        if not 0 <= ttl_seconds <= 7 * 86400:
            raise InvalidArgumentError(
                "a log level's time to live is 0 to 604800 seconds", cause=f"{ttl_seconds:g} was given"
            )
        _require_name(logger)
        with self._lock:
            self._require_room(level, logger)
            timer = self._timers.pop(logger, None)
            if timer is not None:
                timer.cancel()
            self._until.pop(logger, None)
            self._apply(logger, level)
            if not ttl_seconds:
                self._lasting[logger] = level
                if not level:
                    del self._lasting[logger]
                return
            timer = threading.Timer(ttl_seconds, self._expire, (logger,))
            timer.name, timer.daemon = "log-level", True
            self._timers[logger] = timer
            self._until[logger] = time.monotonic() + ttl_seconds
            timer.start()

    def remaining_seconds(self, logger: str = "") -> float:
        """How long the level that holds now will hold; 0: for good. Raises InvalidArgumentError."""
        _require_name(logger)
        with self._lock:
            until = self._until.get(_who_decides(logger))
        return 0.0 if until is None else max(0.0, until - time.monotonic())

    def current(self, logger: str = "") -> str:
        """The level that holds now. Raises InvalidArgumentError."""
        _require_name(logger)
        number = logging.getLogger(_who_decides(logger) or None).level
        return max(
            (name for name in LEVELS if LEVELS[name] <= number), key=lambda n: LEVELS[n], default="debug"
        )

    def _require_room(self, level: str, logger: str) -> None:
        own = {name for name in (*self._lasting, *self._timers) if name}
        if logger and level and logger not in own and len(own) >= LOGGERS_MAX:
            raise BusyError(
                "too many loggers have a level of their own",
                cause=f"{LOGGERS_MAX} do",
                next="set the level of all; one with a ttl goes back by itself, a restarted node has none",
            )
        if logger in logging.Logger.manager.loggerDict:
            return
        if logger and len(self._new) >= NEW_LOGGERS_MAX:
            raise BusyError(
                f"nothing has been logged as {logger!a}",
                cause=f"{NEW_LOGGERS_MAX} names under which nothing was logged had a level set",
                next="see the field `logger` of the node's log for the names that there are",
            )
        if logger:
            self._new.add(logger)

    def _expire(self, logger: str) -> None:
        with self._lock:
            self._until.pop(logger, None)
            if self._timers.pop(logger, None) is not None:
                self._apply(logger, self._lasting.get(logger, ""))

    @staticmethod
    def _apply(logger: str, level: str) -> None:
        logging.getLogger(logger or None).setLevel(LEVELS.get(level, logging.NOTSET))


def _require_name(logger: str) -> None:
    if len(logger) > LOGGER_CHARACTERS_MAX:
        raise InvalidArgumentError(f"a logger's name has at most {LOGGER_CHARACTERS_MAX} characters")


def _who_decides(logger: str) -> str:
    """Of the loggers above this one the nearest whose level is set; empty: the one of all. Makes no logger."""
    known = logging.Logger.manager.loggerDict
    while logger:
        found = known.get(logger)
        if isinstance(found, logging.Logger) and found.level != logging.NOTSET:
            return logger
        logger = logger.rpartition(".")[0]
    return ""


levels = Levels()
