"""Label selectors, as Kubernetes has them: `zone=a,disk in (ssd,nvme),!canary,rack!=r7`; `key~glob` is ours.

A node's role can be selected like a label: `role=datanode`.
A comma is AND. `key!=v` and `key notin (v)` also match where the label is absent, as in Kubernetes. The empty
selector matches everything: whoever mutates must refuse it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from quorumfs.errors import InvalidArgumentError

TEXT_CHARACTERS_MAX = 4096
REQUIREMENTS_MAX = 64
VALUES_MAX = 256

_NEXT = "write for example: zone=a,disk in (ssd,nvme),!canary,rack!=r7,host~db-*"
_KEY = r"[A-Za-z0-9](?:[A-Za-z0-9_./-]*[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?)?"
_GLOB = r"[A-Za-z0-9_.*?-]+"
_SPACE = r"[ \t]*"
_EXISTS = re.compile(rf"(!?){_SPACE}({_KEY})")
_EQUALS = re.compile(rf"({_KEY}){_SPACE}(==|=|!=){_SPACE}({_VALUE})")
_MATCHES = re.compile(rf"({_KEY}){_SPACE}~{_SPACE}({_GLOB})")
_WITHIN = re.compile(rf"({_KEY})[ \t]+(in|notin){_SPACE}\(([^()]*)\)")
_VALUE_ALONE = re.compile(_VALUE)


def selectable(labels: Mapping[str, str], role: str) -> dict[str, str]:
    """What a selector is held against: a node's labels, and its `role` unless a label has that name."""
    return {"role": role, **labels}


class Operator(Enum):
    """How a requirement compares."""

    EXISTS = "exists"
    ABSENT = "!"
    IN = "in"
    NOT_IN = "notin"
    MATCHES = "~"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition. `values` is sorted; IN and NOT_IN of one are `=` and `!=`; MATCHES has its glob."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case Operator.EXISTS:
                return value is not None
            case Operator.ABSENT:
                return value is None
            case Operator.IN:
                return value is not None and value in self.values
            case Operator.NOT_IN:
                return value is None or value not in self.values
            case Operator.MATCHES:
                return value is not None and _is_like(value, self.values[0])

    def __str__(self) -> str:
        match self.operator:
            case Operator.EXISTS:
                return self.key
            case Operator.ABSENT:
                return f"!{self.key}"
            case Operator.MATCHES:
                return f"{self.key}~{self.values[0]}"
            case Operator.IN if len(self.values) == 1:
                return f"{self.key}={self.values[0]}"
            case Operator.NOT_IN if len(self.values) == 1:
                return f"{self.key}!={self.values[0]}"
            case _:
                return f"{self.key} {self.operator.value} ({','.join(self.values)})"


@dataclass(frozen=True, slots=True)
class Selector:
    """All of its requirements must hold. `str` of it parses to the same selector."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(one.matches(labels) for one in self.requirements)

    def __str__(self) -> str:
        return ",".join(map(str, self.requirements))


def parse(text: str) -> Selector:
    """The selector that `text` spells. Raises InvalidArgumentError that quotes the part it cannot read."""
    if len(text) > TEXT_CHARACTERS_MAX:
        raise _refused("it is too long", f"{len(text)} characters, at most {TEXT_CHARACTERS_MAX} are read")
    if not text.strip():
        return Selector()
    parts = _split(text)
    if len(parts) > REQUIREMENTS_MAX:
        raise _refused(
            "it asks for too much", f"{len(parts)} conditions, at most {REQUIREMENTS_MAX} are read"
        )
    return Selector(tuple(_requirement(part.strip(" \t")) for part in parts))


def _split(text: str) -> list[str]:
    """At the commas that are not within parentheses."""
    parts, depth, start = [], 0, 0
    for at, character in enumerate(text):
        if character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
        if depth not in (0, 1):
            raise _refused("its parentheses do not pair", f"at character {at + 1}")
    if depth:
        raise _refused("its parentheses do not pair", "one is not closed")
    return [*parts, text[start:]]


def _requirement(part: str) -> Requirement:
    if found := _EXISTS.fullmatch(part):
        return Requirement(found[2], Operator.ABSENT if found[1] else Operator.EXISTS)
    if found := _EQUALS.fullmatch(part):
        operator = Operator.NOT_IN if found[2] == "!=" else Operator.IN
        return Requirement(found[1], operator, (found[3],))
    if found := _MATCHES.fullmatch(part):
        return Requirement(found[1], Operator.MATCHES, (found[2],))
    if found := _WITHIN.fullmatch(part):
        values = tuple(sorted({value.strip(" \t") for value in found[3].split(",")}))
        bad = [value for value in values if not _VALUE_ALONE.fullmatch(value)]
        if bad or len(values) > VALUES_MAX:
            raise _refused(
                f"{part[:80]!r} is not a condition", f"{bad[0]!r} is no value" if bad else "too many"
            )
        return Requirement(found[1], Operator(found[2]), values)
    raise _refused(f"{part[:80]!r} is not a condition", "" if part else "a comma has nothing beside it")


def _is_like(value: str, glob: str) -> bool:
    """Whether `value` is what `glob` spells: `*` is any text, `?` one character.

    Nothing is compiled and nothing is kept: strangers send selectors, and `fnmatch` keeps what it made of the last
    32,768 globs.
    """
    at = spelt = 0
    star, taken = -1, 0  # the last `*`, and where what it stands for ends so far
    while at < len(value):
        if spelt < len(glob) and glob[spelt] == "*":
            star, taken = spelt, at
            spelt += 1
        elif spelt < len(glob) and glob[spelt] in ("?", value[at]):
            at, spelt = at + 1, spelt + 1
        elif star >= 0:
            taken += 1
            at, spelt = taken, star + 1
        else:
            return False
    return not glob[spelt:].strip("*")


def _refused(message: str, cause: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"the selector cannot be read: {message}", cause=cause, next=_NEXT)
