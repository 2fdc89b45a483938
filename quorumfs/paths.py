"""Names and paths, judged in one place: the client, the state machine and the tools all ask here.

1. A path is absolute, "/"-separated, and bytes underneath; text is its UTF-8. Names are stored byte for byte: nothing
   is normalised, so two spellings of "é" are two files.
2. A name is 1 to 255 bytes of valid UTF-8 without "/" and NUL, and is neither "." nor "..". Control characters are
   allowed in names and escaped by `show`, whatever Python's version knows of Unicode.
3. "/a//b" and "/a/" are the same as "/a/b" and "/a"; "/a/../b" is refused rather than guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from quorumfs.errors import InvalidPathError
from quorumfs.limits import NAME_BYTES_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX

_SHORT = min(NAME_BYTES_MAX, PATH_DEPTH_MAX)
_SHOWN_LETTERS_MAX = 480
# Control and format characters, also those that turn text around or join it, line separators, surrogates, private use.
_HARMFUL = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\uf8ff\ufeff\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001345f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff\U000f0000-\U0010ffff]"
)


def absolute(path: str | bytes) -> bytes:
    """The path as it travels: absolute, each name after one slash. Raises InvalidPathError."""
    if isinstance(path, str) and 1 < len(path) <= _SHORT and path.isascii() and path[0] == "/":
        # No name of a short ASCII path is too long, and there are not too many: the usual case in a few steps.
        odd = path[-1] == "/" or "//" in path or "/." in path or "\0" in path
        if not odd:
            return path.encode()
    return join(split(path))


def split(path: str | bytes) -> tuple[bytes, ...]:
    """The names of an absolute path; none for "/". Raises InvalidPathError."""
    raw = _encoded(path)
    if not raw.startswith(b"/"):
        raise InvalidPathError(f"'{show(raw)}' is not an absolute path", cause="it does not begin with /")
    return split_relative(raw)


def split_relative(path: bytes) -> tuple[bytes, ...]:
    """The names of a path, absolute or not. Raises InvalidPathError."""
    if len(path) > PATH_BYTES_MAX:
        raise InvalidPathError(
            "the path is too long", cause=f"{len(path)} bytes; at most {PATH_BYTES_MAX}: {show(path)}"
        )
    names = tuple(filter(None, path.split(b"/")))
    if len(names) > PATH_DEPTH_MAX:
        raise InvalidPathError("the path is too deep", cause=f"{len(names)} names; at most {PATH_DEPTH_MAX}")
    if not _is_plain(path, names):
        for name in names:
            check_name(name)
    return names


def _is_plain(path: bytes, names: tuple[bytes, ...]) -> bool:
    """Whether every name of the path is fine because it is short ASCII: the usual case, in a few steps."""
    return (
        path.isascii()
        and len(path) <= NAME_BYTES_MAX
        and b"\0" not in path
        and b"." not in names
        and b".." not in names
    )


def join(names: Iterable[bytes]) -> bytes:
    """The absolute path of these names."""
    return b"/" + b"/".join(names)


def check_name(name: bytes) -> None:
    """Raises InvalidPathError unless `name` may stand in a directory."""
    reason = _reason_against(name)
    if reason:
        raise InvalidPathError(f"'{show(name)}' is no name for a file", cause=reason)


def show(path: bytes | str) -> str:
    """The path as text for people and logs: control characters and invalid bytes escaped, long ones cut."""
    text = path.decode("utf-8", "backslashreplace") if isinstance(path, bytes) else path
    shown = _HARMFUL.sub(_escaped, text[: _SHOWN_LETTERS_MAX + 1])
    return shown if len(shown) <= _SHOWN_LETTERS_MAX else shown[:_SHOWN_LETTERS_MAX] + "..."


def _encoded(path: str | bytes) -> bytes:
    if isinstance(path, bytes):
        return path
    try:
        return path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidPathError("the path is not valid text", cause="it has surrogates") from error


def _reason_against(name: bytes) -> str:
    if not name:
        return "it is empty"
    if len(name) > NAME_BYTES_MAX:
        return f"it has {len(name)} bytes; at most {NAME_BYTES_MAX}"
    if name in (b".", b".."):
        return "it means a directory already"
    if b"/" in name or b"\0" in name:
        return "it contains / or NUL"
    try:
        name.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 from byte {error.start} on"
    return ""


def _escaped(letter: re.Match[str]) -> str:
    return ascii(letter[0])[1:-1]
