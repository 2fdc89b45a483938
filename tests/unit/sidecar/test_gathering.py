"""When a request has arrived whole."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import limits
from sidecar.gathering import Refused, Whole, judge

HEAD = b"POST /shutdown HTTP/1.1\r\nHost: localhost\r\n"
REQUEST = HEAD + b"Content-Length: 9\r\nContent-Type: application/json\r\n\r\n" + b"{       }"


@given(st.integers(0, len(REQUEST) - 1))
def test_a_request_is_whole_with_its_last_byte_and_not_before(at: int) -> None:
    assert judge(REQUEST[:at]) is None
    assert judge(REQUEST) == Whole(len(REQUEST))
    assert judge(REQUEST + REQUEST[:at]) == Whole(len(REQUEST))


def test_a_request_without_a_body_is_whole_with_its_head() -> None:
    assert judge(b"GET / HTTP/1.1\r\n\r\n") == Whole(18)
    assert judge(b"GET / HTTP/1.1\r\nX-Content-Length: 50\r\n\r\n") == Whole(40)


@pytest.mark.parametrize("name", [b"Content-Length: 9", b"content-length:9", b"CONTENT-LENGTH : \t9 "])
def test_the_length_is_found_however_it_is_written(name: bytes) -> None:
    head = HEAD + name + b"\r\n\r\n"
    assert judge(head + b"12345678") is None
    assert judge(head + b"123456789") == Whole(len(head) + 9)


@pytest.mark.parametrize(
    ("arrived", "status"),
    [
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", HTTPStatus.LENGTH_REQUIRED),
        (HEAD + b"Content-Length: 5\r\ntransfer-encoding : x\r\n\r\n", HTTPStatus.LENGTH_REQUIRED),
        (HEAD + b"Content-Length: 65537\r\n\r\n", HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
        (HEAD + b"Content-Length: 9999999999999999999\r\n\r\n", HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
        (b"GET /" + b"x" * limits.REQUEST_LINE_BYTES_MAX, HTTPStatus.REQUEST_URI_TOO_LONG),
        (HEAD + b"a: b\r\n" * 20_000, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
        (b"\r\n\r\n", HTTPStatus.BAD_REQUEST),
    ],
)
def test_what_would_never_be_whole_is_refused(arrived: bytes, status: HTTPStatus) -> None:
    assert judge(arrived) == Refused(status)


@given(st.binary(max_size=2000))
def test_hostile_bytes_are_judged_and_nothing_else_happens(arrived: bytes) -> None:
    verdict = judge(arrived)
    assert verdict is None or isinstance(verdict, Refused) or 0 < verdict.size_bytes <= len(arrived)
