"""The Raft port's messages: what is encoded comes back, and hostile bytes are refused, whatever they are."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.consensus.messages import NUMBER_MAX, MalformedMessageError, decode, encode

APPEND = {
    "type": "append_entries",
    "term": 3,
    "commit_index": 7,
    "prevLogIdx": 7,
    "prevLogTerm": 2,
    "entries": [(b"\x00abc", 8, 2), (b"\x01", 9, 3)],
    "beat": 12,
    "check_index": 5,
    "check_hash": b"h" * 32,
}
OTHERS: list[dict[str, Any]] = [
    {
        "type": "next_node_idx",
        "term": 3,
        "next_node_idx": 10,
        "reset": False,
        "success": True,
        "beat": 12,
        "hold_ms": 100,
    },
    {"type": "request_vote", "term": 4, "last_log_index": 9, "last_log_term": 3, "transfer": True},
    {"type": "response_vote", "term": 4},
    {"type": "pre_vote", "term": 4, "last_log_index": 9, "last_log_term": 3},
    {"type": "pre_vote_ok", "term": 4},
    {"type": "stale", "term": NUMBER_MAX},
    {"type": "timeout_now", "term": 4},
    {"type": "greeting", "boot": 3, "last_log_index": 9},
    {"type": "forgotten", "term": 4, "boot": 5, "match": 12},
    {"type": "snapshot_hint", "term": 4, "beat": 1, "index": 100},
]


@pytest.mark.parametrize("message", [APPEND, *OTHERS], ids=lambda message: message["type"])
def test_a_message_comes_back_as_it_was(message: dict[str, Any]) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(raw: bytes) -> None:
    try:
        decode(raw)
    except MalformedMessageError:
        pass


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=40)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=20,
)


@given(st.integers(0, 12), st.lists(values, max_size=10))
def test_any_array_is_a_message_or_refused(kind: int, fields: list[Any]) -> None:
    try:
        message = decode(msgpack.packb([kind, *fields], use_bin_type=True))
    except MalformedMessageError:
        return
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("term", -1),
        ("term", NUMBER_MAX + 1),
        ("term", True),
        ("term", 3.0),
        ("check_hash", b"short"),
        ("entries", b"none"),
        ("entries", [(b"", 8, 2)]),
        ("entries", [(b"\x00a", 9, 2)]),
        ("entries", [(b"\x00a", 8, 4)]),
        ("entries", [(b"\x00a", 8, 1)]),
        ("entries", [(b"\x00a", 8, 2), (b"\x00a", 10, 2)]),
        ("entries", [("text", 8, 2)]),
        ("entries", [(b"\x00a", 8)]),
    ],
)
def test_a_message_with_a_wrong_field_is_refused(field: str, value: Any) -> None:
    with pytest.raises(MalformedMessageError):
        decode(encode({**APPEND, field: value}))


def test_a_message_nested_a_thousand_deep_is_refused() -> None:
    with pytest.raises(MalformedMessageError):
        decode(b"\x91" * 100_000)
