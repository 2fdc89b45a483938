"""The messages of the Raft port, as bytes: msgpack arrays of a fixed shape, checked before anybody sees them.

1. A message is the dictionary that PySyncObj's handlers want, with our own fields added. On the wire it is an
   array: the number of its kind, then its fields in the order of the table below. No names travel, no pickle.
2. `decode` is total over hostile bytes: a message of the table, or MalformedMessageError. Numbers are within 63
   bits; entries are consecutive, follow `prevLogIdx`, and none is of a term above the message's.
3. A field is added at the end of its kind, together with a new TABLE_VERSION: both ends of a connection agree on the
   table's version in the handshake (handshake.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgpack

Message = dict[str, Any]

TABLE_VERSION = 2
NUMBER_MAX = 2**63 - 1
ENTRIES_MAX = 4096
HASH_BYTES = 32


class MalformedMessageError(Exception):
    """Bytes that are no message of this table: the connection they came from is closed."""


def encode(message: Message) -> bytes:
    """The bytes of a message of the table."""
    kind = message["type"]
    number, fields = _NUMBERS[kind], _TABLE[kind]
    packed: bytes = msgpack.packb([number, *(message[name] for name, _ in fields)], use_bin_type=True)
    return packed


def decode(raw: bytes | memoryview) -> Message:
    """The message that `raw` encodes. Raises MalformedMessageError."""
    try:
        values = msgpack.unpackb(
            raw,
            raw=False,
            use_list=True,
            max_array_len=ENTRIES_MAX,
            max_map_len=0,
            max_ext_len=0,
            max_str_len=0,
        )
    except (ValueError, TypeError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise MalformedMessageError(f"not msgpack: {error}") from error
    if not isinstance(values, list) or not values or type(values[0]) is not int:
        raise MalformedMessageError("not an array that begins with a number")
    kind = _KINDS.get(values[0])
    if kind is None:
        raise MalformedMessageError(f"kind {values[0]} is not known")
    fields = _TABLE[kind]
    if len(values) != len(fields) + 1:
        raise MalformedMessageError(f"{kind} has {len(values) - 1} fields, not {len(fields)}")
    message: Message = {"type": kind}
    for (name, accepts), value in zip(fields, values[1:], strict=True):
        if not accepts(value):
            raise MalformedMessageError(f"{kind}.{name} is not of its type")
        message[name] = value
    if kind == "append_entries":
        message["entries"] = _entries(message)
    return message


def _entries(message: Message) -> list[tuple[bytes, int, int]]:
    index, term = message["prevLogIdx"], message["prevLogTerm"]
    entries = []
    for entry in message["entries"]:
        if not isinstance(entry, list) or len(entry) != 3:
            raise MalformedMessageError("an entry is not (command, index, term)")
        command, at, of = entry
        if type(command) is not bytes or not command or not _is_number(at) or not _is_number(of):
            raise MalformedMessageError("an entry is not (command, index, term)")
        if at != index + 1 or not term <= of <= message["term"]:
            raise MalformedMessageError(f"entry {at} of term {of} does not follow {index} of term {term}")
        index, term = at, of
        entries.append((command, at, of))
    return entries


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value <= NUMBER_MAX


def _is_truth(value: object) -> bool:
    return type(value) is bool


def _is_list(value: object) -> bool:
    return type(value) is list


def _is_bytes(value: object) -> bool:
    return type(value) is bytes


def _is_hash(value: object) -> bool:
    return type(value) is bytes and len(value) in (0, HASH_BYTES)


_Accepts = Callable[[object], bool]

_TABLE: Mapping[str, tuple[tuple[str, _Accepts], ...]] = {
    "append_entries": (
        ("term", _is_number),
        ("commit_index", _is_number),
        ("prevLogIdx", _is_number),
        ("prevLogTerm", _is_number),
        ("entries", _is_list),
        ("beat", _is_number),  # the leader's round; the answer echoes it
        ("check_index", _is_number),  # 0: none
        ("check_hash", _is_hash),  # the leader's rolling state hash at check_index
    ),
    "next_node_idx": (
        ("term", _is_number),
        ("next_node_idx", _is_number),
        ("reset", _is_truth),
        ("success", _is_truth),
        ("beat", _is_number),
        (
            "hold_ms",
            _is_number,
        ),  # for how long since it heard that round the sender elects nobody, by its clock
    ),
    "request_vote": (
        ("term", _is_number),
        ("last_log_index", _is_number),
        ("last_log_term", _is_number),
        ("transfer", _is_truth),  # on the leader's own wish: stickiness does not hold
    ),
    "response_vote": (("term", _is_number),),
    "pre_vote": (("term", _is_number), ("last_log_index", _is_number), ("last_log_term", _is_number)),
    "pre_vote_ok": (("term", _is_number),),
    "stale": (("term", _is_number),),
    "timeout_now": (("term", _is_number),),
    "greeting": (("boot", _is_number), ("last_log_index", _is_number)),  # when a link is made
    # Your disk was set back: what is remembered of it is `boot` and `match`. See memory.py.
    "forgotten": (("term", _is_number), ("boot", _is_number), ("match", _is_number)),
    "snapshot_hint": (("term", _is_number), ("beat", _is_number), ("index", _is_number)),
    # To one that is behind and hears no leader: who the members are, as of a committed index.
    "members": (("index", _is_number), ("configuration", _is_bytes)),
}
_NUMBERS = {kind: number for number, kind in enumerate(_TABLE, start=1)}
_KINDS = {number: kind for kind, number in _NUMBERS.items()}
