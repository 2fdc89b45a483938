"""What comes in, judged before anything is done with it: JSON bodies and query parameters.

Every function raises InvalidArgumentError, which says which field, what was sent, and what is wanted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, NoReturn

from flask import request

from quorumfs import limits as cluster_limits
from quorumfs.errors import InvalidArgumentError

DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(s|m|h|d|)")
UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_./-]*[A-Za-z0-9])?")
NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
NUMBER_MAX = 2**63 - 1
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?")


def refuse(field: str, value: object, wanted: str) -> NoReturn:
    raise InvalidArgumentError(
        f"{field} is not valid", cause=f"{repr(value)[:100]} was sent", next=f"send {wanted}"
    )


def json_object(allowed: Collection[str]) -> dict[str, Any]:
    """The body as an object with no other fields than `allowed`; an empty body is an empty object."""
    raw = request.get_data(cache=True)
    if not raw:
        return {}
    try:
        body = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError("the body is not JSON", cause=str(error)[:200]) from None
    if not isinstance(body, dict):
        refuse("the body", body, "a JSON object")
    unknown = sorted(set(body) - set(allowed))
    if unknown:
        refuse("the body", unknown[0], f"only these fields: {', '.join(sorted(allowed)) or 'none'}")
    return body


def text_field(body: Mapping[str, Any], name: str, default: str, characters_max: int) -> str:
    value = body.get(name, default)
    if not isinstance(value, str) or len(value) > characters_max or not is_utf8(value):
        refuse(name, value, f"a text of at most {characters_max} characters")
    return value


def choice_field(body: Mapping[str, Any], name: str, default: str | None, choices: Collection[str]) -> str:
    value = body.get(name, default)
    if not isinstance(value, str) or value not in choices:
        refuse(name, value, f"one of {', '.join(choices)}")
    return value


def seconds_field(body: Mapping[str, Any], name: str, default: float, seconds_max: float) -> float:
    """A number of seconds from 0 to `seconds_max`."""
    value = body.get(name, default)
    wanted = f"a number of seconds from 0 to {seconds_max:g}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= seconds_max:
        refuse(name, value, wanted)
    return float(value)


def count_field(body: Mapping[str, Any], name: str, default: int, most: int, least: int = 0) -> int:
    """A whole number from `least` to `most`."""
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        refuse(name, value, f"a whole number from {least} to {most}")
    return value


def truth_field(body: Mapping[str, Any], name: str, *, is_required: bool = False) -> bool:
    """True or false; false when it is not there and need not be."""
    value = body.get(name, None if is_required else False)
    if not isinstance(value, bool):
        refuse(name, value, "true or false")
    return value


def names_field(body: Mapping[str, Any], name: str, most: int) -> tuple[str, ...]:
    """A list of node ids."""
    value = body.get(name, [])
    if not isinstance(value, list) or len(value) > most:
        refuse(name, value, "a list of node ids")
    for one in value:
        if not isinstance(one, str) or not NODE_ID.fullmatch(one):
            refuse(name, one, "node ids, such as d1")
    return tuple(value)


def hex_id(text: str, size_bytes: int) -> bytes:
    """An id in hex, as paths and `dfsctl locate` spell it."""
    if not re.fullmatch(rf"[0-9a-fA-F]{{{2 * size_bytes}}}", text):
        refuse("the chunk", text, f"{2 * size_bytes} hex digits, as dfsctl locate shows them")
    return bytes.fromhex(text)


def labels_field(body: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """(labels to set, keys to remove) of `{"labels": {"zone": "a", "canary": null}}`."""
    labels = body.get("labels")
    if not isinstance(labels, dict) or not labels or len(labels) > cluster_limits.LABELS_MAX:
        refuse("labels", labels, 'an object such as {"labels": {"zone": "a", "canary": null}}; null removes')
    for key, value in labels.items():
        if len(key) > cluster_limits.LABEL_KEY_BYTES_MAX or not LABEL_KEY.fullmatch(key):
            refuse(
                "labels", key, "keys of letters, digits and _ . / - that begin and end with a letter or digit"
            )
        if value is not None and not _is_label_value(value):
            refuse(f"labels.{key}", value, "a text of letters, digits and _ . -, or null to remove the label")
    return (
        {key: value for key, value in labels.items() if value is not None},
        [key for key, value in labels.items() if value is None],
    )


def _is_label_value(value: object) -> bool:
    return (
        isinstance(value, str)
        and len(value) <= cluster_limits.LABEL_VALUE_BYTES_MAX
        and LABEL_VALUE.fullmatch(value) is not None
    )


def query(allowed: Collection[str]) -> dict[str, str]:
    """The query parameters, each at most once and none but `allowed`."""
    for name in request.args:
        if name not in allowed:
            refuse("the query", name, f"only these parameters: {', '.join(sorted(allowed)) or 'none'}")
        if len(request.args.getlist(name)) > 1:
            refuse("the query", name, "each parameter once")
    return dict(request.args.items())


def number(asked: Mapping[str, str], name: str, default: int, most: int) -> int:
    """A whole number of the query, from 1 to `most`."""
    value = asked.get(name)
    if value is None:
        return default
    if not value.isascii() or not value.isdigit() or len(value) > 18 or not 1 <= int(value) <= most:
        refuse(name, value, f"a whole number from 1 to {most}")
    return int(value)


def flag(asked: Mapping[str, str], name: str, default: bool) -> bool:
    """`?follow=1`, `?follow=true`, `?follow`; 0 and false say no."""
    value = asked.get(name)
    if value is None:
        return default
    if value.lower() in ("", "1", "true", "yes"):
        return True
    if value.lower() in ("0", "false", "no"):
        return False
    refuse(name, value, "1 or 0")


def since_wall_ms(text: str, now_wall_ms: int) -> int:
    """The moment that `text` names, in ms since 1970: 90, 90s, 5m, 2h, 1d (ago), or an RFC 3339 time."""
    found = DURATION.fullmatch(text)
    if found is not None:
        return max(1, now_wall_ms - int(float(found[1]) * UNIT_SECONDS[found[2]] * 1000))
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            refuse("since", text, "a time with its zone, such as 2026-01-31T12:00:00Z")
        stamp = moment.timestamp()
    except (ValueError, OverflowError):
        refuse("since", text, "90s, 5m, 2h, 1d, or a time such as 2026-01-31T12:00:00Z")
    return max(1, int(stamp * 1000)) if math.isfinite(stamp) else 1


def is_utf8(text: str) -> bool:
    """Whether `text` can travel: JSON can spell half of a surrogate pair, protobuf cannot carry it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
