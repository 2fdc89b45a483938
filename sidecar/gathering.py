"""When a request has arrived whole, judged from the bytes so far. Pure; total on hostile bytes.

A thread is given a request only when nothing of it is missing, so that a client which sends one byte a second
costs a small buffer and never a thread. What could not be told apart without parsing (a body of unknown
length) is refused here; everything else that is wrong with a request is gunicorn's parser's to say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus

from sidecar import limits

_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length[ \t]*:[ \t]*([0-9]{1,19})[ \t]*(?=\r\n)", re.IGNORECASE)
_ENCODING = re.compile(rb"\r\ntransfer-encoding[ \t]*:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Whole:
    """The first request takes `size_bytes` of what has arrived."""

    size_bytes: int


@dataclass(frozen=True, slots=True)
class Refused:
    """It will not be read any further."""

    status: HTTPStatus


def judge(arrived: bytes | bytearray) -> Whole | Refused | None:
    """None: more is to come."""
    if arrived[:1] in (b"\r", b"\n"):
        return Refused(HTTPStatus.BAD_REQUEST)  # gunicorn would wait for what comes behind empty lines
    end = arrived.find(_END, 0, limits.HEAD_BYTES_MAX)
    if end < 0:
        return _judge_beginning(arrived)
    head = bytes(arrived[: end + len(_END)])
    if _ENCODING.search(head):
        return Refused(HTTPStatus.LENGTH_REQUIRED)
    told = _LENGTH.search(head)
    length = int(told[1]) if told else 0
    if length > limits.BODY_BYTES_MAX:
        return Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    size = len(head) + length
    return Whole(size) if len(arrived) >= size else None


def _judge_beginning(arrived: bytes | bytearray) -> Refused | None:
    """Of a head that is not over yet."""
    if len(arrived) >= limits.HEAD_BYTES_MAX:
        return Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    if arrived.find(b"\n", 0, limits.REQUEST_LINE_BYTES_MAX + 2) < 0 and (
        len(arrived) > limits.REQUEST_LINE_BYTES_MAX
    ):
        return Refused(HTTPStatus.REQUEST_URI_TOO_LONG)
    return None
